//! What the connections of one pod or gateway share on one worker: whose they are, what is decided for them, and how
//! they reach servers.

use std::cell::{LazyCell, RefCell};
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use crate::intercept::ListenSpec;
use crate::intercept::capture::Capture;
use crate::model::{AppAddress, ConnectionPool, Pod, PodId, Snapshot, SourceMode, Topology};
use crate::proxy::Accepted;
use crate::proxy::connection;
use crate::proxy::phase::{Phase, Progress, Until};
use crate::proxy::record::Hop;
use crate::proxy::stream::Stream;
use crate::proxy::tls::Offer;
use crate::proxy::upstream::clusters::Local;
use crate::proxy::upstream::pool::{Key, Limits, Pool};
use crate::proxy::upstream::{self, ConnectError, Connector};
use crate::proxy::worker::{Shared, Worker};
use crate::route::{
    self, AtGateway, Client, Decision, Flow, HttpScope, Inbound, Outbound, Request, Secure,
    StreamDecision, StreamScope,
};
use crate::sys::socket::{Reach, Source};

pub(super) use crate::proxy::site::endpoints::{Choice, Resolving};

mod endpoints;

/// Whose connections they are.
#[derive(Clone, Debug)]
pub(super) enum Who {
    /// A pod's.
    Pod {
        pod: PodId,
        ports: ListenSpec,
        source: SourceMode,
    },
    /// A gateway's.
    Gateway { port: u16, pod: PodId },
}

/// What the connections of one pod or gateway share on one thread. It lives as long as the last of them.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) worker: Rc<Worker>,
    pub(super) who: Who,
    pub(super) pool: Rc<Pool>,
    connector: Connector,
    /// The thread's own copy of the phase, so that connections do not meet those of other threads there.
    phase: Rc<Progress>,
    /// The pod as last seen: it may be gone from the world before its connections are.
    last: RefCell<Option<Arc<Pod>>>,
    /// Counts what the listeners take, and what is passed on within the process.
    pub(super) accepted: Arc<Accepted>,
    /// What of the connections to the pod is caught; nothing while its interception is not in force.
    caught: Arc<ArcSwapOption<Capture>>,
    /// Each copy of a request that is on its way to a mirror holds one.
    mirrors: Rc<()>,
    /// What is remembered of clusters.
    clusters: Local,
    _alive: mpsc::Sender<Infallible>,
}

/// How long an idle client is left alone once its connection is to end: a request may be on its way.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// So many copies of requests may be on their way to mirrors.
const MIRRORS: usize = 128;

/// How much a connection within the process may have on the way.
const PIPE: usize = 64 * 1024;

impl Who {
    /// The pod: the client's own, or the gateway's.
    pub(super) fn pod(&self) -> &PodId {
        match self {
            Self::Pod { pod, .. } | Self::Gateway { pod, .. } => pod,
        }
    }
}

impl Site {
    pub(super) fn new(
        worker: &Rc<Worker>,
        who: Who,
        connector: Connector,
        phase: Rc<Progress>,
        shared: Shared,
        alive: mpsc::Sender<Infallible>,
    ) -> Self {
        let Shared {
            accepted,
            caught,
            clusters,
        } = shared;
        Self {
            worker: Rc::clone(worker),
            who,
            pool: Rc::default(),
            connector,
            phase,
            last: RefCell::default(),
            accepted,
            caught,
            mirrors: Rc::default(),
            clusters: Local::new(clusters),
            _alive: alive,
        }
    }

    /// Waits until it is so far along, or at its end, and says which.
    pub(super) fn until(&self, phase: Phase) -> Until {
        self.phase.until(phase)
    }

    /// Runs a connection, or a part of one, until it ends or must.
    pub(super) fn spawn(self: &Rc<Self>, connection: impl Future<Output = ()> + 'static) {
        let stopped = self.until(Phase::Stopped);
        // Behind a pointer: a future that takes another by value and then polls it holds it twice.
        let mut connection = Box::pin(connection);
        // A panic in it ends this task and nothing else: tokio catches it.
        spawn_local(async move {
            tokio::select! {
                biased;
                _ = stopped => {}
                () = connection.as_mut() => {}
            }
        });
    }

