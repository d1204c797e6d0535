//! The servers of the world. Each request carries a number; by it a server finds how to answer, and by it the runner
//! finds what the servers saw.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use mesh_tests::Pod;

use self::modern::Modern;
use super::case::Family;
use super::request::Reply;
use super::scenery::{ADMIN, HTTP, TCP, TLS};
use crate::http::read_chunks;
use crate::servers::{Server, any};

mod modern;

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
    /// Of the address that it came to.
    pub family: Family,
    /// What is known of the TLS that it came in.
    pub tls: Vec<(String, String)>,
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
    _modern: Modern,
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
            _modern: Modern::start(pod, book)?,
        })
    }
}

/// Answers the first bytes with its name, then waits for the end.
fn introduce(mut stream: TcpStream, who: &str, word: &str) -> io::Result<String> {
    let mut buffer = [0; 4096];
    if stream.read(&mut buffer)? > 0 {
        let family = Family::of(&stream.local_addr()?);
        stream.write_all(format!("{word} {who} {}\n", family.name()).as_bytes())?;
        while stream.read(&mut buffer)? > 0 {}
    }
    Ok("fin".to_owned())
}

fn serve(stream: TcpStream, who: &str, book: &Book) -> io::Result<String> {
    stream.set_nodelay(true)?;
    let peer = stream.peer_addr()?.port();
    let family = Family::of(&stream.local_addr()?);
    let mut stream = BufReader::new(stream);
    while let Some(mut seen) = read_request(&mut stream, who)? {
        seen.peer = peer;
        seen.family = family;
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
        family: Family::default(),
        tls: Vec::new(),
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
