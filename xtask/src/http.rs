//! A small HTTP/1.1 client for the demo and the benches: one connection, one request after the other. It runs on the
//! calling thread, so it speaks from whatever pod that thread is in.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    time::Duration,
};

use anyhow::{Context, Result, bail};

/// How long anything may take before it counts as failed.
const PATIENCE: Duration = Duration::from_secs(10);

/// Heads longer than this are no answer to us.
const LONGEST_HEAD: u64 = 64 * 1024;

/// A connection that is kept alive between requests.
#[derive(Debug)]
pub struct Connection {
    stream: BufReader<TcpStream>,
}

/// A whole response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Status line and header lines, as they came, without their line ends.
    pub head: Vec<String>,
    /// The body, without its transfer coding.
    pub body: Vec<u8>,
}

impl Connection {
    /// Connects to `HOST:PORT`, trying each address that the name has.
    pub fn open(to: &str) -> Result<Self> {
        let addresses = to
            .to_socket_addrs()
            .with_context(|| format!("cannot resolve {to}"))?;
        let mut last = None;
        for address in addresses {
            match TcpStream::connect_timeout(&address, PATIENCE) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                    stream.set_write_timeout(Some(PATIENCE))?;
                    return Ok(Self {
                        stream: BufReader::new(stream),
                    });
                }
                Err(error) => last = Some(error),
            }
        }
        match last {
            Some(error) => Err(error).with_context(|| format!("cannot connect to {to}")),
            None => bail!("{to} has no address"),
        }
    }

    /// Asks for `path`. With `last` it says that no further request will follow.
    pub fn get(&mut self, host: &str, path: &str, last: bool) -> Result<Response> {
        let close = if last { "connection: close\r\n" } else { "" };
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: mesh-demo\r\naccept: */*\r\n{close}\r\n"
        );
        self.stream
            .get_mut()
            .write_all(request.as_bytes())
            .context("cannot send the request")?;
        read_response(&mut self.stream)
    }
}

impl Response {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head
            .iter()
            .skip(1)
            .filter_map(|line| line.split_once(':'))
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.trim())
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The response as `curl -i` shows it.
    pub fn shown(&self) -> String {
        format!("{}\n\n{}", self.head.join("\n"), self.text())
    }
}

/// One request on a connection of its own.
pub fn get(to: &str, host: &str, path: &str) -> Result<Response> {
    Connection::open(to)?.get(host, path, true)
}

fn read_response(stream: &mut impl BufRead) -> Result<Response> {
    let mut head = Vec::new();
    let mut limited = stream.take(LONGEST_HEAD);
    loop {
        let line = read_line(&mut limited)?;
        if line.is_empty() {
            break;
        }
        head.push(line);
    }
    let status = head
        .first()
        .and_then(|line| line.strip_prefix("HTTP/1."))
        .and_then(|line| line.split(' ').nth(1))
        .and_then(|code| code.parse().ok());
    let mut response = Response {
        status: status.context("the answer is not HTTP")?,
        head,
        body: Vec::new(),
    };
    let coding = response
        .header("transfer-encoding")
        .map(str::to_ascii_lowercase);
    let length = response
        .header("content-length")
        .map(str::parse::<u64>)
        .transpose()
        .context("content-length is not a number")?;
    if coding.is_some_and(|coding| coding.contains("chunked")) {
        response.body = read_chunks(stream)?;
    } else if let Some(length) = length {
        stream
            .take(length)
            .read_to_end(&mut response.body)
            .context("cannot read the body")?;
        if response.body.len() as u64 != length {
            bail!(
                "the connection ended after {} of {length} bytes of the body",
                response.body.len()
            );
        }
    } else if !matches!(response.status, 100..=199 | 204 | 304) {
        stream
            .read_to_end(&mut response.body)
            .context("cannot read the body")?;
    }
    Ok(response)
}

fn read_chunks(stream: &mut impl BufRead) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = read_line(stream)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = u64::from_str_radix(size, 16)
            .with_context(|| format!("{line:?} is not the size of a chunk"))?;
        if size == 0 {
            while !read_line(stream)?.is_empty() {}
            return Ok(body);
        }
        let before = body.len() as u64;
        stream
            .take(size)
            .read_to_end(&mut body)
            .context("cannot read a chunk")?;
        if body.len() as u64 != before + size {
            bail!("the connection ended within a chunk");
        }
        read_line(stream)?;
    }
}

fn read_line(stream: &mut impl BufRead) -> Result<String> {
    let mut line = Vec::new();
    stream
        .read_until(b'\n', &mut line)
        .context("cannot read the answer")?;
    if line.last() != Some(&b'\n') {
        bail!("the connection ended before the answer did");
    }
    Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Response> {
        read_response(&mut BufReader::new(text.as_bytes()))
    }

    #[test]
    fn reads_a_body_of_known_length() {
        let response =
            read("HTTP/1.1 200 OK\r\nServer: x\r\nContent-Length: 3\r\n\r\nabcdef").unwrap();
        assert_eq!((response.status, response.text().as_str()), (200, "abc"));
        assert_eq!(response.header("server"), Some("x"));
        assert!(read("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc").is_err());
    }

    #[test]
    fn reads_chunks() {
        let response = read("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n").unwrap();
        assert_eq!(response.text(), "abcde");
    }

    #[test]
    fn an_answer_without_a_body_has_none() {
        assert_eq!(read("HTTP/1.1 204 No Content\r\n\r\n").unwrap().body, b"");
        assert!(read("").is_err());
    }
}
