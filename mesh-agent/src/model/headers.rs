//! Changes of headers: `headers` of a rule and of a destination, in the order in which they are made.

use std::fmt;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

/// All changes to the headers of a request or a response: first the removals, then the edits in order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderEdits {
    /// `remove`.
    pub remove: Vec<HeaderName>,
    /// `set` and `add`.
    pub edits: Vec<HeaderEdit>,
    /// `set` or `add` of `host` or `:authority`: a request's new Host.
    pub authority: Option<Template>,
}

/// One `set` or `add`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderEdit {
    /// The header.
    pub name: HeaderName,
    /// Its new value.
    pub value: Template,
    /// `add`: the values that are there stay.
    pub append: bool,
}

/// A value, in which Envoy's `%...%` stand for facts of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Template {
    /// The same for every request.
    Fixed(HeaderValue),
    /// Made anew for each.
    Pieces(Vec<Piece>),
}

/// A part of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Text(Arc<str>),
    /// A fact.
    Variable(Variable),
}

/// What stands between two `%`. A fact that is not to be had is empty, and a value that comes out empty changes nothing:
/// so it is with Envoy, whose `-` are for its logs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Variable {
    /// `DOWNSTREAM_REMOTE_ADDRESS`: the client's address and port.
    ClientAddress,
    /// `DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT`.
    ClientIp,
    /// `DOWNSTREAM_LOCAL_ADDRESS`: the address that the client dialled.
    LocalAddress,
    /// `DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT`.
    LocalIp,
    /// `DOWNSTREAM_LOCAL_PORT`.
    LocalPort,
    /// `UPSTREAM_REMOTE_ADDRESS` and `UPSTREAM_HOST`: the endpoint's address and port.
    UpstreamAddress,
    /// `UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT`.
    UpstreamIp,
    /// `UPSTREAM_CLUSTER`.
    UpstreamCluster,
    /// `PROTOCOL`: `HTTP/1.1`, `HTTP/2`.
    Protocol,
    /// `RESPONSE_CODE`.
    ResponseCode,
    /// `RESPONSE_FLAGS`.
    ResponseFlags,
    /// `START_TIME`, RFC 3339 with milliseconds, or in a `strftime` format.
    StartTime(Option<Arc<str>>),
    /// `REQ(name?other):length`.
    RequestHeader(HeaderSource),
    /// `RESP(name?other):length`.
    ResponseHeader(HeaderSource),
    /// `ROUTE_NAME`.
    RouteName,
    /// `HOSTNAME`.
    HostName,
    /// `REQUESTED_SERVER_NAME`.
    ServerName,
    /// `DOWNSTREAM_TLS_VERSION`.
    TlsVersion,
    /// `DOWNSTREAM_PEER_SUBJECT`.
    PeerSubject,
    /// `DOWNSTREAM_PEER_URI_SAN`.
    PeerUri,
    /// `ENVIRONMENT(name)`: always absent here; a proxy of many pods must not show its own environment.
    Environment,
}

/// A header that a value is taken from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderSource {
    /// Its name; pseudo headers such as `:path` in their HTTP/2 spelling.
    pub name: Arc<str>,
    /// What is taken where it is absent.
    pub otherwise: Option<Arc<str>>,
    /// At most so many characters.
    pub limit: Option<usize>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        let Self {
            remove,
            edits,
            authority,
        } = self;
        remove.is_empty() && edits.is_empty() && authority.is_none()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(value) => f.write_str(&String::from_utf8_lossy(value.as_bytes())),
            Self::Pieces(pieces) => pieces.iter().try_for_each(|piece| match piece {
                Piece::Text(text) => f.write_str(text),
                Piece::Variable(variable) => write!(f, "%{variable}%"),
            }),
        }
    }
}

impl fmt::Display for Variable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::ClientAddress => "DOWNSTREAM_REMOTE_ADDRESS",
            Self::ClientIp => "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
            Self::LocalAddress => "DOWNSTREAM_LOCAL_ADDRESS",
            Self::LocalIp => "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
            Self::LocalPort => "DOWNSTREAM_LOCAL_PORT",
            Self::UpstreamAddress => "UPSTREAM_REMOTE_ADDRESS",
            Self::UpstreamIp => "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
            Self::UpstreamCluster => "UPSTREAM_CLUSTER",
            Self::Protocol => "PROTOCOL",
            Self::ResponseCode => "RESPONSE_CODE",
            Self::ResponseFlags => "RESPONSE_FLAGS",
            Self::StartTime(None) => "START_TIME",
            Self::StartTime(Some(format)) => return write!(f, "START_TIME({format})"),
            Self::RequestHeader(source) => return write!(f, "REQ({source})"),
            Self::ResponseHeader(source) => return write!(f, "RESP({source})"),
            Self::RouteName => "ROUTE_NAME",
            Self::HostName => "HOSTNAME",
            Self::ServerName => "REQUESTED_SERVER_NAME",
            Self::TlsVersion => "DOWNSTREAM_TLS_VERSION",
            Self::PeerSubject => "DOWNSTREAM_PEER_SUBJECT",
            Self::PeerUri => "DOWNSTREAM_PEER_URI_SAN",
            Self::Environment => "ENVIRONMENT",
        };
        f.write_str(name)
    }
}

impl fmt::Display for HeaderSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(otherwise) = &self.otherwise {
            write!(f, "?{otherwise}")?;
        }
        match self.limit {
            Some(limit) => write!(f, ":{limit}"),
            None => Ok(()),
        }
    }
}