    /// Waits until the connections are to come to an end.
    pub(super) async fn drained(&self) {
        self.until(Phase::Draining).await;
    }

    /// Waits until who has said nothing yet need no longer be waited for.
    pub(super) async fn farewell(&self) {
        self.drained().await;
        tokio::time::sleep(FAREWELL).await;
    }

    /// Whether they are to come to an end.
    pub(super) fn is_draining(&self) -> bool {
        self.phase.now() != Phase::Serving
    }

    /// How connections are kept that a cluster's policy is about, or none's.
    pub(super) fn limits(&self, policy: Option<&ConnectionPool>) -> Limits {
        let settings = &self.worker.settings;
        let streams = policy.and_then(|policy| policy.max_concurrent_streams);
        Limits {
            idle_per_key: settings.pool_idle_connections,
            idle_for: match policy.map(|policy| policy.http_idle_timeout) {
                None => settings.pool_idle_timeout,
                Some(Duration::ZERO) => Duration::MAX,
                Some(limit) => limit,
            },
            streams: streams.unwrap_or(settings.http2_streams).max(1),
            requests: policy.and_then(|policy| policy.max_requests_per_connection),
            age: policy.and_then(|policy| policy.max_connection_duration),
            pings: policy.and_then(|policy| policy.http2_keepalive),
        }
    }

    /// Lets go of what nobody has used for a while.
    pub(super) fn sweep(&self) {
        let (lanes, endpoints) = (
            self.clusters.lanes(),
            LazyCell::new(|| self.worker.endpoints()),
        );
        let short = self.worker.settings.pool_idle_timeout;
        self.pool.sweep(|key, idle_for| {
            if key.lane != 0 && !lanes.contains(&key.lane) {
                // Opened under a policy that holds no longer.
                return Duration::ZERO;
            }
            // A pod that is gone need not have said so.
            match idle_for > short && !endpoints.contains(&key.address) {
                true => short,
                false => idle_for,
            }
        });
        let world = self.worker.world.load();
        let namespace = &self.who.pod().namespace;
        self.clusters
            .sweep(|key| world.cluster(key, namespace).is_some());
    }

    /// Where a connection of the pod goes.
    pub(super) fn route_outbound(&self, destination: SocketAddr) -> Outbound {
        let world = self.worker.world.load();
        self.as_client(&world, |client| {
            route::outbound(&world, client, destination)
        })
    }

    /// What the pod serves on a port.
    pub(super) fn route_inbound(&self, port: u16) -> Inbound {
        match self.pod() {
            Some(pod) => route::inbound(&pod, port),
            None => Inbound::Tcp,
        }
    }

    /// Where the pod's app listens for what is headed for a port.
    pub(super) fn app(&self, port: u16) -> AppAddress {
        let pod = self.pod();
        let served = pod.as_ref().and_then(|pod| pod.inbound.get(&port));
        served.map(|served| served.app).unwrap_or_default()
    }

    /// Where a request goes.
    pub(super) fn decide(&self, scope: &HttpScope, request: &Request<'_>) -> Decision {
        let world = self.worker.world.load();
        self.as_client(&world, |client| {
            route::decide(&world, scope, client, request, &mut &*self.worker)
        })
    }

    /// What stands before the gateway.
    pub(super) fn topology(&self) -> Topology {
        self.pod().map(|pod| pod.topology).unwrap_or_default()
    }

    /// What is done with the gateway's clients.
    pub(super) fn route_gateway(&self, port: u16) -> AtGateway {
        let world = self.worker.world.load();
        self.as_client(&world, |client| route::at_gateway(&world, client, port))
    }

