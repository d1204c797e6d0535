//! A client's request as it arrives: whether it is fit to be sent on, in the name of which host, and what this hop adds
//! to its headers before anything is decided.

use std::borrow::Cow;
use std::rc::Rc;
use std::sync::Arc;

use http::header::{EXPECT, HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderMap, Method, Request, Uri, Version};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use tokio::time::Instant;

use crate::proxy::connection::Connection;
use crate::proxy::http::ahead::Ahead;
use crate::proxy::http::gate::Gate;
use crate::proxy::http::headers::{self, RequestFacts, Upgrade};
use crate::proxy::http::path;
use crate::proxy::http::upload::RequestBody;
use crate::proxy::record::Record;
use crate::proxy::respond::{Asker, Failure};
use crate::proxy::stream::Activity;

/// As with Envoy; hyper's own limit is a little above it.
const HEAD_LIMIT: usize = 60 * 1024;

/// Likewise, for clients of HTTP/2: hyper sees to those of HTTP/1.1.
pub(super) const MOST_HEADERS: usize = 100;

/// A request that is fit to be sent on.
pub(super) struct Arrived {
    pub(super) head: Parts,
    pub(super) body: RequestBody,
    /// What holds the body back until the server asks for it.
    pub(super) gate: Option<Arc<Gate>>,
    /// Where informational responses go; none where the client's protocol has no place for them here.
    pub(super) ahead: Option<Ahead>,
    /// The protocol that it asks to change to. Boxed: hardly any does.
    pub(super) upgrade: Option<Box<(Upgrade, OnUpgrade)>>,
    pub(super) asker: Asker,
    pub(super) facts: RequestFacts,
    pub(super) authority: Authority,
    /// The plain form of its path, where that is another.
    pub(super) plain: Option<String>,
    /// When it came.
    pub(super) began: Instant,
    /// Since when it may be sent: since then, or since the end of its delay.
    pub(super) started: Instant,
}

