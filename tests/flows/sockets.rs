//! Apps that do something particular with their sockets.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use mesh_ebpf::abi::CAPTURE_MARK;
use mesh_tests::OUTSIDE_V4;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{setsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, Type};

use super::Facts;
use super::enrolment::enrol;
use super::names::{APP, VIP, name, name_port};
use super::scene::Scene;
use super::talk::{connect, converse, failure, hear, note_addresses};
use crate::Lacking;
use crate::raw;
use crate::servers::{Server, any, introduction};

const EXTERNAL: SocketAddr = SocketAddr::new(IpAddr::V4(OUTSIDE_V4), 80);
const EARLY: SocketAddr = SocketAddr::new(IpAddr::V4(OUTSIDE_V4), 7413);

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

/// Row 41: and with a cookie from the connection before, so that the data goes with the first packet to whoever takes it
/// there. Every listener that is opened from now on does, the agent's in the pod too.
pub fn fast_open_again(scene: &Scene) -> Result<Facts> {
    for pod in [&scene.client, scene.world.outside()] {
        pod.run(|| fs::write("/proc/sys/net/ipv4/tcp_fastopen", "1027"))??;
    }
    enrol(scene, true)?;
    let _server = Server::echo(scene.world.outside(), "outside", EARLY.port())?;
    let mut facts = Facts::default();
    for _ in 0..2 {
        facts = Facts::default();
        let socket = scene.client.run(|| -> io::Result<Socket> {
            let socket = tcp()?;
            socket.send_to_with_flags(b"hello\n", &EARLY.into(), libc::MSG_FASTOPEN)?;
            Ok(socket)
        })??;
        facts.note("connect", "ok");
        let stream = TcpStream::from(socket);
        note_addresses(&stream, &mut facts)?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        // The answer is there, so the handshake is over.
        stream.peek(&mut [0])?;
        facts.note("early", raw::early_data_was_taken(&stream)?);
        hear(stream, &mut facts);
    }
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

/// Row 46: bits of the mark that are not ours stay as the app set them.
pub fn marked(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let mark = |socket: &Socket| socket.set_mark(0xe000_0001);
    let stream = scene.client.run(|| connect(EXTERNAL, mark))??;
    let left = SockRef::from(&stream).mark()? & !CAPTURE_MARK;
    facts.note("mark", format!("{left:#x}"));
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

/// Row 19: one socket, first for a connection that is steered, then for one that is not.
pub fn used_twice(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    let socket = scene.client.run(|| -> io::Result<Socket> {
        let socket = tcp()?;
        socket.connect(&EXTERNAL.into())?;
        raw::disconnect(&socket)?;
        socket.connect(&SocketAddr::from((OUTSIDE_V4, 3306)).into())?;
        Ok(socket)
    })??;
    facts.note("connect", "ok");
    finish(socket.into(), facts)
}

fn tcp() -> io::Result<Socket> {
    Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))
}

fn finish(stream: TcpStream, mut facts: Facts) -> Result<Facts> {
    note_addresses(&stream, &mut facts)?;
    converse(stream, &mut facts);
    Ok(facts)
}
