//! Changes that a route makes to headers, with the facts that its values may name (`istio-routing.md` 1.3, `headers`).
//!
//! As with Envoy, a fact that is not to be had is empty, and a value that comes out empty changes nothing.

use std::net::SocketAddr;
use std::time::SystemTime;

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use tokio::time::Instant;

use crate::model::{ClusterKey, HeaderEdits, HeaderSource, Piece, Template, Variable};
use crate::proxy::connection::Connection;
use crate::proxy::http::date;
use crate::proxy::http::headers::RequestScheme;
use crate::proxy::record::Flags;

/// What values may name, besides the headers that they are put into.
#[derive(Clone, Copy, Debug)]
pub(super) struct Facts<'a> {
    /// Over what it was asked.
    pub(super) connection: &'a Connection,
    /// Who asked.
    pub(super) client: SocketAddr,
    /// What the client spoke.
    pub(super) version: Version,
    /// When the request came.
    pub(super) began: Instant,
    /// `http[].name`.
    pub(super) route: &'a str,
    /// Where the request goes; none where it goes nowhere.
    pub(super) cluster: Option<&'a ClusterKey>,
    /// Where it went, once that is known.
    pub(super) endpoint: Option<SocketAddr>,
    /// The request, as far as it is known by now.
    pub(super) request: Option<Asked<'a>>,
    /// What a server answered.
    pub(super) status: Option<StatusCode>,
    /// What has been peculiar so far.
    pub(super) flags: Flags,
}

/// A request, as values may name it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asked<'a> {
    pub(super) method: &'a str,
    pub(super) scheme: &'a str,
    pub(super) authority: &'a str,
    /// With its query.
    pub(super) path: &'a str,
    /// Empty where the values are its own headers'.
    pub(super) headers: Option<&'a HeaderMap>,
}

/// The headers that values may be taken from.
#[derive(Clone, Copy)]
struct Sources<'a> {
    request: Option<&'a HeaderMap>,
    response: Option<&'a HeaderMap>,
}

/// Whose headers are edited.
#[derive(Clone, Copy)]
enum Message {
    Request,
    Response,
}

/// Makes the changes to a request's headers, but for its Host.
pub(super) fn edit_request(headers: &mut HeaderMap, edits: &HeaderEdits, facts: &Facts<'_>) {
    edit(headers, Message::Request, edits, facts);
}

/// Makes the changes to a response's headers.
pub(super) fn edit_response(headers: &mut HeaderMap, edits: &HeaderEdits, facts: &Facts<'_>) {
    edit(headers, Message::Response, edits, facts);
}

/// The Host that `set` or `add` of it asks for.
pub(super) fn authority(
    headers: &HeaderMap,
    edits: &HeaderEdits,
    facts: &Facts<'_>,
) -> Option<HeaderValue> {
    let sources = Sources {
        request: Some(headers),
        response: None,
    };
    value(edits.authority.as_ref()?, sources, facts)
}

/// Whether a response cannot be edited without its request's headers.
pub(super) fn names_request(edits: &HeaderEdits) -> bool {
    let names = |piece: &Piece| matches!(piece, Piece::Variable(Variable::RequestHeader(_)));
    edits.edits.iter().any(|edit| match &edit.value {
        Template::Fixed(_) => false,
        Template::Pieces(pieces) => pieces.iter().any(names),
    })
}

/// Every value is made of what the removals left; no edit sees another's work.
fn edit(headers: &mut HeaderMap, message: Message, edits: &HeaderEdits, facts: &Facts<'_>) {
    for name in &edits.remove {
        headers.remove(name);
    }
    let sources = match message {
        Message::Request => Sources {
            request: Some(headers),
            response: None,
        },
        Message::Response => Sources {
            request: facts.request.and_then(|asked| asked.headers),
            response: Some(headers),
        },
    };
    let values: Vec<Option<HeaderValue>> = edits
        .edits
        .iter()
        .map(|edit| value(&edit.value, sources, facts))
        .collect();
    for (edit, value) in edits.edits.iter().zip(values) {
        match (value, edit.append) {
            (None, _) => {}
            (Some(value), true) => {
                headers.append(&edit.name, value);
            }
            (Some(value), false) => {
                headers.insert(&edit.name, value);
            }
        }
    }
}

