//! One thread of the proxy: what it accepts, what its connections share, and how they come to an end.

use std::cell::RefCell;
use std::collections::HashSet;
use std::convert::Infallible;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{LocalSet, spawn_local};

use crate::intercept::ListenSpec;
use crate::model::{Cluster, Labels, Pod, PodId, Snapshot, SourceMode};
use crate::proxy::record::{Counters, Hop};
use crate::proxy::stream::Stream;
use crate::proxy::upstream::pool::{Limits, Pool};
use crate::proxy::upstream::{ConnectError, Connector};
use crate::proxy::{Settings, connection};
use crate::route::{self, Client, Decision, HttpScope, Inbound, Outbound, Pick, Request};
use crate::sys::socket::Source;

/// How far along a served pod or gateway is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepts.
    Serving,
    /// Accepts no more, and lets come to an end what runs.
    Draining,
    /// Everything is to end now.
    Stopped,
}

/// Something new to serve.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) sockets: Vec<Socket>,
    pub(super) who: Who,
    pub(super) connector: Connector,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) alive: mpsc::Sender<Infallible>,
}

/// A listener and what arrives there.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: std::net::TcpListener,
    pub(super) hop: Hop,
}

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
    Gateway {
        port: u16,
        namespace: Arc<str>,
        labels: Labels,
    },
}

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) settings: Settings,
    pub(super) counters: Arc<Counters>,
    world: Arc<ArcSwap<Snapshot>>,
    chance: RefCell<fastrand::Rng>,
    server_first: RefCell<HashSet<SocketAddr>>,
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
    _alive: mpsc::Sender<Infallible>,
}

/// More destinations than this whose servers speak first, and the memory starts anew.
const SERVER_FIRST_LIMIT: usize = 4096;

/// How long an idle client is left alone once its connection is to end: a request may be on its way.
pub(super) const FAREWELL: Duration = Duration::from_secs(1);

/// How much a pod's call to itself may have on the way.
const PIPE: usize = 64 * 1024;

/// Runs a worker until nobody can command it any more.
pub(super) fn run(
    runtime: &tokio::runtime::Runtime,
    mut commands: mpsc::UnboundedReceiver<Command>,
    world: Arc<ArcSwap<Snapshot>>,
    settings: Settings,
    counters: Arc<Counters>,
) {
    let worker = Rc::new(Worker {
        settings,
        counters,
        world,
        chance: RefCell::new(fastrand::Rng::new()),
        server_first: RefCell::default(),
    });
    let local = LocalSet::new();
    local.block_on(runtime, async {
        while let Some(command) = commands.recv().await {
            serve(&worker, command);
        }
    });
}

fn serve(worker: &Rc<Worker>, command: Command) {
    let Command {
        sockets,
        who,
        connector,
        phase: mut orders,
        alive,
    } = command;
    let (phase, local_phase) = watch::channel(Phase::Serving);
    let site = Rc::new(Site {
        worker: Rc::clone(worker),
        who,
        pool: Rc::default(),
        connector,
        phase: local_phase,
        last: RefCell::default(),
        _alive: alive,
    });
    spawn_local(sweep(Rc::downgrade(&site)));
    for Socket { listener, hop } in sockets {
        match TcpListener::from_std(listener) {
            Ok(listener) => {
                spawn_local(accept(Rc::clone(&site), listener, hop));
            }
            Err(error) => {
                tracing::error!(%error, %hop, "a listener cannot be watched; this worker will not accept from it");
            }
        }
    }
    drop(site);
    spawn_local(async move {
        loop {
            let now = *orders.borrow_and_update();
            phase.send_replace(now);
            if now == Phase::Stopped || orders.changed().await.is_err() {
                phase.send_replace(Phase::Stopped);
                break;
            }
        }
    });
}

/// Accepts until told otherwise. What waits in the queue at that time is still taken: those clients believe that
/// they are connected.
async fn accept(site: Rc<Site>, listener: TcpListener, hop: Hop) {
    let mut phase = site.phase.clone();
    loop {
        let accepted = tokio::select! {
            biased;
            now = until(&mut phase, Phase::Draining) => {
                if now == Phase::Draining {
                    take_queue(&site, listener, hop);
                }
                return;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => take(&site, stream, peer, hop),
            Err(error) => pause_after(&error, hop).await,
        }
    }
}

fn take_queue(site: &Rc<Site>, listener: TcpListener, hop: Hop) {
    let Ok(listener) = listener.into_std() else {
        return;
    };
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let stream = stream
                    .set_nonblocking(true)
                    .and_then(|()| TcpStream::from_std(stream));
                match stream {
                    Ok(stream) => take(site, stream, peer, hop),
                    Err(error) => {
                        tracing::warn!(%error, "a connection was accepted and cannot be served");
                    }
                }
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(_) => return,
        }
    }
}

fn take(site: &Rc<Site>, stream: TcpStream, peer: SocketAddr, hop: Hop) {
    // Fails only where the client is gone already, which the first read will say.
    let _ = stream.set_nodelay(true);
    let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
    let open = site.worker.counters.open(hop);
    let serving = Rc::clone(site);
    match hop {
        Hop::Outbound => site.spawn(async move {
            connection::outbound(serving, stream, peer).await;
            drop(open);
        }),
        Hop::Inbound => site.spawn(async move {
            connection::inbound(serving, stream, peer).await;
            drop(open);
        }),
        Hop::Gateway => site.spawn(async move {
            connection::gateway(serving, stream, peer).await;
            drop(open);
        }),
    }
}

