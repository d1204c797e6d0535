//! Carries the connections of the mesh: accepts them from the listeners of pods and gateways, asks [`crate::route`]
//! where they go, and moves their requests and bytes.
//!
//! A [`Workers`] is a set of threads that share nothing but the world they read: a connection stays on the worker that
//! accepted it, with that worker's pools and counters. The proxy does not know how connections come to its listeners,
//! and changes nothing outside its own sockets.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::TcpListener;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::runtime::LocalOptions;
use tokio::sync::{mpsc, watch};

use crate::intercept::capture::Capture;
use crate::intercept::{ListenSpec, PodListeners};
use crate::model::{PodId, Snapshot, SourceMode};
use crate::netns::NetNs;
use crate::proxy::dns::Resolver;
use crate::proxy::phase::Phase;
use crate::proxy::record::Counters;
use crate::proxy::site::Who;
use crate::proxy::upstream::Connector;
use crate::proxy::upstream::clusters::Clusters;
use crate::proxy::worker::{Command, Shared, Socket};

pub use crate::proxy::dns::DnsFiles;
pub use crate::proxy::http::plain_path;
pub use crate::proxy::record::{Flag, Hop, HopStats, Stats};

mod connection;
mod detect;
mod dns;
mod http;
mod phase;
mod record;
mod respond;
mod site;
mod stream;
mod tcp;
#[cfg(test)]
mod tests;
mod tls;
mod upstream;
mod worker;

/// Times and limits of the proxy. The defaults are Istio's where it has any.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How long a connection to a server may take to open that no cluster has a limit for.
    pub connect_timeout: Duration,
    /// How long a client of an undeclared port may be silent before the server gets the chance to speak first.
    pub server_first_wait: Duration,
    /// The same on a port declared as HTTP, where clients are known to open connections for later.
    pub declared_silence: Duration,
    /// How long the head of a request may take from its first byte.
    pub header_timeout: Duration,
    /// How long a client may take to ask for a server in its TLS, and a gateway's clients over the whole handshake.
    pub handshake_timeout: Duration,
    /// How long a connection may be idle: relayed ones, and clients between two requests.
    pub idle_timeout: Duration,
    /// How long a connection to a server that is no cluster's is kept for the next request.
    pub pool_idle_timeout: Duration,
    /// How many of them per server, pod and worker.
    pub pool_idle_connections: usize,
    /// How many requests share one HTTP/2 connection, at most, where no cluster says otherwise.
    pub http2_streams: u32,
    /// The wait before the first retry; it doubles, up to ten times this, and is drawn evenly from 0 to that.
    pub retry_base: Duration,
    /// Whether much that is relayed may be moved with `splice`, where the kernel says that it sees all of it. Not where nobody
    /// asks the kernel to say so: see `LEG_PRIORITY`.
    pub splice: bool,
    /// Whether a connection from pod to pod of this node, both of them served here, stays in the process: one pass where
    /// there would be two.
    pub one_hop: bool,
    /// Where the node keeps its settings of names.
    pub names: DnsFiles,
}

/// The threads of the proxy. Dropping it ends them and every connection.
#[derive(Debug)]
pub struct Workers {
    threads: Vec<Thread>,
    /// What is remembered of clusters for each pod, as long as it is served: the ports of a gateway share it.
    clusters: Mutex<HashMap<PodId, Weak<Clusters>>>,
}

/// A pod whose connections are to be served.
#[derive(Debug)]
pub struct PodProxy {
    /// Whose they are; the pod itself is looked up in the newest snapshot.
    pub pod: PodId,
    /// Where connections are opened on its behalf.
    pub netns: Arc<NetNs>,
    /// Where its connections arrive.
    pub listeners: PodListeners,
    /// How those were opened.
    pub ports: ListenSpec,
    /// What the app sees as its client.
    pub source: SourceMode,
}

/// A port of an ingress gateway.
#[derive(Debug)]
pub struct GatewayProxy {
    /// Where clients connect; one per address family, as a rule.
    pub listener: Vec<TcpListener>,
    /// `servers[].port.number`.
    pub port: u16,
    /// The gateway pod; what it serves is looked up in the newest snapshot.
    pub pod: PodId,
}

