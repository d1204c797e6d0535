//! Rows that look at the agent's own end of an app's connection.

use std::fs;
use std::io::{self, BufReader, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use mesh_tests::OUTSIDE_V4;
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Facts;
use super::names::{CLIENT, OUTSIDE_B, name_port};
use super::scene::Scene;
use super::talk::{connect, failure, greet, hear, note_addresses, read_introduction};
use crate::raw;

const EXTERNAL: SocketAddr = SocketAddr::new(IpAddr::V4(OUTSIDE_V4), 80);

/// Row 43: the address and port that the app has bound, as it sees them itself, and as the agent does.
pub fn bound_source(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let own = SocketAddr::from((CLIENT.0, 40123));
    let mut stream = scene.client.run(|| bound_to(own, EXTERNAL))??;
    facts.note("connect", "ok");
    note_addresses(&stream, &mut facts)?;
    facts.note("port", kept(stream.local_addr()? == own));
    await_answer(&mut stream)?;
    if let Some(end) = far_end(scene, EXTERNAL)? {
        facts.note("port-at-agent", kept(end.peer == own));
    }
    hear(stream, &mut facts);
    Ok(facts)
}

/// Row 48.
pub fn original_destination(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let mut stream = scene.client.run(|| connect(EXTERNAL, |_| Ok(())))??;
    facts.note("connect", "ok");
    note_addresses(&stream, &mut facts)?;
    await_answer(&mut stream)?;
    if let Some(end) = far_end(scene, EXTERNAL)? {
        let asked = end.asked.map_or_else(|| "refused".to_owned(), name_port);
        facts.note("asked", asked);
        let named = match end.named.port() {
            15001 => "redirected".to_owned(),
            _ => name_port(end.named),
        };
        facts.note("named", named);
    }
    hear(stream, &mut facts);
    Ok(facts)
}

/// Row 50. Where both connections lead to one address for the kernel, it may give the second another source port on its
/// way there.
pub fn shared_source_port(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let own = SocketAddr::from((CLIENT.0, 40124));
    let mut open = Vec::new();
    for (key, ip) in [("first", OUTSIDE_V4), ("second", OUTSIDE_B.0)] {
        let target = SocketAddr::from((ip, 80));
        let seen = match scene.client.run(|| bound_to(own, target))? {
            Ok(mut stream) => {
                await_answer(&mut stream)?;
                let mut said = Facts::default();
                read_introduction(&mut BufReader::new(stream.try_clone()?), &mut said)?;
                let port = match far_end(scene, target)? {
                    Some(end) => kept(end.peer == own),
                    None => kept(true),
                };
                open.push(stream);
                format!("{},{port}", said.get("local"))
            }
            Err(e) => failure(&e),
        };
        facts.note(key, seen);
    }
    // Both at once: the first still works.
    for (key, stream) in ["first", "second"].iter().zip(&mut open) {
        let echoed = stream.write_all(b"x").and_then(|()| stream.peek(&mut [0]));
        facts.note(
            format!("{key}-echo"),
            echoed.map_or_else(|e| failure(&e), |n| n.to_string()),
        );
    }
    Ok(facts)
}

/// The agent's end of a connection.
struct FarEnd {
    /// Who opened it.
    peer: SocketAddr,
    /// What SO_ORIGINAL_DST says.
    asked: Option<SocketAddr>,
    /// What getsockname says.
    named: SocketAddr,
}

/// The agent's end of the client's only connection to `target`, by either way of telling that; `None` without an agent.
fn far_end(scene: &Scene, target: SocketAddr) -> Result<Option<FarEnd>> {
    let Some(agent) = &scene.agent else {
        return Ok(None);
    };
    let pid = agent.process.pid();
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).context("the agent's descriptors")? {
        let number: i32 = entry?
            .file_name()
            .to_string_lossy()
            .parse()
            .context("a descriptor")?;
        // It may have been closed since the directory was read, and may be anything but a socket.
        if let Ok(descriptor) = raw::descriptor_of(pid, number)
            && let Some(end) = FarEnd::of(&SockRef::from(&descriptor))
            // The agent's own connection to there has the server for its peer.
            && end.peer.ip() == CLIENT.0
            && end.asked.unwrap_or(end.named) == target
        {
            return Ok(Some(end));
        }
    }
    bail!("the agent has no connection that was opened to {target}")
}

impl FarEnd {
    fn of(socket: &SockRef<'_>) -> Option<Self> {
        Some(Self {
            peer: socket.peer_addr().ok()?.as_socket()?,
            asked: socket.original_dst_v4().ok().and_then(|a| a.as_socket()),
            named: socket.local_addr().ok()?.as_socket()?,
        })
    }
}

/// Greets the server. With the answer there, the agent holds the connection for sure.
fn await_answer(stream: &mut TcpStream) -> io::Result<()> {
    greet(stream)?;
    stream.peek(&mut [0]).map(drop)
}

/// Connects from a fixed address and port.
fn bound_to(own: SocketAddr, target: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&own.into())?;
    socket.connect_timeout(&target.into(), Duration::from_secs(3))?;
    Ok(socket.into())
}

fn kept(is: bool) -> &'static str {
    if is { "kept" } else { "moved" }
}
