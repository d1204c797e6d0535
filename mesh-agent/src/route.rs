//! Where a connection or a request goes: pure decisions over a [`Snapshot`].
//!
//! No I/O, no clock, no randomness but what the caller hands in. The proxy calls these, and so do `explain` and the
//! tests, so what they say is what happens.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{Cluster, ClusterKey, Labels, Pod, Protocol, RouteTable, Snapshot};

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

/// Decides over a connection that `client` opened to `destination`.
pub fn outbound(snapshot: &Snapshot, destination: SocketAddr) -> Outbound {
    let _ = (snapshot, destination);
    todo!("route::outbound")
}

/// Decides over a connection to `pod` on `port`.
pub fn inbound(pod: &Pod, port: u16) -> Inbound {
    let _ = (pod, port);
    todo!("route::inbound")
}

/// Decides over one request on a connection whose scope is `scope`.
pub fn decide(
    snapshot: &Snapshot,
    scope: &HttpScope,
    client: &Client<'_>,
    request: &Request<'_>,
    pick: &mut dyn Pick,
) -> Decision {
    let _ = (snapshot, scope, client, request, pick);
    let _: Option<&RouteTable> = None;
    todo!("route::decide")
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
    let _ = (cluster, tried, load, pick);
    todo!("route::endpoint")
}
