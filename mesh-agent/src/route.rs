//! Where a connection or a request goes: pure decisions over a [`Snapshot`].
//!
//! No I/O, no clock, no randomness but what the caller hands in. The proxy calls these, and so do `explain` and the
//! tests, so what they say is what happens.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;

use crate::model::{
    Abort, ClientMatch, Cluster, ClusterKey, Destination, Endpoint, Forward, Pod, Protocol, Route,
    RouteAction, RouteTable, Snapshot, StreamTable, Unknown,
};

#[cfg(test)]
pub(crate) mod fixture;
mod gateway;
mod host;
mod path;

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

/// What is to be done with a connection that is not HTTP.
#[derive(Clone, Debug, PartialEq)]
pub enum StreamDecision {
    /// Relay it to an endpoint of the cluster.
    Forward(Arc<Cluster>),
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
/// ports belong to the address.
pub fn outbound(snapshot: &Snapshot, client: &Client<'_>, destination: SocketAddr) -> Outbound {
    let port = destination.port();
    let outlook = snapshot.outlook(client.pod());
    let requests = || match outlook.mesh.contains_key(&port) {
        true => Outbound::Http(HttpScope::Mesh { port }),
        false => Outbound::Stream(StreamScope::Unknown),
    };
    let Some(service) = outlook.addresses.get(&destination.ip()) else {
        return requests();
    };
    // One number may be there twice, for TCP and for UDP.
    let declared = service
        .ports
        .iter()
        .find(|declared| declared.number == port && declared.protocol != Protocol::Udp);
    let Some(declared) = declared else {
        return requests();
    };
    let host = Arc::clone(&service.host);
    match declared.protocol {
        Protocol::Http | Protocol::Http2 => requests(),
        Protocol::Auto => Outbound::Detect {
            scope: HttpScope::Service {
                host: Arc::clone(&host),
                port,
            },
            otherwise: StreamScope::Service { host, port },
        },
        Protocol::Tls | Protocol::Tcp => Outbound::Stream(StreamScope::Service { host, port }),
        Protocol::Udp => Outbound::Stream(StreamScope::Unknown),
    }
}

/// Whether [`stream`] needs the name that the client asks for in its TLS.
pub fn needs_server_name(snapshot: &Snapshot, client: &Client<'_>, scope: &StreamScope) -> bool {
    stream_table(snapshot, client, scope).is_some_and(StreamTable::needs_server_name)
}

/// Decides over a connection that is not HTTP.
pub fn stream(
    snapshot: &Snapshot,
    client: &Client<'_>,
    scope: &StreamScope,
    flow: &Flow<'_>,
    pick: &mut dyn Pick,
) -> StreamDecision {
    let _ = (flow, pick);
    let unknown = || match snapshot.outlook(client.pod()).unknown {
        Unknown::Allow | Unknown::Through(_) => StreamDecision::Passthrough,
        Unknown::Refuse => StreamDecision::Refuse,
    };
    match scope {
        StreamScope::Service { host, port } => {
            let key = ClusterKey {
                host: Arc::clone(host),
                port: *port,
                subset: None,
            };
            match snapshot.cluster(&key, client.namespace()) {
                Some(cluster) => StreamDecision::Forward(Arc::clone(cluster)),
                None => unknown(),
            }
        }
        StreamScope::Gateway { .. } => StreamDecision::Refuse,
        StreamScope::Port(_) | StreamScope::Unknown => unknown(),
    }
}

fn stream_table<'a>(
    snapshot: &'a Snapshot,
    client: &Client<'_>,
    scope: &StreamScope,
) -> Option<&'a StreamTable> {
    match scope {
        StreamScope::Service { host, port } => {
            let outlook = snapshot.outlook(client.pod());
            outlook.streams.get(host)?.get(port)
        }
        StreamScope::Port(port) => snapshot.outlook(client.pod()).whole_ports.get(port),
        StreamScope::Gateway { .. } | StreamScope::Unknown => None,
    }
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
    let outlook = snapshot.outlook(client.pod());
    let found = match scope {
        HttpScope::Mesh { port } => match outlook.mesh.get(port) {
            Some(table) => mesh_route(table, client, request),
            None => Found::Nothing,
        },
        HttpScope::Service { host, port } => {
            let ports = outlook.undeclared.get(host);
            match ports.and_then(|ports| ports.get(port)) {
                Some(host) => host::route(host, client, request.path),
                // The port has gone, or has a protocol now.
                None => Found::Nothing,
            }
        }
        HttpScope::Gateway { port, server } => {
            match gateway::table(snapshot, client, *port, server.as_deref()) {
                Some(table) => mesh_route(table, client, request),
                None => Found::Nothing,
            }
        }
    };
    match (found, scope) {
        (Found::Route(route), _) => {
            Decision::Routed(follow(snapshot, route, client, request, pick))
        }
        (Found::NoRoute, _) | (Found::Nothing, HttpScope::Gateway { .. }) => {
            Decision::Reply(Reply::NoRoute)
        }
        (Found::Nothing, HttpScope::Mesh { .. } | HttpScope::Service { .. }) => {
            match &outlook.unknown {
                Unknown::Allow => Decision::Passthrough,
                Unknown::Refuse => Decision::Reply(Reply::Refused),
                Unknown::Through(route) => {
                    Decision::Routed(follow(snapshot, route, client, request, pick))
                }
            }
        }
    }
}

