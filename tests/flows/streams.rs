//! How bytes flow, and how connections end, on the way out of a pod and on the way in.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use fastrand::Rng;
use mesh_tests::{OUTSIDE_V4, Pod};
use socket2::SockRef;

use super::Facts;
use super::names::{APP, VIP};
use super::scene::Scene;
use super::table::{CALL, Call};
use super::talk::{self, connect, failure};
use crate::agent::{Agent, eventually};
use crate::servers::{PATIENCE, Server, any, ending};

/// Where these rows' servers listen; no Service declares it.
const PORT: u16 = 7000;
const TEN_MEGABYTES: usize = 10 << 20;

/// Row 6: and how many connections the inbound side of the proxy has served for it.
pub fn own_service(scene: &Scene) -> Result<Facts> {
    let served = || scene.agent.as_ref().map(Agent::served_inbound).transpose();
    let before = served()?;
    let call = Call {
        to: "self-vip:9000",
        ..CALL
    };
    let mut facts = talk::call(scene, &call)?;
    if let (Some(before), Some(after)) = (before, served()?) {
        facts.note("inbound-side", after - before);
    }
    Ok(facts)
}

/// Row 33: nobody may wait for the client when the server is the one to begin.
pub fn banner(scene: &Scene) -> Result<Facts> {
    let greet = |mut stream: TcpStream| {
        stream.write_all(b"220 ready\n")?;
        wait_for_end(&mut stream)
    };
    let _outside = Server::start(scene.world.outside(), any(2525), greet)?;
    let _app = Server::start(&scene.app, any(PORT), greet)?;
    let listen = |from: &Pod, target: SocketAddr| -> Result<String> {
        let stream = match from.run(|| connect(target, |_| Ok(())))? {
            Ok(stream) => stream,
            Err(e) => return Ok(failure(&e)),
        };
        // Where the port is undeclared the proxy may listen for a moment first, but not for long.
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut line = String::new();
        Ok(match BufReader::new(stream).read_line(&mut line) {
            Ok(_) if line == "220 ready\n" => "banner".to_owned(),
            Ok(_) => format!("{line:?}"),
            Err(e) => ending(&e),
        })
    };
    let mut facts = Facts::default();
    let client = &scene.client;
    let external = SocketAddr::from((OUTSIDE_V4, 2525));
    facts.note("undeclared", listen(client, external)?);
    facts.note("declared", listen(client, SocketAddr::from((VIP.0, 2525)))?);
    let app = SocketAddr::from((APP.0, PORT));
    facts.note("inbound", listen(scene.world.outside(), app)?);
    Ok(facts)
}

/// Row 34: the client says that it is done, and still gets 10 MB.
pub fn client_half_close(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    for way in ways(scene) {
        let _server = Server::start(way.to, any(PORT), |mut stream| {
            let ended = wait_for_end(&mut stream)?;
            send_bytes(&mut stream, TEN_MEGABYTES)?;
            Ok(ended)
        })?;
        let mut stream = way.connect()?;
        stream.write_all(b"that is all\n")?;
        stream.shutdown(Shutdown::Write)?;
        let (bytes, end) = count(&mut stream);
        facts.note(format!("{}-bytes", way.name), bytes);
        facts.note(format!("{}-end", way.name), end);
    }
    Ok(facts)
}

/// Row 35: the server says that it is done, and still takes 10 MB.
pub fn server_half_close(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    for way in ways(scene) {
        let server = Server::start(way.to, any(PORT), |mut stream| {
            let mut line = [0; 6];
            stream.read_exact(&mut line)?;
            stream.write_all(b"that is all\n")?;
            stream.shutdown(Shutdown::Write)?;
            let (bytes, end) = count(&mut stream);
            Ok(format!("{bytes},{end}"))
        })?;
        let mut stream = way.connect()?;
        stream.write_all(b"hello\n")?;
        let mut said = Vec::new();
        let end = match stream.read_to_end(&mut said) {
            Ok(_) if said == b"that is all\n" => "fin".to_owned(),
            Ok(_) => format!("{said:?}"),
            Err(e) => ending(&e),
        };
        facts.note(format!("{}-client", way.name), end);
        send_bytes(&mut stream, TEN_MEGABYTES).context("sending after the server's end")?;
        stream.shutdown(Shutdown::Write)?;
        facts.note(format!("{}-server", way.name), last_ending(&server)?);
    }
    Ok(facts)
}

/// Row 36: a reset by the client must not look like an orderly end to the server.
pub fn client_reset(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    for way in ways(scene) {
        let server = Server::start(way.to, any(PORT), |mut stream| {
            let mut line = [0; 6];
            stream.read_exact(&mut line)?;
            stream.write_all(b"hello\n")?;
            wait_for_end(&mut stream)
        })?;
        let mut stream = way.connect()?;
        greet(&mut stream)?;
        reset(stream)?;
        facts.note(format!("{}-server", way.name), last_ending(&server)?);
    }
    Ok(facts)
}

