//! Failures and whatever else the proxy says of itself become answers: the one place that knows status, text and flag of
//! each, and the form in which gRPC clients want them.

use bytes::Bytes;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, DATE, HeaderName, LOCATION, SERVER};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Version};
use http_body::Body as _;
use hyper::body::Incoming;

use crate::model::Abort;
use crate::proxy::http::body::Body;
use crate::proxy::http::headers;
use crate::proxy::record::{Flag, Hop, Record};
use crate::proxy::respond::grpc::{grpc_message, grpc_status, is_grpc};

pub(super) use crate::proxy::respond::grpc::http_status_of_grpc;

mod grpc;

/// Why a request got no answer from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No virtual host, or none of its routes, took the request.
    NoRoute,
    /// The route names a cluster that does not exist.
    NoCluster,
    /// The cluster has no endpoint.
    NoEndpoint,
    /// The route's `fault.abort`.
    Aborted(Abort),
    /// A limit of the cluster's `connectionPool`.
    Overflow,
    /// No connection, or none that could be used. `None` is the connect time-out.
    Connect {
        /// Why, in Envoy's words.
        cause: Option<String>,
    },
    /// The server ended the connection before it answered.
    Closed,
    /// The server reset the stream before it answered.
    Reset {
        /// Whether it said that it had not looked at the request.
        refused: bool,
    },
    /// What the server answered is not HTTP.
    UpstreamProtocol,
    /// The route's timeout, or that of a try.
    Timeout,
    /// The client's request broke off.
    ClientClosed,
    /// A request that is not HTTP as it should be.
    BadRequest,
    /// One that says no host, or a path that has no plain form.
    NoHost,
    /// One that claims to be `https` on a connection without TLS.
    NotSecure,
    /// A change to another protocol than WebSocket.
    Upgrade,
    /// The head is larger than anybody needs.
    HeadTooLarge,
    /// A body in an encoding that is not understood.
    Encoding,
    /// HTTP/1.0.
    OldVersion,
    /// CONNECT.
    Connected,
}

/// Who is answered, as far as the form of the answer depends on it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Asker {
    hop: Hop,
    grpc: bool,
    head: bool,
    http1: bool,
    /// Some of the request is still to come. What is answered by then is the last on a connection of HTTP/1.1.
    unfinished: bool,
}

/// What is answered, before it takes the form that the asker wants.
struct Answer {
    status: StatusCode,
    text: Bytes,
    /// What is added whatever the route says.
    headers: HeaderMap,
    /// The status that a gRPC client is told, where it does not follow from the other.
    grpc: Option<u8>,
}

const CONNECTION_ERROR: &str = "upstream connect error or disconnect/reset before headers.";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const OVERLOADED: HeaderName = HeaderName::from_static("x-envoy-overloaded");

impl Asker {
    /// Who sent a request that arrived at `hop`.
    pub(super) fn of(request: &Request<Incoming>, hop: Hop) -> Self {
        Self {
            hop,
            grpc: is_grpc(request.headers()),
            head: request.method() == Method::HEAD,
            http1: request.version() < Version::HTTP_2,
            unfinished: !request.body().is_end_stream()
                || headers::wanted_upgrade(request.headers()).is_some(),
        }
    }

    /// Who is answered before there is a request to speak of.
    fn unread(hop: Hop) -> Self {
        Self {
            hop,
            grpc: false,
            head: false,
            http1: true,
            unfinished: false,
        }
    }

    /// The same, when all of the request has come, or not.
    pub(super) fn after(self, whole: bool) -> Self {
        Self {
            unfinished: !whole,
            ..self
        }
    }

    /// Whether it speaks HTTP/1.1.
    pub(super) fn is_http1(self) -> bool {
        self.http1
    }

    /// Whether it speaks gRPC.
    pub(super) fn is_grpc(self) -> bool {
        self.grpc
    }
}

impl Failure {
    /// What an error of a server's connection means.
    pub(super) fn of(error: &hyper::Error) -> Failure {
        if error.is_parse() {
            return Failure::UpstreamProtocol;
        }
        let mut source = std::error::Error::source(error);
        while let Some(cause) = source {
            if let Some(stream) = cause.downcast_ref::<h2::Error>() {
                return failure_of_stream(stream);
            }
            source = cause.source();
        }
        Failure::Closed
    }

    /// TLS with a server that has no name to be asked for by.
    pub(super) fn no_server_name() -> Failure {
        let cause = "TLS_error: the Host is not a name that a server could be asked for by";
        Failure::Connect {
            cause: Some(cause.to_owned()),
        }
    }

    /// Writes down what went wrong, for counters and the log.
    pub(super) fn note(&self, record: &mut Record) {
        record.flag(self.flag());
        if let Self::Connect { cause: Some(cause) } = self
            && let Some(line) = record.line()
        {
            line.failure.clone_from(cause);
        }
    }