/// A pod or gateway that is being served. Dropping it cuts its connections.
#[derive(Debug)]
#[must_use = "dropping the handle ends the service"]
pub struct Handle {
    accepted: Arc<Accepted>,
    caught: Arc<ArcSwapOption<Capture>>,
    phase: watch::Sender<Phase>,
    /// Ends when no worker has a connection left.
    done: mpsc::Receiver<Infallible>,
}

/// How many connections a pod's or gateway's listeners have taken, and how many were passed on to it within the process.
/// Outlives the service.
#[derive(Debug, Default)]
pub struct Accepted {
    outbound: AtomicU64,
    inbound: AtomicU64,
    passed_on: AtomicU64,
}

#[derive(Debug)]
struct Thread {
    commands: Option<mpsc::UnboundedSender<Command>>,
    counters: Arc<Counters>,
    join: Option<JoinHandle<()>>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(10),
            server_first_wait: Duration::from_millis(100),
            declared_silence: Duration::from_secs(1),
            header_timeout: Duration::from_secs(10),
            handshake_timeout: Duration::from_secs(15),
            idle_timeout: Duration::from_secs(3600),
            pool_idle_timeout: Duration::from_secs(90),
            pool_idle_connections: 256,
            http2_streams: 100,
            retry_base: Duration::from_millis(25),
            splice: true,
            one_hop: true,
            names: DnsFiles::default(),
        }
    }
}

impl Workers {
    /// Starts `count` threads that read the world from `world`.
    pub fn start(
        count: usize,
        world: Arc<ArcSwap<Snapshot>>,
        settings: Settings,
    ) -> io::Result<Self> {
        let tls = Arc::<tls::Configs>::default();
        let resolver = Arc::new(Resolver::new(settings.names.clone()));
        let threads = (0..count.max(1))
            .map(move |index| {
                Thread::start(
                    index,
                    Arc::clone(&world),
                    settings.clone(),
                    Arc::clone(&tls),
                    Arc::clone(&resolver),
                )
            })
            .collect::<io::Result<_>>()?;
        Ok(Self {
            threads,
            clusters: Mutex::default(),
        })
    }

    /// Serves the connections of a pod. Fails where the listeners cannot be shared out.
    pub fn serve_pod(&self, proxy: PodProxy) -> io::Result<Handle> {
        let PodProxy {
            pod,
            netns,
            listeners,
            ports,
            source,
        } = proxy;
        let PodListeners {
            outbound4,
            outbound6,
            inbound4,
            inbound6,
        } = listeners;
        let sockets: Vec<_> = [
            (Some(outbound4), Hop::Outbound),
            (outbound6, Hop::Outbound),
            (Some(inbound4), Hop::Inbound),
            (inbound6, Hop::Inbound),
        ]
        .into_iter()
        .filter_map(|(listener, hop)| listener.map(|listener| (listener, hop)))
        .collect();
        let who = Who::Pod { pod, ports, source };
        self.serve(&sockets, &who, || Connector::Pod(Arc::clone(&netns)))
    }

    /// Serves a port of a gateway.
    pub fn serve_gateway(&self, proxy: GatewayProxy) -> io::Result<Handle> {
        let GatewayProxy {
            listener,
            port,
            pod,
        } = proxy;
        let sockets: Vec<_> = listener
            .into_iter()
            .map(|listener| (listener, Hop::Gateway))
            .collect();
        let who = Who::Gateway { port, pod };
        self.serve(&sockets, &who, || Connector::Plain)
    }

    /// What all workers have counted so far.
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        for thread in &self.threads {
            thread.counters.add_to(&mut stats);
        }
        stats
    }

    fn serve(
        &self,
        sockets: &[(TcpListener, Hop)],
        who: &Who,
        connector: impl Fn() -> Connector,
    ) -> io::Result<Handle> {
        let (phase, _) = watch::channel(Phase::Serving);
        let (alive, done) = mpsc::channel(1);
        let shared = Shared {
            accepted: Arc::default(),
            caught: Arc::default(),
            clusters: self.clusters(who.pod()),
        };
        let mut commands = Vec::with_capacity(self.threads.len());
        for _ in &self.threads {
            let sockets = sockets
                .iter()
                .map(|(listener, hop)| {
                    // The copies share one accept queue: whichever worker is awake takes the connection.
                    let listener = listener.try_clone()?;
                    listener.set_nonblocking(true)?;
                    Ok(Socket {
                        listener,
                        hop: *hop,
                    })
                })
                .collect::<io::Result<_>>()?;
            commands.push(Command {
                sockets,
                who: who.clone(),
                connector: connector(),
                phase: phase.subscribe(),
                alive: alive.clone(),
                shared: shared.clone(),
            });
        }
        for (thread, command) in self.threads.iter().zip(commands) {
            thread.command(command)?;
        }
        Ok(Handle {
            accepted: shared.accepted,
            caught: shared.caught,
            phase,
            done,
        })
    }
}

