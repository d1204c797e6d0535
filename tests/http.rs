//! Just enough HTTP/1.1 over blocking sockets to ask and to answer, so that no library stands between a test and the
//! bytes.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use mesh_tests::Pod;
use serde_json::json;

use crate::servers::{Server, any};

/// An answer.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Headers by lower-case name; of repeated ones the last.
    pub headers: BTreeMap<String, String>,
    /// The body, whole.
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value, or an empty string.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that can carry several requests.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Over a connected stream.
    pub fn new(stream: TcpStream) -> Result<Self> {
        let patience = Some(Duration::from_secs(10));
        stream.set_read_timeout(patience)?;
        stream.set_write_timeout(patience)?;
        Ok(Self {
            stream: BufReader::new(stream),
        })
    }

    /// Sends a GET and reads the answer.
    pub fn get(&mut self, host: &str, path: &str) -> Result<Response> {
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: mesh-test\r\n\r\n");
        self.stream
            .get_mut()
            .write_all(request.as_bytes())
            .context("sending the request")?;
        read_response(&mut self.stream)
    }
}

/// One GET on a connection of its own.
pub fn get(stream: TcpStream, host: &str, path: &str) -> Result<Response> {
    Connection::new(stream)?.get(host, path)
}

/// A server that answers every request with what it received, as JSON, or with `fixed` text.
pub fn serve(
    pod: &Pod,
    who: &'static str,
    port: u16,
    fixed: Option<&'static str>,
) -> Result<Server> {
    Server::start(pod, any(port), move |stream| answer(stream, who, fixed))
}

fn answer(stream: TcpStream, who: &str, fixed: Option<&str>) -> io::Result<String> {
    let local = stream.local_addr()?;
    let peer = stream.peer_addr()?;
    let mut stream = BufReader::new(stream);
    loop {
        let Some((first, headers)) = read_head(&mut stream)? else {
            return Ok("fin".to_owned());
        };
        let length = headers
            .get("content-length")
            .and_then(|text| text.parse().ok())
            .unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body)?;
        let text = match fixed {
            Some(fixed) => fixed.to_owned(),
            None => json!({
                "who": who,
                "request": first,
                "headers": headers,
                "body": String::from_utf8_lossy(&body),
                "local": format!("{}", local.ip().to_canonical()),
                "peer": format!("{}", peer.ip().to_canonical()),
            })
            .to_string(),
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nserver: mesh-test\r\ncontent-type: text/plain\r\nx-who: {who}\r\ncontent-length: {}\r\n\r\n",
            text.len()
        );
        stream.get_mut().write_all((head + &text).as_bytes())?;
    }
}

/// The first line and the headers, or nothing where the connection ended before a first line.
pub fn read_head(
    stream: &mut impl BufRead,
) -> io::Result<Option<(String, BTreeMap<String, String>)>> {
    let mut first = String::new();
    if stream.read_line(&mut first)? == 0 {
        return Ok(None);
    }
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some((first.trim_end().to_owned(), headers)));
        }
        let (name, value) = line.split_once(':').ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidData, "a header without a colon")
        })?;
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}

fn read_response(stream: &mut BufReader<TcpStream>) -> Result<Response> {
    let Some((first, headers)) = read_head(stream).context("reading the answer")? else {
        bail!("the connection was closed instead of an answer");
    };
    let status = first
        .split(' ')
        .nth(1)
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("not a status line: {first:?}"))?;
    let body = if headers
        .get("transfer-encoding")
        .is_some_and(|v| v == "chunked")
    {
        read_chunks(stream)?
    } else if let Some(length) = headers.get("content-length") {
        let mut body = vec![0; length.parse().context("content-length")?];
        stream.read_exact(&mut body).context("reading the body")?;
        body
    } else if matches!(status, 101 | 204 | 304) {
        Vec::new()
    } else {
        bail!("an answer without a length: {first} {headers:?}");
    };
    Ok(Response {
        status,
        headers,
        body,
    })
}

/// The body of a chunked message.
pub fn read_chunks(stream: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).context("reading a chunk")?;
        let size = usize::from_str_radix(line.trim(), 16).context("the size of a chunk")?;
        let start = body.len();
        body.resize(start + size, 0);
        stream
            .read_exact(&mut body[start..])
            .context("reading a chunk")?;
        let mut end = String::new();
        stream
            .read_line(&mut end)
            .context("reading a chunk's end")?;
        ensure!(end == "\r\n", "a chunk ends in {end:?}");
        if size == 0 {
            return Ok(body);
        }
    }
}
