//! Routes: which requests and connections they are for, and what they do with them.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, StatusCode};
use ipnet::IpNet;

use crate::model::{ClusterKey, HeaderEdits, Labels, SharedMap};

pub use crate::model::route::list::Routes;
pub use crate::model::route::suffixes::Suffixes;

mod list;
mod suffixes;

/// The virtual hosts that share one port.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RouteTable {
    /// Hosts without a wildcard, lower case, without port.
    pub exact: SharedMap<Arc<str>, Arc<VirtualHost>>,
    /// Hosts that begin with `*.`.
    pub suffixes: Suffixes,
    /// `*`.
    pub any: Option<Arc<VirtualHost>>,
    /// Names that only the clients of a namespace may use: there, `reviews` is the Service next door.
    pub local: SharedMap<Arc<str>, Arc<RouteTable>>,
}

/// A set of hosts with one list of routes.
#[derive(Debug, PartialEq)]
pub struct VirtualHost {
    /// The host it was written for, for logs.
    pub name: Arc<str>,
    /// In order: the first that matches wins; none matching is a 404.
    pub routes: Routes,
    /// `tls.httpsRedirect` of a gateway's server: a request that did not come over TLS is sent to `https://`, with 301.
    pub https_redirect: bool,
    /// What stands in for this one where, by who the client is, none of its routes concerns it.
    pub next: Option<Arc<VirtualHost>>,
}

/// One match block of one rule of a VirtualService, or the plain route of a Service.
#[derive(Clone, Debug, PartialEq)]
pub struct Route {
    /// `http[].name`, with `.` and the match's name where it has one; `default` for the plain route of a Service.
    pub name: Arc<str>,
    /// The object that it was written in, `namespace/name`, and the rule's place in it; `None` for a plain route.
    pub origin: Option<(Arc<str>, usize)>,
    /// What must hold for the route to apply.
    pub when: RouteMatch,
    /// What is done.
    pub action: RouteAction,
    /// `corsPolicy`.
    pub cors: Option<Cors>,
}

/// Conditions; all must hold, absent ones hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// `match.uri`, on the path without query.
    pub uri: Option<PathMatch>,
    /// `match.scheme`.
    pub scheme: Option<TextMatch>,
    /// `match.method`.
    pub method: Option<TextMatch>,
    /// `match.authority`: the whole authority, port included, case as sent.
    pub authority: Option<TextMatch>,
    /// `match.headers` and `match.withoutHeaders`.
    pub headers: Vec<HeaderMatch>,
    /// `match.queryParams`.
    pub query: Vec<QueryMatch>,
    /// Which clients it concerns: what is known before the request.
    pub client: ClientMatch,
}

/// Conditions on who asks, decided by the pod alone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientMatch {
    /// `match.sourceLabels`: a subset of the client pod's labels.
    pub labels: Labels,
    /// `match.sourceNamespace`.
    pub namespace: Option<Arc<str>>,
    /// `exportTo` of the VirtualService: the namespaces of its clients; `None` is all of them.
    pub exported_to: Option<Vec<Arc<str>>>,
}

/// `match.uri`.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// The whole path.
    Exact(Arc<str>),
    /// The path's first characters; no notion of segments.
    Prefix(Arc<str>),
    /// As `Exact`, ASCII case ignored.
    ExactIgnoreCase(Arc<str>),
    /// As `Prefix`, ASCII case ignored.
    PrefixIgnoreCase(Arc<str>),
    /// The whole path, in RE2's syntax; compiled with anchors.
    Regex(regex::Regex),
}

/// Istio's `StringMatch`.
#[derive(Clone, Debug)]
pub enum TextMatch {
    /// The whole text.
    Exact(Arc<str>),
    /// Its beginning.
    Prefix(Arc<str>),
    /// The whole text, in RE2's syntax; compiled with anchors.
    Regex(regex::Regex),
    /// It is there: `{}`, `null`, or the regex `*`. For headers and query parameters alone.
    Present,
}

/// One of `match.headers` or `match.withoutHeaders`. A header that is absent passes nothing but, inverted, presence,
/// and whatever an empty value would not match.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderMatch {
    /// What is looked at.
    pub subject: HeaderSubject,
    /// What it must be.
    pub value: TextMatch,
    /// `withoutHeaders`.
    pub inverted: bool,
}

/// A header, one of HTTP/2's pseudo headers, or what is written like one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderSubject {
    /// A header.
    Header(HeaderName),
    /// `:method`.
    Method,
    /// `:path`, with its query.
    Path,
    /// `:authority`.
    Authority,
    /// `:scheme`.
    Scheme,
    /// `@request.auth.claims...`: a claim of a token that was checked. Nobody checks tokens here, so no request has any.
    Claim(Arc<str>),
}

