//! The servers of the world. Each request carries a number; by it a server finds how to answer, and by it the runner
//! finds what the servers saw.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use mesh_tests::Pod;

use super::request::Reply;
use super::scenery::{ADMIN, HTTP, HTTP2, TCP, TLS};
use crate::http::read_chunks;
use crate::servers::{Server, any};

/// The header with the request's number.
pub const ID: &str = "x-case-id";

/// What a server saw of a request.
#[derive(Clone, Debug)]
pub struct Seen {
    pub pod: String,
    pub method: String,
    pub path: String,
    pub host: String,
    /// In order, names as they came.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// `http1` or `http2`.
    pub version: &'static str,
    /// The port that the connection came from.
    pub peer: u16,
}

/// What all servers know.
#[derive(Clone, Debug, Default)]
pub struct Book(Arc<Mutex<Pages>>);

#[derive(Debug, Default)]
struct Pages {
    last: u64,
    open: HashMap<u64, Page>,
}

#[derive(Debug, Default)]
struct Page {
    replies: Vec<Reply>,
    seen: Vec<Seen>,
}

/// All servers of one pod.
#[derive(Debug)]
pub struct Backend {
    _servers: Vec<Server>,
    _http2: Http2Server,
}

impl Book {
    /// A new number, whose requests are answered like this.
    pub fn open(&self, replies: &[Reply]) -> u64 {
        let mut pages = self.lock();
        pages.last += 1;
        let id = pages.last;
        let page = Page {
            replies: replies.to_vec(),
            seen: Vec::new(),
        };
        pages.open.insert(id, page);
        id
    }

    /// What was seen so far under a number.
    pub fn seen(&self, id: u64) -> Vec<Seen> {
        let pages = self.lock();
        pages
            .open
            .get(&id)
            .map(|page| page.seen.clone())
            .unwrap_or_default()
    }

    /// Writes down a request, and says how to answer it.
    fn note(&self, seen: Seen) -> Reply {
        let id = seen
            .headers
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(ID))
            .and_then(|(_, value)| value.parse().ok());
        let mut pages = self.lock();
        let Some(page) = id.and_then(|id: u64| pages.open.get_mut(&id)) else {
            return Reply::default();
        };
        let last = page.replies.len().saturating_sub(1);
        let reply = page.replies.get(page.seen.len().min(last)).cloned();
        page.seen.push(seen);
        reply.unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend {
    /// Starts everything that a pod serves; `ports` are more ports with plain HTTP.
    pub fn start(pod: &Pod, ports: &[u16], book: &Book) -> Result<Self> {
        let mut servers = Vec::new();
        for port in [HTTP, ADMIN].iter().chain(ports) {
            let (book, who) = (book.clone(), pod.name.clone());
            let serve = move |stream| serve(stream, &who, &book);
            servers.push(Server::start(pod, any(*port), serve)?);
        }
        for (port, word) in [(TCP, "tcp"), (TLS, "tls")] {
            let who = pod.name.clone();
            let serve = move |stream: TcpStream| introduce(stream, &who, word);
            servers.push(Server::start(pod, any(port), serve)?);
        }
        Ok(Self {
            _servers: servers,
            _http2: Http2Server::start(pod, book)?,
        })
    }
}

/// Answers the first bytes with its name, then waits for the end.
fn introduce(mut stream: TcpStream, who: &str, word: &str) -> io::Result<String> {
    let mut buffer = [0; 4096];
    if stream.read(&mut buffer)? > 0 {
        stream.write_all(format!("{word} {who}\n").as_bytes())?;
        while stream.read(&mut buffer)? > 0 {}
    }
    Ok("fin".to_owned())
}

fn serve(stream: TcpStream, who: &str, book: &Book) -> io::Result<String> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.port();
    let mut stream = BufReader::new(stream);
    while let Some(mut seen) = read_request(&mut stream, who)? {
        seen.peer = peer;
        let upgrade = header(&seen.headers, "upgrade").is_some_and(|value| value == "websocket");
        let reply = book.note(seen.clone());
        if let Some(delay) = reply.delay {
            thread::sleep(delay);
        }
        if reply.close {
            return Ok("closed".to_owned());
        }
        let out = stream.get_mut();
        if reply.garbage {
            out.write_all(b"NONSENSE\r\n\r\n")?;
            return Ok("nonsense".to_owned());
        }
        if let Some(raw) = &reply.raw {
            out.write_all(raw.as_bytes())?;
            continue;
        }
        if upgrade && reply.status.is_none() {
            out.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\r\n",
            )?;
            let mut writer = stream.get_ref().try_clone()?;
            io::copy(&mut stream, &mut writer)?;
            return Ok("fin".to_owned());
        }
        let status = reply.status.unwrap_or(200);
        let body = reply.body.clone().unwrap_or_else(|| format!("{who}\n"));
        let mut head = format!("HTTP/1.1 {status} Whatever\r\nserver: backend\r\nx-pod: {who}\r\n");
        for (name, values) in &reply.headers {
            for value in &values.0 {
                head += &format!("{name}: {}\r\n", value.0);
            }
        }
        let length = body.len() + if reply.break_off { 100 } else { 0 };
        if status != 204 && status != 304 {
            head += &format!("content-length: {length}\r\n");
        }
        head += "\r\n";
        if let Some(delay) = reply.body_delay {
            out.write_all(head.as_bytes())?;
            thread::sleep(delay);
            head.clear();
        }
        if seen.method != "HEAD" && status != 204 && status != 304 {
            head += &body;
        }
        out.write_all(head.as_bytes())?;
        if reply.break_off {
            return Ok("broken off".to_owned());
        }
    }
    Ok("fin".to_owned())
}

