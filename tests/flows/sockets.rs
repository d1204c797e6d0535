//! Apps that do something particular with their sockets.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::{OUTSIDE_V4, OUTSIDE_V6};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};

use super::Facts;
use super::names::{APP, CLIENT, OUTSIDE_B, VIP, name, name_port};
use super::scene::Scene;
use super::talk::{connect, converse, failure, greet, hear, note_addresses, read_introduction};
use crate::Lacking;
use crate::raw;
use crate::servers::{Server, any, introduction};

const EXTERNAL: SocketAddr = SocketAddr::new(IpAddr::V4(OUTSIDE_V4), 80);

/// Row 18: the address that a sidecar would use.
pub fn bind_sidecar(socket: &Socket) -> io::Result<()> {
    socket.bind(&SocketAddr::from(([127, 0, 0, 6], 0)).into())
}

/// Row 44.
pub fn bind_loopback(socket: &Socket) -> io::Result<()> {
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())
}

/// Row 45.
pub fn bind_device(socket: &Socket) -> io::Result<()> {
    socket.bind_device(Some(b"eth0"))
}

/// Row 41: the handshake starts with the first write.
pub fn fast_open_connect(socket: &Socket) -> io::Result<()> {
    Ok(setsockopt(socket, sockopt::TcpFastOpenConnect, &true)?)
}

/// Row 41.
pub fn non_blocking(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let socket = scene.client.run(|| -> io::Result<Socket> {
        let socket = tcp()?;
        socket.set_nonblocking(true)?;
        match socket.connect(&EXTERNAL.into()) {
            Err(e) if e.raw_os_error() == Some(libc::EINPROGRESS) => Ok(socket),
            Ok(()) => Err(io::Error::other("connected at once")),
            Err(e) => Err(e),
        }
    })??;
    let mut ready = [PollFd::new(socket.as_fd(), PollFlags::POLLOUT)];
    ensure!(
        poll(&mut ready, PollTimeout::from(3000u16))? == 1,
        "poll timed out"
    );
    facts.note(
        "connect",
        socket
            .take_error()?
            .map_or_else(|| "ok".to_owned(), |e| failure(&e)),
    );
    socket.set_nonblocking(false)?;
    finish(socket.into(), facts)
}

/// Row 41: connect and first data in one call.
pub fn fast_open_send(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let socket = scene.client.run(|| -> io::Result<Socket> {
        let socket = tcp()?;
        // Were it to arrive twice, the second would come back as an echo.
        socket.send_to_with_flags(b"hello\n", &EXTERNAL.into(), libc::MSG_FASTOPEN)?;
        Ok(socket)
    })??;
    facts.note("connect", "ok");
    let stream = TcpStream::from(socket);
    note_addresses(&stream, &mut facts)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    hear(stream, &mut facts);
    Ok(facts)
}

/// Row 41: a server that is only woken by data.
pub fn deferred_accept(scene: &Scene) -> Result<Facts> {
    let defer =
        |socket: &Socket| raw::set_int(socket, libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT, 5);
    let _server = Server::prepared(&scene.app, any(9010), defer, |stream| {
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        reader.read_line(&mut String::new())?;
        writeln!(writer, "{}", introduction(reader.get_ref(), "app")?)?;
        io::copy(&mut reader, &mut writer)?;
        Ok("fin".to_owned())
    })?;
    let mut facts = Facts::default();
    let target = SocketAddr::from((APP.0, 9010));
    let stream = scene
        .world
        .outside()
        .run(|| connect(target, |_| Ok(())))??;
    facts.note("connect", "ok");
    finish(stream, facts)
}

/// Row 42.
pub fn multipath(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let connected = scene.client.run(|| -> io::Result<Option<Socket>> {
        let socket = match Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::MPTCP)) {
            Ok(socket) => socket,
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    Some(libc::EPROTONOSUPPORT | libc::ENOPROTOOPT)
                ) =>
            {
                return Ok(None);
            }
            Err(e) => return Err(e),
        };
        socket.connect_timeout(&EXTERNAL.into(), Duration::from_secs(3))?;
        Ok(Some(socket))
    })??;
    let Some(socket) = connected else {
        return Err(Lacking("the kernel has no MPTCP".to_owned()).into());
    };
    facts.note("connect", "ok");
    finish(socket.into(), facts)
}

