//! What each hop adds to, removes from and changes in the headers that pass it (`istio-routing.md` 3.1).
//!
//! Not sent, by decision: `x-envoy-peer-metadata` and its `-id`. They carry telemetry labels between Istio's proxies,
//! and an agent that knows every Pod has no use for them. They are removed before an application sees them, as Istio
//! does.

use std::net::{IpAddr, SocketAddr};

use http::header::{
    AUTHORIZATION, CONNECTION, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, COOKIE, EXPECT,
    HOST, HeaderName, SERVER, SET_COOKIE, TE, TRANSFER_ENCODING, UPGRADE,
};
use http::uri::{Authority, Scheme};
use http::{HeaderMap, HeaderValue, StatusCode};

use crate::model::ClusterKey;
use crate::proxy::connection::Connection;
use crate::proxy::http::headers::strip::{
    CLIENT_CONTROL, EDGE_ONLY, INTERNAL_ONLY, PEER_METADATA, Seen, remove_all, strip_hop_by_hop,
};
use crate::proxy::http::texts::{self, Texts};
use crate::proxy::record::Hop;
use crate::proxy::respond;

mod strip;

/// `x-request-id`.
pub(super) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");
const INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
const ATTEMPT_COUNT: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
const ORIGINAL_HOST: HeaderName = HeaderName::from_static("x-envoy-original-host");
const DECORATOR: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");
const SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");

/// What decides over where a message ends, where it goes, and who sends it.
static NO_TRAILERS: [HeaderName; 14] = [
    AUTHORIZATION,
    CLIENT_CERT,
    CONNECTION,
    CONTENT_ENCODING,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    COOKIE,
    FORWARDED_FOR,
    FORWARDED_PROTO,
    HOST,
    SET_COOKIE,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// What is known of a request besides its headers, or was read from them before they were edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RequestFacts {
    /// Whom the proxies before the gateway name as the client, where they are believed.
    named: Option<IpAddr>,
    /// The request carried `x-envoy-decorator-operation`.
    decorated: bool,
    /// `:scheme`.
    pub(super) scheme: RequestScheme,
}

/// `:scheme`, as routes match it and servers of HTTP/2 are told it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum RequestScheme {
    #[default]
    Http,
    Https,
}

/// A protocol that a message asks to change to, or agrees to.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Upgrade {
    pub(super) protocol: HeaderValue,
    /// The `connection` header that says so, which is handed on as it is spelt.
    connection: HeaderValue,
}

/// Edits a request's headers as they arrive over a connection. `target` is the scheme that its target names, if it does.
pub(super) fn receive_request(
    headers: &mut HeaderMap,
    target: Option<&Scheme>,
    connection: &Connection,
) -> RequestFacts {
    let (hop, peer, trusted) = (connection.hop, connection.peer, connection.trusted_proxies);
    let tls = connection.tls.as_ref();
    let worker = &connection.site.worker;
    let texts = &worker.texts;
    let mut named = None;
    let seen = Seen::among(headers);
    strip_hop_by_hop(headers, seen, true);
    // What a client says of itself here is nothing; what its handshake has shown is.
    if seen.certificate {
        headers.remove(CLIENT_CERT);
    }
    let shown = tls.and_then(|tls| tls.peer.as_ref()?.forwarded.clone());
    if let Some(shown) = shown {
        headers.insert(CLIENT_CERT, shown);
    }
    let transport = match tls {
        Some(_) => RequestScheme::Https,
        None => RequestScheme::Http,
    };
    if hop == Hop::Gateway {
        named = named_client(headers, trusted);
        append_forwarded_for(headers, peer.ip(), connection.peer_text());
    }
    let believed = hop != Hop::Gateway || trusted > 0;
    if !believed || !headers.contains_key(FORWARDED_PROTO) {
        headers.insert(
            FORWARDED_PROTO,
            HeaderValue::from_static(transport.as_str()),
        );
    }
    // As Envoy: the target's word is the first, then what the hops so far have said. Whatever else stands there is passed
    // on, and counts as nothing.
    let scheme = target
        .and_then(|scheme| RequestScheme::of(scheme.as_str().as_bytes()))
        .or_else(|| RequestScheme::of(headers.get(FORWARDED_PROTO)?.as_bytes()))
        .unwrap_or(transport);
    if seen.steering {
        remove_all(headers, &CLIENT_CONTROL);
        remove_all(headers, &INTERNAL_ONLY);
    }
    if hop == Hop::Gateway {
        if seen.edge {
            remove_all(headers, &EDGE_ONLY);
        }
        let address = match named {
            Some(named) => texts.written(format_args!("{}", named.to_canonical())),
            None => connection.peer_text(),
        };
        if let Some(address) = address {
            headers.insert(EXTERNAL_ADDRESS, address);
        }
    }
    if hop == Hop::Gateway || !headers.contains_key(REQUEST_ID) {
        headers.insert(REQUEST_ID, worker.request_id());
    }
    let decorated = seen.mesh && headers.contains_key(DECORATOR);
    if hop == Hop::Inbound && seen.mesh {
        headers.remove(DECORATOR);
        remove_all(headers, &PEER_METADATA);
    }
    RequestFacts {
        named,
        decorated,
        scheme,
    }
}

