//! The world as the agent believes it: validated, immutable, without a trace of YAML.
//!
//! [`crate::config`] compiles a [`Snapshot`] from the objects it was given, publishes it whole, and never changes it
//! again. Everything that decides something about a connection or a request takes one snapshot and keeps it until the
//! decision is made, so no decision sees two worlds. No I/O, no clock, no serde here.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

pub use crate::model::balance::{
    Balancer, Failover, HashKey, LocalityPolicy, LocalityShare, Ring, RouteHash, Warmup,
};
pub use crate::model::cluster::{
    Cluster, ClusterKey, ConnectionPool, Discovery, Endpoint, Keepalive, Locality, NamedEndpoint,
    OutlierDetection, ProxyProtocol, TrafficPolicy, UpstreamHttp,
};
pub use crate::model::endpoints::{Endpoints, Group, HashTable, Members, Plan, Tier, Viewpoint};
pub use crate::model::gateway::{
    Gateway, GatewayListener, GatewayPort, Inside, SecureServer, SecureServers, Termination,
};
pub use crate::model::headers::{HeaderEdit, HeaderEdits, HeaderSource, Piece, Template, Variable};
pub use crate::model::policy::{CapturePolicy, CidrSet, FailPolicy, PortSet, SourceMode};
pub use crate::model::route::{
    Abort, ClientMatch, Cors, Delay, Destination, DirectResponse, Fault, Forward, HeaderMatch,
    HeaderSubject, Mirror, PathMatch, PathRewrite, QueryMatch, Redirect, RedirectPath,
    RedirectPort, Retry, RetryOn, Route, RouteAction, RouteMatch, RouteTable, Routes, Share,
    StreamMatch, StreamRoute, StreamTable, Suffixes, TextMatch, VirtualHost,
};
pub use crate::model::shared_map::SharedMap;
pub use crate::model::tls::{
    Certificate, ClientAuthentication, ClientTls, Credential, ServerTls, TlsVersion, TrustRoots,
    Verification,
};

pub mod balance;
pub mod cluster;
pub mod endpoints;
pub mod gateway;
pub mod headers;
pub mod policy;
pub mod route;
pub mod shared_map;
pub mod tls;

/// One consistent view of every object that the agent knows. A copy is cheap: copies share what they have in common.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Counts up with each published snapshot; 0 is the empty world before the first one.
    pub generation: u64,
    /// Every Service and every host of a ServiceEntry, by fully qualified name such as
    /// `reviews.default.svc.cluster.local`.
    pub services: SharedMap<Arc<str>, Arc<Service>>,
    /// Everything that a route can send to, by key, as most namespaces see it. A route may name a key that is not here:
    /// that is a 503 `NC`. Ask [`Snapshot::cluster_for_pod`] or [`Snapshot::cluster_for_gateway`], which know the
    /// views below too.
    pub clusters: SharedMap<ClusterKey, Arc<Cluster>>,
    /// Where clients of a namespace see other clusters of a host than `clusters` has: by namespace and host.
    pub views: HashMap<Arc<str>, HostViews>,
    /// Likewise for the pods of some labels, by [`Pod::view`]: the hosts that a DestinationRule with a
    /// `workloadSelector` concerns there.
    pub selected: Vec<HostViews>,
    /// Likewise for the gateways of a namespace: the hosts to which they alone open TLS, because what its
    /// `credentialName` names is for gateways.
    pub gateway_views: HashMap<Arc<str>, HostViews>,
    /// What the pods know that no Sidecar restricts. Ask [`Snapshot::outlook`], which knows `restricted` too.
    pub common: Outlook,
    /// What the pods know that a Sidecar selects, by [`Pod::outlook`].
    pub restricted: Vec<Arc<Outlook>>,
    /// What gateway pods serve, by [`Pod::gateway`]; first for those that only Gateways without a selector select.
    pub gateways: Vec<Arc<Gateway>>,
    /// Every Pod with an address, local or remote.
    pub pods: SharedMap<PodId, Arc<Pod>>,
    /// Pods by address. Where two Pods claim one address, the one with a network namespace of this node wins.
    pub pods_by_address: SharedMap<IpAddr, Arc<Pod>>,
}

