//! What the connections of one pod or gateway share on one worker: whose they are, what is decided for them, and how
//! they reach servers.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout_at};

use crate::intercept::ListenSpec;
use crate::model::{
    AppAddress, Cluster, ClusterKey, ConnectionPool, Discovery, Endpoints, Pod, PodId, Snapshot,
    SourceMode,
};
use crate::proxy::Accepted;
use crate::proxy::connection;
use crate::proxy::dns::{self, Name};
use crate::proxy::record::Hop;
use crate::proxy::stream::Stream;
use crate::proxy::tls::Offer;
use crate::proxy::upstream::clusters::{Clusters, Known, Local, Now, Reaches};
use crate::proxy::upstream::pool::{Key, Limits, Pool};
use crate::proxy::upstream::{self, ConnectError, Connector};
use crate::proxy::worker::{Phase, Worker};
use crate::route::{
    self, AtGateway, Client, Decision, Flow, HttpScope, Inbound, Outbound, Pick, Request, Secure,
    StreamDecision, StreamScope,
};
use crate::sys::socket::Source;

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
    phase: watch::Receiver<Phase>,
    /// The pod as last seen: it may be gone from the world before its connections are.
    last: RefCell<Option<Arc<Pod>>>,
    /// Counts what the listeners take.
    pub(super) accepted: Arc<Accepted>,
    /// Each copy of a request that is on its way to a mirror holds one.
    mirrors: Rc<()>,
    /// What is remembered of clusters.
    clusters: Local,
    _alive: mpsc::Sender<Infallible>,
}

/// The endpoints of a cluster, on their way from their names.
pub(super) enum Resolving {
    /// The cluster lists them.
    Listed,
    /// Here they are.
    Done(Rc<Endpoints>),
    /// There is no answer yet.
    Waiting(Pin<Box<dyn Future<Output = Rc<Endpoints>>>>),
}

/// What an endpoint is chosen by, besides its cluster.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Choice<'a> {
    /// Of the request, where it has one.
    pub(super) hash: Option<u64>,
    /// Endpoints to be avoided.
    pub(super) tried: &'a [SocketAddr],
    /// Whether their priorities are to be avoided too.
    pub(super) elsewhere: bool,
    /// The endpoints, where the cluster does not list them.
    pub(super) resolved: Option<&'a Endpoints>,
}

/// How long an idle client is left alone once its connection is to end: a request may be on its way.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// How long a request waits for names that were never looked up before.
const NAMES: Duration = Duration::from_secs(5);

/// So many copies of requests may be on their way to mirrors.
const MIRRORS: usize = 128;

/// How much a pod's call to itself may have on the way.
const PIPE: usize = 64 * 1024;

