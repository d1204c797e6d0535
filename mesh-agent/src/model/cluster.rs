//! Clusters: what a route can send to, which endpoints it has, and how they are talked to.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Balancer, ClientTls, Endpoints, Labels, LocalityPolicy, PodId, Protocol, RouteHash,
};

/// Names a cluster; displays as Istio does: `outbound|80|v1|reviews.default.svc.cluster.local`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClusterKey {
    /// Fully qualified Service name.
    pub host: Arc<str>,
    /// Service port.
    pub port: u16,
    /// Subset of the DestinationRule; `None` for all endpoints.
    pub subset: Option<Arc<str>>,
}

/// A set of endpoints and how to talk to them.
#[derive(Debug, PartialEq)]
pub struct Cluster {
    /// Its name.
    pub key: ClusterKey,
    /// What is spoken to the endpoints, where [`TrafficPolicy::http`] says nothing else.
    pub protocol: Protocol,
    /// How its endpoints are found.
    pub discovery: Discovery,
    /// The endpoints. Those that are not ready, and not on their way out, are never picked, but they count wherever the
    /// share of healthy endpoints does: for the spill-over from one place to the next and for `maxEjectionPercent`; with
    /// `minHealthPercent` they are left out, as in Istio. Empty where endpoints are found otherwise.
    pub endpoints: Endpoints,
    /// How they are talked to.
    pub policy: Arc<TrafficPolicy>,
}

/// How the endpoints of a cluster are found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Discovery {
    /// They are listed in [`Cluster::endpoints`].
    #[default]
    Listed,
    /// A headless Service: what a pod sends there goes to the address that the pod dialled; gateways use the list.
    Headless,
    /// `resolution: NONE`, or the load balancer `PASSTHROUGH`: whoever sends there has dialled the endpoint.
    Original,
    /// `resolution: DNS` and `DNS_ROUND_ROBIN`: their names are resolved, and resolved again.
    Dns {
        /// What is resolved.
        names: Vec<NamedEndpoint>,
        /// Whether every address of an answer is an endpoint (`DNS`), or only one at a time (`DNS_ROUND_ROBIN`).
        every_address: bool,
    },
}

/// One address that serves a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Pod address and container port.
    pub address: SocketAddr,
    /// The pod behind it, where known.
    pub pod: Option<PodId>,
    /// Its labels with where it runs, as [`crate::model::Pod::labels`], for `failoverPriority`; `None` where it has none.
    pub labels: Option<Arc<Labels>>,
    /// Where it is, as far as known.
    pub locality: Option<Arc<Locality>>,
    /// The node that it runs on, for [`TrafficPolicy::node_local`].
    pub node: Option<Arc<str>>,
    /// Its share among the endpoints of its locality; 1 where nobody says otherwise.
    pub weight: u32,
}

/// An endpoint whose address is to be looked up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedEndpoint {
    /// A DNS name, or an IP address that needs no looking up.
    pub name: Arc<str>,
    /// The port.
    pub port: u16,
    /// Its labels; `None` where it has none.
    pub labels: Option<Arc<Labels>>,
    /// Where it is, as far as known.
    pub locality: Option<Arc<Locality>>,
    /// Its share; 1 where nobody says otherwise.
    pub weight: u32,
}

/// A place: `region/zone/subzone`, each empty where unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Locality {
    /// `topology.kubernetes.io/region`.
    pub region: Arc<str>,
    /// `topology.kubernetes.io/zone`.
    pub zone: Arc<str>,
    /// `topology.istio.io/subzone`.
    pub subzone: Arc<str>,
}

/// How the endpoints of a cluster are talked to: the `trafficPolicy` that holds for it once all levels are laid over one
/// another (`istio-routing.md` 2.2). The default is what holds where no DestinationRule does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TrafficPolicy {
    /// `loadBalancer`.
    pub balancer: Balancer,
    /// `loadBalancer.consistentHash`, as the routes that lead here have it.
    pub hash: RouteHash,
    /// `loadBalancer.localityLbSetting`.
    pub locality: LocalityPolicy,
    /// `internalTrafficPolicy: Local` of the Service: only endpoints whose node is the client's may be picked.
    pub node_local: bool,
    /// `connectionPool`.
    pub pool: ConnectionPool,
    /// `outlierDetection`; `None`: nothing is ever ejected.
    pub outliers: Option<OutlierDetection>,
    /// `tls`; `None`: plain text.
    pub tls: Option<Arc<ClientTls>>,
    /// `proxyProtocol`.
    pub proxy_protocol: Option<ProxyProtocol>,
    /// `tunnel`: the endpoints are proxies, which connections that are not HTTP go through.
    pub tunnel: Option<Tunnel>,
    /// Which HTTP is spoken.
    pub http: UpstreamHttp,
}

/// `tunnel`, by CONNECT.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// `targetHost` and `targetPort`, as a proxy is asked for them.
    pub target: Arc<str>,
}