fn value(template: &Template, sources: Sources<'_>, facts: &Facts<'_>) -> Option<HeaderValue> {
    let value = match template {
        Template::Fixed(value) => value.clone(),
        Template::Pieces(pieces) => {
            let mut bytes = Vec::new();
            for piece in pieces {
                match piece {
                    Piece::Text(text) => bytes.extend_from_slice(text.as_bytes()),
                    Piece::Variable(variable) => write(&mut bytes, variable, sources, facts),
                }
            }
            HeaderValue::from_bytes(&bytes).ok()?
        }
    };
    (!value.is_empty()).then_some(value)
}

fn write(out: &mut Vec<u8>, variable: &Variable, sources: Sources<'_>, facts: &Facts<'_>) {
    let connection = facts.connection;
    let tls = connection.tls.as_ref();
    let peer = tls.and_then(|tls| tls.peer.as_ref());
    let mut text = |text: &str| out.extend_from_slice(text.as_bytes());
    match variable {
        Variable::ClientAddress => text(&facts.client.to_string()),
        Variable::ClientIp => text(&facts.client.ip().to_string()),
        Variable::LocalAddress => text(&connection.destination.to_string()),
        Variable::LocalIp => text(&connection.destination.ip().to_string()),
        Variable::LocalPort => text(&connection.destination.port().to_string()),
        Variable::UpstreamAddress => {
            text(&facts.endpoint.map(|at| at.to_string()).unwrap_or_default());
        }
        Variable::UpstreamIp => {
            text(
                &facts
                    .endpoint
                    .map(|at| at.ip().to_string())
                    .unwrap_or_default(),
            );
        }
        Variable::UpstreamCluster => {
            text(&facts.cluster.map(ToString::to_string).unwrap_or_default());
        }
        Variable::Protocol => text(match facts.version {
            Version::HTTP_2 => "HTTP/2",
            _ => "HTTP/1.1",
        }),
        Variable::ResponseCode => text(facts.status.as_ref().map_or("0", StatusCode::as_str)),
        Variable::ResponseFlags => text(&facts.flags.to_string()),
        Variable::StartTime(format) => {
            let began = SystemTime::now() - facts.began.elapsed();
            text(&date::format(began, format.as_deref()));
        }
        Variable::RequestHeader(source) => {
            let asked = facts.request.as_ref();
            take(out, source, |name| match name {
                ":method" => asked.map(|asked| asked.method.as_bytes()),
                ":scheme" => asked.map(|asked| asked.scheme.as_bytes()),
                ":authority" | "host" => asked.map(|asked| asked.authority.as_bytes()),
                ":path" => asked.map(|asked| asked.path.as_bytes()),
                name => sources.request?.get(name).map(HeaderValue::as_bytes),
            });
        }
        Variable::ResponseHeader(source) => take(out, source, |name| match name {
            ":status" => facts
                .status
                .as_ref()
                .map(|status| status.as_str().as_bytes()),
            name => sources.response?.get(name).map(HeaderValue::as_bytes),
        }),
        Variable::RouteName if facts.route.is_empty() => text("-"),
        Variable::RouteName => text(facts.route),
        Variable::HostName => text(&connection.site.who.pod().name),
        Variable::ServerName => text(
            tls.and_then(|tls| tls.server_name.as_deref())
                .unwrap_or_default(),
        ),
        Variable::TlsVersion => text(tls.map_or("", |tls| tls.version)),
        Variable::PeerSubject => text(peer.map_or("", |peer| &peer.subject)),
        Variable::PeerUri => text(peer.map_or("", |peer| &peer.uris)),
        Variable::Environment => text("-"),
    }
}

/// Appends a header's first value, or that of its stand-in.
fn take<'a>(out: &mut Vec<u8>, source: &HeaderSource, look: impl Fn(&str) -> Option<&'a [u8]>) {
    let found = look(&source.name).or_else(|| look(source.otherwise.as_deref()?));
    if let Some(value) = found {
        let length = source.limit.unwrap_or(usize::MAX).min(value.len());
        out.extend_from_slice(&value[..length]);
    }
}

impl<'a> Asked<'a> {
    /// A request as it was sent to its server.
    pub(super) fn sent(head: &'a Parts, scheme: RequestScheme) -> Self {
        let text = |value: &'a HeaderValue| value.to_str().unwrap_or_default();
        let authority = match head.uri.authority() {
            Some(authority) => authority.as_str(),
            None => head.headers.get(HOST).map_or("", text),
        };
        Self {
            method: head.method.as_str(),
            scheme: scheme.as_str(),
            authority,
            path: head.uri.path_and_query().map_or("/", |path| path.as_str()),
            headers: Some(&head.headers),
        }
    }
}
