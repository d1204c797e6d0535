//! What a client does in most rows: connect, be told what the server sees, check that bytes come back, close.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result};
use nix::errno::Errno;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::Facts;
use super::names::{name, name_port, resolve};
use super::scene::Scene;
use super::table::Call;
use crate::http;
use crate::servers::ending;

/// For connecting; the proxy's own patience with a destination does not count into it.
const CONNECT: Duration = Duration::from_secs(3);
/// For an answer; longer than the 10 s that Istio gives a connection to its destination.
const ANSWER: Duration = Duration::from_secs(15);

/// Makes the row's connection and talks with an echo server.
pub fn call(scene: &Scene, call: &Call) -> Result<Facts> {
    let mut facts = Facts::default();
    match dial(scene, call)? {
        Ok(stream) => {
            facts.note("connect", "ok");
            note_addresses(&stream, &mut facts)?;
            converse(stream, &mut facts);
        }
        // Accepted, and closed again before `connect` could return.
        Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {
            facts.note("connect", "ok");
            facts.note("end", "closed");
        }
        Err(e) => facts.note("connect", failure(&e)),
    }
    Ok(facts)
}

/// Makes the row's connection and sends one HTTP request for `host`.
pub fn request(scene: &Scene, call: &Call, host: &str) -> Result<Facts> {
    let mut facts = Facts::default();
    let stream = match dial(scene, call)? {
        Ok(stream) => stream,
        Err(e) => {
            facts.note("connect", failure(&e));
            return Ok(facts);
        }
    };
    facts.note("connect", "ok");
    note_addresses(&stream, &mut facts)?;
    let response = http::get(stream, host, "/hello?a=b")?;
    facts.note("status", response.status);
    facts.note("server", response.header("server"));
    let timed = !response.header("x-envoy-upstream-service-time").is_empty();
    facts.note("timed", timed);
    if let Ok(body) = serde_json::from_slice::<Value>(&response.body) {
        facts.note("who", text(&body["who"]));
        facts.note("request", text(&body["request"]).replace(' ', "+"));
        facts.note("host", text(&body["headers"]["host"]));
        facts.note("seen", parse_name(&body["peer"]));
    }
    Ok(facts)
}

/// Connects as the row says; the inner result is what the app would get.
pub fn dial(scene: &Scene, call: &Call) -> Result<io::Result<TcpStream>> {
    let mut target = resolve(call.to)?;
    if call.mapped
        && let IpAddr::V4(v4) = target.ip()
    {
        target.set_ip(v4.to_ipv6_mapped().into());
    }
    let connect = || connect(target, call.prepare);
    let pod = scene.place(call.from);
    match call.owner {
        Some((uid, gid)) => pod.run_as(uid, gid, connect),
        None => pod.run(connect),
    }
}

/// Connects from the namespace of the calling thread.
pub fn connect(
    target: SocketAddr,
    prepare: fn(&Socket) -> io::Result<()>,
) -> io::Result<TcpStream> {
    let domain = Domain::for_address(target);
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    prepare(&socket)?;
    socket.connect_timeout(&target.into(), CONNECT)?;
    Ok(socket.into())
}

/// What the app can ask its own socket. One that has been reset already has no peer, and then there is nothing to note:
/// a row that compares the peer will miss it.
pub fn note_addresses(stream: &TcpStream, facts: &mut Facts) -> Result<()> {
    match stream.peer_addr() {
        Ok(peer) => facts.note("peer", name_port(peer)),
        Err(e) if e.kind() == io::ErrorKind::NotConnected => {}
        Err(e) => return Err(e).context("getpeername"),
    }
    facts.note(
        "own",
        name(stream.local_addr().context("getsockname")?.ip()),
    );
    Ok(())
}

/// Greets an echo server, then [`hear`]s it.
pub fn converse(mut stream: TcpStream, facts: &mut Facts) {
    match greet(&mut stream) {
        Ok(()) => hear(stream, facts),
        Err(e) => facts.note("end", abrupt(&e)),
    }
}

/// Notes what a greeted echo server says, whether bytes come back, and how the connection ends.
pub fn hear(mut stream: TcpStream, facts: &mut Facts) {
    let mut talk = || -> io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        if !read_introduction(&mut reader, facts)? {
            facts.note("end", "closed");
            return Ok(());
        }
        let echoed = echoes(&mut stream, &mut reader)?;
        facts.note("echo", if echoed { "intact" } else { "garbled" });
        stream.shutdown(Shutdown::Write)?;
        let mut rest = Vec::new();
        reader.read_to_end(&mut rest)?;
        facts.note("end", if rest.is_empty() { "fin" } else { "surplus" });
        Ok(())
    };
    if let Err(e) = talk() {
        facts.note("end", abrupt(&e));
    }
}

/// Sets a stream's patience and sends the line that an echo server waits for.
pub fn greet(stream: &mut TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(ANSWER))?;
    stream.set_write_timeout(Some(ANSWER))?;
    stream.write_all(b"hello\n")
}

/// A proxy that cannot go on may close in either way; for the app it is the same.
fn abrupt(error: &io::Error) -> String {
    match ending(error).as_str() {
        "rst" => "closed".to_owned(),
        other => other.to_owned(),
    }
}

/// Reads the echo server's line about itself; false where the connection ended before one.
pub fn read_introduction(reader: &mut impl BufRead, facts: &mut Facts) -> io::Result<bool> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(false);
    }
    let introduction: Value = serde_json::from_str(&line)
        .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{e}: {line:?}")))?;
    facts.note("who", text(&introduction["who"]));
    if let Ok(local) = text(&introduction["local"]).parse() {
        facts.note("local", name_port(local));
    }
    facts.note("seen", parse_name_port(&introduction["peer"]));
    Ok(true)
}

/// Whether a few kilobytes come back as they were sent.
pub fn echoes(writer: &mut impl Write, reader: &mut impl Read) -> io::Result<bool> {
    let sent: Vec<u8> = (0..8192u32)
        .flat_map(|n| (n as u16).to_be_bytes())
        .collect();
    writer.write_all(&sent)?;
    let mut back = vec![0; sent.len()];
    reader.read_exact(&mut back)?;
    Ok(back == sent)
}

/// The name of an error, as a programmer knows it.
pub fn failure(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(number) => format!("{:?}", Errno::from_raw(number)),
        None if error.kind() == io::ErrorKind::TimedOut => "timeout".to_owned(),
        None => error.to_string(),
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn parse_name(value: &Value) -> String {
    name(
        text(value)
            .parse()
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
    )
}

fn parse_name_port(value: &Value) -> String {
    text(value)
        .parse::<SocketAddr>()
        .map_or_else(|_| text(value).to_owned(), |address| name(address.ip()))
}