/// Which HTTP is spoken to the endpoints: `connectionPool.http.h2UpgradePolicy` and `useClientProtocol`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UpstreamHttp {
    /// What the port is declared as.
    #[default]
    AsDeclared,
    /// `UPGRADE`: HTTP/2.
    Http2,
    /// `useClientProtocol`: what the client speaks.
    AsClient,
}

/// `connectionPool`: limits of one proxy for one cluster. `None` is no limit.
#[derive(Clone, Debug, PartialEq)]
pub struct ConnectionPool {
    /// `tcp.maxConnections`.
    pub max_connections: Option<u32>,
    /// `tcp.connectTimeout`; Istio's default is 10 s.
    pub connect_timeout: Duration,
    /// `tcp.tcpKeepalive`.
    pub keepalive: Option<Keepalive>,
    /// `tcp.maxConnectionDuration`.
    pub max_connection_duration: Option<Duration>,
    /// `tcp.idleTimeout`, for relayed connections; 1 h by default, zero is no limit.
    pub tcp_idle_timeout: Duration,
    /// `http.idleTimeout`, else `tcp.idleTimeout`: how long a connection may be without a request; 1 h by default, zero
    /// is no limit.
    pub http_idle_timeout: Duration,
    /// `http.http1MaxPendingRequests`: requests that wait for a connection.
    pub max_pending_requests: Option<u32>,
    /// `http.http2MaxRequests`: requests under way, of either version.
    pub max_requests: Option<u32>,
    /// `http.maxRetries`: retries under way.
    pub max_retries: Option<u32>,
    /// `http.maxRequestsPerConnection`; 1 disables keep-alive.
    pub max_requests_per_connection: Option<u32>,
    /// `http.maxConcurrentStreams` of one HTTP/2 connection.
    pub max_concurrent_streams: Option<u32>,
    /// `http.http2KeepAlive`, of an HTTP/2 connection: how often it is asked whether it is alive, and how long it may
    /// take to answer.
    pub http2_keepalive: Option<(Duration, Duration)>,
    /// `retryBudget`: at most this share of the active requests may be retries, in percent, and the least number that
    /// is always allowed.
    pub retry_budget: Option<(f64, u32)>,
}

/// `tcpKeepalive`. What is `None` is the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Keepalive {
    /// `probes`.
    pub probes: Option<u32>,
    /// `time`: idle time before the first probe.
    pub time: Option<Duration>,
    /// `interval` between probes.
    pub interval: Option<Duration>,
}

/// `outlierDetection` (`istio-routing.md` 2.4).
#[derive(Clone, Debug, PartialEq)]
pub struct OutlierDetection {
    /// `consecutive5xxErrors`: ejected after so many in a row; 5 by default, `None` is never (0).
    pub consecutive_5xx: Option<u32>,
    /// `consecutiveGatewayErrors`: 502, 503, 504 and local failures; never by default.
    pub consecutive_gateway: Option<u32>,
    /// `splitExternalLocalOriginErrors` with `consecutiveLocalOriginFailures`: where set, failures to connect count for
    /// themselves, and not as 5xx.
    pub consecutive_local: Option<u32>,
    /// `outlierDetectionHttpErrorCodes`: where not empty, only these count as errors.
    pub codes: Vec<u16>,
    /// `interval` between sweeps that let the ejected back in; 10 s by default.
    pub interval: Duration,
    /// `baseEjectionTime`, times the number of ejections; 30 s by default, 300 s at most.
    pub base_ejection_time: Duration,
    /// `maxEjectionPercent`; 10 by default, and looked at before the first ejection too.
    pub max_ejection_percent: u32,
    /// `minHealthPercent`: below it every endpoint takes part, ejected or not; 0 disables that.
    pub min_health_percent: u32,
}

/// `proxyProtocol`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    /// The line of text.
    V1,
    /// The binary header.
    V2,
}

impl Endpoint {
    /// An endpoint of which nothing but its address is known.
    pub fn at(address: SocketAddr) -> Self {
        Self {
            address,
            pod: None,
            labels: None,
            locality: None,
            node: None,
            weight: 1,
        }
    }
}

impl Default for ConnectionPool {
    fn default() -> Self {
        Self {
            max_connections: None,
            connect_timeout: Duration::from_secs(10),
            keepalive: None,
            max_connection_duration: None,
            tcp_idle_timeout: Duration::from_secs(3600),
            http_idle_timeout: Duration::from_secs(3600),
            max_pending_requests: None,
            max_requests: None,
            max_retries: None,
            max_requests_per_connection: None,
            max_concurrent_streams: None,
            http2_keepalive: None,
            retry_budget: None,
        }
    }
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: Some(5),
            consecutive_gateway: None,
            consecutive_local: None,
            codes: Vec::new(),
            interval: Duration::from_secs(10),
            base_ejection_time: Duration::from_secs(30),
            max_ejection_percent: 10,
            min_health_percent: 0,
        }
    }
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "outbound|{}|{}|{}",
            self.port,
            self.subset.as_deref().unwrap_or_default(),
            self.host
        )
    }
}

impl fmt::Display for Locality {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.region, self.zone, self.subzone)
    }
}