/// Row 43.
pub fn bound_source(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let own = SocketAddr::from((CLIENT.0, 40123));
    let socket = scene.client.run(|| bound_to(own, EXTERNAL))??;
    let kept = socket.local_addr()?.as_socket() == Some(own);
    facts.note("port", if kept { "kept" } else { "changed" });
    facts.note("connect", "ok");
    finish(socket.into(), facts)
}

/// Row 46: bits of the mark that are not ours stay as the app set them.
pub fn marked(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let mark = |socket: &Socket| socket.set_mark(0x1);
    let stream = scene.client.run(|| connect(EXTERNAL, mark))??;
    let kept = SockRef::from(&stream).mark()? & 0x1 == 0x1;
    facts.note("mark-bit", if kept { "kept" } else { "lost" });
    facts.note("connect", "ok");
    finish(stream, facts)
}

/// Row 47: `ss` in the pod shows the address that the app dialled.
pub fn listed_by_ss(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let target = SocketAddr::from((VIP.0, 9000));
    let stream = match scene.client.run(|| connect(target, |_| Ok(())))? {
        Ok(stream) => stream,
        Err(e) => {
            facts.note("connect", failure(&e));
            return Ok(facts);
        }
    };
    facts.note("connect", "ok");
    let own = stream.local_addr()?;
    let output = scene
        .client
        .command("ss")
        .args(["-Htn", "state", "established"])
        .output()
        .context("starting `ss`; install it with: apt-get install iproute2")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // Columns: queues, own address, peer. The proxy's end of the same connection is listed the other way round.
    let peer = text.lines().find_map(|line| {
        let mut columns = line.split_whitespace().skip(2);
        let local: SocketAddr = columns.next()?.parse().ok()?;
        let peer: SocketAddr = columns.next()?.parse().ok()?;
        (local == own).then_some(peer)
    });
    let peer = peer.with_context(|| format!("{own} is not listed by ss:\n{text}"))?;
    facts.note("ss", format!("{},{}", name(own.ip()), name_port(peer)));
    finish(stream, facts)
}

/// Row 48: looks at the agent's own end of the app's connection.
pub fn original_destination(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let mut stream = scene.client.run(|| connect(EXTERNAL, |_| Ok(())))??;
    facts.note("connect", "ok");
    note_addresses(&stream, &mut facts)?;
    greet(&mut stream)?;
    // With the answer there, the agent holds the connection for sure.
    stream.peek(&mut [0])?;
    let (asked, named) = match &scene.agent {
        None => ("none".to_owned(), "none".to_owned()),
        Some(agent) => ask_agent(agent.process.pid(), stream.local_addr()?)?,
    };
    facts.note("asked", asked);
    facts.note("named", named);
    hear(stream, &mut facts);
    Ok(facts)
}

/// What the two ways of finding the original destination say about the agent's connection with `client`.
fn ask_agent(pid: u32, client: SocketAddr) -> Result<(String, String)> {
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).context("the agent's descriptors")? {
        let number: i32 = entry?
            .file_name()
            .to_string_lossy()
            .parse()
            .context("a descriptor")?;
        let Ok(descriptor) = raw::descriptor_of(pid, number) else {
            // Closed since the directory was read.
            continue;
        };
        let socket = SockRef::from(&descriptor);
        let peer = socket.peer_addr().ok().and_then(|peer| peer.as_socket());
        if peer != Some(client) {
            continue;
        }
        let asked = match socket.original_dst_v4() {
            Ok(address) => address.as_socket().map_or_else(String::new, name_port),
            Err(_) => "refused".to_owned(),
        };
        let named = match socket.local_addr()?.as_socket() {
            Some(local) if local.port() == 15001 => "redirected".to_owned(),
            Some(local) => name_port(local),
            None => String::new(),
        };
        return Ok((asked, named));
    }
    Ok(("not found".to_owned(), "not found".to_owned()))
}

