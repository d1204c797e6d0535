//! Failures become answers: the one place that knows status, text and flag of each.

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, HeaderName, SERVER};
use http::{HeaderMap, HeaderValue, Response, StatusCode};

use crate::proxy::http::body::Body;
use crate::proxy::record::{Flag, Hop};

/// Why a request got no answer from a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// No virtual host, or none of its routes, took the request.
    NoRoute,
    /// The route names a cluster that does not exist.
    NoCluster,
    /// The cluster has no endpoint.
    NoEndpoint,
    /// No connection. `cause` is what the kernel said; `None` is the connect time-out.
    Connect {
        /// The kernel's words.
        cause: Option<String>,
        /// Whether it was tried again.
        retried: bool,
    },
    /// The server ended the connection before it answered.
    Closed,
    /// The server reset the stream before it answered.
    Reset {
        /// Whether it said that it had not looked at the request.
        refused: bool,
        /// Whether it was tried again.
        retried: bool,
    },
    /// What the server answered is not HTTP.
    UpstreamProtocol,
    /// The route's timeout.
    Timeout,
    /// The client's request broke off.
    ClientClosed,
    /// A request that is not fit to be sent on.
    BadRequest,
    /// HTTP/1.0.
    OldVersion,
    /// CONNECT.
    Connected,
}

/// Status, body and flag of a failure.
struct Answer {
    status: StatusCode,
    text: String,
    flag: Flag,
}

const CONNECTION_ERROR: &str = "upstream connect error or disconnect/reset before headers.";
const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");

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

    /// The same, where several tries ended so.
    pub(super) fn after_retries(self, retried: bool) -> Self {
        match self {
            Self::Connect { cause, .. } => Self::Connect { cause, retried },
            Self::Reset { refused, .. } => Self::Reset { refused, retried },
            Self::NoRoute
            | Self::NoCluster
            | Self::NoEndpoint
            | Self::Closed
            | Self::UpstreamProtocol
            | Self::Timeout
            | Self::ClientClosed
            | Self::BadRequest
            | Self::OldVersion
            | Self::Connected => self,
        }
    }

    /// For counters and the log.
    pub(super) fn flag(&self) -> Flag {
        self.answer().flag
    }

    fn answer(&self) -> Answer {
        let answer = |status, text: &str, flag| Answer {
            status,
            text: text.to_owned(),
            flag,
        };
        match self {
            Self::NoRoute => answer(StatusCode::NOT_FOUND, "", Flag::NoRoute),
            Self::NoCluster => answer(StatusCode::SERVICE_UNAVAILABLE, "", Flag::NoCluster),
            Self::NoEndpoint => answer(
                StatusCode::SERVICE_UNAVAILABLE,
                "no healthy upstream",
                Flag::NoEndpoint,
            ),
            Self::Connect { cause, retried } => Answer {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: connection_error(*retried, &connect_reason(cause.as_deref())),
                flag: match retried {
                    true => Flag::RetriesExhausted,
                    false => Flag::ConnectFailure,
                },
            },
            Self::Closed => Answer {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: connection_error(false, "connection termination"),
                flag: Flag::UpstreamClosed,
            },
            Self::Reset { refused, retried } => Answer {
                status: StatusCode::SERVICE_UNAVAILABLE,
                text: connection_error(
                    *retried,
                    match refused {
                        true => "remote refused stream reset",
                        false => "remote reset",
                    },
                ),
                flag: Flag::UpstreamReset,
            },
            Self::UpstreamProtocol => Answer {
                status: StatusCode::BAD_GATEWAY,
                text: connection_error(false, "protocol error"),
                flag: Flag::UpstreamProtocol,
            },
            Self::Timeout => answer(
                StatusCode::GATEWAY_TIMEOUT,
                "upstream request timeout",
                Flag::Timeout,
            ),
            // Nobody is there to read it.
            Self::ClientClosed => answer(StatusCode::BAD_REQUEST, "", Flag::ClientClosed),
            Self::BadRequest => answer(StatusCode::BAD_REQUEST, "", Flag::ClientProtocol),
            Self::OldVersion => answer(StatusCode::UPGRADE_REQUIRED, "", Flag::ClientProtocol),
            Self::Connected => answer(StatusCode::FORBIDDEN, "", Flag::ClientProtocol),
        }
    }

    /// Whether the client's connection must not be used again.
    fn ends_connection(&self) -> bool {
        match self {
            Self::ClientClosed | Self::BadRequest | Self::OldVersion | Self::Connected => true,
            Self::NoRoute
            | Self::NoCluster
            | Self::NoEndpoint
            | Self::Connect { .. }
            | Self::Closed
            | Self::Reset { .. }
            | Self::UpstreamProtocol
            | Self::Timeout => false,
        }
    }
}

