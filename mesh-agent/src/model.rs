//! The world as the agent believes it: validated, immutable, without a trace of YAML.
//!
//! [`crate::config`] compiles a [`Snapshot`] from the objects it was given, publishes it whole, and never changes it
//! again. Everything that decides something about a connection or a request takes one snapshot and keeps it until the
//! decision is made, so no decision sees two worlds. No I/O, no clock, no serde here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

pub use crate::model::policy::{CapturePolicy, CidrSet, FailPolicy, PortSet, SourceMode};

pub mod policy;

/// One consistent view of every object that the agent knows.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts up with each published snapshot; 0 is the empty world before the first one.
    pub generation: u64,
    /// Every Service, by fully qualified name such as `reviews.default.svc.cluster.local`.
    pub services: HashMap<Arc<str>, Arc<Service>>,
    /// The Service that owns an address: cluster IPs, and pod addresses for headless Services.
    pub addresses: HashMap<IpAddr, Arc<Service>>,
    /// Everything that a route can send to, by key, as most namespaces see it. A route may name a key that is not here:
    /// that is a 503 `NC`. Ask [`Snapshot::cluster`], which knows [`Snapshot::views`] too.
    pub clusters: HashMap<ClusterKey, Arc<Cluster>>,
    /// Where clients of a namespace see other subsets of a host than `clusters` has: by namespace and host.
    pub views: HashMap<Arc<str>, HashMap<Arc<str>, SubsetView>>,
    /// The mesh's HTTP route tables, one per Service port (`istio-routing.md` 1.0, step 1).
    pub mesh: BTreeMap<u16, RouteTable>,
    /// The private tables of ports without a declared protocol, by Service and port: every Host is that Service.
    pub undeclared: HashMap<Arc<str>, BTreeMap<u16, Arc<VirtualHost>>>,
    /// The ingress gateways that this world configures.
    pub gateways: Vec<GatewayServer>,
    /// Every Pod with an address, local or remote.
    pub pods: HashMap<PodId, Arc<Pod>>,
    /// Pods by address. Where two Pods claim one address, the one with a network namespace of this node wins.
    pub pods_by_address: HashMap<IpAddr, Arc<Pod>>,
}

/// The clusters of one host's subsets, as the clients of one namespace see them.
pub type SubsetView = HashMap<ClusterKey, Arc<Cluster>>;

/// A pod's namespace and name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId {
    /// The Kubernetes namespace.
    pub namespace: Arc<str>,
    /// The name within it.
    pub name: Arc<str>,
}

/// Labels of a pod.
pub type Labels = BTreeMap<Arc<str>, Arc<str>>;

/// A pod: a client, an endpoint, or both.
#[derive(Debug, PartialEq, Eq)]
pub struct Pod {
    /// Namespace and name.
    pub id: PodId,
    /// Kubernetes' uid, where the object has one: tells a pod from its namesake of a minute ago.
    pub uid: Option<Arc<str>>,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `status.podIPs`, first the primary one.
    pub addresses: Vec<IpAddr>,
    /// Whether the pod counts as an endpoint: the `Ready` condition, true where the object has none.
    pub ready: bool,
    /// What makes the pod local: how to find its network namespace.
    pub local: Option<LocalPod>,
    /// What the pod accepts, by container port: from the Services that select it.
    pub inbound: BTreeMap<u16, InboundPort>,
}

/// The part of a pod that only its own node cares about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// The pod's network namespace.
    pub netns: PathBuf,
    /// Whether the pod wants to be in the mesh.
    pub enrol: bool,
    /// Which of its connections are steered to the agent.
    pub capture: CapturePolicy,
}

/// What a pod serves on one of its ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InboundPort {
    /// The protocol of the Service port in front of it; the oldest Service's where several disagree.
    pub protocol: Protocol,
    /// The Service in front of it, fully qualified.
    pub service: Arc<str>,
}

/// The protocol of a Service port, from `appProtocol`, the port's name, or a well-known number (`istio-routing.md` 1.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 (or HTTP/2 with prior knowledge from the client); the server is spoken to in HTTP/1.1.
    Http,
    /// HTTP/2 or gRPC; the server is spoken to in HTTP/2.
    Http2,
    /// TLS that the mesh does not open: TCP with a server name.
    Tls,
    /// Anything else over TCP.
    Tcp,
    /// Undeclared: told by the first bytes.
    Auto,
    /// Not TCP; never proxied.
    Udp,
}

/// A Service.
#[derive(Debug, PartialEq, Eq)]
pub struct Service {
    /// Fully qualified name.
    pub host: Arc<str>,
    /// Kubernetes namespace.
    pub namespace: Arc<str>,
    /// Name within it.
    pub name: Arc<str>,
    /// Cluster IPs; empty for a headless Service.
    pub addresses: Vec<IpAddr>,
    /// Its ports, in written order.
    pub ports: Vec<ServicePort>,
}