/// One of `match.queryParams`: the first parameter of that name, as sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryMatch {
    /// Its name.
    pub name: Arc<str>,
    /// What its value must be.
    pub value: TextMatch,
}

/// What a route does.
#[derive(Clone, Debug, PartialEq)]
pub enum RouteAction {
    /// Send the request to one of the destinations.
    Forward(Forward),
    /// `redirect`.
    Redirect(Redirect),
    /// `directResponse`.
    Respond(DirectResponse),
}

/// Where a request may go and what is done to it on the way.
#[derive(Clone, Debug, PartialEq)]
pub struct Forward {
    /// Never empty. One destination takes everything, whatever its weight.
    pub destinations: Vec<Destination>,
    /// Sum of the weights; above 0 where there is more than one destination.
    pub total_weight: u64,
    /// `rewrite.uri` or `rewrite.uriRegexRewrite`.
    pub rewrite_path: Option<PathRewrite>,
    /// `rewrite.authority`: replaces the Host, and is stronger than any edit of it.
    pub rewrite_authority: Option<Arc<str>>,
    /// `timeout`: from the end of the request to the end of the response; `None` is no limit.
    pub timeout: Option<Duration>,
    /// How often, and after what, a request is tried again.
    pub retry: Retry,
    /// `fault`.
    pub fault: Fault,
    /// `mirror` and `mirrors`.
    pub mirrors: Vec<Mirror>,
}

/// How a path is rewritten.
#[derive(Clone, Debug)]
pub enum PathRewrite {
    /// `uri`: replaces the prefix that matched, or the whole path after an exact or regex match.
    Matched(Arc<str>),
    /// `uriRegexRewrite`: every match in the path is replaced; `\1` in the replacement has become `${1}`.
    Regex(regex::Regex, Arc<str>),
}

/// A share of the requests of a route.
#[derive(Clone, Debug, PartialEq)]
pub struct Destination {
    /// Whose share it is; may name a cluster that does not exist.
    pub cluster: ClusterKey,
    /// Whether `destination.port` names the port, or nobody had to: what is hashed depends on it.
    pub names_port: bool,
    /// The share, relative to the route's total.
    pub weight: u32,
    /// What is done to the request's headers: the rule's and the destination's operations, in Istio's order.
    pub request_headers: HeaderEdits,
    /// Likewise to the response's.
    pub response_headers: HeaderEdits,
}

/// The retries of a route (`istio-routing.md` 1.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first; 0 is none.
    pub attempts: u32,
    /// `retryOn`: after what.
    pub on: RetryOn,
    /// The numbers of `retryOn`: after which statuses.
    pub statuses: Vec<StatusCode>,
    /// `perTryTimeout`.
    pub per_try_timeout: Option<Duration>,
    /// `backoff`: the base of the wait between tries; 25 ms by default, ten times that at most.
    pub backoff: Option<Duration>,
    /// `retryIgnorePreviousHosts`: endpoints that were tried are avoided; true by default.
    pub avoid_previous: bool,
    /// `retryRemoteLocalities`: priorities that were tried are avoided.
    pub avoid_previous_priorities: bool,
}

/// `retryOn`, a word each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set of words, each of which may be there"
)]
#[expect(missing_docs, reason = "the names are Envoy's words")]
pub struct RetryOn {
    pub server_error_5xx: bool,
    pub gateway_error: bool,
    pub reset: bool,
    pub reset_before_request: bool,
    pub connect_failure: bool,
    pub envoy_ratelimited: bool,
    pub retriable_4xx: bool,
    pub refused_stream: bool,
    pub retriable_headers: bool,
    pub grpc_cancelled: bool,
    pub grpc_deadline_exceeded: bool,
    pub grpc_internal: bool,
    pub grpc_resource_exhausted: bool,
    pub grpc_unavailable: bool,
}

/// A share of the requests, in parts of a million: Istio's percentages, as Envoy draws them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Share(pub u32);

/// `fault`: what goes wrong on purpose. Delay and abort are drawn one by one, and the delay comes first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fault {
    /// `delay`.
    pub delay: Option<Delay>,
    /// `abort`.
    pub abort: Option<(Abort, Share)>,
}

/// `fault.delay`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Delay {
    /// `fixedDelay`.
    pub duration: Duration,
    /// `percentage`; nothing written is none.
    pub share: Share,
}

/// `fault.abort`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abort {
    /// `httpStatus`. Istio takes 200 to 600.
    Http(StatusCode),
    /// `grpcStatus`, as its number.
    Grpc(u8),
}

