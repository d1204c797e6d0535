//! One thread of the proxy: what it accepts, what its connections share, and how they come to an end.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::LocalRuntime;
use tokio::sync::{mpsc, watch};
use tokio::task::spawn_local;

use crate::intercept::capture::Capture;
use crate::model::{PodId, Snapshot};
use crate::proxy::dns::Resolver;
use crate::proxy::http::forward::Outgoing;
use crate::proxy::http::slots::Slots;
use crate::proxy::http::spare::Spares;
use crate::proxy::http::texts::Texts;
use crate::proxy::http::timers::Timers;
use crate::proxy::phase::{Phase, Progress};
use crate::proxy::record::{Counters, Hop};
use crate::proxy::site::{Site, Who};
use crate::proxy::tcp::Pipes;
use crate::proxy::tls::Configs;
use crate::proxy::upstream::Connector;
use crate::proxy::upstream::clusters::Clusters;
use crate::proxy::{Accepted, Settings, connection};
use crate::route::Pick;
use crate::sys::memory;

/// Something new to serve.
#[derive(Debug)]
pub(super) struct Command {
    pub(super) sockets: Vec<Socket>,
    pub(super) who: Who,
    pub(super) connector: Connector,
    pub(super) phase: watch::Receiver<Phase>,
    pub(super) alive: mpsc::Sender<Infallible>,
    pub(super) shared: Shared,
}

/// What all threads share of a served pod or gateway.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    /// Counts what the listeners take, and what is passed on within the process.
    pub(super) accepted: Arc<Accepted>,
    /// What of the connections to the pod is caught; nothing while its interception is not in force.
    pub(super) caught: Arc<ArcSwapOption<Capture>>,
    /// What is remembered of clusters.
    pub(super) clusters: Arc<Clusters>,
}

/// A listener and what arrives there.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: std::net::TcpListener,
    pub(super) hop: Hop,
}

/// What the connections of one thread share.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) settings: Settings,
    pub(super) counters: Arc<Counters>,
    pub(super) world: Arc<ArcSwap<Snapshot>>,
    pub(super) tls: Arc<Configs>,
    pub(super) resolver: Arc<Resolver>,
    pub(super) texts: Texts,
    pub(super) requests: Rc<Slots<Outgoing>>,
    pub(super) spares: Rc<Spares>,
    pub(super) timers: Rc<Timers>,
    pub(super) pipes: Rc<Pipes>,
    /// How many connections have come to rest since memory was given back, and when that was.
    rested: Cell<u32>,
    given_back: Cell<Option<Instant>>,
    chance: RefCell<fastrand::Rng>,
    /// The pods that are served here, those that come in place of others last.
    pods: RefCell<HashMap<PodId, Weak<Site>>>,
    server_first: RefCell<HashSet<SocketAddr>>,
    /// Of which generation of the world.
    endpoints: RefCell<(u64, Rc<HashSet<SocketAddr>>)>,
}

/// More destinations than this whose servers speak first, and the memory starts anew.
const SERVER_FIRST_LIMIT: usize = 4096;

/// So many connections that have come to rest have left enough memory behind for it to be worth giving back, and how long
/// it is until that is looked at again: it takes milliseconds.
const RESTED: u32 = 1000;
const GIVE_BACK_EVERY: Duration = Duration::from_secs(30);

/// How long listeners stay open once nobody is sent to them any more. A handshake inside a node takes microseconds, one
/// from another node a few round trips.
const LAST_CALL: Duration = Duration::from_millis(200);

/// Runs a worker until nobody can command it any more.
pub(super) fn run(
    runtime: &LocalRuntime,
    mut commands: mpsc::UnboundedReceiver<Command>,
    world: Arc<ArcSwap<Snapshot>>,
    settings: Settings,
    counters: Arc<Counters>,
    tls: Arc<Configs>,
    resolver: Arc<Resolver>,
) {
    let worker = Rc::new(Worker {
        pipes: Rc::new(Pipes::new(settings.splice)),
        settings,
        counters,
        world,
        tls,
        resolver,
        texts: Texts::default(),
        requests: Rc::default(),
        spares: Rc::default(),
        timers: Rc::default(),
        rested: Cell::new(0),
        given_back: Cell::new(None),
        chance: RefCell::new(fastrand::Rng::new()),
        pods: RefCell::default(),
        server_first: RefCell::default(),
        endpoints: RefCell::default(),
    });
    runtime.block_on(async {
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
        shared,
    } = command;
    let phase = Progress::new();
    let site = Rc::new(Site::new(
        worker,
        who,
        connector,
        Rc::clone(&phase),
        shared,
        alive,
    ));
    worker.learn_pod(&site);
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
            phase.set(now);
            if now == Phase::Stopped || orders.changed().await.is_err() {
                phase.set(Phase::Stopped);
                break;
            }
        }
    });
}