/// One port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// The port that clients dial.
    pub number: u16,
    /// `name`, empty where there is only one.
    pub name: Arc<str>,
    /// What is spoken there.
    pub protocol: Protocol,
}

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
#[derive(Debug, PartialEq, Eq)]
pub struct Cluster {
    /// Its name.
    pub key: ClusterKey,
    /// What is spoken to the endpoints.
    pub protocol: Protocol,
    /// The endpoints that may be picked: ready ones only.
    pub endpoints: Vec<Endpoint>,
    /// The Service is headless: what a pod sends there goes to the address that the pod dialled, and the endpoints are
    /// for gateways.
    pub original_destination: bool,
}

/// One address that serves a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Pod address and container port.
    pub address: SocketAddr,
    /// The pod behind it, where known.
    pub pod: Option<PodId>,
}

/// The virtual hosts that share one port.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RouteTable {
    /// Hosts without a wildcard, lower case, without port.
    pub exact: HashMap<Arc<str>, Arc<VirtualHost>>,
    /// `*.foo.com` as `.foo.com`, longest first.
    pub suffixes: Vec<(Arc<str>, Arc<VirtualHost>)>,
    /// `*`.
    pub any: Option<Arc<VirtualHost>>,
    /// Names that only the clients of a namespace may use: there, `reviews` is the Service next door.
    pub local: HashMap<Arc<str>, RouteTable>,
}

/// A set of hosts with one list of routes.
#[derive(Debug, PartialEq, Eq)]
pub struct VirtualHost {
    /// The host it was written for, for logs.
    pub name: Arc<str>,
    /// In order: the first that matches wins; none matching is a 404.
    pub routes: Vec<Route>,
    /// What stands in for this one where, by who the client is, none of its routes concerns it.
    pub next: Option<Arc<VirtualHost>>,
}

/// One match block of one rule of a VirtualService, or the plain route of a Service.
#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// `http[].name`, with `.` and the match's name where it has one; `default` for the plain route of a Service.
    pub name: Arc<str>,
    /// What must hold for the route to apply.
    pub when: RouteMatch,
    /// What is done.
    pub action: RouteAction,
}

/// Conditions; all must hold, absent ones hold.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct RouteMatch {
    /// `match.uri`, on the path without query.
    pub uri: Option<PathMatch>,
    /// Which clients it concerns: what is known before the request.
    pub client: ClientMatch,
}

/// Conditions on who asks, decided by the pod alone.
#[derive(Debug, Default, PartialEq, Eq)]
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

/// What a route does.
#[derive(Debug, PartialEq, Eq)]
pub enum RouteAction {
    /// Send the request to one of the destinations.
    Forward(Forward),
}

/// Where a request may go and what is done to it on the way.
#[derive(Debug, PartialEq, Eq)]
pub struct Forward {
    /// Never empty. One destination takes everything, whatever its weight.
    pub destinations: Vec<Destination>,
    /// Sum of the weights; above 0 where there is more than one destination.
    pub total_weight: u64,
    /// `rewrite.uri`: replaces the prefix that matched, or the whole path after an exact or regex match.
    pub rewrite_uri: Option<Arc<str>>,
    /// `rewrite.authority`: replaces the Host.
    pub rewrite_authority: Option<Arc<str>>,
    /// `timeout`: from the end of the request to the end of the response; `None` is no limit.
    pub timeout: Option<std::time::Duration>,
    /// How often, and after what, a request is tried again.
    pub retry: Retry,
}

/// A share of the requests of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// Whose share it is; may name a cluster that does not exist.
    pub cluster: ClusterKey,
    /// The share, relative to the route's total.
    pub weight: u32,
}

/// The retries of a route (`istio-routing.md` 1.5). Issue A's agent knows the default alone: refused connections and
/// refused HTTP/2 streams, which no server has seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retry {
    /// Tries after the first.
    pub attempts: u32,
}

/// A server of a Gateway, bound to the pods that its selector finds.
#[derive(Debug, PartialEq, Eq)]
pub struct GatewayServer {
    /// Name of the Gateway.
    pub name: Arc<str>,
    /// Namespace.
    pub namespace: Arc<str>,
    /// The labels that a gateway pod must have; empty selects every gateway.
    pub selector: Labels,
    /// `servers[].port.number`: the port of the gateway's Service.
    pub port: u16,
    /// What is spoken on it.
    pub protocol: Protocol,
    /// The hosts of VirtualServices bound to it. Requests to no host in it get a 404.
    pub routes: RouteTable,
}

impl Snapshot {
    /// The cluster that a client of `namespace` means by `key`.
    pub fn cluster(&self, key: &ClusterKey, namespace: &str) -> Option<&Arc<Cluster>> {
        let view = self
            .views
            .get(namespace)
            .filter(|_| key.subset.is_some())
            .and_then(|hosts| hosts.get(&key.host));
        view.unwrap_or(&self.clusters).get(key)
    }
}

impl RouteMatch {
    /// Whether every request passes, whoever the client is: the path is all that could keep one out.
    pub fn takes_any_request(&self) -> bool {
        self.uri.as_ref().is_none_or(PathMatch::takes_any_path)
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

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
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

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 2 }
    }
}
