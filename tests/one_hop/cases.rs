//! What is asked, and what is kept of it: everything but times, dates and ports that the kernel chose.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::sync::LazyLock;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use regex::Regex;

use super::stage::{SERVICES, Stage};
use crate::agent::eventually;
use crate::flows::names::APP;
use crate::flows::talk::echoes;
use crate::servers::ending;
use crate::servers::runtime;

/// What was seen, by case.
pub type Transcript = Vec<(String, String)>;

/// A request over HTTP/1.1: its name, a port of the Service, its first line and headers, its body.
type Case = (&'static str, u16, &'static str, &'static str);

/// Every header that a hop looks at.
const HEADERS: &str = "x-forwarded-for: 1.2.3.4\r\nx-forwarded-proto: https\r\nx-envoy-retry-on: 5xx\r\n\
    x-envoy-decorator-operation: mine\r\nx-envoy-peer-metadata: me\r\nx-envoy-expected-rq-timeout-ms: 9\r\n\
    x-envoy-internal: true\r\nx-envoy-attempt-count: 7\r\nx-forwarded-client-cert: me\r\nte: trailers, gzip\r\n\
    X-Mixed: Case\r\ncookie: a=1\r\nconnection: close, x-hop\r\nx-hop: gone";

const CASES: &[Case] = &[
    ("a request", 80, "GET /plain?a=b%20c", ""),
    ("a path that has a plain form", 80, "GET /a/../plain//x", ""),
    (
        "a body of known length",
        80,
        "POST /plain\r\ncontent-length: 5",
        "hello",
    ),
    (
        "a body in chunks with trailers",
        80,
        "POST /plain\r\ntransfer-encoding: chunked\r\ntrailer: x-sum",
        "3\r\nabc\r\n4\r\ndefg\r\n0\r\nx-sum: 1\r\n\r\n",
    ),
    ("the head alone", 80, "HEAD /plain", ""),
    ("an answer in chunks with trailers", 80, "GET /chunked", ""),
    ("an answer without a body", 80, "GET /nothing", ""),
    ("words ahead of the answer", 80, "GET /early", ""),
    (
        "a body that waits to be asked for",
        80,
        "PUT /plain\r\nexpect: 100-continue\r\ncontent-length: 2",
        "ok",
    ),
    ("an error", 80, "GET /failing", ""),
    ("an error that is tried again", 80, "GET /retried", ""),
    ("a server that closes", 80, "GET /close", ""),
    (
        "a server that closes after a body",
        80,
        "POST /close\r\ncontent-length: 5",
        "hello",
    ),
    (
        "a server that closes within its answer",
        80,
        "GET /half",
        "",
    ),
    ("an answer that is none", 80, "GET /garbage", ""),
    ("an answer that comes too late", 80, "GET /slow", ""),
    (
        "a copy for a mirror, a rewrite and edits",
        80,
        "GET /mirrored/x",
        "",
    ),
    ("nobody listens", 82, "GET /plain", ""),
    (
        "nobody listens, and a body",
        82,
        "POST /plain\r\ncontent-length: 5",
        "hello",
    ),
    (
        "nobody listens to gRPC",
        82,
        "POST /a.b/c\r\ncontent-type: application/grpc\r\ncontent-length: 0",
        "",
    ),
    ("a failing server", 83, "GET /failing", ""),
    ("a failing server once more", 83, "GET /failing", ""),
    ("a server that is ejected", 83, "GET /failing", ""),
    ("an undeclared port", 84, "GET /plain", ""),
    (
        "HTTP/1.1 to a server of HTTP/2",
        81,
        "POST /plain\r\ncontent-length: 5",
        "hello",
    ),
    (
        "a request that is refused",
        80,
        "GET /plain\r\ntransfer-encoding: gzip",
        "",
    ),
    (
        "another change of protocol",
        80,
        "GET /plain\r\nconnection: upgrade\r\nupgrade: other",
        "",
    ),
];

/// Plays all cases over both families.
pub fn run(stage: &Stage) -> Result<Transcript> {
    let mut seen = Transcript::new();
    for service in SERVICES {
        let host = service.0;
        for case in CASES {
            let name = format!("{} ({host})", case.0);
            let answer = request(stage, service, case).with_context(|| name.clone())?;
            note(stage, &mut seen, name, &answer);
        }
        for (name, upgrade) in [("a WebSocket", true), ("a server that speaks first", false)] {
            let said = talk(stage, service, upgrade).with_context(|| name.to_owned())?;
            note(stage, &mut seen, format!("{name} ({host})"), &said);
        }
        let said = unheard(stage, service.1)?;
        note(
            stage,
            &mut seen,
            format!("nobody listens to bytes ({host})"),
            &said,
        );
        for port in [9000, 9001] {
            let name = format!("bytes to port {port} ({host})");
            let said = bytes(stage, service.1, port).with_context(|| name.clone())?;
            note(stage, &mut seen, name, &said);
        }
        for port in [81, 85] {
            let name = format!("HTTP/2 to port {port} ({host})");
            let said = http2(stage, service, port).with_context(|| name.clone())?;
            note(stage, &mut seen, name, &said);
        }
    }
    for ip in [IpAddr::from(APP.0), IpAddr::from(APP.1)] {
        let said = bytes(stage, ip, 9000)?;
        note(stage, &mut seen, format!("bytes to {ip}"), &said);
    }
    seen.push(("the access log".to_owned(), log(stage)?));
    seen.push(("the metrics".to_owned(), metrics(stage)?));
    Ok(seen)
}

fn note(stage: &Stage, seen: &mut Transcript, name: String, answer: &str) {
    let heard = stage.heard().join("\n");
    let text = format!("the client saw {answer}\nthe app saw {heard}");
    seen.push((name, without_the_moment(&text)));
}

/// One request on a connection of its own, and all that comes back.
fn request(stage: &Stage, (host, ip): (&str, IpAddr), case: &Case) -> Result<String> {
    let (name, port, first, body) = case;
    let (line, own) = first.split_once("\r\n").unwrap_or((first, ""));
    let id = format!("x-request-id: {}", name.replace(' ', "-"));
    let mut head = format!("{line} HTTP/1.1\r\nhost: {host}\r\n{HEADERS}\r\n{id}\r\n");
    if !own.is_empty() {
        head += own;
        head += "\r\n";
    }
    let mut stream = stage.dial(ip, *port)?;
    stream.write_all(format!("{head}\r\n{body}").as_bytes())?;
    let mut answer = Vec::new();
    let end = stream.read_to_end(&mut answer);
    let end = end.map_or_else(|error| ending(&error), |_| "fin".to_owned());
    // A copy may still be on its way.
    if name.contains("mirror") {
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(format!(
        "{:?}, then {end}",
        String::from_utf8_lossy(&answer)
    ))
}

/// Bytes both ways that are no HTTP, or no longer; each end is handed on.
fn talk(stage: &Stage, (host, ip): (&str, IpAddr), upgrade: bool) -> Result<String> {
    let port = if upgrade { 80 } else { 2525 };
    let mut stream = BufReader::new(stage.dial(ip, port)?);
    let mut said = String::new();
    if upgrade {
        let request = format!(
            "GET /upgrade HTTP/1.1\r\nhost: {host}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
            x-request-id: upgrade\r\n\r\n"
        );
        stream.get_mut().write_all(request.as_bytes())?;
        while !said.ends_with("\r\n\r\n") && stream.read_line(&mut said)? > 0 {}
    } else {
        stream.read_line(&mut said)?;
    }
    let mut writer = stream.get_ref().try_clone()?;
    let intact = echoes(&mut writer, &mut stream)?;
    writer.shutdown(Shutdown::Write)?;
    let end = read_rest(&mut stream);
    Ok(format!("{said:?}, intact: {intact}, then {end:?}"))
}

/// Reads until the end. On the fast path a blocked reader may be told once, for nothing, that nothing is there.
fn read_rest(stream: &mut impl Read) -> io::Result<()> {
    let mut rest = Vec::new();
    let end = match stream.read_to_end(&mut rest) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => stream.read_to_end(&mut rest),
        end => end,
    };
    end.map(drop)
}

/// An echo server's introduction, its echo, and how it ends.
fn bytes(stage: &Stage, ip: IpAddr, port: u16) -> Result<String> {
    let mut said = String::new();
    let mut conversation = || -> io::Result<()> {
        let stream = stage.dial(ip, port).map_err(io::Error::other)?;
        let mut writer = stream.try_clone()?;
        let mut reader = BufReader::new(stream);
        writer.write_all(b"hello\n")?;
        if reader.read_line(&mut said)? > 0 {
            said += &format!("intact: {}", echoes(&mut writer, &mut reader)?);
            writer.shutdown(Shutdown::Write)?;
        }
        read_rest(&mut reader)
    };
    let end = conversation().map_or_else(|error| ending(&error), |()| "fin".to_owned());
    Ok(format!("{said}, then {end}"))
}

/// How a connection ends whose server is not there. Nothing is sent: how much of it would be read first is chance.
fn unheard(stage: &Stage, ip: IpAddr) -> Result<String> {
    // On the fast path a blocked reader would not be told of a reset.
    let read = |mut stream: TcpStream| {
        stream.set_nonblocking(true)?;
        let mut read = stream.read(&mut [0; 16]);
        let patience = Duration::from_secs(10);
        let _ = eventually(patience, || {
            let nothing = |e: &io::Error| e.kind() == io::ErrorKind::WouldBlock;
            if read.as_ref().is_err_and(nothing) {
                read = stream.read(&mut [0; 16]);
            }
            !read.as_ref().is_err_and(nothing)
        });
        read
    };
    // It may have ended before `connect` returns.
    let read = match stage.dial(ip, 9002) {
        Ok(stream) => read(stream),
        Err(error) => Err(error.downcast::<io::Error>()?),
    };
    Ok(read.map_or_else(|error| ending(&error), |n| format!("{n} bytes")))
}

/// Requests at once, as streams of one connection, with what comes back.
fn http2(stage: &Stage, (host, ip): (&str, IpAddr), port: u16) -> Result<String> {
    let stream = stage.dial(ip, port)?;
    runtime()?.block_on(async {
        stream.set_nonblocking(true)?;
        let io = TokioIo::new(tokio::net::TcpStream::from_std(stream)?);
        let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), io);
        let (sender, connection) = handshake.await?;
        tokio::spawn(connection);
        let mut asked = Vec::new();
        for number in 0..5 {
            let request = hyper::Request::post(format!("http://{host}:{port}/a?{number}"))
                .header("x-request-id", format!("two-{number}"))
                .header("te", "trailers")
                .header("content-type", "application/grpc")
                .body(Full::new(Bytes::from_static(b"hello")))?;
            let mut sender = sender.clone();
            asked.push(tokio::spawn(async move {
                sender.ready().await?;
                let (head, body) = sender.send_request(request).await?.into_parts();
                let body = body.collect().await?;
                let trailers = body.trailers().cloned();
                let text = String::from_utf8_lossy(&body.to_bytes()).into_owned();
                anyhow::Ok(format!(
                    "{} {:?}\n{text}\n{trailers:?}",
                    head.status, head.headers
                ))
            }));
        }
        let mut said = Vec::new();
        for answer in asked {
            said.push(answer.await??);
        }
        Ok(said.join("\n"))
    })
}