/// `mirror`, or one of `mirrors`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirror {
    /// Who gets the copy.
    pub cluster: ClusterKey,
    /// Of how many requests; all of them where nothing is written.
    pub share: Share,
}

/// `corsPolicy` (`istio-routing.md` 1.3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cors {
    /// `allowOrigins`; the exact `*` allows all.
    pub origins: Vec<TextMatch>,
    /// `allowMethods`, joined as they are sent; `None` where there is none.
    pub methods: Option<Arc<str>>,
    /// `allowHeaders`, likewise.
    pub headers: Option<Arc<str>>,
    /// `exposeHeaders`, likewise.
    pub expose: Option<Arc<str>>,
    /// `maxAge`, whole seconds.
    pub max_age: Option<u64>,
    /// `allowCredentials`.
    pub credentials: bool,
    /// `unmatchedPreflights` other than `IGNORE`: a preflight of an origin that is not allowed goes to the server.
    pub forward_unmatched: bool,
}

/// `redirect`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `redirectCode`: 301, 302, 303, 307 or 308.
    pub status: StatusCode,
    /// `scheme`; `None` keeps it.
    pub scheme: Option<Arc<str>>,
    /// `authority`; `None` keeps the request's, with its port.
    pub authority: Option<Arc<str>>,
    /// `port` and `derivePort`.
    pub port: RedirectPort,
    /// What becomes of the path.
    pub path: RedirectPath,
    /// What is done to the response's headers.
    pub response_headers: HeaderEdits,
}

/// The port of a redirect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RedirectPort {
    /// None is added, none is taken away.
    #[default]
    Kept,
    /// This one, unless it is the scheme's own: `port`, or `derivePort: FROM_REQUEST_PORT` with the port of the listener.
    Number(u16),
}

/// The path of a redirect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RedirectPath {
    /// Stays.
    #[default]
    Kept,
    /// `uri`: the whole path; the query stays unless this has one.
    Whole(Arc<str>),
    /// `prefixRewrite`: the prefix that matched.
    Prefix(Arc<str>),
}

/// `directResponse`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectResponse {
    /// `status`.
    pub status: StatusCode,
    /// `body`; empty where there is none.
    pub body: Bytes,
    /// What is done to the response's headers.
    pub response_headers: HeaderEdits,
}

/// Where the connections of one port go that are not HTTP: `tcp` and `tls` routes (`istio-routing.md` 1.6).
#[derive(Debug, Default, PartialEq)]
pub struct StreamTable {
    /// The most specific first: the first that matches wins. None matching: what nobody knows, or at a gateway the end.
    pub routes: Vec<StreamRoute>,
    /// What stands in for this one where, by who the client is, none of its routes concerns it.
    pub next: Option<Arc<StreamTable>>,
}

/// One match block of one `tcp` or `tls` rule.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamRoute {
    /// The object that it was written in, `namespace/name`, and the rule's field, such as `tcp[0]`; the Service's own route
    /// has none.
    pub origin: Option<(Arc<str>, Arc<str>)>,
    /// What must hold.
    pub when: StreamMatch,
    /// Never empty. One takes everything.
    pub destinations: Vec<Destination>,
    /// Sum of the weights.
    pub total_weight: u64,
}

/// Conditions on a connection; all must hold, empty ones hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StreamMatch {
    /// `sniHosts`, lower case, `*.x` included.
    pub server_names: Vec<Arc<str>>,
    /// `destinationSubnets`.
    pub subnets: Vec<IpNet>,
    /// Which clients it concerns.
    pub client: ClientMatch,
}

impl HeaderSubject {
    /// What is meant by a name; `None` where no header can have it.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":authority" => Self::Authority,
            ":scheme" => Self::Scheme,
            // As with Envoy, this is another name for it.
            _ if name.eq_ignore_ascii_case("host") => Self::Authority,
            _ => Self::Header(HeaderName::from_bytes(name.as_bytes()).ok()?),
        })
    }

    /// Its name.
    pub fn name(&self) -> &str {
        match self {
            Self::Header(name) => name.as_str(),
            Self::Method => ":method",
            Self::Path => ":path",
            Self::Authority => ":authority",
            Self::Scheme => ":scheme",
            Self::Claim(name) => name,
        }
    }
}

impl Destination {
    /// All of it, to a cluster, with nothing done to headers.
    pub fn whole(cluster: ClusterKey) -> Self {
        Self {
            cluster,
            names_port: true,
            weight: 0,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
        }
    }
}