/// Which endpoint of `cluster` takes a request: the less busy of two drawn by chance, as Istio's default
/// `LEAST_REQUEST`. `load` says how busy an endpoint is. `None` where the cluster has none. Endpoints in `tried` are
/// avoided while there is another.
pub fn endpoint(
    cluster: &Cluster,
    tried: &[SocketAddr],
    load: impl Fn(SocketAddr) -> u32,
    pick: &mut dyn Pick,
) -> Option<SocketAddr> {
    let fresh = |endpoint: &&Endpoint| !tried.contains(&endpoint.address);
    let count = cluster.endpoints.iter().filter(fresh).count();
    let (avoid, count) = match count {
        0 => (false, cluster.endpoints.len()),
        count => (!tried.is_empty(), count),
    };
    let nth = |index: u64| {
        let mut candidates = cluster
            .endpoints
            .iter()
            .filter(|endpoint| !avoid || fresh(endpoint));
        let index = usize::try_from(index).ok()?;
        candidates.nth(index).map(|endpoint| endpoint.address)
    };
    let count = u64::try_from(count).ok()?;
    match count {
        0 => None,
        1 => nth(0),
        _ => {
            let first = pick.pick(count);
            // The second is drawn among the others, so the two are never the same.
            let second = (first + 1 + pick.pick(count - 1)) % count;
            let (first, second) = (nth(first)?, nth(second)?);
            Some(if load(second) < load(first) {
                second
            } else {
                first
            })
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
    /// No virtual host.
    Nothing,
}

fn mesh_route<'a>(table: &'a RouteTable, client: &Client<'_>, request: &Request<'_>) -> Found<'a> {
    let name = host::Name::of(request.authority);
    let name = name.as_str();
    let local = table.local.get(client.namespace());
    let exact = table.exact.get(name);
    let local_exact = local.and_then(|local| local.exact.get(name));
    let mut candidates = exact
        .into_iter()
        .chain(local_exact)
        .chain(host::wildcards(table, local, name));
    candidates
        .find_map(|host| match host::route(host, client, request.path) {
            Found::Nothing => None,
            found => Some(found),
        })
        .unwrap_or(Found::Nothing)
}

fn follow(
    snapshot: &Snapshot,
    route: &Arc<Route>,
    client: &Client<'_>,
    request: &Request<'_>,
    pick: &mut dyn Pick,
) -> Routed {
    let act = match &route.action {
        RouteAction::Forward(forward) => {
            let (index, destination) = draw(forward, pick);
            match snapshot.cluster(&destination.cluster, client.namespace()) {
                None => Act::NoCluster(destination.cluster.clone()),
                Some(cluster) => Act::Forward(Forwarding {
                    cluster: Arc::clone(cluster),
                    destination: index,
                    path: forward.rewrite_path.as_ref().map(|rewrite| {
                        path::rewrite(route.when.uri.as_ref(), request.path, rewrite)
                    }),
                    authority: forward.rewrite_authority.clone(),
                    mirrors: Vec::new(),
                }),
            }
        }
        RouteAction::Redirect(_) => Act::Redirect(String::new()),
        RouteAction::Respond(_) => Act::Respond,
    };
    Routed {
        route: Arc::clone(route),
        delay: None,
        abort: None,
        cors: CorsVerdict::Silent,
        act,
    }
}

/// One of the destinations, by weight, and its place among them.
fn draw<'f>(forward: &'f Forward, pick: &mut dyn Pick) -> (usize, &'f Destination) {
    let destinations = forward.destinations.as_slice();
    if let [only] = destinations {
        return (0, only);
    }
    let mut drawn = pick.pick(forward.total_weight.max(1));
    let hit = destinations.iter().position(|destination| {
        let weight = u64::from(destination.weight);
        let hit = drawn < weight;
        drawn = drawn.saturating_sub(weight);
        hit
    });
    // The total is the sum, so one is always hit.
    let index = hit.unwrap_or(0);
    (index, &destinations[index])
}

impl<'a> Client<'a> {
    /// The pod that decides: the client itself, or the gateway that it came to.
    pub fn pod(&self) -> &'a Pod {
        match self {
            Self::Pod(pod) | Self::Gateway(pod) => pod,
        }
    }

    fn namespace(&self) -> &'a str {
        &self.pod().id.namespace
    }

    /// Whether a route is for this client at all.
    fn concerned_by(&self, condition: &ClientMatch) -> bool {
        let ClientMatch {
            labels,
            namespace,
            exported_to,
        } = condition;
        let own = self.namespace();
        namespace.as_deref().is_none_or(|wanted| wanted == own)
            && exported_to
                .as_ref()
                .is_none_or(|names| names.iter().any(|name| &**name == own))
            && labels
                .iter()
                .all(|(key, value)| self.pod().labels.get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests;
