//! Where a connection or a request goes: pure decisions over a [`Snapshot`].
//!
//! No I/O, no clock, no randomness but what the caller hands in. The proxy calls these, and so do `explain` and the
//! tests, so what they say is what happens.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::model::{
    Abort, Cluster, ClusterKey, HashKey, Outlook, Pod, Protocol, Route, RouteTable, Snapshot,
    Unknown, VirtualHost,
};

pub use crate::route::balance::{
    NewCookie, Tried, endpoint, hash_of, hash_of_source, hash_of_text,
};
pub use crate::route::gateway::{AtGateway, Opening, Secure, at_gateway, secure};
pub use crate::route::matching::{Mismatch, mismatch, stranger};
pub use crate::route::stream::{needs_server_name, stream};

mod action;
pub mod balance;
mod cors;
#[cfg(test)]
pub(crate) mod fixture;
mod gateway;
pub mod host;
mod matching;
mod path;
mod redirect;
pub mod stream;

/// Who opened the connection.
#[derive(Clone, Copy, Debug)]
pub enum Client<'a> {
    /// A pod of the mesh.
    Pod(&'a Pod),
    /// A client of a gateway, which this is the pod of.
    Gateway(&'a Pod),
}

/// What is to be done with a connection that a pod opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outbound {
    /// Requests are routed by the scope. Bytes that are not HTTP are relayed to where the client meant them to go, or
    /// refused, as what nobody knows is.
    Http(HttpScope),
    /// The first bytes tell: HTTP is routed by `scope`, anything else by `otherwise`.
    Detect {
        /// For requests.
        scope: HttpScope,
        /// For everything else.
        otherwise: StreamScope,
    },
    /// Relayed, by [`stream`].
    Stream(StreamScope),
}

/// Which table routes the requests of a connection. Kept by value: the table itself is looked up per request, so that
/// a connection that outlives a snapshot is routed by the newest one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HttpScope {
    /// The mesh's table of this Service port.
    Mesh {
        /// Service port.
        port: u16,
    },
    /// The private table of one Service port: every Host is that Service (ports without a declared protocol).
    Service {
        /// Fully qualified Service name.
        host: Arc<str>,
        /// Service port.
        port: u16,
    },
    /// The servers of this gateway's port.
    Gateway {
        /// `servers[].port.number`.
        port: u16,
        /// [`crate::model::SecureServer::name`] of the server that opened the TLS; `None` in the clear.
        server: Option<Arc<str>>,
    },
}

/// Which table routes a connection that is not HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StreamScope {
    /// Of one Service port.
    Service {
        /// Fully qualified Service name.
        host: Arc<str>,
        /// Service port.
        port: u16,
    },
    /// Of this gateway's port.
    Gateway {
        /// `servers[].port.number`.
        port: u16,
        /// [`crate::model::SecureServer::name`]; `None` on a port without TLS.
        server: Option<Arc<str>>,
    },
    /// Of this port, to whatever address: ServiceEntries that have none.
    Port(u16),
    /// None: nobody knows the destination.
    Unknown,
}

/// What is known of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Host header or `:authority`, as sent, port included.
    pub authority: &'a str,
    /// Path without query, normalised, never empty.
    pub path: &'a str,
    /// What stands behind the `?`, as sent.
    pub query: Option<&'a str>,
    /// As sent.
    pub method: &'a str,
    /// `http` or `https`: `x-forwarded-proto` where that says so, else what the connection is.
    pub scheme: &'a str,
    /// The headers, as they were after this hop's own additions.
    pub headers: &'a HeaderMap,
    /// The client's address.
    pub source: IpAddr,
}

impl<'a> Request<'a> {
    /// The path with its query.
    fn path_and_query(&self) -> Cow<'a, str> {
        match self.query {
            Some(query) => format!("{}?{query}", self.path).into(),
            None => self.path.into(),
        }
    }
}

/// What is known of a connection that is not HTTP.
#[derive(Clone, Copy, Debug)]
pub struct Flow<'a> {
    /// Where the client meant it to go.
    pub destination: SocketAddr,
    /// The name that it asks for in its TLS, lower case.
    pub server_name: Option<&'a str>,
}

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// A route took it.
    Routed(Routed),
    /// No virtual host took it: send it to the connection's original destination.
    Passthrough,
    /// Answer it here.
    Reply(Reply),
}

/// A request that a route took. What is to be done comes in this order: delay, abort, CORS, action.
#[derive(Clone, Debug, PartialEq)]
pub struct Routed {
    /// The route.
    pub route: Arc<Route>,
    /// `fault.delay`, where this request drew it.
    pub delay: Option<Duration>,
    /// `fault.abort`, where this request drew it.
    pub abort: Option<Abort>,
    /// What `corsPolicy` says to this request.
    pub cors: CorsVerdict,
    /// What the route does with it.
    pub act: Act,
}

/// What a route's `corsPolicy` says to a request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CorsVerdict {
    /// Nothing: no policy, no `origin`, or one that is not allowed.
    #[default]
    Silent,
    /// A preflight is answered here with 200, with what is allowed, or with nothing (`unmatchedPreflights: IGNORE`).
    Preflight {
        /// Whether its origin is allowed.
        allowed: bool,
    },
    /// The response is to say that its origin is allowed.
    Allowed,
}