/// Row 49: 2,000 at once, then 50,000 one after the other, each closed by the client, whose port is then in TIME_WAIT.
pub fn many(scene: &Scene) -> Result<Facts> {
    const PARALLEL: usize = 2000;
    let mut facts = Facts::default();
    let mut open = Vec::with_capacity(PARALLEL);
    for _ in 0..PARALLEL {
        match scene.client.run(|| connect(EXTERNAL, |_| Ok(())))? {
            Ok(stream) => open.push(stream),
            Err(e) => {
                facts.note("error", failure(&e));
                break;
            }
        }
    }
    let answered = open.iter_mut().map(answered);
    facts.note("parallel", answered.filter(|answered| *answered).count());
    drop(open);
    let run = Sequence::of(scene, EXTERNAL, 50_000)?;
    if scene.agent.is_none() {
        // Without a mesh each port serves once, unless the machine is so slow that the first are free again by then.
        let ports = scene.client.run(ephemeral_ports)??;
        let ran_out =
            run.failed.as_deref() == Some("EADDRNOTAVAIL") && run.worked + PARALLEL >= ports;
        let slow = run.failed.is_none() && run.took >= TIME_WAIT;
        ensure!(
            ran_out || slow,
            "{run:?}; {PARALLEL} of {ports} ports were taken"
        );
    }
    run.note(&mut facts);
    Ok(facts)
}

/// Row 49 over IPv6, with as many connections as are too many if each takes two ports.
pub fn many6(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let target = SocketAddr::from((OUTSIDE_V6, 80));
    Sequence::of(scene, target, 15_000)?.note(&mut facts);
    Ok(facts)
}

/// How long the kernel keeps a port for the connection that was closed from there.
const TIME_WAIT: Duration = Duration::from_secs(60);

/// Connections one after the other, until one fails.
#[derive(Debug)]
struct Sequence {
    worked: usize,
    failed: Option<String>,
    took: Duration,
}

impl Sequence {
    fn of(scene: &Scene, target: SocketAddr, total: usize) -> Result<Self> {
        let started = Instant::now();
        let mut worked = 0;
        let failed = scene.client.run(|| {
            while worked < total {
                match connect(target, |_| Ok(())) {
                    Ok(mut stream) => {
                        if !answered(&mut stream) {
                            return Some("silence".to_owned());
                        }
                        worked += 1;
                    }
                    Err(e) => return Some(failure(&e)),
                }
                if scene.agent.is_none() && started.elapsed() > TIME_WAIT {
                    break;
                }
            }
            None
        })?;
        Ok(Self {
            worked,
            failed,
            took: started.elapsed(),
        })
    }

    fn note(self, facts: &mut Facts) {
        facts.note("sequence", self.worked);
        if let Some(failure) = self.failed {
            facts.note("failure", failure);
        }
    }
}

/// From how many ports the calling thread's namespace lets connections start.
fn ephemeral_ports() -> Result<usize> {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let bounds = text.split_whitespace().map(str::parse::<usize>);
    match bounds.collect::<Result<Vec<_>, _>>()?[..] {
        [first, last] => Ok(last + 1 - first),
        _ => bail!("{text:?} is no range of ports"),
    }
}

/// Row 50.
pub fn shared_source_port(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let own = SocketAddr::from((CLIENT.0, 40124));
    let mut open = Vec::new();
    for (name, ip) in [("first", OUTSIDE_V4), ("second", OUTSIDE_B.0)] {
        let target = SocketAddr::from((ip, 80));
        match scene.client.run(|| bound_to(own, target))? {
            Ok(socket) => {
                let mut stream = TcpStream::from(socket);
                let mut said = Facts::default();
                stream.set_read_timeout(Some(Duration::from_secs(10)))?;
                let _ = stream.write_all(b"hello\n");
                let _ = read_introduction(&mut BufReader::new(stream.try_clone()?), &mut said);
                facts.note(name, said.get("who"));
                open.push(stream);
            }
            Err(e) => facts.note(name, failure(&e)),
        }
    }
    Ok(facts)
}

fn tcp() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
}

/// Connects from a fixed address and port.
fn bound_to(own: SocketAddr, target: SocketAddr) -> io::Result<Socket> {
    let socket = tcp()?;
    socket.set_reuse_address(true)?;
    socket.bind(&SockAddr::from(own))?;
    socket.connect_timeout(&target.into(), Duration::from_secs(3))?;
    Ok(socket)
}

fn finish(stream: TcpStream, mut facts: Facts) -> Result<Facts> {
    note_addresses(&stream, &mut facts)?;
    converse(stream, &mut facts);
    Ok(facts)
}

/// Whether an echo server answers a greeting.
fn answered(stream: &mut TcpStream) -> bool {
    let mut said = Facts::default();
    let mut ask = || -> io::Result<bool> {
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        stream.write_all(b"hello\n")?;
        read_introduction(&mut BufReader::new(stream.try_clone()?), &mut said)
    };
    ask().unwrap_or(false)
}