/// The clusters of one host, as the clients of one namespace see them.
pub type ClusterView = HashMap<ClusterKey, Arc<Cluster>>;

/// The hosts whose clusters somebody sees otherwise than most do.
pub type HostViews = SharedMap<Arc<str>, Arc<ClusterView>>;

/// Which destinations a group of pods knows, and how what they send there is routed.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Outlook {
    /// The Service that owns an address: cluster IPs, the addresses of ServiceEntries, and pod addresses for headless
    /// Services.
    pub addresses: SharedMap<IpAddr, Arc<Service>>,
    /// The ServiceEntry that owns a range of addresses; the narrowest range first.
    pub ranges: Arc<[(IpNet, Arc<Service>)]>,
    /// What goes where on the TLS and TCP ports of ServiceEntries without an address: what is sent to such a port, to
    /// whatever address, is theirs (`istio-routing.md` 1.9).
    pub whole_ports: Arc<BTreeMap<u16, StreamTable>>,
    /// The mesh's HTTP route tables, one per Service port (`istio-routing.md` 1.0, step 1).
    pub mesh: BTreeMap<u16, Arc<RouteTable>>,
    /// The private tables of ports without a declared protocol, by Service and port: every Host is that Service.
    pub undeclared: SharedMap<Arc<str>, BTreeMap<u16, Arc<VirtualHost>>>,
    /// Where connections go that are not HTTP, by Service and port. A port that is not here has no `tcp` or `tls` route:
    /// it goes to the Service's own cluster.
    pub streams: SharedMap<Arc<str>, BTreeMap<u16, Arc<StreamTable>>>,
    /// What becomes of what nobody knows.
    pub unknown: Unknown,
}

/// What becomes of a connection or request whose destination no Service and no ServiceEntry knows:
/// `outboundTrafficPolicy` of the mesh or of a Sidecar.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Unknown {
    /// `ALLOW_ANY`: it goes where the client meant it to go.
    #[default]
    Allow,
    /// `REGISTRY_ONLY`: requests are answered with 502, connections are closed.
    Refuse,
    /// With `egressProxy`: all of it takes this route.
    Through(Arc<Route>),
}

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
#[derive(Debug, PartialEq)]
pub struct Pod {
    /// Namespace and name.
    pub id: PodId,
    /// Kubernetes' uid, where the object has one: tells a pod from its namesake of a minute ago.
    pub uid: Option<Arc<str>>,
    /// `metadata.labels`, and what Istio adds to them: where the pod runs, as `topology.kubernetes.io/region`,
    /// `topology.kubernetes.io/zone`, `topology.istio.io/subzone` and `kubernetes.io/hostname`.
    pub labels: Arc<Labels>,
    /// `status.podIPs`, first the primary one.
    pub addresses: Vec<IpAddr>,
    /// Whether the pod counts as an endpoint: the `Ready` condition, true where the object has none.
    pub ready: bool,
    /// What makes the pod local: how to find its network namespace.
    pub local: Option<LocalPod>,
    /// What the pod accepts, by container port: from the Services that select it.
    pub inbound: BTreeMap<u16, InboundPort>,
    /// Where it runs, as far as known.
    pub locality: Option<Arc<Locality>>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// Which of [`Snapshot::selected`] it has; `None` where no DestinationRule selects it.
    pub view: Option<usize>,
    /// Which of [`Snapshot::restricted`] it has; `None` where no Sidecar selects it.
    pub outlook: Option<usize>,
    /// Which of [`Snapshot::gateways`] it is, should it be one.
    pub gateway: usize,
    /// What stands before it, should it be a gateway.
    pub topology: Topology,
}

/// What stands before a gateway: `gatewayTopology` of its `ProxyConfig`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Topology {
    /// `numTrustedProxies`: how many proxies before it tell the truth in `x-forwarded-for` and `x-forwarded-proto`.
    pub trusted_proxies: u32,
    /// `proxyProtocol`: whether every connection begins with the PROXY protocol.
    pub proxy_protocol: bool,
}

impl Pod {
    /// A pod of which nothing is known but its name: without labels, addresses and Services, and ready.
    pub fn new(id: PodId) -> Self {
        Self {
            id,
            uid: None,
            labels: Arc::default(),
            addresses: Vec::new(),
            ready: true,
            local: None,
            inbound: BTreeMap::new(),
            locality: None,
            node: None,
            view: None,
            outlook: None,
            gateway: 0,
            topology: Topology::default(),
        }
    }
}