/// What a route does with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Act {
    /// Sends it to one of the endpoints of a cluster.
    Forward(Forwarding),
    /// Answers with [`crate::model::Redirect`]; this is the `location`.
    Redirect(String),
    /// Answers with [`crate::model::DirectResponse`].
    Respond,
    /// 503, flag `NC`, empty body: it names a cluster that does not exist.
    NoCluster(ClusterKey),
}

/// A request on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Forwarding {
    /// Where it goes. It may have no endpoint, which is a 503 `UH`.
    pub cluster: Arc<Cluster>,
    /// Which of the route's destinations that was; none where the route is no [`RouteAction::Forward`].
    pub destination: usize,
    /// The path to send, without query; `None` leaves it as it is.
    pub path: Option<String>,
    /// The Host to send: `rewrite.authority`. An edit of the headers may have another where this is `None`.
    pub authority: Option<Arc<str>>,
    /// What is hashed, where the cluster takes a hash: the keys of all of the route's destinations.
    pub hash: Vec<Arc<HashKey>>,
    /// Who gets a copy: those of the route's mirrors that this request drew.
    pub mirrors: Vec<Arc<Cluster>>,
}

/// Why a request is answered by the proxy itself, without any route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// 404, flag `NR`: no virtual host, or none of its routes matched.
    NoRoute,
    /// 502, empty body: nobody knows the Host, and `REGISTRY_ONLY` holds.
    Refused,
    /// 301 to this `location`: `httpsRedirect`.
    Https(String),
}

/// Where a connection is relayed, and by whose word.
#[derive(Clone, Debug, PartialEq)]
pub struct Relaying {
    /// To an endpoint of this one.
    pub cluster: Arc<Cluster>,
    /// Whose policy says how long the connection may last, and whether its source is hashed: as in Istio, of several
    /// destinations the first one's Service, whichever takes the connection.
    pub conduct: Arc<Cluster>,
}

/// What is to be done with a connection that is not HTTP.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamDecision {
    /// Relay it to an endpoint of a cluster.
    Forward(Relaying),
    /// Relay it to where the client meant it to go.
    Passthrough,
    /// Close it.
    Refuse,
}

/// What is to be done with a connection that was opened to a pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inbound {
    /// Requests, served to the app in this protocol. [`Protocol::Auto`]: the first bytes tell.
    Http(Protocol),
    /// Relay to the app.
    Tcp,
}

/// A source of chance, so that tests can fix it.
pub trait Pick {
    /// A number in `0..below`, evenly spread; `below` is above 0.
    fn pick(&mut self, below: u64) -> u64;
}

/// What is known of endpoints at the moment of a choice. The proxy's side of balancing, so that tests can play it.
pub trait Condition {
    /// How many requests and connections an endpoint has from here.
    fn load(&self, address: SocketAddr) -> u32;
    /// Whether any endpoint of the cluster is ejected; spares the question for each of them.
    fn any_ejected(&self) -> bool {
        true
    }
    /// Whether it is ejected: `outlierDetection`.
    fn is_ejected(&self, address: SocketAddr) -> bool;
    /// How long it has been known; for `warmup`.
    fn age(&self, address: SocketAddr) -> Duration;
    /// Counts up with each call: the turn of a `ROUND_ROBIN` cluster.
    fn turn(&self) -> u64;
}

/// Decides over a connection that a pod opened to `destination`.
///
/// An HTTP port is one listener for the whole mesh, so there the Host decides, whichever address was dialled. Other
/// ports belong to the address; or, where ServiceEntries without an address have them, to nobody else.
pub fn outbound(snapshot: &Snapshot, client: &Client<'_>, destination: SocketAddr) -> Outbound {
    let outlook = snapshot.outlook(client.pod());
    let port = destination.port();
    let any_address = || {
        let scope = HttpScope::Mesh { port };
        let whole = outlook.whole_ports.contains_key(&port);
        match (outlook.mesh.contains_key(&port), whole) {
            (true, false) => Outbound::Http(scope),
            (true, true) => Outbound::Detect {
                scope,
                otherwise: StreamScope::Port(port),
            },
            (false, true) => Outbound::Stream(StreamScope::Port(port)),
            (false, false) => Outbound::Stream(StreamScope::Unknown),
        }
    };
    let Some((host, protocol)) = owner(outlook, destination) else {
        return any_address();
    };
    let host = Arc::clone(host);
    match protocol {
        Protocol::Http | Protocol::Http2 | Protocol::Udp => any_address(),
        Protocol::Auto => Outbound::Detect {
            scope: HttpScope::Service {
                host: Arc::clone(&host),
                port,
            },
            otherwise: StreamScope::Service { host, port },
        },
        Protocol::Tls | Protocol::Tcp => Outbound::Stream(StreamScope::Service { host, port }),
    }
}

