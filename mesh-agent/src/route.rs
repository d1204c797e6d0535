//! Where a connection or a request goes: pure decisions over a [`Snapshot`].
//!
//! No I/O, no clock, no randomness but what the caller hands in. The proxy calls these, and so do `explain` and the
//! tests, so what they say is what happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    ClientMatch, Cluster, ClusterKey, Destination, Endpoint, Forward, Labels, Pod, Protocol, Route,
    RouteAction, RouteTable, Snapshot,
};

mod gateway;
mod host;
mod path;

/// Who opened the connection.
#[derive(Clone, Copy, Debug)]
pub enum Client<'a> {
    /// A pod of the mesh.
    Pod(&'a Pod),
    /// A gateway pod, with its labels.
    Gateway {
        /// Kubernetes namespace of the gateway pod.
        namespace: &'a str,
        /// Its labels.
        labels: &'a Labels,
    },
}

/// What is to be done with a connection that a pod opened.
#[derive(Clone, Debug)]
pub enum Outbound {
    /// Requests are routed by `table`. Bytes that are not HTTP are relayed to where the client meant them to go.
    Http(HttpScope),
    /// The first bytes tell: HTTP is routed by `scope`, anything else is relayed to `otherwise`.
    Detect {
        /// For requests.
        scope: HttpScope,
        /// For everything else.
        otherwise: Arc<Cluster>,
    },
    /// Relay to one endpoint of the cluster, without looking at a byte.
    Tcp(Arc<Cluster>),
    /// Nobody knows the destination: relay to it.
    Passthrough,
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
    },
}

/// What is known of a request.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// Host header or `:authority`, as sent, port included.
    pub authority: &'a str,
    /// Path without query, never empty.
    pub path: &'a str,
}

/// What is to be done with a request.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// Send it to one of the endpoints of a cluster.
    Forward(Forwarding),
    /// No virtual host took it: send it to the connection's original destination.
    Passthrough,
    /// Answer it here.
    Reply(Reply),
}

/// A request on its way.
#[derive(Clone, Debug, PartialEq)]
pub struct Forwarding {
    /// Where it goes. It may have no endpoint, which is a 503 `UH`.
    pub cluster: Arc<Cluster>,
    /// The path to send, without query; `None` leaves it as it is.
    pub path: Option<String>,
    /// The Host to send; `None` leaves it as it is.
    pub authority: Option<Arc<str>>,
    /// From the end of the request to the end of the response.
    pub timeout: Option<Duration>,
    /// Tries after the first.
    pub retries: u32,
    /// For the log.
    pub route: Arc<str>,
}

/// Why a request is answered by the proxy itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// 404, flag `NR`: no virtual host, or none of its routes matched.
    NoRoute,
    /// 503, flag `NC`, empty body: the route names a cluster that does not exist.
    NoCluster(ClusterKey),
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

/// Decides over a connection that a pod opened to `destination`.
///
/// An HTTP port is one listener for the whole mesh, so there the Host decides, whichever address was dialled. Other
/// ports belong to the address.
pub fn outbound(snapshot: &Snapshot, destination: SocketAddr) -> Outbound {
    let port = destination.port();
    let requests = || match snapshot.mesh.contains_key(&port) {
        true => Outbound::Http(HttpScope::Mesh { port }),
        false => Outbound::Passthrough,
    };
    let Some(service) = snapshot.addresses.get(&destination.ip()) else {
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
    let key = ClusterKey {
        host: Arc::clone(&service.host),
        port,
        subset: None,
    };
    let Some(cluster) = snapshot.clusters.get(&key) else {
        return requests();
    };
    match declared.protocol {
        Protocol::Http | Protocol::Http2 => requests(),
        Protocol::Auto => Outbound::Detect {
            scope: HttpScope::Service {
                host: key.host,
                port,
            },
            otherwise: Arc::clone(cluster),
        },
        // What was sent to one pod of a headless Service goes to that pod.
        Protocol::Tls | Protocol::Tcp if cluster.original_destination => Outbound::Passthrough,
        Protocol::Tls | Protocol::Tcp => Outbound::Tcp(Arc::clone(cluster)),
        Protocol::Udp => Outbound::Passthrough,
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
    let found = match scope {
        HttpScope::Mesh { port } => match snapshot.mesh.get(port) {
            Some(table) => mesh_route(table, client, request),
            None => Found::Nothing,
        },
        HttpScope::Service { host, port } => {
            let ports = snapshot.undeclared.get(host);
            match ports.and_then(|ports| ports.get(port)) {
                Some(host) => host::route(host, client, request.path),
                // The port has gone, or has a protocol now.
                None => Found::Nothing,
            }
        }
        HttpScope::Gateway { port } => gateway::route(snapshot, *port, client, request),
    };
    match (found, scope) {
        (Found::Route(route), _) => follow(snapshot, route, client, request, pick),
        (Found::NoRoute, _) | (Found::Nothing, HttpScope::Gateway { .. }) => {
            Decision::Reply(Reply::NoRoute)
        }
        (Found::Nothing, HttpScope::Mesh { .. } | HttpScope::Service { .. }) => {
            Decision::Passthrough
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
    Route(&'a Route),
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
    route: &Route,
    client: &Client<'_>,
    request: &Request<'_>,
    pick: &mut dyn Pick,
) -> Decision {
    let RouteAction::Forward(forward) = &route.action;
    let Some(destination) = draw(forward, pick) else {
        return Decision::Reply(Reply::NoRoute);
    };
    let Some(cluster) = snapshot.cluster(&destination.cluster, client.namespace()) else {
        return Decision::Reply(Reply::NoCluster(destination.cluster.clone()));
    };
    let uri = route.when.uri.as_ref();
    Decision::Forward(Forwarding {
        cluster: Arc::clone(cluster),
        path: forward
            .rewrite_uri
            .as_deref()
            .map(|rewrite| path::rewrite(uri, request.path, rewrite)),
        authority: forward.rewrite_authority.clone(),
        timeout: forward.timeout,
        retries: forward.retry.attempts,
        route: Arc::clone(&route.name),
    })
}

/// One of the destinations, by weight.
fn draw<'f>(forward: &'f Forward, pick: &mut dyn Pick) -> Option<&'f Destination> {
    if let [only] = forward.destinations.as_slice() {
        return Some(only);
    }
    let mut drawn = pick.pick(forward.total_weight.max(1));
    forward.destinations.iter().find(|destination| {
        let weight = u64::from(destination.weight);
        let hit = drawn < weight;
        drawn = drawn.saturating_sub(weight);
        hit
    })
}

impl<'a> Client<'a> {
    fn namespace(&self) -> &'a str {
        match self {
            Self::Pod(pod) => &pod.id.namespace,
            Self::Gateway { namespace, .. } => namespace,
        }
    }

    fn labels(&self) -> &'a Labels {
        match self {
            Self::Pod(pod) => &pod.labels,
            Self::Gateway { labels, .. } => labels,
        }
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
                .all(|(key, value)| self.labels().get(key) == Some(value))
    }
}

#[cfg(test)]
mod tests;
