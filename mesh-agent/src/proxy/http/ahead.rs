//! Informational responses: `100 Continue` opens the way for the body, the others are handed to the client ahead of the
//! response, as far as HTTP/1.1 goes on both sides.
//!
//! hyper would tell of them, for several allocations per request; so a server's connection is listened to instead.

use std::borrow::Cow;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::proxy::http::gate::Gate;
use crate::proxy::http::headers;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::stream::{Activity, Stream};

/// A client's connection of HTTP/1.1, which can be told something ahead of the response.
#[derive(Debug)]
pub(super) struct Ahead(Arc<Activity>);

/// What the server of one connection says ahead of its responses. (One thread has it to itself, but hyper asks for more.)
#[derive(Debug, Default)]
pub(in crate::proxy) struct Said {
    /// Whether a response has yet to begin that somebody waits for.
    listening: AtomicBool,
    words: Mutex<Words>,
}

#[derive(Debug, Default)]
struct Words {
    /// The beginning of a head whose end is not here yet.
    heard: Vec<u8>,
    /// What waits to be handed on.
    bytes: Vec<u8>,
    /// How much there has been for this request.
    total: usize,
    exchange: Option<Waker>,
}

/// A server's connection that is listened to.
#[derive(Debug)]
pub(in crate::proxy) struct Heard {
    stream: Stream,
    said: Arc<Said>,
}

/// A server may go on for ever; this much of it is handed on.
const MOST: usize = 16 * 1024;

/// What informational responses begin with, and nothing else.
const BEGINNING: &[u8] = b"HTTP/1.1 1";

impl Ahead {
    /// What is said ahead goes to a client's connection of HTTP/1.1.
    pub(super) fn new(activity: &Arc<Activity>) -> Self {
        Self(Arc::clone(activity))
    }

    /// Hands on what has been said so far, and comes back when there is more.
    pub(super) fn pass(&self, said: &Said, cx: &mut Context<'_>) {
        let mut words = said.words();
        if !words.bytes.is_empty() {
            self.0.say_ahead(&words.bytes);
            words.bytes.clear();
        }
        match &mut words.exchange {
            Some(waker) => waker.clone_from(cx.waker()),
            none => *none = Some(cx.waker().clone()),
        }
    }
}

/// Has the server's word open the gate that holds the body back.
pub(super) fn listen(gate: Option<&Arc<Gate>>, request: &mut Request<RequestBody>) {
    if let Some(gate) = gate.map(Arc::clone) {
        hyper::ext::on_informational(request, move |response| {
            if response.status() == StatusCode::CONTINUE {
                gate.open();
            }
        });
    }
}

impl Said {
    /// A request is about to be sent; `wanted` says whether its client is to hear anything ahead of the response.
    pub(super) fn begin(&self, wanted: bool) {
        self.listening.store(wanted, Ordering::Relaxed);
        let mut words = self.words();
        words.heard.clear();
        words.bytes.clear();
        words.total = 0;
    }

    /// Nobody waits any longer.
    pub(super) fn end(&self) {
        self.listening.store(false, Ordering::Relaxed);
        self.words().exchange = None;
    }

    fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    fn words(&self) -> MutexGuard<'_, Words> {
        self.words.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hear(&self, bytes: &[u8]) {
        let mut words = self.words();
        // Nearly always this is all there is to it.
        let whole = bytes.len() >= BEGINNING.len() && !bytes.starts_with(b"\r");
        let goes_on = match words.heard.is_empty() && whole && !bytes.starts_with(BEGINNING) {
            true => false,
            false => words.hear(bytes),
        };
        if !goes_on {
            self.listening.store(false, Ordering::Relaxed);
            words.heard = Vec::new();
        }
    }
}

impl Words {
    /// Takes bytes in, and says whether more is to be listened to.
    fn hear(&mut self, bytes: &[u8]) -> bool {
        let mut heard = std::mem::take(&mut self.heard);
        heard.extend_from_slice(bytes);
        let mut taken = 0;
        let goes_on = loop {
            match self.take(&heard[taken..]) {
                Some(0) => break heard.len() - taken <= MOST,
                Some(length) => taken += length,
                None => break false,
            }
        };
        heard.drain(..taken);
        self.heard = heard;
        goes_on
    }

    /// Takes one head, and says how long it was: 0 where it is not all there. `None` where it is not informational.
    fn take(&mut self, heard: &[u8]) -> Option<usize> {
        let blank = heard
            .iter()
            .take_while(|byte| matches!(byte, b'\r' | b'\n'));
        let blank = blank.count();
        let rest = &heard[blank..];
        let shorter = rest.len().min(BEGINNING.len());
        if rest[..shorter] != BEGINNING[..shorter] {
            return None;
        }
        let mut lines = [httparse::EMPTY_HEADER; 100];
        let mut response = httparse::Response::new(&mut lines);
        // As hyper reads the response itself.
        let mut reader = httparse::ParserConfig::default();
        reader.allow_obsolete_multiline_headers_in_responses(true);
        match reader.parse_response(&mut response, rest).ok()? {
            httparse::Status::Complete(length) => {
                self.take_in(&response)?;
                Some(blank + length)
            }
            httparse::Status::Partial => Some(0),
        }
    }