impl StreamTable {
    /// Whether a decision needs the server name that the client asks for.
    pub fn needs_server_name(&self) -> bool {
        self.routes
            .iter()
            .any(|route| !route.when.server_names.is_empty())
            || self
                .next
                .as_ref()
                .is_some_and(|next| next.needs_server_name())
    }
}

impl RouteMatch {
    /// Whether every request passes, whoever the client is: nothing of a request could keep it out.
    pub fn takes_any_request(&self) -> bool {
        let Self {
            uri,
            scheme,
            method,
            authority,
            headers,
            query,
            client: _,
        } = self;
        uri.as_ref().is_none_or(PathMatch::takes_any_path)
            && scheme.is_none()
            && method.is_none()
            && authority.is_none()
            && headers.is_empty()
            && query.is_empty()
    }
}

impl ClientMatch {
    /// Whether every client passes.
    pub fn takes_anyone(&self) -> bool {
        self.labels.is_empty() && self.namespace.is_none() && self.exported_to.is_none()
    }
}

impl PathMatch {
    /// Whether every path passes.
    pub fn takes_any_path(&self) -> bool {
        match self {
            Self::Prefix(prefix) | Self::PrefixIgnoreCase(prefix) => matches!(&**prefix, "" | "/"),
            // As Istio has it, only the pattern that plainly says so counts.
            Self::Regex(regex) => regex.as_str() == r"\A(?:.*)\z",
            Self::Exact(_) | Self::ExactIgnoreCase(_) => false,
        }
    }
}

impl Share {
    /// All of them.
    pub const ALL: Self = Self(1_000_000);

    /// A percentage, as Istio makes it parts of a million: cut, not rounded.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "clamped to 0..=100 before"
    )]
    pub fn percent(value: f64) -> Self {
        Self((value.clamp(0.0, 100.0) * 10_000.0) as u32)
    }
}

impl RetryOn {
    /// Istio's default: `connect-failure,refused-stream,unavailable,cancelled,retriable-status-codes`.
    pub const DEFAULT: Self = Self {
        connect_failure: true,
        refused_stream: true,
        grpc_unavailable: true,
        grpc_cancelled: true,
        server_error_5xx: false,
        gateway_error: false,
        reset: false,
        reset_before_request: false,
        envoy_ratelimited: false,
        retriable_4xx: false,
        retriable_headers: false,
        grpc_deadline_exceeded: false,
        grpc_internal: false,
        grpc_resource_exhausted: false,
    };
}

impl fmt::Display for RetryOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = [
            (self.server_error_5xx, "5xx"),
            (self.gateway_error, "gateway-error"),
            (self.reset, "reset"),
            (self.reset_before_request, "reset-before-request"),
            (self.connect_failure, "connect-failure"),
            (self.envoy_ratelimited, "envoy-ratelimited"),
            (self.retriable_4xx, "retriable-4xx"),
            (self.refused_stream, "refused-stream"),
            (self.retriable_headers, "retriable-headers"),
            (self.grpc_cancelled, "cancelled"),
            (self.grpc_deadline_exceeded, "deadline-exceeded"),
            (self.grpc_internal, "internal"),
            (self.grpc_resource_exhausted, "resource-exhausted"),
            (self.grpc_unavailable, "unavailable"),
        ];
        let mut set = words.iter().filter(|(set, _)| *set);
        if let Some((_, first)) = set.next() {
            f.write_str(first)?;
        }
        set.try_for_each(|(_, word)| write!(f, ",{word}"))
    }
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: 2,
            on: RetryOn::DEFAULT,
            statuses: Vec::new(),
            per_try_timeout: None,
            backoff: None,
            avoid_previous: true,
            avoid_previous_priorities: false,
        }
    }
}

impl PartialEq for PathMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b))
            | (Self::Prefix(a), Self::Prefix(b))
            | (Self::ExactIgnoreCase(a), Self::ExactIgnoreCase(b))
            | (Self::PrefixIgnoreCase(a), Self::PrefixIgnoreCase(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            _ => false,
        }
    }
}

impl Eq for PathMatch {}

impl PartialEq for TextMatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(a), Self::Exact(b)) | (Self::Prefix(a), Self::Prefix(b)) => a == b,
            (Self::Regex(a), Self::Regex(b)) => a.as_str() == b.as_str(),
            (Self::Present, Self::Present) => true,
            _ => false,
        }
    }
}

impl Eq for TextMatch {}

impl PartialEq for PathRewrite {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Matched(a), Self::Matched(b)) => a == b,
            (Self::Regex(a, with_a), Self::Regex(b, with_b)) => {
                a.as_str() == b.as_str() && with_a == with_b
            }
            _ => false,
        }
    }
}