fn read_request(stream: &mut impl BufRead, who: &str) -> io::Result<Option<Seen>> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut first = String::new();
    if stream.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut words = first.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else {
        return Err(bad("not a request line"));
    };
    let headers = read_headers(stream)?;
    let body = if header(&headers, "transfer-encoding").is_some_and(|value| value == "chunked") {
        read_chunks(stream).map_err(|e| bad(&format!("{e:#}")))?
    } else {
        let length = header(&headers, "content-length").and_then(|text| text.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut body)?;
        body
    };
    Ok(Some(Seen {
        pod: who.to_owned(),
        method,
        path,
        host: header(&headers, "host").unwrap_or_default().to_owned(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        version: "http1",
        peer: 0,
    }))
}

/// Headers up to the empty line, in order.
pub fn read_headers(stream: &mut impl BufRead) -> io::Result<Vec<(String, String)>> {
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(headers);
        }
        let (name, value) = line.split_once(':').ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a header without a colon")
        })?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// The first header of a name.
pub fn header<'h>(headers: &'h [(String, String)], name: &str) -> Option<&'h str> {
    headers
        .iter()
        .find(|(own, _)| own.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// A server that speaks nothing but HTTP/2.
#[derive(Debug)]
struct Http2Server {
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Http2Server {
    fn start(pod: &Pod, book: &Book) -> Result<Self> {
        let listener = pod
            .run(|| TcpListener::bind(SocketAddr::from(([0, 0, 0, 0], HTTP2))))?
            .context("listening for HTTP/2")?;
        listener.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let (book, who) = (book.clone(), pod.name.clone());
        let thread = thread::spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    result = serve_http2(listener, who, book) => eprintln!("an HTTP/2 server ended: {result:?}"),
                    _ = stopped => {}
                }
            });
        });
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Http2Server {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn serve_http2(listener: TcpListener, who: String, book: Book) -> io::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let (stream, peer) = listener.accept().await?;
        let (who, book) = (who.clone(), book.clone());
        let service = service_fn(move |request| {
            answer_http2(request, who.clone(), peer.port(), book.clone())
        });
        tokio::spawn(
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service),
        );
    }
}

async fn answer_http2(
    request: hyper::Request<Incoming>,
    who: String,
    peer: u16,
    book: Book,
) -> Result<hyper::Response<Full<Bytes>>, h2::Error> {
    let (head, body) = request.into_parts();
    let text =
        |value: &hyper::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let scheme = head.uri.scheme_str().map(str::to_owned);
    let headers = head.headers.iter();
    let headers = headers
        .map(|(name, value)| (name.as_str().to_owned(), text(value)))
        .chain(scheme.map(|scheme| (":scheme".to_owned(), scheme)))
        .collect();
    let body = body.collect().await.map(|body| body.to_bytes());
    let body = body.map_err(|_| h2::Error::from(h2::Reason::CANCEL))?;
    let path = head.uri.path_and_query().map(ToString::to_string);
    let reply = book.note(Seen {
        pod: who.clone(),
        method: head.method.to_string(),
        path: path.unwrap_or_default(),
        host: head
            .uri
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default(),
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        version: "http2",
        peer,
    });
    if let Some(delay) = reply.delay {
        tokio::time::sleep(delay).await;
    }
    if reply.refuse {
        return Err(h2::Reason::REFUSED_STREAM.into());
    }
    if reply.close {
        return Err(h2::Reason::INTERNAL_ERROR.into());
    }
    let mut response = hyper::Response::builder()
        .status(reply.status.unwrap_or(200))
        .header("server", "backend")
        .header("x-pod", &who);
    for (name, values) in &reply.headers {
        for value in &values.0 {
            response = response.header(name, &value.0);
        }
    }
    let body = reply.body.unwrap_or_else(|| format!("{who}\n"));
    response
        .body(Full::new(Bytes::from(body)))
        .map_err(|_| h2::Reason::INTERNAL_ERROR.into())
}

/// Waits until nobody adds to what was seen any more: copies come late.
pub fn settled(book: &Book, id: u64, enough: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
    for _ in 0..100 {
        let seen = book.seen(id);
        if enough(&seen) {
            return seen;
        }
        thread::sleep(Duration::from_millis(10));
    }
    book.seen(id)
}