impl Resolving {
    /// The endpoints, where the cluster does not list them.
    pub(super) async fn endpoints(self) -> Option<Rc<Endpoints>> {
        match self {
            Self::Listed => None,
            Self::Done(endpoints) => Some(endpoints),
            Self::Waiting(endpoints) => Some(endpoints.await),
        }
    }
}

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
        phase: watch::Receiver<Phase>,
        accepted: Arc<Accepted>,
        alive: mpsc::Sender<Infallible>,
        clusters: Arc<Clusters>,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            who,
            pool: Rc::default(),
            connector,
            phase,
            last: RefCell::default(),
            accepted,
            mirrors: Rc::default(),
            clusters: Local::new(clusters),
            _alive: alive,
        }
    }

    /// How far along it is, and how that changes.
    pub(super) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.clone()
    }

    /// Runs a connection, or a part of one, until it ends or must.
    pub(super) fn spawn(self: &Rc<Self>, connection: impl Future<Output = ()> + 'static) {
        let mut phase = self.phase.clone();
        // A panic in it ends this task and nothing else: tokio catches it.
        spawn_local(async move {
            tokio::select! {
                biased;
                _ = until(&mut phase, Phase::Stopped) => {}
                () = connection => {}
            }
        });
    }

    /// Waits until the connections are to come to an end.
    pub(super) async fn drained(&self) {
        until(&mut self.phase.clone(), Phase::Draining).await;
    }

    /// Waits until who has said nothing yet need no longer be waited for.
    pub(super) async fn farewell(&self) {
        self.drained().await;
        tokio::time::sleep(FAREWELL).await;
    }

    /// Whether they are to come to an end.
    pub(super) fn is_draining(&self) -> bool {
        *self.phase.borrow() != Phase::Serving
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
        }
    }

    /// What is remembered of a cluster; `None` where its policy asks for nothing of that.
    pub(super) fn known(&self, cluster: &Arc<Cluster>) -> Option<Rc<Known>> {
        self.clusters.of(cluster, || (&*self.worker).pick(u64::MAX))
    }

    /// What is remembered of the pod's own application behind a port: the limits that its Service's owner has set hold
    /// here too.
    pub(super) fn known_app(&self, port: u16) -> Option<Rc<Known>> {
        let pod = self.pod()?;
        let served = pod.inbound.get(&port)?;
        let world = self.worker.world.load();
        let service = ClusterKey {
            host: Arc::clone(&served.service),
            port: service_port(&world, &served.service, port)?,
            subset: None,
        };
        let cluster = world.cluster(&service, &pod.id.namespace)?;
        if cluster.policy.pool == ConnectionPool::default() {
            return None;
        }
        let key = ClusterKey {
            host: "inbound".into(),
            port,
            subset: None,
        };
        Some(self.clusters.named(&key, &cluster.policy, || 0))
    }

    /// Lets go of what nobody has used for a while.
    pub(super) fn sweep(&self) {
        self.pool.sweep();
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
                None => ask(&unknown(id)),
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

    /// The endpoints of a cluster whose names must be looked up; `None` for all others. Waits a moment for names that
    /// are looked up for the first time.
    pub(super) fn resolve(
        self: &Rc<Self>,
        cluster: &Arc<Cluster>,
        known: Option<&Rc<Known>>,
    ) -> Resolving {
        let Discovery::Dns { .. } = &cluster.discovery else {
            return Resolving::Listed;
        };
        let Some(known) = known else {
            return Resolving::Listed;
        };
        let (site, cluster, known) = (Rc::clone(self), Arc::clone(cluster), Rc::clone(known));
        match site.resolved(&cluster, &known) {
            Ok(endpoints) => Resolving::Done(endpoints),
            Err(_) => Resolving::Waiting(Box::pin(async move {
                let deadline = Instant::now() + NAMES;
                loop {
                    match site.resolved(&cluster, &known) {
                        Ok(endpoints) => return endpoints,
                        Err(names) => {
                            if timeout_at(deadline, dns::any_answered(&names))
                                .await
                                .is_err()
                            {
                                return Rc::default();
                            }
                        }
                    }
                }
            })),
        }
    }

    /// The endpoints that names stand for, or the names that there is no answer for yet and nothing else.
    fn resolved(&self, cluster: &Cluster, known: &Known) -> Result<Rc<Endpoints>, Vec<Arc<Name>>> {
        let Discovery::Dns {
            names,
            every_address,
        } = &cluster.discovery
        else {
            return Ok(Rc::default());
        };
        let named: Vec<_> = names
            .iter()
            .map(|named| (named, self.worker.resolver.name(&named.name)))
            .collect();
        let own = self.pod().map(|pod| Reaches::from(&pod.addresses));
        let reaches = own.unwrap_or_else(|| Reaches::from(&[]));
        let endpoints = known.resolved(&named, *every_address, reaches);
        let unanswered = named.iter().filter(|(_, name)| name.serial() == 0);
        let unanswered: Vec<_> = unanswered.map(|(_, name)| Arc::clone(name)).collect();
        match endpoints.is_empty() && !unanswered.is_empty() {
            true => Err(unanswered),
            false => Ok(endpoints),
        }
    }

    /// Which endpoint of a cluster takes a request or connection.
    pub(super) fn endpoint(
        &self,
        cluster: &Cluster,
        known: Option<&Known>,
        choice: Choice<'_>,
    ) -> Option<SocketAddr> {
        let Choice {
            hash,
            tried,
            elsewhere,
            resolved,
        } = choice;
        let world = self.worker.world.load();
        let choose = match elsewhere {
            true => route::endpoint_elsewhere,
            false => route::endpoint,
        };
        let now = Now::of(known, |address| self.pool.load(address));
        self.as_client(&world, |client| {
            choose(
                cluster,
                resolved.unwrap_or(&cluster.endpoints),
                client,
                hash,
                tried,
                &now,
                &mut &*self.worker,
            )
        })
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
        let number = service_port(&world, &served.service, port)?;
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
        let opened = async {
            let stream = match key.source == Source::Pod && self.is_own(address.ip()) {
                true => self.call_self(address),
                false => {
                    let limit = pool.connect_timeout;
                    let stream = self.open(address, key.source, limit).await?;
                    if let Some(keepalive) = pool.keepalive
                        && let Err(error) = upstream::keep_alive(&stream, keepalive)
                    {
                        tracing::debug!(%error, %address, "a connection is not kept alive");
                    }
                    Stream::tcp(stream)
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

    /// Opens a connection, whoever may be behind the address.
    pub(super) async fn connect_beyond(
        &self,
        address: SocketAddr,
        source: Source,
    ) -> Result<Stream, ConnectError> {
        let limit = self.worker.settings.connect_timeout;
        self.open(address, source, limit).await.map(Stream::tcp)
    }

    async fn open(
        &self,
        address: SocketAddr,
        source: Source,
        limit: Duration,
    ) -> Result<TcpStream, ConnectError> {
        self.worker.counters.upstream_connections.add(1);
        self.connector.connect(address, source, limit).await
    }

    fn call_self(self: &Rc<Self>, address: SocketAddr) -> Stream {
        let (near, far) = Stream::pipe(PIPE);
        let open = self.worker.counters.open(Hop::Inbound);
        let serving = connection::inbound_from_self(Rc::clone(self), far, address);
        self.spawn(async move {
            serving.await;
            drop(open);
        });
        near
    }
}

/// The port of a Service that leads to a container's port. Where there are several, their numbers are the same as a rule.
fn service_port(world: &Snapshot, host: &str, port: u16) -> Option<u16> {
    match world.services.get(host)?.ports.as_slice() {
        [only] => Some(only.number),
        _ => Some(port),
    }
}

/// Stands in for a pod that no snapshot has shown yet: no labels, so no rule that asks for any applies.
fn unknown(id: &PodId) -> Pod {
    Pod {
        id: id.clone(),
        uid: None,
        labels: Arc::default(),
        addresses: Vec::new(),
        ready: true,
        local: None,
        inbound: Default::default(),
        locality: None,
        node: None,
        view: None,
        outlook: None,
        gateway: 0,
    }
}

/// Waits until the phase is `wanted` or a later one, and says which.
pub(super) async fn until(phase: &mut watch::Receiver<Phase>, wanted: Phase) -> Phase {
    let reached = |now: &Phase| *now == wanted || *now == Phase::Stopped;
    // The sender lives in a task of this thread; where that is gone everything is.
    phase
        .wait_for(reached)
        .await
        .map_or(Phase::Stopped, |now| *now)
}
