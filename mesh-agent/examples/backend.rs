//! The server behind what the bench measures beside small answers: much at once, by plain TCP and by HTTP/1.1, and
//! HTTP/2 with gRPC's unary calls. It counts what it was asked for, so that the bench can tell who has done the work.
//!
//! `backend TCP_PORT HTTP_PORT HTTP2_PORT`

use std::convert::Infallible;
use std::future::Future;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

/// Bytes that repeat after this many: what is lost, or comes twice, is seen. The bench knows them too.
const PERIOD: usize = 65_521;
/// How much is written at once.
const PIECE: usize = 256 * 1024;

fn main() -> anyhow::Result<()> {
    let ports: Vec<u16> = std::env::args()
        .skip(1)
        .map(|port| port.parse())
        .collect::<Result<_, _>>()
        .context("a port is a number")?;
    let [tcp, http, http2] = ports[..] else {
        bail!("usage: backend TCP_PORT HTTP_PORT HTTP2_PORT");
    };
    let pattern: Arc<[u8]> = (0..PERIOD + PIECE).map(byte_at).collect();
    let listen = |port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port));
    let counts = Arc::<Counts>::default();
    serve(listen(tcp)?, &pattern, |stream| {
        let mut count = [0; 8];
        stream.read_exact(&mut count).ok()?;
        Some(u64::from_be_bytes(count))
    });
    let asked = Arc::clone(&counts);
    serve(listen(http)?, &pattern, move |stream| head(stream, &asked));
    serve_http2(listen(http2)?, &counts)
}

fn byte_at(offset: usize) -> u8 {
    let place = (offset % PERIOD) as u32;
    place.wrapping_mul(2_654_435_761).to_be_bytes()[0]
}

/// Asks each client, again and again, how much it wants.
fn serve(
    listener: TcpListener,
    pattern: &Arc<[u8]>,
    ask: impl Fn(&mut BufReader<TcpStream>) -> Option<u64> + Clone + Send + 'static,
) {
    let pattern = Arc::clone(pattern);
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (pattern, ask) = (Arc::clone(&pattern), ask.clone());
            thread::spawn(move || {
                let mut stream = BufReader::new(stream);
                while let Some(count) = ask(&mut stream) {
                    if send(stream.get_mut(), &pattern, count).is_err() {
                        return;
                    }
                }
            });
        }
    });
}

fn send(stream: &mut TcpStream, pattern: &[u8], count: u64) -> std::io::Result<()> {
    let mut sent = 0;
    while sent < count {
        let piece = (count - sent).min(PIECE as u64) as usize;
        let start = (sent % PERIOD as u64) as usize;
        stream.write_all(&pattern[start..start + piece])?;
        sent += piece as u64;
    }
    Ok(())
}

/// Reads a request for `/COUNT` and answers with a head; one for `/counts` it answers with what the HTTP/2 side was asked for.
fn head(stream: &mut BufReader<TcpStream>, counts: &Counts) -> Option<u64> {
    let mut lines = stream.by_ref().lines();
    let first = lines.next()?.ok()?;
    let asked = first.strip_prefix("GET /")?.split(' ').next()?;
    while !lines.next()?.ok()?.is_empty() {}
    let (count, text) = match asked {
        "counts" => (0, counts.text()),
        asked => (asked.parse().ok()?, String::new()),
    };
    let length = count + text.len() as u64;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\n\r\n{text}");
    stream.get_mut().write_all(head.as_bytes()).ok()?;
    Some(count)
}

/// What was asked for so far.
#[derive(Default)]
struct Counts {
    requests: AtomicU64,
    calls: AtomicU64,
}

impl Counts {
    fn text(&self) -> String {
        let [requests, calls] =
            [&self.requests, &self.calls].map(|count| count.load(Ordering::Relaxed));
        format!("{requests} {calls}")
    }
}

fn serve_http2(listener: TcpListener, counts: &Arc<Counts>) -> anyhow::Result<()> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let counts = Arc::clone(counts);
            let service = service_fn(move |request| answer(Arc::clone(&counts), request));
            let serving = http2::Builder::new(Local)
                .max_concurrent_streams(1000)
                .serve_connection(TokioIo::new(stream), service);
            tokio::task::spawn_local(async move {
                // A client that leaves is none of the server's business.
                let _ = serving.await;
            });
        }
    })
}

/// Runs everything on the one thread there is.
#[derive(Clone)]
struct Local;

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

/// A gRPC call is answered with its own message, and all else with a few words.
async fn answer(
    counts: Arc<Counts>,
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, Infallible>>, Infallible> {
    let grpc = HeaderValue::from_static("application/grpc");
    if request.headers().get(CONTENT_TYPE) == Some(&grpc) {
        let body = request.into_body().collect().await;
        let message = body.map(|body| body.to_bytes()).unwrap_or_default();
        let well_formed = is_one_message(&message);
        counts
            .calls
            .fetch_add(u64::from(well_formed), Ordering::Relaxed);
        let mut trailers = HeaderMap::new();
        let status = if well_formed { "0" } else { "13" };
        trailers.insert("grpc-status", HeaderValue::from_static(status));
        let body = Full::new(message).with_trailers(async { Some(Ok(trailers)) });
        let mut response = Response::new(body.boxed());
        response.headers_mut().insert(CONTENT_TYPE, grpc);
        return Ok(response);
    }
    counts.requests.fetch_add(1, Ordering::Relaxed);
    Ok(Response::new(Full::from("user service for v1\n").boxed()))
}

/// A byte for no compression, four for the length, and so many bytes.
fn is_one_message(body: &[u8]) -> bool {
    match body.split_first_chunk::<5>() {
        Some(([0, length @ ..], rest)) => u32::from_be_bytes(*length) as usize == rest.len(),
        Some(_) | None => false,
    }
}