/// The lines of both sides, in an order of their own. The last of them come a moment after their answers.
fn log(stage: &Stage) -> Result<String> {
    let mut before = Vec::new();
    let patience = Duration::from_secs(10);
    eventually(patience, || {
        std::thread::sleep(Duration::from_millis(500));
        let now = stage.logged().unwrap_or_default();
        let settled = now.len() == before.len();
        before = now;
        settled
    })?;
    let mut lines: Vec<_> = before.iter().map(|line| without_the_moment(line)).collect();
    lines.sort();
    Ok(lines.join("\n"))
}

/// All that is counted, but for what tells the two ways apart, and what the fast path counts of sockets.
fn metrics(stage: &Stage) -> Result<String> {
    let text = stage.metrics()?;
    let own = ["one_hop_", "snapshot_generation", "fast_path_"];
    let lines = text
        .lines()
        .filter(|line| !own.iter().any(|own| line.contains(own)));
    let mut lines: Vec<_> = lines.collect();
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

/// A text without times, dates and ports that the kernel chose.
pub fn without_the_moment(text: &str) -> String {
    static MOMENTS: LazyLock<Vec<(Regex, &str)>> = LazyLock::new(|| {
        let moment = |pattern: &str, instead| (Regex::new(pattern).expect("a pattern"), instead);
        vec![
            moment(r"date: [A-Z][a-z]{2}, [^\\\r\n]*GMT", "date: then"),
            moment(r#""date": "[^"]*""#, r#""date": "then""#),
            moment(r"(service-time(: |.: .))\d+", "${1}0"),
            moment(r"duration_ms=\d+", "duration_ms=0"),
            moment(r#"peer="(\S+):\d+""#, r#"peer="$1:0""#),
            moment(r#""peer":"(\S+?):\d+""#, r#""peer":"$1:0""#),
            moment(
                r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[0-9a-f]{4}-[0-9a-f]{12}",
                "an-id",
            ),
        ]
    });
    MOMENTS
        .iter()
        .fold(text.to_owned(), |text, (pattern, instead)| {
            pattern.replace_all(&text, *instead).into_owned()
        })
}