/// The Service that has an address and port, and what is spoken there.
pub fn owner(outlook: &Outlook, destination: SocketAddr) -> Option<(&Arc<str>, Protocol)> {
    let address = destination.ip().to_canonical();
    let in_range = || {
        let mut ranges = outlook.ranges.iter();
        let (_, service) = ranges.find(|(range, _)| range.contains(&address))?;
        Some(service)
    };
    let service = outlook.addresses.get(&address).or_else(in_range)?;
    // One number may be there twice, for TCP and for UDP.
    let declared = service.ports.iter().find(|declared| {
        declared.number == destination.port() && declared.protocol != Protocol::Udp
    })?;
    Some((&service.host, declared.protocol))
}

/// Decides over a connection to `pod` on `port`.
pub fn inbound(pod: &Pod, port: u16) -> Inbound {
    match pod.inbound.get(&port).map(|port| port.protocol) {
        Some(protocol @ (Protocol::Http | Protocol::Http2 | Protocol::Auto)) => {
            Inbound::Http(protocol)
        }
        Some(Protocol::Tls | Protocol::Tcp | Protocol::Udp) | None => Inbound::Tcp,
    }
}

/// Decides over one request on a connection whose scope is `scope`.
pub fn decide(
    snapshot: &Snapshot,
    scope: &HttpScope,
    client: &Client<'_>,
    request: &Request<'_>,
    pick: &mut dyn Pick,
) -> Decision {
    let tls = matches!(
        scope,
        HttpScope::Gateway {
            server: Some(_),
            ..
        }
    );
    let mut follow =
        |route| Decision::Routed(action::follow(snapshot, route, client, request, tls, pick));
    match (find(snapshot, scope, client, request), scope) {
        (Found::Route(route), _) => follow(route),
        (Found::Insecure, _) => Decision::Reply(Reply::Https(redirect::https(request))),
        (Found::NoRoute, _) | (Found::Nothing, HttpScope::Gateway { .. }) => {
            Decision::Reply(Reply::NoRoute)
        }
        (Found::Nothing, HttpScope::Mesh { .. } | HttpScope::Service { .. }) => {
            match &snapshot.outlook(client.pod()).unknown {
                Unknown::Allow => Decision::Passthrough,
                Unknown::Refuse => Decision::Reply(Reply::Refused),
                Unknown::Through(route) => follow(route),
            }
        }
    }
}

/// What a scope looks its virtual hosts up in.
#[derive(Clone, Copy, Debug)]
pub enum Table<'a> {
    /// A table: the Host decides.
    Hosts(&'a RouteTable),
    /// One virtual host, whatever the Host is.
    Single(&'a VirtualHost),
}

/// The table of a scope; `None` where there is none any more.
pub fn table<'a>(
    snapshot: &'a Snapshot,
    scope: &HttpScope,
    client: &Client<'_>,
) -> Option<Table<'a>> {
    let outlook = snapshot.outlook(client.pod());
    match scope {
        HttpScope::Mesh { port } => outlook.mesh.get(port).map(|table| Table::Hosts(table)),
        HttpScope::Service { host, port } => {
            let host = outlook.undeclared.get(host)?.get(port)?;
            Some(Table::Single(host))
        }
        HttpScope::Gateway { port, server } => {
            gateway::table(snapshot, client, *port, server.as_deref()).map(Table::Hosts)
        }
    }
}

/// What a table has for a request.
#[derive(Clone, Copy, Debug)]
enum Found<'a> {
    /// The first route that matches.
    Route(&'a Arc<Route>),
    /// A virtual host, but none of its routes matches.
    NoRoute,
    /// A virtual host that answers nothing in the clear: `httpsRedirect`.
    Insecure,
    /// No virtual host.
    Nothing,
}

fn find<'a>(
    snapshot: &'a Snapshot,
    scope: &HttpScope,
    client: &Client<'_>,
    request: &Request<'_>,
) -> Found<'a> {
    match table(snapshot, scope, client) {
        None => Found::Nothing,
        Some(Table::Single(host)) => host::route(host, client, request),
        Some(Table::Hosts(table)) => {
            let name = host::Name::of(request.authority);
            let mut found = host::candidates(table, client, name.as_str())
                .map(|host| host::route(host, client, request));
            found
                .find(|found| !matches!(found, Found::Nothing))
                .unwrap_or(Found::Nothing)
        }
    }
}

impl<'a> Client<'a> {
    /// The pod that decides: the client itself, or the gateway that it came to.
    pub fn pod(&self) -> &'a Pod {
        match self {
            Self::Pod(pod) | Self::Gateway(pod) => pod,
        }
    }

    /// The cluster that it means by `key`.
    pub fn cluster<'s>(
        &self,
        snapshot: &'s Snapshot,
        key: &ClusterKey,
    ) -> Option<&'s Arc<Cluster>> {
        match self {
            Self::Pod(pod) => snapshot.cluster_for_pod(key, pod),
            Self::Gateway(pod) => snapshot.cluster_for_gateway(key, pod),
        }
    }

    /// Its namespace.
    fn namespace(&self) -> &'a str {
        &self.pod().id.namespace
    }
}

#[cfg(test)]
mod tests;