/// Adds what the route has to say to a request: which operation of which server it is.
pub(super) fn mark_request(headers: &mut HeaderMap, cluster: &ClusterKey, texts: &Texts) {
    let mut room = [0; texts::LONGEST];
    let port = texts::decimal(cluster.port.into(), &mut room);
    if let Some(operation) = texts.joined(&[cluster.host.as_bytes(), b":", port, b"/*"]) {
        headers.insert(DECORATOR, operation);
    }
}

/// Marks a copy for a mirror, as Envoy does: it is a request of this proxy's own, from the pod's address.
pub(super) fn mark_copy(headers: &mut HeaderMap, own: Option<IpAddr>, texts: &Texts) {
    headers.insert(INTERNAL, HeaderValue::from_static("true"));
    if let Some(own) = own {
        let text = texts.written(format_args!("{}", own.to_canonical()));
        append_forwarded_for(headers, own, text);
    }
    // Nobody would hear what the server says to it.
    headers.remove(EXPECT);
}

/// Says which path, with its query, a request had before it was rewritten.
pub(super) fn set_original_path(headers: &mut HeaderMap, path: &str) {
    set(headers, ORIGINAL_PATH, path);
}

/// Likewise its Host.
pub(super) fn set_original_host(headers: &mut HeaderMap, authority: &Authority) {
    set(headers, ORIGINAL_HOST, authority.as_str());
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The client that the last but `trusted` - 1 of the proxies before this one names, where `trusted` of them do. An entry
/// that is no address names nobody, and then it is the peer who asks.
fn named_client(headers: &HeaderMap, trusted: u32) -> Option<IpAddr> {
    let skipped = usize::try_from(trusted.checked_sub(1)?).ok()?;
    let lines = headers.get_all(FORWARDED_FOR).iter().rev();
    let mut entries = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
    let entry = str::from_utf8(entries.nth(skipped)?).ok()?;
    entry.trim().parse().ok()
}

impl RequestFacts {
    /// Who asks over a connection: its peer, or whom the proxies before the gateway name.
    pub(super) fn client(&self, connection: &Connection) -> SocketAddr {
        match self.named {
            Some(address) => SocketAddr::new(address, 0),
            None => connection.peer,
        }
    }
}

impl RequestScheme {
    fn of(text: &[u8]) -> Option<Self> {
        match text {
            _ if text.eq_ignore_ascii_case(b"http") => Some(Self::Http),
            _ if text.eq_ignore_ascii_case(b"https") => Some(Self::Https),
            _ => None,
        }
    }

    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Sets the number of the try, from 1.
pub(super) fn set_attempt(headers: &mut HeaderMap, attempt: u32, texts: &Texts) {
    headers.insert(ATTEMPT_COUNT, texts.number(attempt.into()));
}

/// Edits a response's headers as they come from a server, before the route does. An answer to a request that was not there
/// as a whole has no service time.
pub(super) fn receive_response(
    headers: &mut HeaderMap,
    service_time_ms: Option<u64>,
    texts: &Texts,
) {
    match service_time_ms {
        Some(time) => headers.insert(SERVICE_TIME, texts.number(time)),
        None => headers.remove(SERVICE_TIME),
    };
}

/// Says that the client's connection is not to be used again.
pub(in crate::proxy) fn set_close(headers: &mut HeaderMap) {
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
}

/// Whether a server's answer over HTTP/1.1 says in one way only how long it is, as Envoy asks of it.
pub(super) fn is_framed(status: StatusCode, headers: &HeaderMap) -> bool {
    let length = headers.get(CONTENT_LENGTH);
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    let encoding = encodings.next();
    let chunked = |value: &HeaderValue| {
        let value = value.as_bytes().trim_ascii();
        value.eq_ignore_ascii_case(b"chunked")
    };
    let none = length.is_none_or(|length| length == "0") && encoding.is_none();
    let one = length.is_none() || encoding.is_none();
    let known = encoding.is_none_or(chunked) && encodings.next().is_none();
    let number = |length: &HeaderValue| length.as_bytes().iter().all(u8::is_ascii_digit);
    one && known && length.is_none_or(number) && (none || status != StatusCode::NO_CONTENT)
}

/// Edits a response's headers as they leave `hop`. `operation` is the server's name of what it did.
pub(super) fn send_response(
    headers: &mut HeaderMap,
    hop: Hop,
    request: RequestFacts,
    operation: Option<&str>,
) {
    let seen = Seen::among(headers);
    strip_hop_by_hop(headers, seen, false);
    headers.insert(SERVER, respond::server(hop));
    match hop {
        Hop::Outbound | Hop::Gateway => {
            if seen.mesh {
                headers.remove(DECORATOR);
                remove_all(headers, &PEER_METADATA);
            }
        }
        Hop::Inbound => {
            let operation = operation.and_then(|name| HeaderValue::from_str(name).ok());
            if let Some(operation) = operation
                && !request.decorated
            {
                headers.insert(DECORATOR, operation);
            }
        }
    }
}

/// Removes from an informational response what concerns one connection alone, and what would say how long it is: it ends
/// with its head.
pub(super) fn strip_informational(headers: &mut HeaderMap) {
    let seen = Seen::among(headers);
    strip_hop_by_hop(headers, seen, false);
    headers.remove(CONTENT_LENGTH);
}

/// Writes headers as HTTP/1.1 has them, with the empty line behind them.
pub(in crate::proxy) fn write(headers: &HeaderMap, out: &mut Vec<u8>) {
    for (name, value) in headers {
        for part in [name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"] {
            out.extend_from_slice(part);
        }
    }
    out.extend_from_slice(b"\r\n");
}

/// Removes from trailers what must not stand there: who has read the head by then would be told otherwise.
pub(super) fn strip_trailers(headers: &mut HeaderMap) {
    remove_all(headers, &NO_TRAILERS);
}

/// The protocol that a request asks to change to. A change to HTTP/2 is not offered, and not asked for further on.
pub(in crate::proxy) fn wanted_upgrade(headers: &HeaderMap) -> Option<Upgrade> {
    let protocol = headers
        .get(UPGRADE)
        .filter(|value| !value.as_bytes().eq_ignore_ascii_case(b"h2c"))?;
    let asks = |value: &&HeaderValue| {
        let mut options = value.as_bytes().split(|&b| b == b',');
        options.any(|option| option.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    };
    Some(Upgrade {
        connection: headers.get_all(CONNECTION).iter().find(asks)?.clone(),
        protocol: protocol.clone(),
    })
}

/// Puts back the headers of a change of protocol.
pub(super) fn set_upgrade(headers: &mut HeaderMap, upgrade: Upgrade) {
    headers.insert(CONNECTION, upgrade.connection);
    headers.insert(UPGRADE, upgrade.protocol);
}

impl Upgrade {
    /// Whether it is to WebSocket: the only one that Istio lets through. Any other would be a way past the routes.
    pub(super) fn is_allowed(&self) -> bool {
        self.protocol.as_bytes().eq_ignore_ascii_case(b"websocket")
    }
}

/// HTTP/2 lets a client split its cookies, HTTP/1 does not.
pub(super) fn join_cookies(headers: &mut HeaderMap) {
    if headers.get_all(COOKIE).iter().nth(1).is_none() {
        return;
    }
    let parts: Vec<&[u8]> = headers
        .get_all(COOKIE)
        .iter()
        .map(HeaderValue::as_bytes)
        .collect();
    if let Ok(joined) = HeaderValue::from_bytes(&parts.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// Appends an address, of which `text` is the value, without a space, as Envoy does.
fn append_forwarded_for(headers: &mut HeaderMap, address: IpAddr, text: Option<HeaderValue>) {
    if !headers.contains_key(FORWARDED_FOR) {
        if let Some(value) = text {
            headers.insert(FORWARDED_FOR, value);
        }
        return;
    }
    let address = address.to_canonical();
    let mut list: Vec<u8> = Vec::new();
    for value in headers.get_all(FORWARDED_FOR) {
        list.extend_from_slice(value.as_bytes());
        list.push(b',');
    }
    list.extend_from_slice(address.to_string().as_bytes());
    if let Ok(value) = HeaderValue::from_bytes(&list) {
        headers.insert(FORWARDED_FOR, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_named_by_trusted_proxies() {
        let check = |lines: &[&str], trusted: u32, expected: Option<&str>| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(FORWARDED_FOR, HeaderValue::from_str(line).unwrap());
            }
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(
                named_client(&headers, trusted),
                expected,
                "{lines:?} {trusted}"
            );
        };
        let three = &["56.5.6.7, 72.9.5.6,98.1.2.3"][..];
        check(three, 0, None);
        check(three, 1, Some("98.1.2.3"));
        check(three, 2, Some("72.9.5.6"));
        check(three, 3, Some("56.5.6.7"));
        check(three, 4, None);
        check(three, u32::MAX, None);
        check(&["56.5.6.7", "fd00::1 , fd00::2"], 2, Some("fd00::1"));
        check(&["56.5.6.7", "fd00::1 , fd00::2"], 3, Some("56.5.6.7"));
        check(&[], 1, None);
        for nobody in [
            "",
            "1.2.3.4,",
            "unknown",
            "1.2.3.4:80",
            "[fd00::1]",
            "1.2.3",
        ] {
            check(&[nobody], 1, None);
        }
    }
}
