//! What a client speaks, told by its first bytes. Nothing is consumed.

use std::io;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::proxy::stream::{PEEK_LIMIT, Stream};

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum First {
    /// A request line of HTTP/1.1.
    Http1,
    /// A request line of HTTP/1.0.
    Http10,
    /// The preface of HTTP/2.
    Http2,
    /// Something else.
    Other,
    /// The client sent its end without a byte before it.
    Nothing,
}

/// What the bytes so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Is(First),
    /// Could become HTTP, and nothing but HTTP is known to begin so.
    Likely,
    /// Could become HTTP, and much else.
    Possible,
}

/// How long a client may take over its first line, once it has begun it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// Where the beginning can only be HTTP: after this the connection is an error.
    pub(super) likely: Duration,
    /// Where it may be anything: after this it is taken for something else.
    pub(super) possible: Duration,
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The registered methods that one meets, for telling whether a line that is still incomplete may be a request's.
const METHODS: [&[u8]; 14] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"CONNECT ",
    b"OPTIONS ",
    b"TRACE ",
    b"PATCH ",
    b"PROPFIND ",
    b"REPORT ",
    b"MKCOL ",
    b"COPY ",
    b"MOVE ",
];

/// Looks at the client's bytes until they say what it speaks. Waits for ever for the first byte; safe to cancel.
pub(super) async fn first(stream: &mut Stream, patience: Patience) -> io::Result<First> {
    let mut begun: Option<Instant> = None;
    loop {
        let deadline = match classify(stream.seen()) {
            Verdict::Is(first) => return Ok(first),
            Verdict::Likely | Verdict::Possible if stream.seen().len() >= PEEK_LIMIT => {
                return Ok(First::Other);
            }
            Verdict::Possible if stream.seen().is_empty() => None,
            Verdict::Likely => Some((
                *begun.get_or_insert_with(Instant::now) + patience.likely,
                false,
            )),
            Verdict::Possible => Some((
                *begun.get_or_insert_with(Instant::now) + patience.possible,
                true,
            )),
        };
        let more = match deadline {
            None => stream.look().await?,
            Some((deadline, give_in)) => match timeout_at(deadline, stream.look()).await {
                Ok(more) => more?,
                Err(_) if give_in => return Ok(First::Other),
                Err(_) => {
                    return Err(io::Error::new(
                        io::ErrorKind::TimedOut,
                        "a request line was begun and not finished",
                    ));
                }
            },
        };
        if more == 0 {
            return Ok(match stream.seen().is_empty() {
                true => First::Nothing,
                false => First::Other,
            });
        }
    }
}

fn classify(bytes: &[u8]) -> Verdict {
    // Servers forgive empty lines before a request.
    let start = bytes
        .iter()
        .position(|b| !matches!(b, b'\r' | b'\n'))
        .unwrap_or(bytes.len());
    let bytes = &bytes[start..];
    if bytes.len() >= PREFACE.len() && bytes.starts_with(PREFACE) {
        return Verdict::Is(First::Http2);
    }
    if PREFACE.starts_with(bytes) {
        return match bytes.len() {
            0..4 => Verdict::Possible,
            _ => Verdict::Likely,
        };
    }
    match bytes.iter().position(|&b| b == b'\n') {
        Some(end) => Verdict::Is(request_line(&bytes[..end])),
        None => beginning(bytes),
    }
}

/// A whole first line, without its line feed.
fn request_line(line: &[u8]) -> First {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let mut words = line.rsplitn(2, |&b| b == b' ');
    let (Some(version), Some(rest)) = (words.next(), words.next()) else {
        return First::Other;
    };
    let method = rest.split(|&b| b == b' ').next().unwrap_or_default();
    let target = rest.get(method.len() + 1..).unwrap_or_default();
    if method.is_empty() || !method.iter().all(|&b| is_token(b)) || target.is_empty() {
        return First::Other;
    }
    match version.strip_prefix(b"HTTP/1.") {
        Some(b"0") => First::Http10,
        Some([digit]) if digit.is_ascii_digit() => First::Http1,
        Some(_) | None => First::Other,
    }
}

/// A first line that is still incomplete.
fn beginning(bytes: &[u8]) -> Verdict {
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        return Verdict::Likely;
    }
    if METHODS.iter().any(|method| method.starts_with(bytes)) {
        return Verdict::Possible;
    }
    // An uncommon method: capitals, then a space.
    let word = bytes.iter().take_while(|b| b.is_ascii_uppercase()).count();
    match bytes.get(word) {
        Some(b' ') if word > 0 => Verdict::Possible,
        Some(_) => Verdict::Is(First::Other),
        None if word <= 24 => Verdict::Possible,
        None => Verdict::Is(First::Other),
    }
}

/// RFC 9110, 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(bytes: &[u8], expected: Verdict) {
        assert_eq!(
            classify(bytes),
            expected,
            "{:?}",
            String::from_utf8_lossy(bytes)
        );
    }

    #[test]
    fn tells_http_by_its_first_line() {
        check(b"GET / HTTP/1.1\r\n", Verdict::Is(First::Http1));
        check(b"\r\nGET / HTTP/1.1\r\n", Verdict::Is(First::Http1));
        check(b"GET / HTTP/1.1\nHost", Verdict::Is(First::Http1));
        check(b"FROB /x HTTP/1.1\r\n", Verdict::Is(First::Http1));
        check(b"get / HTTP/1.1\r\n", Verdict::Is(First::Http1));
        check(b"GET / HTTP/1.0\r\n", Verdict::Is(First::Http10));
        check(b"GET /\r\n", Verdict::Is(First::Other));
        check(b"GET / HTTP/3.1\r\n", Verdict::Is(First::Other));
        check(PREFACE, Verdict::Is(First::Http2));
        check(&PREFACE[..10], Verdict::Likely);
    }

    #[test]
    fn tells_other_protocols_at_once() {
        check(b"\x16\x03\x01\x02\x00", Verdict::Is(First::Other)); // TLS
        check(b"*1\r\n$4\r\nPING\r\n", Verdict::Is(First::Other)); // Redis
        check(b"PING\r\n", Verdict::Is(First::Other)); // Redis inline, NATS
        check(b"get key\r\n", Verdict::Is(First::Other)); // memcached
        check(
            b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
            Verdict::Is(First::Other),
        ); // PostgreSQL
        check(b"\x10\x0c\x00\x04MQTT", Verdict::Is(First::Other));
        check(b"SSH-2.0-x", Verdict::Is(First::Other));
        check(b"hello", Verdict::Is(First::Other));
        check(b"HELO example\r\n", Verdict::Is(First::Other));
    }

    #[test]
    fn waits_where_it_cannot_tell_yet() {
        check(b"", Verdict::Possible);
        check(b"G", Verdict::Possible);
        check(b"P", Verdict::Possible);
        check(b"HELLO", Verdict::Possible);
        check(b"GET /a", Verdict::Likely);
    }
}
