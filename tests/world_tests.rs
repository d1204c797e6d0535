//! The world itself: what every other test stands on.

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, ExitCode};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_tests::{OUTSIDE_V4, OUTSIDE_V6, Pod, PodOptions, World, WorldOptions};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::agent::eventually;

const PATIENCE: Duration = Duration::from_secs(5);

pub fn tests() -> Vec<(&'static str, crate::Plain)> {
    vec![
        ("world::pods_reach_each_other", pods_reach_each_other),
        ("world::outside_sees_the_pod", outside_sees_the_pod),
        ("world::hosts_file_is_the_pods", hosts_file_is_the_pods),
        ("world::removed_pod_is_gone", removed_pod_is_gone),
        ("world::commands_enter", commands_enter),
        ("world::ends_with_its_program", ends_with_its_program),
        ("world::passes_signals_and_codes", passes_signals_and_codes),
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
    let output = Command::new("nsenter")
        .args(["-t", &holder, "-n", "-m", "ip", "-br", "address"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(text.contains(&a.ipv4.to_string()), "{text}");
    ensure!(text.contains(&a.ipv6.to_string()), "{text}");
    Ok(())
}

/// Set for a copy of this program that plays the supervised one; its value is how long its child sleeps, in seconds.
const PLAY: &str = "MESH_TEST_SUPERVISED_SLEEP";

/// The part of the supervised program, where this process is one: starts a long sleep and waits for it.
pub fn supervised_program() -> Option<ExitCode> {
    let seconds = std::env::var(PLAY).ok()?;
    let played = mesh_tests::isolate_and_supervise(|| {
        let child = Command::new("sleep").arg(seconds).spawn();
        let waited = child.and_then(|mut child| child.wait());
        ExitCode::from(waited.map_or(2, |_| 7))
    });
    Some(played.unwrap_or(ExitCode::FAILURE))
}

/// Even SIGKILL of the outermost process ends everything below.
fn ends_with_its_program() -> Result<()> {
    // A length that no other process has.
    let seconds = format!("{}.5", 80_000 + std::process::id());
    let mut outer = play(&seconds)?;
    outer.kill()?;
    outer.wait()?;
    eventually(PATIENCE, || sleepers(&seconds).is_empty()).context("a child outlived the program")
}

fn passes_signals_and_codes() -> Result<()> {
    let seconds = format!("{}.25", 80_000 + std::process::id());
    let mut outer = play(&seconds)?;
    // The child's end is the program's end, with its exit code.
    for pid in sleepers(&seconds) {
        kill(pid, Signal::SIGKILL)?;
    }
    let status = outer.wait()?;
    ensure!(status.code() == Some(7), "ended with {status}");
    // A signal to the outer process reaches the inner one, which dies of it.
    let mut outer = play(&seconds)?;
    let pid = Pid::from_raw(i32::try_from(outer.id())?);
    kill(pid, Signal::SIGTERM)?;
    let status = outer.wait()?;
    ensure!(status.code() == Some(128 + 15), "ended with {status}");
    eventually(PATIENCE, || sleepers(&seconds).is_empty())
}

/// Starts the supervised program and waits until its child runs.
fn play(seconds: &str) -> Result<Child> {
    let program = std::env::current_exe()?;
    let child = Command::new(program).env(PLAY, seconds).spawn()?;
    eventually(PATIENCE, || !sleepers(seconds).is_empty()).context("the child never ran")?;
    Ok(child)
}

/// Processes that sleep for exactly so long.
fn sleepers(seconds: &str) -> Vec<Pid> {
    let wanted = format!("sleep\0{seconds}\0");
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    processes
        .filter(|entry| {
            std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == wanted.as_bytes())
        })
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .map(Pid::from_raw)
        .collect()
}
