//! What a client does in most rows: connect, be told what the server sees, check that bytes come back, close.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{AddrParseError, IpAddr, Ipv4Addr, Shutdown, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use serde_json::Value;
use socket2::{Domain, Protocol, Socket, Type};

use super::Facts;
use super::names::{name, name_port, resolve};
use super::scene::Scene;
use super::table::Call;
use crate::agent::Agent;
use crate::http;
use crate::servers::ending;

/// For connecting; the proxy's own patience with a destination does not count into it.
const CONNECT: Duration = Duration::from_secs(3);
/// How long the proxy tries to reach a destination, as Istio's does.
const CONNECT_PROXY: Duration = Duration::from_secs(10);
/// For an answer; longer than that.
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

/// The same while the agent holds its breath: the kernel connects, and nobody can end the connection before the app has
/// asked for its addresses.
pub fn call_held(scene: &Scene, call: &Call) -> Result<Facts> {
    let mut facts = Facts::default();
    let held = scene.agent.as_ref().map(Held::hold).transpose()?;
    match dial(scene, call)? {
        Ok(stream) => {
            facts.note("connect", "ok");
            note_addresses(&stream, &mut facts)?;
            drop(held);
            converse(stream, &mut facts);
        }
        Err(e) => facts.note("connect", failure(&e)),
    }
    Ok(facts)
}

/// An agent that does not run until this is dropped.
struct Held(Pid);

impl Held {
    fn hold(agent: &Agent) -> Result<Self> {
        let pid = Pid::from_raw(i32::try_from(agent.process.pid())?);
        kill(pid, Signal::SIGSTOP).context("holding the agent")?;
        let held = Self(pid);
        // Its threads stop one after the other.
        let stopped = WaitPidFlag::WSTOPPED | WaitPidFlag::WNOWAIT;
        waitid(Id::Pid(pid), stopped).context("waiting for the agent to be held")?;
        Ok(held)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // It is this process's child and not waited for yet, so it is there.
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

/// Makes the row's connection, and notes how long it took until its end.
pub fn call_timed(scene: &Scene, call: &Call) -> Result<Facts> {
    let started = Instant::now();
    let mut facts = self::call(scene, call)?;
    let took = started.elapsed().as_secs_f64();
    // What Istio gives a connection to its destination, and what a loaded machine may add.
    let patience = CONNECT_PROXY.as_secs_f64();
    let took = match took >= patience && took < patience + 3.0 {
        true => format!("{patience}s"),
        false => format!("{took:.1}s"),
    };
    facts.note("took", took);
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
    let Some(introduction) = introduction(reader)? else {
        return Ok(false);
    };
    facts.note("who", introduction.who);
    facts.note("local", name_port(introduction.local));
    facts.note("seen", name(introduction.peer.ip()));
    Ok(true)
}

/// What an echo server says about itself and the connection.
pub struct Introduction {
    pub who: String,
    pub local: SocketAddr,
    pub peer: SocketAddr,
}

/// Reads it; `None` where the connection ended before.
pub fn introduction(reader: &mut impl BufRead) -> io::Result<Option<Introduction>> {
    let mut line = String::new();
    if reader.read_line(&mut line)? == 0 {
        return Ok(None);
    }
    let invalid = |e: &dyn std::fmt::Display| {
        io::Error::new(io::ErrorKind::InvalidData, format!("{e}: {line:?}"))
    };
    let value: Value = serde_json::from_str(&line).map_err(|e| invalid(&e))?;
    let address = |key: &str| {
        text(&value[key])
            .parse()
            .map_err(|e: AddrParseError| invalid(&e))
    };
    Ok(Some(Introduction {
        who: text(&value["who"]).to_owned(),
        local: address("local")?,
        peer: address("peer")?,
    }))
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
