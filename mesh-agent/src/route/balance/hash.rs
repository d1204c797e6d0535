//! What a consistent hash is taken of, and the hash: Envoy's, to the bit.

use std::borrow::Cow;
use std::fmt::{self, Write};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::header::COOKIE;
use twox_hash::XxHash64;

use crate::model::{Balancer, HashKey, HeaderSubject, TrafficPolicy};
use crate::route::{Request, matching};

/// A cookie that is made here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewCookie<'a> {
    /// `name`.
    pub name: &'a str,
    /// `path`.
    pub path: Option<&'a str>,
    /// `ttl`; zero is a session's.
    pub ttl: Duration,
    /// `attributes`, with an empty value for a name alone.
    pub attributes: &'a [(Arc<str>, Arc<str>)],
}

/// The hash of a request, of all that is hashed together; `None` where it lacks all of it, and chance decides.
///
/// `make` makes a cookie that it lacks and is to be given with the response, and says the hash of its value.
pub fn hash_of<'a>(
    keys: &'a [Arc<HashKey>],
    request: &Request<'_>,
    mut make: impl FnMut(NewCookie<'a>) -> u64,
) -> Option<u64> {
    let hashes = keys
        .iter()
        .filter_map(|key| hash_of_one(key, request, &mut make));
    // Turned first, so that the same key twice is not the same as none.
    hashes.reduce(|all, hash| all.rotate_left(1) ^ hash)
}

fn hash_of_one<'a>(
    key: &'a HashKey,
    request: &Request<'_>,
    make: &mut impl FnMut(NewCookie<'a>) -> u64,
) -> Option<u64> {
    match key {
        HashKey::Header(subject) => hash_of_header(subject, request),
        HashKey::Cookie {
            name,
            path,
            ttl,
            attributes,
        } => match (cookie(request, name), ttl) {
            (Some(value), _) => Some(xxhash64(value, 0)),
            (None, None) => None,
            (None, Some(ttl)) => Some(make(NewCookie {
                name,
                path: path.as_deref(),
                ttl: *ttl,
                attributes,
            })),
        },
        HashKey::SourceAddress => Some(of_address(request.source)),
        HashKey::QueryParameter(name) => matching::parameter(request.query, name).map(hash_of_text),
    }
}

fn hash_of_header(subject: &HeaderSubject, request: &Request<'_>) -> Option<u64> {
    let name = match subject {
        HeaderSubject::Method => return Some(hash_of_text(request.method)),
        HeaderSubject::Authority => return Some(hash_of_text(request.authority)),
        HeaderSubject::Scheme => return Some(hash_of_text(request.scheme)),
        HeaderSubject::Path => return Some(hash_of_text(&request.path_and_query())),
        HeaderSubject::Claim(_) => return None,
        HeaderSubject::Header(name) => name,
    };
    let values = request.headers.get_all(name).iter();
    let mut values: Vec<&[u8]> = values.map(http::HeaderValue::as_bytes).collect();
    // Their order makes no difference.
    values.sort_unstable();
    let hash = values.iter().fold(0, |seed, value| xxhash64(value, seed));
    (!values.is_empty()).then_some(hash)
}

/// The hash of a connection that is not HTTP: `useSourceIp` alone has one, and that of a port is not asked.
pub fn hash_of_source(policy: &TrafficPolicy, source: IpAddr) -> Option<u64> {
    match (&policy.balancer, policy.hash.at_any_port.as_deref()) {
        (Balancer::Hash { .. }, Some(HashKey::SourceAddress)) => Some(of_address(source)),
        _ => None,
    }
}

/// The hash of a text, such as the value of a cookie that was made here.
pub fn hash_of_text(text: &str) -> u64 {
    xxhash64(text.as_bytes(), 0)
}

pub(super) fn xxhash64(bytes: &[u8], seed: u64) -> u64 {
    XxHash64::oneshot(seed, bytes)
}

fn of_address(address: IpAddr) -> u64 {
    hash_of_text(&address.to_canonical().to_string())
}

/// The value of the first cookie of that name; an empty one is none.
fn cookie<'a>(request: &Request<'a>, name: &str) -> Option<&'a [u8]> {
    let values = request.headers.get_all(COOKIE).iter();
    let pairs = values.flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let mut named = pairs.filter_map(|pair| {
        let pair = pair.trim_ascii();
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        let (key, value) = (&pair[..equals], &pair[equals + 1..]);
        (key == name.as_bytes()).then_some(value)
    });
    let value = named.next()?;
    let inner = value
        .strip_prefix(b"\"")
        .and_then(|rest| rest.strip_suffix(b"\""));
    Some(inner.unwrap_or(value)).filter(|value| !value.is_empty())
}

impl NewCookie<'_> {
    /// A value for it, which the addresses of the client's connection make: a client that ignores the cookie stays with
    /// its endpoint as long as its connection lasts.
    pub fn value(&self, client: SocketAddr, dialled: SocketAddr) -> String {
        format!("{:016x}", hash_of_text(&format!("{client}{dialled}")))
    }

    /// The response's `set-cookie` that gives it to the client.
    pub fn header(&self, value: &str) -> String {
        let mut header = format!("{}=\"{value}\"", self.name);
        // Writing to a string cannot fail.
        let _ = self.write_attributes(&mut header);
        header
    }

    fn write_attributes(&self, header: &mut String) -> fmt::Result {
        if self.ttl.as_secs() > 0 {
            write!(header, "; Max-Age={}", self.ttl.as_secs())?;
        }
        if let Some(path) = self.path.filter(|path| !path.is_empty()) {
            write!(header, "; Path={path}")?;
        }
        for (name, value) in self.attributes {
            let value: Cow<'_, str> = match &**value {
                "" => "".into(),
                value => format!("={value}").into(),
            };
            write!(header, "; {name}{value}")?;
        }
        header.write_str("; HttpOnly")
    }
}