/// Row 37: and the other way round.
pub fn server_reset(scene: &Scene) -> Result<Facts> {
    let mut facts = Facts::default();
    for way in ways(scene) {
        let _server = Server::start(way.to, any(PORT), |mut stream| {
            let mut line = [0; 6];
            stream.read_exact(&mut line)?;
            stream.write_all(b"hello\n")?;
            stream.read_exact(&mut line)?;
            reset(stream)?;
            Ok("reset".to_owned())
        })?;
        let mut stream = way.connect()?;
        greet(&mut stream)?;
        stream.write_all(b"hello\n")?;
        let end = match stream.read(&mut [0; 8]) {
            Ok(0) => "fin".to_owned(),
            Ok(_) => "surplus".to_owned(),
            Err(e) => failure(&e),
        };
        facts.note(format!("{}-client", way.name), end);
    }
    Ok(facts)
}

/// Row 51: 1 GB each way at once, in pieces of random size; less with `MESH_TEST_BULK_MB`.
pub fn bulk(scene: &Scene) -> Result<Facts> {
    let megabytes: usize = match std::env::var("MESH_TEST_BULK_MB") {
        Ok(text) => text.parse().context("MESH_TEST_BULK_MB")?,
        Err(_) => 1024,
    };
    let mut facts = Facts::default();
    for way in ways(scene) {
        let _server = Server::start(way.to, any(PORT), echo_all)?;
        let stream = way.connect()?;
        let result = stream_both_ways(&stream, megabytes << 20)?;
        facts.note(format!("{}-stream", way.name), result);
    }
    Ok(facts)
}

fn echo_all(mut stream: TcpStream) -> io::Result<String> {
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return Ok("fin".to_owned()),
            n => stream.write_all(&buffer[..n])?,
        }
    }
}

/// Sends a reproducible stream and reads its echo at the same time.
fn stream_both_ways(stream: &TcpStream, total: usize) -> Result<String> {
    const SEED: u64 = 51;
    let writer = stream.try_clone()?;
    let sending = thread::spawn(move || -> io::Result<()> {
        let mut writer = writer;
        let mut sizes = Rng::with_seed(7);
        let mut content = Rng::with_seed(SEED);
        let mut left = total;
        while left > 0 {
            let size = sizes.usize(1..=128 * 1024).min(left);
            let words: Vec<u8> = bytes(&mut content, size);
            writer.write_all(&words)?;
            left -= size;
        }
        writer.shutdown(Shutdown::Write)
    });
    let mut sizes = Rng::with_seed(7);
    let mut content = Rng::with_seed(SEED);
    let mut reader = stream.try_clone()?;
    let mut left = total;
    while left > 0 {
        let size = sizes.usize(1..=128 * 1024).min(left);
        let mut received = vec![0; size];
        if let Err(e) = reader.read_exact(&mut received) {
            return Ok(format!("{} after {} bytes", ending(&e), total - left));
        }
        if received != bytes(&mut content, size) {
            return Ok(format!("different within {} bytes", total - left + size));
        }
        left -= size;
    }
    match reader.read(&mut [0]) {
        Ok(0) => {}
        other => return Ok(format!("{other:?} instead of the end")),
    }
    match sending.join() {
        Ok(result) => result.context("sending")?,
        Err(_) => bail!("the sender panicked"),
    }
    Ok("equal".to_owned())
}

fn bytes(content: &mut Rng, size: usize) -> Vec<u8> {
    let mut words = vec![0; size];
    content.fill(&mut words);
    words
}

/// Out of the client pod, and into the app pod.
struct Way<'a> {
    name: &'static str,
    from: &'a Pod,
    to: &'a Pod,
    address: SocketAddr,
}

fn ways(scene: &Scene) -> [Way<'_>; 2] {
    let outside = scene.world.outside();
    [
        Way {
            name: "out",
            from: &scene.client,
            to: outside,
            address: SocketAddr::from((OUTSIDE_V4, PORT)),
        },
        Way {
            name: "in",
            from: outside,
            to: &scene.app,
            address: SocketAddr::from((APP.0, PORT)),
        },
    ]
}

impl Way<'_> {
    fn connect(&self) -> Result<TcpStream> {
        let stream = self
            .from
            .run(|| connect(self.address, |_| Ok(())))?
            .with_context(|| format!("connecting to {}", self.address))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}

/// Exchanges a word, so that the whole way stands.
fn greet(stream: &mut TcpStream) -> io::Result<()> {
    stream.write_all(b"hello\n")?;
    stream.read_exact(&mut [0; 6])
}

/// Closes with RST.
fn reset(stream: TcpStream) -> io::Result<()> {
    SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
    drop(stream);
    Ok(())
}

fn wait_for_end(stream: &mut TcpStream) -> io::Result<String> {
    let mut buffer = [0; 4096];
    while stream.read(&mut buffer)? > 0 {}
    Ok("fin".to_owned())
}

fn send_bytes(stream: &mut TcpStream, total: usize) -> io::Result<()> {
    let piece = vec![b'x'; 64 * 1024];
    for _ in 0..total / piece.len() {
        stream.write_all(&piece)?;
    }
    Ok(())
}

/// How many bytes come until the end, and which end.
fn count(stream: &mut TcpStream) -> (usize, String) {
    let mut buffer = vec![0; 64 * 1024];
    let mut total = 0;
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return (total, "fin".to_owned()),
            Ok(n) => total += n,
            Err(e) => return (total, ending(&e)),
        }
    }
}

/// How the server's only connection ended.
fn last_ending(server: &Server) -> Result<String> {
    eventually(PATIENCE, || !server.endings().is_empty())
        .context("the server's connection never ended")?;
    Ok(server.endings().join("+"))
}
