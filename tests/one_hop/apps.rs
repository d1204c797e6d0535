//! The server's applications, which write down what they are told.

use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use http_body_util::combinators::WithTrailers;
use http_body_util::{BodyExt, Either, Full};
use hyper::HeaderMap;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_tests::Pod;

use crate::servers::{Background, Server, any};

/// What the applications were told, byte by byte.
#[derive(Clone, Default)]
pub struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    /// What there is since the last time, in an order of its own.
    pub fn take(&self) -> Vec<String> {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = std::mem::take(&mut *heard);
        all.sort();
        all
    }
}

/// Starts what speaks no HTTP/2: HTTP on 8080, echoes on 9000 and 9001, and one that speaks first on 2525.
pub fn serve(app: &Pod, heard: &Heard) -> Result<Vec<Server>> {
    let recorded = {
        let heard = heard.clone();
        Server::start(app, any(8080), move |stream| answer(stream, &heard))?
    };
    Ok(vec![
        recorded,
        Server::echo(app, "app", 9000)?,
        Server::echo(app, "app", 9001)?,
        Server::start(app, any(2525), |mut stream| {
            stream.write_all(b"220 ready\r\n")?;
            let mut back = stream.try_clone()?;
            io::copy(&mut stream, &mut back)?;
            Ok("fin".to_owned())
        })?,
    ])
}

/// Writes down what comes, and answers as the path asks.
fn answer(mut stream: TcpStream, heard: &Heard) -> io::Result<String> {
    let peer = stream.peer_addr()?.ip().to_canonical();
    let mut bytes = Vec::new();
    while let Some(end) = read_request(&mut stream, &mut bytes)? {
        let request = String::from_utf8_lossy(&bytes[..end]).into_owned();
        bytes.drain(..end);
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        let word = path.trim_start_matches('/').split('/').next();
        let mut log = heard.0.lock().unwrap_or_else(PoisonError::into_inner);
        log.push(format!("from {peer}: {request:?}"));
        drop(log);
        let answer: &[u8] = match word.unwrap_or_default() {
            "chunked" => {
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n5\r\nhello\r\n0\r\nx-sum: 7\r\n\r\n"
            }
            "early" => {
                b"HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"
            }
            "failing" | "retried" => {
                b"HTTP/1.1 500 Oh\r\ncontent-length: 2\r\nx-envoy-upstream-service-time: 7\r\n\r\nno"
            }
            "garbage" => b"NONSENSE\r\n\r\n",
            "close" => return Ok("closed".to_owned()),
            "half" => b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nonly this",
            "nothing" => b"HTTP/1.1 204 No Content\r\n\r\n",
            "slow" => {
                thread::sleep(Duration::from_secs(1));
                b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nlate"
            }
            "upgrade" => {
                stream.write_all(
                    b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n",
                )?;
                stream.write_all(&bytes)?;
                let mut back = stream.try_clone()?;
                io::copy(&mut stream, &mut back)?;
                return Ok("fin".to_owned());
            }
            _ if request.starts_with("HEAD") => {
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nserver: app\r\n\r\n"
            }
            _ => {
                b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nserver: app\r\nset-cookie: a=b\r\nset-cookie: c=d\r\nX-Mixed: Case\r\nkeep-alive: timeout=5\r\n\r\nhello"
            }
        };
        stream.write_all(answer)?;
        if word == Some("half") || word == Some("garbage") {
            return Ok("broken off".to_owned());
        }
    }
    Ok("fin".to_owned())
}

/// Reads until a whole request is there, and says how long it is; `None` at the end.
fn read_request(stream: &mut TcpStream, bytes: &mut Vec<u8>) -> io::Result<Option<usize>> {
    loop {
        if let Some(end) = length_of(bytes) {
            return Ok(Some(end));
        }
        let mut space = [0; 4096];
        match stream.read(&mut space)? {
            0 => return Ok(None),
            n => bytes.extend_from_slice(&space[..n]),
        }
    }
}

fn length_of(bytes: &[u8]) -> Option<usize> {
    let head = find(bytes, b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    if text.contains("transfer-encoding: chunked") {
        // The last chunk, then perhaps trailers, then an empty line.
        let last = match bytes[head..].starts_with(b"0\r\n") {
            true => head,
            false => head + find(&bytes[head..], b"\r\n0\r\n")? + 2,
        };
        return Some(last + 1 + find(&bytes[last + 1..], b"\r\n\r\n")? + 4);
    }
    let length = text
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
    (bytes.len() >= head + length).then_some(head + length)
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|part| part == wanted)
}

/// A server that speaks nothing but HTTP/2. It answers with what it got, and gRPC with a trailer.
pub fn http2_server(pod: &Pod, port: u16) -> Result<Background> {
    let listener = pod.run(|| TcpListener::bind(any(port)))??;
    listener.set_nonblocking(true)?;
    Background::start(move || async move {
        let ended = serve_http2(listener).await;
        eprintln!("the HTTP/2 server ended: {ended:?}");
    })
}

async fn serve_http2(listener: TcpListener) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, peer) = listener.accept().await?;
        let peer = peer.ip().to_canonical();
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new()).serve_connection(
                TokioIo::new(stream),
                service_fn(move |request| answer_http2(request, peer)),
            ),
        );
    }
}

/// A text, and a trailer for those who wait for one.
type Answer =
    Either<WithTrailers<Full<Bytes>, Ready<Option<Result<HeaderMap, Infallible>>>>, Full<Bytes>>;

async fn answer_http2(
    request: hyper::Request<Incoming>,
    peer: IpAddr,
) -> hyper::Result<hyper::Response<Answer>> {
    let (head, body) = request.into_parts();
    let body = body.collect().await?;
    let trailers = body.trailers().cloned();
    let text = format!(
        "from {peer}: {} {} {:?} {:?} {trailers:?}",
        head.method,
        head.uri,
        head.headers,
        body.to_bytes()
    );
    let kind = head.headers.get("content-type");
    let body = Full::new(Bytes::from(text));
    Ok(hyper::Response::new(match kind {
        Some(kind) if kind == "application/grpc" => {
            let status = hyper::header::HeaderValue::from_static("0");
            let name = hyper::header::HeaderName::from_static("grpc-status");
            let sums = HeaderMap::from_iter([(name, status)]);
            Either::Left(body.with_trailers(ready(Some(Ok(sums)))))
        }
        _ => Either::Right(body),
    }))
}