    /// For counters and the log; `None` where Envoy has no word for it.
    pub(super) fn flag(&self) -> Option<Flag> {
        Some(match self {
            Self::NoRoute | Self::Connected => Flag::NoRoute,
            Self::NoCluster => Flag::NoCluster,
            Self::NoEndpoint => Flag::NoEndpoint,
            Self::Aborted(_) => Flag::Aborted,
            Self::Overflow => Flag::Overflow,
            Self::Connect { .. } => Flag::ConnectFailure,
            Self::Closed => Flag::UpstreamClosed,
            Self::Reset { .. } => Flag::UpstreamReset,
            Self::UpstreamProtocol => Flag::UpstreamProtocol,
            Self::Timeout => Flag::Timeout,
            Self::ClientClosed => Flag::ClientClosed,
            Self::BadRequest
            | Self::NotSecure
            | Self::HeadTooLarge
            | Self::Encoding
            | Self::OldVersion => Flag::ClientProtocol,
            Self::NoHost | Self::Upgrade => return None,
        })
    }

    fn status(&self) -> StatusCode {
        match self {
            // As with Envoy: no route is for CONNECT.
            Self::NoRoute | Self::Connected => StatusCode::NOT_FOUND,
            Self::NoCluster
            | Self::NoEndpoint
            | Self::Overflow
            | Self::Connect { .. }
            | Self::Closed
            | Self::Reset { .. } => StatusCode::SERVICE_UNAVAILABLE,
            Self::Aborted(Abort::Http(status)) => *status,
            // As Envoy: who does not speak gRPC is told the number in no form.
            Self::Aborted(Abort::Grpc(_)) => StatusCode::OK,
            Self::UpstreamProtocol => StatusCode::BAD_GATEWAY,
            Self::Timeout => StatusCode::GATEWAY_TIMEOUT,
            // Nobody is there to read it.
            Self::ClientClosed | Self::BadRequest | Self::NoHost => StatusCode::BAD_REQUEST,
            Self::NotSecure | Self::Upgrade => StatusCode::FORBIDDEN,
            Self::HeadTooLarge => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::Encoding => StatusCode::NOT_IMPLEMENTED,
            Self::OldVersion => StatusCode::UPGRADE_REQUIRED,
        }
    }

    fn text(&self, retried: bool) -> Bytes {
        match self {
            Self::NoEndpoint => Bytes::from_static(b"no healthy upstream"),
            Self::Aborted(_) => Bytes::from_static(b"fault filter abort"),
            Self::Timeout => Bytes::from_static(b"upstream request timeout"),
            Self::Overflow => connection_error(retried, "overflow"),
            // Why is for the log: Envoy does not tell clients any more.
            Self::Connect { cause: Some(_) } => {
                connection_error(retried, "remote connection failure")
            }
            Self::Connect { cause: None } => connection_error(retried, "connection timeout"),
            Self::Closed => connection_error(retried, "connection termination"),
            Self::Reset { refused: true } => {
                connection_error(retried, "remote refused stream reset")
            }
            Self::Reset { refused: false } => connection_error(retried, "remote reset"),
            Self::UpstreamProtocol => connection_error(retried, "protocol error"),
            // What Envoy's codec refuses is told so in the status' own words.
            Self::ClientClosed
            | Self::BadRequest
            | Self::NotSecure
            | Self::HeadTooLarge
            | Self::Encoding
            | Self::OldVersion => {
                let reason = self.status().canonical_reason();
                Bytes::from_static(reason.unwrap_or_default().as_bytes())
            }
            Self::NoRoute | Self::NoCluster | Self::NoHost | Self::Upgrade | Self::Connected => {
                Bytes::new()
            }
        }
    }

    /// Whether it is one of the request's form, which is found before anybody looks who asks.
    fn is_of_form(&self) -> bool {
        matches!(
            self,
            Self::BadRequest | Self::NotSecure | Self::Encoding | Self::OldVersion
        )
    }

    /// Whether the client's connection must not be used again.
    fn ends_connection(&self) -> bool {
        match self {
            Self::ClientClosed
            | Self::BadRequest
            | Self::NoHost
            | Self::NotSecure
            | Self::Upgrade
            | Self::HeadTooLarge
            | Self::Encoding
            | Self::OldVersion
            | Self::Connected => true,
            Self::NoRoute
            | Self::NoCluster
            | Self::NoEndpoint
            | Self::Aborted(_)
            | Self::Overflow
            | Self::Connect { .. }
            | Self::Closed
            | Self::Reset { .. }
            | Self::UpstreamProtocol
            | Self::Timeout => false,
        }
    }
}