/// Out of file descriptors or memory: without a pause the loop would spin, for the queue stays readable.
async fn pause_after(error: &io::Error, hop: Hop) {
    match error.raw_os_error() {
        // The client gave up while it waited in the queue.
        Some(libc::ECONNABORTED | libc::EINTR | libc::EPERM) => {}
        _ => {
            tracing::warn!(%error, %hop, "accepting failed; trying again shortly");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

async fn sweep(site: Weak<Site>) {
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        let Some(site) = site.upgrade() else {
            return;
        };
        site.pool.sweep(site.limits());
    }
}

/// Waits until the phase is `wanted` or a later one, and says which.
async fn until(phase: &mut watch::Receiver<Phase>, wanted: Phase) -> Phase {
    let reached = |now: &Phase| *now == wanted || *now == Phase::Stopped;
    // The sender lives in a task of this thread; where that is gone everything is.
    phase
        .wait_for(reached)
        .await
        .map_or(Phase::Stopped, |now| *now)
}

impl Worker {
    /// Whether the server there is known to speak first.
    pub(super) fn speaks_first(&self, destination: SocketAddr) -> bool {
        self.server_first.borrow().contains(&destination)
    }

    /// Remembers whether it does.
    pub(super) fn learn_speaks_first(&self, destination: SocketAddr, does: bool) {
        let mut known = self.server_first.borrow_mut();
        if does {
            if known.len() >= SERVER_FIRST_LIMIT {
                known.clear();
            }
            known.insert(destination);
        } else {
            known.remove(&destination);
        }
    }

    /// A random `x-request-id`.
    pub(super) fn request_id(&self) -> http::HeaderValue {
        let bytes = self.chance.borrow_mut().u128(..).to_ne_bytes();
        let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = id.as_hyphenated().encode_lower(&mut text);
        http::HeaderValue::from_str(text).expect("a UUID is hexadecimal digits and hyphens")
    }

    /// The wait before a retry, from 1.
    pub(super) fn back_off(&self, retry: u32) -> Duration {
        let base = self.settings.retry_base;
        let longest = base
            .saturating_mul(1 << retry.min(10))
            .saturating_sub(base)
            .min(base * 10);
        longest.mul_f64(self.chance.borrow_mut().f64())
    }
}

impl Pick for &Worker {
    fn pick(&mut self, below: u64) -> u64 {
        self.chance.borrow_mut().u64(..below)
    }
}

impl Site {
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

    pub(super) fn limits(&self) -> Limits {
        let settings = &self.worker.settings;
        Limits {
            idle_per_key: settings.pool_idle_connections,
            idle_for: settings.pool_idle_timeout,
            streams: settings.http2_streams,
        }
    }

    /// Where a connection of the pod goes.
    pub(super) fn route_outbound(&self, destination: SocketAddr) -> Outbound {
        route::outbound(&self.worker.world.load(), destination)
    }

    /// What the pod serves on a port.
    pub(super) fn route_inbound(&self, port: u16) -> Inbound {
        match self.pod() {
            Some(pod) => route::inbound(&pod, port),
            None => Inbound::Tcp,
        }
    }

    /// Where a request goes.
    pub(super) fn decide(&self, scope: &HttpScope, request: &Request<'_>) -> Decision {
        let world = self.worker.world.load();
        let decide =
            |client: &Client<'_>| route::decide(&world, scope, client, request, &mut &*self.worker);
        match &self.who {
            Who::Pod { pod: id, .. } => match world.pods.get(id) {
                Some(pod) => decide(&Client::Pod(pod)),
                // The world forgot the pod before its connections ended.
                None => match self.last.borrow().as_deref() {
                    Some(pod) => decide(&Client::Pod(pod)),
                    None => decide(&Client::Pod(&unknown(id))),
                },
            },
            Who::Gateway {
                namespace, labels, ..
            } => decide(&Client::Gateway { namespace, labels }),
        }
    }

    /// Which endpoint of a cluster takes a request or connection.
    pub(super) fn endpoint(&self, cluster: &Cluster, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let load = |address| self.pool.load(address);
        route::endpoint(cluster, tried, load, &mut &*self.worker)
    }

    /// The pod, as the newest snapshot that knows it has it.
    fn pod(&self) -> Option<Arc<Pod>> {
        let Who::Pod { pod: id, .. } = &self.who else {
            return None;
        };
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

    /// Opens a connection to a server. A pod that is its own server is served in the process, by way of its inbound
    /// side, as the chains have it.
    pub(super) async fn connect(
        self: &Rc<Self>,
        address: SocketAddr,
        source: Source,
    ) -> Result<Stream, ConnectError> {
        if source == Source::Pod && self.is_own(address.ip()) {
            return Ok(self.call_self(address));
        }
        self.connect_beyond(address, source).await
    }

    /// Opens a connection, whoever may be behind the address.
    pub(super) async fn connect_beyond(
        &self,
        address: SocketAddr,
        source: Source,
    ) -> Result<Stream, ConnectError> {
        self.worker.counters.upstream_connections.add(1);
        let limit = self.worker.settings.connect_timeout;
        let stream = self.connector.connect(address, source, limit).await?;
        Ok(Stream::tcp(stream))
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

/// Stands in for a pod that no snapshot has shown yet: no labels, so no rule that asks for any applies.
fn unknown(id: &PodId) -> Pod {
    Pod {
        id: id.clone(),
        uid: None,
        labels: Labels::new(),
        addresses: Vec::new(),
        ready: true,
        local: None,
        inbound: Default::default(),
    }
}
