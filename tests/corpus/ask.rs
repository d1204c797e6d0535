//! Asking: a request of a case over a connected socket, and what came back.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};

use self::secured::{Handshake, Line, settings};
use super::backend::{ID, Seen, header, read_headers};
use super::case::Family;
use super::request::Request;
use super::value::Text;
use crate::http::read_chunks;

pub mod secured;

/// Longer than anything that a case waits for.
const PATIENCE: Duration = Duration::from_secs(8);

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// 0 for what is not HTTP.
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub trailers: Vec<(String, String)>,
    pub body: String,
    pub took: Duration,
    /// Of what came over TLS.
    pub tls: Option<Handshake>,
}

/// A connection, kept over several requests.
#[derive(Debug)]
pub struct Way {
    spoken: Spoken,
    tls: Option<Handshake>,
}

/// By what is spoken there.
#[derive(Debug)]
enum Spoken {
    /// HTTP/1.1, or something else.
    Lines(BufReader<Line>),
    Http2 {
        runtime: tokio::runtime::Runtime,
        sender: hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    },
}

impl Way {
    /// The right one for the request.
    pub fn new(mut stream: TcpStream, request: &Request) -> Result<Self> {
        if let Some(announced) = &request.announced {
            stream.write_all(announced.as_bytes())?;
        }
        if !request.http2 {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            let (line, tls) = Line::open(stream, request)?;
            let spoken = Spoken::Lines(BufReader::new(line));
            return Ok(Self { spoken, tls });
        }
        stream.set_nonblocking(true)?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let (sender, tls) = runtime.block_on(async {
            let stream = tokio::net::TcpStream::from_std(stream)?;
            let Some(over) = &request.over_tls else {
                return Ok((speak_http2(stream).await?, None));
            };
            let (config, name) = settings(over, request)?;
            let connector = tokio_rustls::TlsConnector::from(config);
            let shaken = tokio::time::timeout(PATIENCE, connector.connect(name, stream)).await;
            let stream = shaken.context("no handshake in time")??;
            let handshake = Handshake::of(stream.get_ref().1);
            anyhow::Ok((speak_http2(stream).await?, Some(handshake)))
        })?;
        Ok(Self {
            spoken: Spoken::Http2 { runtime, sender },
            tls,
        })
    }

    /// Sends it, and waits for the answer. An error is an end without one.
    pub fn ask(&mut self, request: &Request, id: u64) -> Result<Answer> {
        let started = Instant::now();
        let answer = match &mut self.spoken {
            Spoken::Lines(stream) if request.tcp => line(stream, format!("{id}\n").as_bytes()),
            Spoken::Lines(stream) => match &request.tls {
                Some(name) => line(stream, &client_hello(name)),
                None => ask_http1(stream, request, id),
            },
            Spoken::Http2 { runtime, sender } => {
                let asked = ask_http2(sender, request, id);
                runtime.block_on(async {
                    tokio::time::timeout(PATIENCE, asked)
                        .await
                        .context("no answer in time")?
                })
            }
        };
        let took = started.elapsed();
        let answer = match answer {
            // The kernel's word for it may be that of a reset on the fast path.
            Err(e) if took >= PATIENCE => Err(e.context("no answer in time")),
            other => other,
        };
        answer.map(|answer| Answer {
            took,
            tls: self.tls.clone(),
            ..answer
        })
    }
}

async fn speak_http2(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
) -> Result<hyper::client::conn::http2::SendRequest<Full<Bytes>>> {
    let io = TokioIo::new(stream);
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
    tokio::spawn(connection);
    Ok(sender)
}

/// Sends bytes and reads a line.
fn line(stream: &mut BufReader<Line>, bytes: &[u8]) -> Result<Answer> {
    stream.get_mut().write_all(bytes)?;
    let mut line = String::new();
    stream.read_line(&mut line)?;
    ensure!(!line.is_empty(), "the connection was closed");
    Ok(Answer {
        body: line,
        ..Answer::default()
    })
}

fn ask_http1(stream: &mut BufReader<Line>, request: &Request, id: u64) -> Result<Answer> {
    let text = match &request.raw {
        Some(raw) => raw.replace("{id}", &id.to_string()),
        None => render(request, id),
    };
    stream.get_mut().write_all(text.as_bytes())?;
    let answer = read_answer(stream, request.method() == "HEAD")?;
    if request.websocket && answer.status == 101 {
        let sent = b"\x81\x85\x01\x02\x03\x04and bytes that no frame has";
        stream.get_mut().write_all(sent)?;
        let mut back = vec![0; sent.len()];
        stream.read_exact(&mut back)?;
        ensure!(back == sent, "what came back differs: {back:?}");
    }
    Ok(answer)
}