    /// `None` where it is a response after all.
    fn take_in(&mut self, response: &httparse::Response<'_, '_>) -> Option<()> {
        let status = StatusCode::from_u16(response.code?).ok()?;
        match status {
            // The gate's business.
            StatusCode::CONTINUE => return Some(()),
            StatusCode::SWITCHING_PROTOCOLS => return None,
            _ => {}
        }
        let mut headers = HeaderMap::new();
        for line in response.headers.iter() {
            if let (Ok(name), Ok(value)) = (
                HeaderName::from_bytes(line.name.as_bytes()),
                HeaderValue::from_bytes(&unfolded(line.value)),
            ) {
                headers.append(name, value);
            }
        }
        headers::strip_informational(&mut headers);
        let reason = status.canonical_reason().unwrap_or_default();
        let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", status.as_str()).into_bytes();
        headers::write(&headers, &mut bytes);
        self.total += bytes.len();
        if self.total <= MOST {
            self.bytes.append(&mut bytes);
        }
        if let Some(exchange) = self.exchange.take() {
            exchange.wake();
        }
        Some(())
    }
}

/// A value that goes on over several lines as one line (RFC 9112 section 5.2).
fn unfolded(value: &[u8]) -> Cow<'_, [u8]> {
    if !value.contains(&b'\n') {
        return Cow::Borrowed(value);
    }
    let lines = value.split(|byte| *byte == b'\n');
    let lines: Vec<&[u8]> = lines.map(<[u8]>::trim_ascii).collect();
    Cow::Owned(lines.join(&b' '))
}

impl Heard {
    /// Listens to a connection.
    pub(in crate::proxy) fn new(stream: Stream, said: Arc<Said>) -> Self {
        Self { stream, said }
    }

    /// The connection.
    pub(in crate::proxy) fn into_inner(self) -> Stream {
        self.stream
    }
}

impl AsyncRead for Heard {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, buf);
        let new = &buf.filled()[before..];
        if self.said.is_listening() && !new.is_empty() {
            self.said.hear(new);
        }
        polled
    }
}

impl AsyncWrite for Heard {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(said: &str, expected: &str) {
        for cut in [1, 3, 9, 10, 11, 1000] {
            let ears = Said::default();
            ears.begin(true);
            for part in said.as_bytes().chunks(cut) {
                if ears.is_listening() {
                    ears.hear(part);
                }
            }
            let bytes = std::mem::take(&mut ears.words().bytes);
            assert_eq!(
                String::from_utf8_lossy(&bytes),
                expected,
                "in parts of {cut}"
            );
        }
    }

    #[test]
    fn hears_what_comes_before_the_response() {
        let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        let ok = "HTTP/1.1 200 OK\r\nx: HTTP/1.1 103 x\r\n\r\n";
        check(ok, "");
        check(&format!("{ok}{hints}"), "");
        check(&format!("{hints}{ok}"), hints);
        check(
            &format!("\r\n{hints}\r\n{hints}{ok}{hints}"),
            &hints.repeat(2),
        );
        check(&format!("HTTP/1.1 100 Continue\r\n\r\n{hints}{ok}"), hints);
        check(&format!("HTTP/1.1 101 Changed\r\n\r\n{hints}"), "");
        check(&format!("HTTP/1.1 1x\r\n\r\n{hints}"), "");
        check(&hints[..20], "");
        check(&format!("HTTP/1.0 103 Old\r\n\r\n{hints}"), "");
        let nameless = "HTTP/1.1 103\r\nConnection: x\r\nX: 1\r\nContent-Length: 4\r\n\r\n";
        check(nameless, "HTTP/1.1 103 Early Hints\r\n\r\n");
        let folded = "HTTP/1.1 103 \r\nLink: </a>;\r\n  rel=preload\r\n\r\n";
        check(
            &format!("{folded}{ok}"),
            "HTTP/1.1 103 Early Hints\r\nlink: </a>; rel=preload\r\n\r\n",
        );
        check(&hints.repeat(1000), &hints.repeat(MOST / hints.len()));
    }

    #[test]
    fn a_head_without_an_end_is_not_kept() {
        let ears = Said::default();
        ears.begin(true);
        ears.hear(b"HTTP/1.1 103 \r\n");
        while ears.is_listening() {
            ears.hear(b"a: b\r\n");
        }
        assert_eq!(ears.words().heard.capacity(), 0);
    }
}