/// The answer to a request that failed. `retried` says whether it was tried again; `edit` is what the route does to the
/// headers of its responses, which holds for the proxy's own as well.
pub(super) fn failure(
    failure: &Failure,
    retried: bool,
    mut asker: Asker,
    edit: impl FnOnce(&mut HeaderMap),
) -> Response<Body> {
    asker.grpc &= !failure.is_of_form();
    let mut headers = HeaderMap::new();
    if *failure == Failure::Overflow {
        headers.insert(OVERLOADED, HeaderValue::from_static("true"));
    }
    asker.unfinished |= failure.ends_connection();
    let answer = Answer {
        status: failure.status(),
        text: failure.text(retried),
        headers,
        grpc: match failure {
            Failure::Aborted(Abort::Grpc(status)) => Some(*status),
            _ => None,
        },
    };
    answer.to(asker, edit)
}

/// The answer of a `directResponse`.
pub(super) fn direct(
    status: StatusCode,
    text: Bytes,
    asker: Asker,
    edit: impl FnOnce(&mut HeaderMap),
) -> Response<Body> {
    let answer = Answer {
        status,
        text,
        headers: HeaderMap::new(),
        grpc: None,
    };
    answer.to(asker, edit)
}

/// The answer of a `redirect`.
pub(super) fn redirect(
    status: StatusCode,
    location: &str,
    asker: Asker,
    edit: impl FnOnce(&mut HeaderMap),
) -> Response<Body> {
    let mut headers = HeaderMap::new();
    // It is made of the request's own path and Host; what a header cannot carry was no part of those.
    if let Ok(location) = HeaderValue::from_str(location) {
        headers.insert(LOCATION, location);
    }
    let answer = Answer {
        status,
        text: Bytes::new(),
        headers,
        grpc: None,
    };
    answer.to(asker, edit)
}

/// The answer to bytes that are no request of HTTP/1.1, as it goes out. `date` is the header's value.
pub(super) fn unread(failure: &Failure, hop: Hop, date: &[u8]) -> Vec<u8> {
    let response = self::failure(failure, false, Asker::unread(hop), |_| {});
    let (mut head, body) = response.into_parts();
    if let Ok(date) = HeaderValue::from_bytes(date) {
        head.headers.insert(DATE, date);
    }
    let reason = head.status.canonical_reason().unwrap_or_default();
    let mut bytes = format!("HTTP/1.1 {} {reason}\r\n", head.status.as_str()).into_bytes();
    headers::write(&head.headers, &mut bytes);
    if let Body::Text(Some(text)) = body {
        bytes.extend_from_slice(&text);
    }
    bytes
}

/// The answer to a preflight, which says in its headers what is allowed.
pub(super) fn preflight(asker: Asker, mut headers: HeaderMap) -> Response<Body> {
    headers.insert(SERVER, server(asker.hop));
    if asker.http1 && asker.unfinished {
        headers::set_close(&mut headers);
    }
    let mut response = Response::new(Body::Empty);
    *response.headers_mut() = headers;
    response
}

impl Answer {
    /// Gives it the form that the asker wants: gRPC clients get trailers-only.
    fn to(self, asker: Asker, edit: impl FnOnce(&mut HeaderMap)) -> Response<Body> {
        let Self {
            mut status,
            text,
            mut headers,
            grpc,
        } = self;
        edit(&mut headers);
        let body = if asker.grpc {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            headers.insert(
                GRPC_STATUS,
                HeaderValue::from(u16::from(grpc.unwrap_or_else(|| grpc_status(status)))),
            );
            if let Some(message) = grpc_message(&text) {
                headers.insert(GRPC_MESSAGE, message);
            }
            headers.remove(CONTENT_LENGTH);
            status = StatusCode::OK;
            Body::Empty
        } else if text.is_empty() || has_no_body(status) {
            Body::Empty
        } else {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
            if !headers.contains_key(CONTENT_TYPE) {
                headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            match asker.head {
                true => Body::Empty,
                false => Body::Text(Some(text)),
            }
        };
        headers.insert(SERVER, server(asker.hop));
        if asker.http1 && asker.unfinished {
            headers::set_close(&mut headers);
        }
        let mut response = Response::new(body);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }
}

/// Whether a status says that there is no body, whoever has written one for it.
fn has_no_body(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// The `server` header of each hop.
pub(super) fn server(hop: Hop) -> HeaderValue {
    HeaderValue::from_static(match hop {
        Hop::Outbound => "envoy",
        Hop::Inbound | Hop::Gateway => "istio-envoy",
    })
}

fn failure_of_stream(error: &h2::Error) -> Failure {
    if error.is_io() || error.is_go_away() {
        return match error.reason() {
            Some(h2::Reason::NO_ERROR) | None => Failure::Closed,
            Some(_) => Failure::UpstreamProtocol,
        };
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => Failure::Reset { refused: true },
        Some(_) if error.is_reset() && error.is_remote() => Failure::Reset { refused: false },
        Some(_) | None => Failure::UpstreamProtocol,
    }
}

fn connection_error(retried: bool, reason: &str) -> Bytes {
    let again = if retried {
        "retried and the latest "
    } else {
        ""
    };
    Bytes::from(format!("{CONNECTION_ERROR} {again}reset reason: {reason}"))
}