    /// What is done with the gateway's clients that ask for a server by name.
    pub(super) fn route_secure(&self, port: u16, server_name: Option<&str>) -> Option<Secure> {
        let world = self.worker.world.load();
        self.as_client(&world, |client| {
            route::secure(&world, client, port, server_name)
        })
    }

    /// Whether where a connection goes depends on the name that its client asks for.
    pub(super) fn needs_server_name(&self, scope: &StreamScope) -> bool {
        let world = self.worker.world.load();
        self.as_client(&world, |client| {
            route::needs_server_name(&world, client, scope)
        })
    }

    /// Where a connection goes that is not HTTP.
    pub(super) fn route_stream(&self, scope: &StreamScope, flow: &Flow<'_>) -> StreamDecision {
        let world = self.worker.world.load();
        self.as_client(&world, |client| {
            route::stream(&world, client, scope, flow, &mut &*self.worker)
        })
    }

    /// Asks something of `world` in the name of the pod or gateway.
    fn as_client<T>(&self, world: &Snapshot, ask: impl FnOnce(&Client<'_>) -> T) -> T {
        let (Who::Pod { pod: id, .. } | Who::Gateway { pod: id, .. }) = &self.who;
        let ask = |pod: &Pod| match &self.who {
            Who::Pod { .. } => ask(&Client::Pod(pod)),
            Who::Gateway { .. } => ask(&Client::Gateway(pod)),
        };
        match world.pods.get(id) {
            Some(pod) => ask(pod),
            // The world forgot the pod before its connections ended.
            None => match self.last.borrow().as_deref() {
                Some(pod) => ask(pod),
                // No snapshot has shown it yet. Without labels, no rule that asks for any applies.
                None => ask(&Pod::new(id.clone())),
            },
        }
    }

    /// Leave to send a copy of a request to a mirror; `None` while too many are on their way.
    pub(super) fn mirror(&self) -> Option<Rc<()>> {
        (Rc::strong_count(&self.mirrors) <= MIRRORS).then(|| Rc::clone(&self.mirrors))
    }

    /// The first of the pod's addresses.
    pub(super) fn address(&self) -> Option<IpAddr> {
        self.pod()?.addresses.first().copied()
    }

    /// The pod, as the newest snapshot that knows it has it.
    fn pod(&self) -> Option<Arc<Pod>> {
        let (Who::Pod { pod: id, .. } | Who::Gateway { pod: id, .. }) = &self.who;
        let newest = self.worker.world.load().pods.get(id).cloned();
        let mut last = self.last.borrow_mut();
        if newest.is_some() {
            last.clone_from(&newest);
        }
        last.clone()
    }

    /// Whether an address is the pod's own.
    pub(super) fn is_own(&self, address: IpAddr) -> bool {
        self.pod()
            .is_some_and(|pod| pod.addresses.contains(&address))
    }

    /// What the pod's Service calls what it does on a port: `HOST:PORT/*`.
    pub(super) fn operation(&self, port: u16) -> Option<String> {
        let pod = self.pod()?;
        let served = pod.inbound.get(&port)?;
        let world = self.worker.world.load();
        let number = match world.services.get(&served.service)?.ports.as_slice() {
            [only] => only.number,
            _ => port,
        };
        Some(format!("{}:{number}/*", served.service))
    }

    /// Opens a connection to an endpoint, as far as that the client may speak. A pod that is its own server is served in the
    /// process, by way of its inbound side, as the chains have it.
    pub(super) async fn connect(
        self: &Rc<Self>,
        key: &Key,
        pool: &ConnectionPool,
        offer: Offer,
    ) -> Result<Stream, ConnectError> {
        let address = key.address;
        let http = matches!((offer, &key.before), (Offer::Http1 | Offer::Http2, None));
        let reach = self.reach(address.ip(), http);
        let opened = async {
            let stream = match key.source == Source::Pod && self.is_own(address.ip()) {
                true => self.take_in(SocketAddr::new(address.ip(), 0), address),
                false => {
                    self.connect_beyond(address, key.source, reach, Some(pool))
                        .await?
                }
            };
            match &key.before {
                None => Ok(stream),
                Some(before) => before.say(stream, &self.worker.tls, offer, address).await,
            }
        };
        if key.before.is_none() {
            return opened.await;
        }
        let limited = tokio::time::timeout(pool.connect_timeout, opened);
        limited
            .await
            .unwrap_or(Err(ConnectError::Timeout { address }))
    }

    /// Opens a connection, whoever may be behind the address; as `pool` says, where a cluster or the owner of the app has
    /// something to say. What would come back to this process, as a connection to a pod of this node, never leaves it.
    pub(super) async fn connect_beyond(
        &self,
        address: SocketAddr,
        source: Source,
        reach: Reach,
        pool: Option<&ConnectionPool>,
    ) -> Result<Stream, ConnectError> {
        self.worker.counters.upstream_connections.add(1);
        if source == Source::Pod
            && let Some(stream) = self.pass_on(address)
        {
            return Ok(stream);
        }
        let limit = pool.map_or(self.worker.settings.connect_timeout, |pool| {
            pool.connect_timeout
        });
        let stream = self
            .connector
            .connect(address, source, reach, limit)
            .await?;
        if let Some(keepalive) = pool.and_then(|pool| pool.keepalive)
            && let Err(error) = upstream::keep_alive(&stream, keepalive)
        {
            tracing::debug!(%error, %address, "a connection is not kept alive");
        }
        Ok(Stream::tcp(stream))
    }

    /// Whether clients may be of this node, and steered so that they need no TCP.
    pub(super) fn may_be_local(&self) -> bool {
        match &self.who {
            Who::Pod { ports, .. } => ports.transparent,
            Who::Gateway { .. } => false,
        }
    }

    /// How near a server is, and whether it is spoken to in HTTP without TLS.
    pub(super) fn reach(&self, address: IpAddr, http: bool) -> Reach {
        if !matches!(self.who, Who::Pod { .. }) {
            return Reach::Anywhere;
        }
        let world = self.worker.world.load();
        let pod = world.pods_by_address.get(&address);
        let local = pod.and_then(|pod| pod.local.as_ref());
        let own = address.is_loopback() || self.is_own(address);
        if !own && local.is_some_and(|local| local.enrol) {
            Reach::Agent
        } else if http && (own || local.is_some()) {
            Reach::Application
        } else {
            Reach::Anywhere
        }
    }

    /// A connection to a pod of this node whose interception would catch it: that pod's inbound side has it at once, as
    /// from this one. `None` where it has to go by the kernel.
    fn pass_on(&self, address: SocketAddr) -> Option<Stream> {
        let neighbour = self.worker.neighbour(address)?;
        // What a pod says to itself goes its own way.
        if neighbour.who.pod() == self.who.pod() {
            return None;
        }
        let own = self.connector.source_towards(address)?;
        self.worker.counters.passed_on.add(1);
        neighbour.accepted.count_passed_on();
        // There is no port at which it left.
        Some(neighbour.take_in(SocketAddr::new(own, 0), address))
    }

    /// Whether a connection to this address would come to the pod's inbound side just now.
    pub(super) fn catches(&self, address: SocketAddr) -> bool {
        let caught = self.caught.load();
        let caught = caught.as_ref().is_some_and(|it| it.is_sure_of(address));
        caught && !self.is_draining()
    }

    /// Serves a connection to the pod that never left the process, and gives the client's end of it.
    fn take_in(self: &Rc<Self>, peer: SocketAddr, address: SocketAddr) -> Stream {
        let (near, far) = Stream::pipe(PIPE);
        let open = self.worker.counters.open(Hop::Inbound);
        let serving = connection::inbound_within(Rc::clone(self), far, peer, address);
        self.spawn(async move {
            serving.await;
            drop(open);
        });
        near
    }
}