/// The answer to a request that failed. gRPC clients get theirs in trailers-only form.
pub(super) fn reply(failure: &Failure, hop: Hop, grpc: bool) -> Response<Body> {
    let Answer { status, text, .. } = failure.answer();
    let mut headers = HeaderMap::with_capacity(6);
    let (status, body) = if grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert(GRPC_STATUS, HeaderValue::from_static(grpc_status(status)));
        if let Some(message) = grpc_message(&text) {
            headers.insert(GRPC_MESSAGE, message);
        }
        (StatusCode::OK, Body::Empty)
    } else if text.is_empty() {
        (status, Body::Empty)
    } else {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(text.len()));
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        (status, Body::Text(Some(Bytes::from(text))))
    };
    headers.insert(SERVER, server(hop));
    if failure.ends_connection() {
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The `server` header of each hop.
pub(super) fn server(hop: Hop) -> HeaderValue {
    HeaderValue::from_static(match hop {
        Hop::Outbound => "envoy",
        Hop::Inbound | Hop::Gateway => "istio-envoy",
    })
}

/// Whether a request wants its failures in gRPC's form.
pub(super) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else {
        return false;
    };
    match value.as_bytes().strip_prefix(b"application/grpc") {
        // As Envoy: `application/grpc` and `application/grpc+proto`, not `application/grpc-web`.
        Some([] | [b'+' | b';', ..]) => true,
        Some(_) | None => false,
    }
}

fn failure_of_stream(error: &h2::Error) -> Failure {
    if error.is_io() || error.is_go_away() {
        return match error.reason() {
            Some(h2::Reason::NO_ERROR) | None => Failure::Closed,
            Some(_) => Failure::UpstreamProtocol,
        };
    }
    match error.reason() {
        Some(h2::Reason::REFUSED_STREAM) => Failure::Reset {
            refused: true,
            retried: false,
        },
        Some(_) if error.is_reset() && error.is_remote() => Failure::Reset {
            refused: false,
            retried: false,
        },
        Some(_) | None => Failure::UpstreamProtocol,
    }
}

fn connection_error(retried: bool, reason: &str) -> String {
    match retried {
        true => format!("{CONNECTION_ERROR} retried and the latest reset reason: {reason}"),
        false => format!("{CONNECTION_ERROR} reset reason: {reason}"),
    }
}

fn connect_reason(cause: Option<&str>) -> String {
    match cause {
        Some(cause) => format!(
            "remote connection failure, transport failure reason: delayed connect error: {cause}"
        ),
        None => "connection timeout".to_owned(),
    }
}

fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

/// Percent-encoded as gRPC asks; `None` for an empty one.
fn grpc_message(text: &str) -> Option<HeaderValue> {
    if text.is_empty() {
        return None;
    }
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'%' | 0..0x20 | 0x7f.. => encoded.push_str(&format!("%{byte:02X}")),
            _ => encoded.push(char::from(byte)),
        }
    }
    HeaderValue::from_str(&encoded).ok()
}