/// Accepts until told otherwise, and then for a moment longer: handshakes that were under way when steering ended arrive
/// here, and their clients believe that they are connected.
async fn accept(site: Rc<Site>, listener: TcpListener, hop: Hop) {
    let last_call = async {
        if site.until(Phase::Draining).await == Phase::Draining {
            tokio::select! {
                _ = site.until(Phase::Stopped) => {}
                () = tokio::time::sleep(LAST_CALL) => {}
            }
        }
    };
    let mut last_call = std::pin::pin!(last_call);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut last_call => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => take(&site, stream, peer, hop),
            Err(error) => pause_after(&error, hop).await,
        }
    }
    take_queue(&site, listener, hop);
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
    site.accepted.count(hop);
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
        site.sweep();
        site.worker.give_back();
    }
}

impl Worker {
    /// A connection has come to rest, and what served it is free.
    pub(super) fn has_rested(&self) {
        self.rested.set(self.rested.get().saturating_add(1));
    }

    /// Gives memory back to the kernel, where there may be much.
    fn give_back(&self) {
        let last = self.given_back.get();
        let due = last.is_none_or(|last| last.elapsed() >= GIVE_BACK_EVERY);
        if due && self.rested.get() >= RESTED {
            self.rested.set(0);
            self.given_back.set(Some(Instant::now()));
            memory::give_back();
        }
    }

    fn learn_pod(&self, site: &Rc<Site>) {
        if let Who::Pod { pod, .. } = &site.who {
            let mut pods = self.pods.borrow_mut();
            pods.retain(|_, site| site.strong_count() > 0);
            pods.insert(pod.clone(), Rc::downgrade(site));
        }
    }

    /// The pod of this node that a connection to this address would come to, by way of its interception and this process;
    /// `None` where that is not certain.
    pub(super) fn neighbour(&self, address: SocketAddr) -> Option<Rc<Site>> {
        if !self.settings.one_hop {
            return None;
        }
        let world = self.world.load();
        let pod = world.pods_by_address.get(&address.ip())?;
        let site = self.pods.borrow().get(&pod.id)?.upgrade()?;
        site.catches(address).then_some(site)
    }

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

    /// The endpoints that the newest world lists.
    pub(super) fn endpoints(&self) -> Rc<HashSet<SocketAddr>> {
        let world = self.world.load();
        let mut known = self.endpoints.borrow_mut();
        if known.0 != world.generation {
            let views = world.views.values().chain(&world.selected);
            let views = views.chain(world.gateway_views.values());
            let seen_by_some = views.flat_map(|hosts| hosts.values());
            let clusters = world
                .clusters
                .values()
                .chain(seen_by_some.flat_map(|view| view.values()));
            let endpoints = clusters
                .flat_map(|cluster| cluster.endpoints.iter().chain(cluster.endpoints.unready()))
                .map(|endpoint| endpoint.address);
            *known = (world.generation, Rc::new(endpoints.collect()));
        }
        Rc::clone(&known.1)
    }

    /// A random `x-request-id`.
    pub(super) fn request_id(&self) -> http::HeaderValue {
        let bytes = self.chance.borrow_mut().u128(..).to_ne_bytes();
        let id = uuid::Builder::from_random_bytes(bytes).into_uuid();
        let mut text = [0; uuid::fmt::Hyphenated::LENGTH];
        let text = id.as_hyphenated().encode_lower(&mut text);
        let value = self.texts.joined(&[text.as_bytes()]);
        value.expect("a UUID is hexadecimal digits and hyphens")
    }

    /// The wait before a retry, from 1, where a route may have its own base for it.
    pub(super) fn back_off(&self, retry: u32, base: Option<Duration>) -> Duration {
        let base = base.unwrap_or(self.settings.retry_base);
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
