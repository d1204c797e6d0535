//! The world itself: what every other test stands on.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{OUTSIDE_V4, OUTSIDE_V6, Pod, PodOptions, World, WorldOptions};

pub fn tests() -> Vec<crate::Test> {
    vec![
        ("world::pods_reach_each_other", pods_reach_each_other),
        ("world::outside_sees_the_pod", outside_sees_the_pod),
        ("world::hosts_file_is_the_pods", hosts_file_is_the_pods),
        ("world::removed_pod_is_gone", removed_pod_is_gone),
        ("world::commands_enter", commands_enter),
    ]
}

/// Connects from one place to another, sends a word each way, and returns whom the server saw.
fn exchange(from: &Pod, to: &Pod, address: IpAddr) -> Result<IpAddr> {
    let listener = to.run(|| TcpListener::bind((address, 0)))??;
    let target = SocketAddr::new(address, listener.local_addr()?.port());
    let mut client = from.run(|| TcpStream::connect_timeout(&target, Duration::from_secs(2)))??;
    let (mut server, peer) = listener.accept()?;
    client.write_all(b"ask")?;
    let mut word = [0; 3];
    server.read_exact(&mut word)?;
    ensure!(&word == b"ask");
    server.write_all(b"say")?;
    client.read_exact(&mut word)?;
    ensure!(&word == b"say");
    Ok(peer.ip())
}

fn pods_reach_each_other() -> Result<()> {
    let world = World::new(WorldOptions::default())?;
    let a = world.pod("a", PodOptions::default())?;
    let b = world.pod("b", PodOptions::default())?;
    ensure!(exchange(&a, &b, b.ipv4.into())? == IpAddr::from(a.ipv4));
    ensure!(exchange(&a, &b, b.ipv6.into())? == IpAddr::from(a.ipv6));
    ensure!(exchange(world.node(), &b, b.ipv4.into())? == IpAddr::from(world.node().ipv4));
    ensure!(exchange(world.node(), &b, b.ipv6.into())? == IpAddr::from(world.node().ipv6));
    Ok(())
}

fn outside_sees_the_pod() -> Result<()> {
    let world = World::new(WorldOptions::default())?;
    let a = world.pod("a", PodOptions::default())?;
    ensure!(exchange(&a, world.outside(), OUTSIDE_V4.into())? == IpAddr::from(a.ipv4));
    ensure!(exchange(&a, world.outside(), OUTSIDE_V6.into())? == IpAddr::from(a.ipv6));
    Ok(())
}

fn hosts_file_is_the_pods() -> Result<()> {
    let world = World::new(WorldOptions::default())?;
    let a = world.pod("a", PodOptions::default())?;
    world.host("user-app-svc", [10, 96, 0, 7])?;
    let output = a
        .command("getent")
        .args(["hosts", "user-app-svc"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.starts_with("10.96.0.7"), "getent said {text:?}");
    let own = std::fs::read_to_string("/etc/hosts").context("the node's hosts file")?;
    ensure!(
        !own.contains("user-app-svc"),
        "the node's hosts file changed"
    );
    Ok(())
}

fn removed_pod_is_gone() -> Result<()> {
    let world = World::new(WorldOptions::default())?;
    let a = world.pod("a", PodOptions::default())?;
    let b = world.pod("b", PodOptions::default())?;
    world.remove(&a)?;
    ensure!(!a.netns().exists());
    let options = PodOptions {
        ipv4: Some(a.ipv4),
        ipv6: Some(a.ipv6),
        ..PodOptions::default()
    };
    let again = world.pod("a", options)?;
    ensure!(exchange(&again, &b, b.ipv4.into())? == IpAddr::from(a.ipv4));
    Ok(())
}

fn commands_enter() -> Result<()> {
    let world = World::new(WorldOptions::default())?;
    let a = world.pod("a", PodOptions::default())?;
    let output = a.command_as(1337, 1338, "id").arg("-u").output()?;
    ensure!(String::from_utf8_lossy(&output.stdout).trim() == "1337");
    let holder = a.holder_pid().to_string();
    let output = std::process::Command::new("nsenter")
        .args(["-t", &holder, "-n", "-m", "ip", "-br", "address"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains(&a.ipv4.to_string()), "{text}");
    ensure!(text.contains(&a.ipv6.to_string()), "{text}");
    Ok(())
}