impl Workers {
    fn clusters(&self, pod: &PodId) -> Arc<Clusters> {
        let mut all = self.clusters.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, clusters| clusters.strong_count() > 0);
        let clusters = all.get(pod).and_then(Weak::upgrade).unwrap_or_default();
        all.insert(pod.clone(), Arc::downgrade(&clusters));
        clusters
    }
}

impl Accepted {
    /// Connections that the pod opened.
    pub fn outbound(&self) -> u64 {
        self.outbound.load(Ordering::Relaxed)
    }

    /// Connections to the pod or gateway.
    pub fn inbound(&self) -> u64 {
        self.inbound.load(Ordering::Relaxed)
    }

    /// Connections to the pod from other pods of this node that came without its listener.
    pub fn passed_on(&self) -> u64 {
        self.passed_on.load(Ordering::Relaxed)
    }

    fn count_passed_on(&self) {
        self.passed_on.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self, hop: Hop) {
        let counter = match hop {
            Hop::Outbound => &self.outbound,
            Hop::Inbound | Hop::Gateway => &self.inbound,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

impl Handle {
    /// What has been accepted so far; can be read on when the handle is gone.
    pub fn accepted(&self) -> Arc<Accepted> {
        Arc::clone(&self.accepted)
    }

    /// Says what of the connections to the pod its interception catches from now on; `None` for nothing. Until this is said,
    /// and from the moment on that it drains, no connection is passed on to it within the process.
    pub fn catch(&self, caught: Option<Capture>) {
        self.caught.store(caught.map(Arc::new));
    }

    /// Stops accepting, but for what already waits to be accepted, and lets what runs come to its end: requests in
    /// flight are answered, HTTP clients told to go elsewhere, relayed connections left alone. What is not over at
    /// the deadline is cut.
    pub async fn drain(mut self, deadline: Duration) {
        self.phase.send_replace(Phase::Draining);
        if tokio::time::timeout(deadline, self.done.recv())
            .await
            .is_err()
        {
            self.phase.send_replace(Phase::Stopped);
            self.done.recv().await;
        }
    }

    /// Cuts everything at once.
    pub fn stop(self) {
        drop(self);
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.phase.send_replace(Phase::Stopped);
    }
}

impl Thread {
    fn start(
        index: usize,
        world: Arc<ArcSwap<Snapshot>>,
        settings: Settings,
        tls: Arc<tls::Configs>,
        resolver: Arc<Resolver>,
    ) -> io::Result<Self> {
        let counters = Arc::<Counters>::default();
        let (commands, received) = mpsc::unbounded_channel();
        let shared = Arc::clone(&counters);
        // A failure to make it is the caller's and not a dead thread's.
        let (made, making) = std::sync::mpsc::sync_channel(1);
        let join = std::thread::Builder::new()
            .name(format!("proxy-{index}"))
            .spawn(move || {
                // Bound to its thread: its tasks need no set of their own beside it.
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build_local(LocalOptions::default());
                match runtime {
                    Ok(runtime) => {
                        let _ = made.send(Ok(()));
                        worker::run(&runtime, received, world, settings, shared, tls, resolver);
                    }
                    Err(error) => {
                        let _ = made.send(Err(error));
                    }
                }
            })?;
        making
            .recv()
            .map_err(|_| io::Error::other("a proxy thread has died"))??;
        Ok(Self {
            commands: Some(commands),
            counters,
            join: Some(join),
        })
    }

    fn command(&self, command: Command) -> io::Result<()> {
        self.commands
            .as_ref()
            .and_then(|commands| commands.send(command).ok())
            .ok_or_else(|| io::Error::other("a proxy thread has died; the agent must be restarted"))
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.commands = None;
        if let Some(join) = self.join.take()
            && join.join().is_err()
        {
            tracing::error!("a proxy thread had died");
        }
    }
}