fn render(request: &Request, id: u64) -> String {
    let mut text = format!(
        "{} {} HTTP/1.1\r\nHost: {}\r\n{ID}: {id}\r\n",
        request.method(),
        request.path(),
        request.host()
    );
    for (name, values) in &request.headers {
        for value in &values.0 {
            text += &format!("{name}: {}\r\n", value.0);
        }
    }
    if request.websocket {
        text += "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                 sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    }
    if let Some(Text(body)) = &request.body {
        text += &format!("content-length: {}\r\n\r\n{body}", body.len());
    } else {
        text += "\r\n";
    }
    text
}

fn read_answer(stream: &mut BufReader<Line>, head: bool) -> Result<Answer> {
    let mut first = String::new();
    if stream.read_line(&mut first).context("reading the answer")? == 0 {
        bail!("the connection was closed instead of an answer");
    }
    let status: u16 = first
        .split(' ')
        .nth(1)
        .and_then(|text| text.trim().parse().ok())
        .with_context(|| format!("not a status line: {first:?}"))?;
    let headers = read_headers(stream)?;
    if status == 100 {
        return read_answer(stream, head);
    }
    let body = if head || matches!(status, 101 | 204 | 304) {
        Vec::new()
    } else if header(&headers, "transfer-encoding").is_some_and(|value| value == "chunked") {
        read_chunks(stream)?
    } else if let Some(length) = header(&headers, "content-length") {
        let mut body = vec![0; length.parse().context("content-length")?];
        stream.read_exact(&mut body).context("reading the body")?;
        body
    } else {
        let mut body = Vec::new();
        match stream.read_to_end(&mut body) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::ConnectionReset => {}
            Err(e) => return Err(e).context("reading the body to the end"),
        }
        body
    };
    Ok(Answer {
        status,
        headers,
        body: String::from_utf8_lossy(&body).into_owned(),
        ..Answer::default()
    })
}

async fn ask_http2(
    sender: &mut hyper::client::conn::http2::SendRequest<Full<Bytes>>,
    request: &Request,
    id: u64,
) -> Result<Answer> {
    let scheme = if request.over_tls.is_some() {
        "https"
    } else {
        "http"
    };
    let uri = format!("{scheme}://{}{}", request.host(), request.path());
    let mut builder = hyper::Request::builder()
        .method(request.method())
        .uri(uri)
        .header(ID, id.to_string());
    for (name, values) in &request.headers {
        for value in &values.0 {
            builder = builder.header(name, &value.0);
        }
    }
    let body = request.body.as_ref().map(|Text(body)| body.clone());
    let body = Bytes::from(body.unwrap_or_default());
    sender.ready().await?;
    let response = sender.send_request(builder.body(Full::new(body))?).await?;
    let status = response.status().as_u16();
    let headers = pairs(response.headers());
    let collected = response.into_body().collect().await?;
    let trailers = collected.trailers().map(pairs).unwrap_or_default();
    let body = collected.to_bytes();
    Ok(Answer {
        status,
        headers,
        trailers,
        body: String::from_utf8_lossy(&body).into_owned(),
        ..Answer::default()
    })
}

fn pairs(headers: &hyper::HeaderMap) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            let value = String::from_utf8_lossy(value.as_bytes()).into_owned();
            (name.as_str().to_owned(), value)
        })
        .collect()
}

/// The first message of TLS 1.2, with a server name and as little else as possible.
fn client_hello(name: &str) -> Vec<u8> {
    let with_length = |bytes: &[u8]| -> Vec<u8> {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        [&length.to_be_bytes()[..], bytes].concat()
    };
    let entry = [&[0][..], &with_length(name.as_bytes())].concat();
    let mut extensions = Vec::new();
    if !name.is_empty() {
        extensions = [&[0, 0][..], &with_length(&with_length(&entry))].concat();
    }
    let hello = [
        // Version, random, no session, one cipher, no compression.
        &[3, 3][..],
        &[7; 32],
        &[0],
        &with_length(&[0xc0, 0x2f]),
        &[1, 0],
        &with_length(&extensions),
    ]
    .concat();
    let message = [&[1, 0][..], &with_length(&hello)].concat();
    [&[22, 3, 1][..], &with_length(&message)].concat()
}

impl Answer {
    /// Whether the connection ends after it.
    pub fn says_close(&self) -> bool {
        header(&self.headers, "connection").is_some_and(|value| value.eq_ignore_ascii_case("close"))
    }

    /// Of what is not HTTP: who answered.
    pub fn pod(&self) -> Option<Seen> {
        let mut words = self.body.split_whitespace().skip(1);
        let pod = words.next()?;
        let family = match words.next()? {
            "IPv6" => Family::Ipv6,
            _ => Family::Ipv4,
        };
        let tls = words.filter_map(|word| word.split_once('='));
        Some(Seen {
            pod: pod.to_owned(),
            method: String::new(),
            path: String::new(),
            host: String::new(),
            headers: Vec::new(),
            body: String::new(),
            version: "stream",
            peer: 0,
            family,
            tls: tls
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect(),
        })
    }
}