/// The part of a pod that only its own node cares about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalPod {
    /// Where the pod's network namespace is.
    pub netns: NetnsPlace,
    /// Whether the pod wants to be in the mesh.
    pub enrol: bool,
    /// Which of its connections are steered to the agent.
    pub capture: CapturePolicy,
}

/// How the network namespace of a pod is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NetnsPlace {
    /// It is mounted here.
    Path(PathBuf),
    /// It is that of the processes whose control groups bear this name: the pod's uid, as the kubelet knows it.
    Processes(Arc<str>),
}

impl fmt::Display for NetnsPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Path(path) => path.display().fmt(f),
            Self::Processes(uid) => write!(f, "of the processes of pod {uid}"),
        }
    }
}

/// What a pod serves on one of its ports.
#[derive(Clone, Debug, PartialEq)]
pub struct InboundPort {
    /// The protocol of the Service port in front of it; the oldest Service's where several disagree.
    pub protocol: Protocol,
    /// The Service in front of it, fully qualified.
    pub service: Arc<str>,
    /// The `connectionPool` of the DestinationRule that the pod itself would use for that Service: its limits hold for
    /// the way from the proxy to the app as well.
    pub pool: Arc<ConnectionPool>,
    /// `useClientProtocol` of that `connectionPool`, which holds there too; no other choice does.
    pub http: UpstreamHttp,
    /// Where the app listens.
    pub app: AppAddress,
}

/// Where a pod's app listens: `ingress[].defaultEndpoint` of a Sidecar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AppAddress {
    /// Where the connection was headed.
    #[default]
    Dialled,
    /// On this port of the loopback address.
    Loopback(u16),
    /// On this port of the pod's own address.
    Pod(u16),
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
///
/// A host of a ServiceEntry is one too: `namespace` is the entry's, `name` is its host.
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

impl Snapshot {
    /// The cluster that a pod of the mesh means by `key`.
    pub fn cluster_for_pod(&self, key: &ClusterKey, pod: &Pod) -> Option<&Arc<Cluster>> {
        match self.selected_view(key, pod) {
            Some(view) => view.get(key),
            None => self.cluster(key, &pod.id.namespace),
        }
    }

    /// The cluster that a gateway means by `key`.
    pub fn cluster_for_gateway(&self, key: &ClusterKey, pod: &Pod) -> Option<&Arc<Cluster>> {
        let of_gateways = || {
            let hosts = self.gateway_views.get(&pod.id.namespace)?;
            hosts.get(&key.host).map(|view| &**view)
        };
        match self.selected_view(key, pod).or_else(of_gateways) {
            Some(view) => view.get(key),
            None => self.cluster(key, &pod.id.namespace),
        }
    }

    fn selected_view(&self, key: &ClusterKey, pod: &Pod) -> Option<&ClusterView> {
        self.selected
            .get(pod.view?)?
            .get(&key.host)
            .map(|view| &**view)
    }

    /// The cluster that a client of `namespace` means by `key`, whatever its labels are and be it a gateway or not. Ask
    /// [`Snapshot::cluster_for_pod`] or [`Snapshot::cluster_for_gateway`] where the client is known.
    pub fn cluster(&self, key: &ClusterKey, namespace: &str) -> Option<&Arc<Cluster>> {
        let view = self
            .views
            .get(namespace)
            .and_then(|hosts| hosts.get(&key.host));
        match view {
            Some(view) => view.get(key),
            None => self.clusters.get(key),
        }
    }

    /// What a pod knows of the world.
    pub fn outlook(&self, pod: &Pod) -> &Outlook {
        pod.outlook
            .and_then(|index| self.restricted.get(index))
            .map_or(&self.common, |outlook| &**outlook)
    }

    /// What a gateway pod serves; `None` in a world without Gateways.
    pub fn gateway(&self, pod: &Pod) -> Option<&Gateway> {
        self.gateways.get(pod.gateway).map(|gateway| &**gateway)
    }
}

impl fmt::Display for PodId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}