impl Arrived {
    /// Admits a request and edits its headers.
    pub(super) fn admit(
        connection: &Rc<Connection>,
        mut request: Request<Incoming>,
        asker: Asker,
        activity: &Arc<Activity>,
        record: &mut Record,
    ) -> Result<Self, Failure> {
        if activity.is_ambiguous() {
            return Err(Failure::BadRequest);
        }
        let (authority, plain) = admit(connection, &request, connection.tls.is_some())?;
        let upgrade = wanted_upgrade(&mut request);
        let (mut head, incoming) = request.into_parts();
        let scheme = head.uri.scheme();
        let facts = headers::receive_request(&mut head.headers, scheme, connection);
        if let Some(line) = record.line() {
            line.peer = Some(facts.client(connection));
        }
        if head.version == Version::HTTP_2 {
            headers::join_cookies(&mut head.headers);
        }
        let gate = head
            .headers
            .get(EXPECT)
            .filter(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
            .filter(|_| head.version == Version::HTTP_11)
            .map(|_| Arc::<Gate>::default());
        let body = RequestBody::new(incoming, gate.clone());
        record.received = body.received();
        if let Some(line) = record.line()
            && let Some(id) = head.headers.get(headers::REQUEST_ID)
        {
            line.request_id = String::from_utf8_lossy(id.as_bytes()).into_owned();
        }
        let began = Instant::now();
        Ok(Self {
            ahead: (head.version == Version::HTTP_11).then(|| Ahead::new(activity)),
            head,
            body,
            gate,
            upgrade,
            asker,
            facts,
            authority,
            plain,
            began,
            started: began,
        })
    }

    /// Its path in the plain form, without query.
    pub(super) fn path(&self) -> &str {
        let path = self.plain.as_deref();
        path.unwrap_or_else(|| path_of(&self.head.uri))
    }
}

/// Whether a request is fit to be sent on, over TLS or not. Gives its host, and its path in the plain form where that is
/// another.
fn admit(
    connection: &Connection,
    request: &Request<Incoming>,
    tls: bool,
) -> Result<(Authority, Option<String>), Failure> {
    if request.version() < Version::HTTP_11 {
        return Err(Failure::OldVersion);
    }
    if size_of_head(request) > HEAD_LIMIT || request.headers().len() > MOST_HEADERS {
        return Err(Failure::HeadTooLarge);
    }
    admit_encoding(request.headers())?;
    if request.version() == Version::HTTP_11 {
        admit_target(request.method(), request.uri(), tls)?;
    }
    if request.method() == Method::CONNECT {
        return Err(Failure::Connected);
    }
    let mut hosts = request.headers().get_all(HOST).iter();
    let host = match (hosts.next(), hosts.next()) {
        (Some(_), Some(_)) => return Err(Failure::BadRequest),
        (host, _) => host,
    };
    // An absolute target outweighs the Host header (RFC 9112, 3.2.2).
    let authority = match (request.uri().authority(), host) {
        (Some(authority), _) => authority.clone(),
        (None, Some(host)) => {
            let named = connection.authority(host);
            named.map_err(|_| Failure::BadRequest)?
        }
        (None, None) => return Err(Failure::NoHost),
    };
    if authority.as_str().contains('@') {
        return Err(Failure::BadRequest);
    }
    let path = match path_of(request.uri()) {
        // No route is for `OPTIONS *`, which is about the server and not about anything on it.
        "*" => return Err(Failure::NoRoute),
        path => path,
    };
    let plain = match path::normalize(path).ok_or(Failure::NoHost)? {
        Cow::Borrowed(_) => None,
        Cow::Owned(plain) => Some(plain),
    };
    Ok((authority, plain))
}

/// The path that a client asks for, as sent; never empty.
fn path_of(uri: &Uri) -> &str {
    match uri.path() {
        "" => "/",
        path => path,
    }
}

/// Which targets a client of HTTP/1.1 may write, as with Envoy: a path, an address of HTTP, a host and port for CONNECT
/// alone, `*` for OPTIONS alone. Who has no TLS must not pretend to.
fn admit_target(method: &Method, target: &Uri, tls: bool) -> Result<(), Failure> {
    let path = target.path_and_query().map_or("", PathAndQuery::as_str);
    if !path.is_ascii() {
        return Err(Failure::BadRequest);
    }
    match (target.scheme(), target.authority()) {
        (Some(scheme), _) if *scheme == Scheme::HTTPS && !tls => Err(Failure::NotSecure),
        (Some(scheme), _) if *scheme == Scheme::HTTPS || *scheme == Scheme::HTTP => Ok(()),
        (Some(_), _) => Err(Failure::BadRequest),
        (None, Some(_)) if *method == Method::CONNECT => Ok(()),
        (None, None) if path == "*" && *method == Method::OPTIONS => Ok(()),
        (None, None) if path.starts_with('/') && *method != Method::CONNECT => Ok(()),
        (None, _) => Err(Failure::BadRequest),
    }
}

/// What Envoy counts: names and values, the first line's among them.
fn size_of_head(request: &Request<Incoming>) -> usize {
    let target = request.uri().path_and_query();
    let first = target.map_or(0, |target| target.as_str().len()) + request.method().as_str().len();
    let headers = request.headers().iter();
    headers.fold(first, |sum, (name, value)| {
        sum + name.as_str().len() + value.len()
    })
}

/// `chunked` is the only encoding that is understood here, and once is enough.
fn admit_encoding(headers: &HeaderMap) -> Result<(), Failure> {
    let mut encodings = headers.get_all(TRANSFER_ENCODING).iter();
    match (encodings.next(), encodings.next()) {
        (None, _) => Ok(()),
        (Some(_), Some(_)) => Err(Failure::Encoding),
        (Some(only), None) => match only
            .as_bytes()
            .trim_ascii()
            .eq_ignore_ascii_case(b"chunked")
        {
            true => Ok(()),
            false => Err(Failure::Encoding),
        },
    }
}

/// A wish to change the protocol, with the way to get at the connection once it is granted.
fn wanted_upgrade(request: &mut Request<Incoming>) -> Option<Box<(Upgrade, OnUpgrade)>> {
    if request.version() != Version::HTTP_11 {
        return None;
    }
    let upgrade = headers::wanted_upgrade(request.headers())?;
    Some(Box::new((upgrade, hyper::upgrade::on(request))))
}

/// Writes down what a request says of itself, fit or not.
pub(super) fn describe(connection: &Connection, request: &Request<Incoming>, record: &mut Record) {
    let Some(line) = record.line() else {
        return;
    };
    line.peer = Some(connection.peer);
    line.destination = Some(connection.destination);
    line.method = request.method().to_string();
    line.path = request
        .uri()
        .path_and_query()
        .map_or_else(|| "/".to_owned(), ToString::to_string);
    line.authority = match (request.uri().authority(), request.headers().get(HOST)) {
        (Some(authority), _) => authority.to_string(),
        (None, Some(host)) => String::from_utf8_lossy(host.as_bytes()).into_owned(),
        (None, None) => String::new(),
    };
    line.protocol = match request.version() {
        Version::HTTP_10 => "HTTP/1.0",
        Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    };
}
