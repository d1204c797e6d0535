//! What the node agent and the gateway share: logging, the control runtime, the manifests, the workers and the
//! administration. Whatever can fail at start fails here, before a connection is touched.

use std::collections::HashSet;
use std::sync::Arc;

use anyhow::Context;
use arc_swap::ArcSwap;
use tokio::runtime::Runtime;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::admin::{Admin, Endpoints, Face, Tallies};
use crate::cli::ProcessArgs;
use crate::config::source::{Origin, Source};
use crate::config::{Code, CompileOptions, Membership, Rejected, Severity, Update};
use crate::log::{self, LogFilter};
use crate::model::{CapturePolicy, Snapshot, Topology};
use crate::pod::Reports;
use crate::proxy::{Settings, Workers};
use crate::ready::Ready;
use crate::shutdown::{self, Shutdown};

/// A process that knows its world and can carry traffic, but does not do so yet.
pub(crate) struct Process {
    /// For everything but traffic.
    pub(crate) runtime: Runtime,
    /// Carry the traffic.
    pub(crate) workers: Arc<Workers>,
    /// Every snapshot, newest last.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// Whether the process serves.
    pub(crate) ready: Ready,
    /// When it is to end.
    pub(crate) shutdown: Shutdown,
    world: Arc<ArcSwap<Snapshot>>,
    rejected: Arc<ArcSwap<Vec<Rejected>>>,
    endpoints: Endpoints,
    log: LogFilter,
    client: Option<kube::Client>,
}

/// Who the process is, for those who ask.
pub(crate) struct Identity {
    /// `agent` or `gateway`.
    pub(crate) role: &'static str,
    /// The node's or the gateway pod's name.
    pub(crate) name: String,
    /// The mode and why it was chosen; none for a gateway.
    pub(crate) mode: Option<(String, String)>,
    /// The pods of this node.
    pub(crate) pods: Reports,
    /// Asks how much goes without TCP.
    pub(crate) tallies: Tallies,
}

/// Where a process stands in the world that it is to serve.
pub(crate) struct Standing {
    /// Where the world comes from.
    pub(crate) origin: Origin,
    /// Which Pods are of this machine.
    pub(crate) membership: Membership,
    /// What the annotations of a pod start from.
    pub(crate) capture: CapturePolicy,
    /// Likewise, of a gateway's pod.
    pub(crate) topology: Topology,
    /// How the workers carry traffic.
    pub(crate) settings: Settings,
}

impl Process {
    /// Starts what both kinds of process need. `None` where it was told to end before there was a world to serve.
    pub(crate) fn start(args: &ProcessArgs, standing: Standing) -> anyhow::Result<Option<Self>> {
        let log = log::start(&args.log, args.log_format)?;
        raise_descriptor_limit();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("control")
            .enable_all()
            .build()
            .context("starting the control runtime")?;
        let (shutdown, endpoints) = runtime.block_on(async {
            let shutdown = shutdown::on_signals().context("listening for signals")?;
            anyhow::Ok((shutdown, Endpoints::bind(&faces(args)).await?))
        })?;

        let options = CompileOptions {
            topology: standing.topology,
            membership: standing.membership,
            ..args.mesh.options(standing.capture)
        };
        let opened = runtime.block_on(async {
            tokio::select! {
                opened = Source::open(standing.origin, options) => Some(opened),
                () = shutdown.asked() => None,
            }
        });
        let Some(opened) = opened else {
            info!("told to end before there was anything to serve; goodbye");
            return Ok(None);
        };
        let (source, first) = opened?;
        let client = source.client().cloned();
        let world = Arc::new(ArcSwap::from(Arc::clone(&first.snapshot)));
        let rejected = Arc::new(ArcSwap::from_pointee(Vec::new()));
        let (publish, snapshots) = watch::channel(Arc::clone(&first.snapshot));
        report(first.rejected, &rejected);
        announce(&first.snapshot);
        runtime.spawn(follow(
            source,
            Arc::clone(&world),
            Arc::clone(&rejected),
            publish,
        ));

        let count = args.workers.map_or_else(default_workers, usize::from);
        let workers = Workers::start(count, Arc::clone(&world), standing.settings)
            .context("starting the workers")?;
        Ok(Some(Self {
            runtime,
            workers: Arc::new(workers),
            snapshots,
            ready: Ready::default(),
            shutdown,
            world,
            rejected,
            endpoints,
            log,
            client,
        }))
    }

    /// Starts to answer questions. The rest of the process is what remains.
    pub(crate) fn announce(self, identity: Identity) -> Running {
        let admin = Admin {
            role: identity.role,
            name: identity.name,
            mode: identity.mode,
            world: self.world,
            rejected: self.rejected,
            pods: identity.pods,
            tallies: identity.tallies,
            ready: self.ready,
            workers: Arc::clone(&self.workers),
            log: self.log,
        };
        self.endpoints.serve(self.runtime.handle(), &admin);
        Running {
            runtime: self.runtime,
            snapshots: self.snapshots,
            shutdown: self.shutdown,
            client: self.client,
        }
    }
}

/// A process that answers questions, as far as its owner still needs it.
pub(crate) struct Running {
    /// For everything but traffic.
    pub(crate) runtime: Runtime,
    /// Every snapshot, newest last.
    pub(crate) snapshots: watch::Receiver<Arc<Snapshot>>,
    /// When to end.
    pub(crate) shutdown: Shutdown,
    /// The API server, where there is one.
    pub(crate) client: Option<kube::Client>,
}

fn faces(args: &ProcessArgs) -> [(std::net::SocketAddr, Face, &'static str); 4] {
    [
        (args.admin, Face::Admin, "--admin"),
        (args.health, Face::Health, "--health"),
        (args.metrics, Face::Metrics, "--metrics"),
        (args.envoy_metrics, Face::Metrics, "--envoy-metrics"),
    ]
}

/// Puts every new snapshot in force: first for the workers, then for those who enrol and listen.
async fn follow(
    mut source: Source,
    world: Arc<ArcSwap<Snapshot>>,
    rejected: Arc<ArcSwap<Vec<Rejected>>>,
    publish: watch::Sender<Arc<Snapshot>>,
) {
    loop {
        let Update {
            snapshot,
            rejected: complaints,
        } = source.next().await;
        let new = !Arc::ptr_eq(&snapshot, &publish.borrow());
        if new {
            world.store(Arc::clone(&snapshot));
        }
        report(complaints, &rejected);
        if new {
            announce(&snapshot);
            publish.send_replace(snapshot);
        }
    }
}

/// Says what is new: each complaint once, when it appears and when it is mended. What is most likely as meant is for those
/// who ask (`mesh-agent analyze`).
fn report(mut complaints: Vec<Rejected>, in_force: &ArcSwap<Vec<Rejected>>) {
    complaints.retain(|complaint| complaint.severity > Severity::Info);
    let before = in_force.load();
    let (known, now) = (set(&before), set(&complaints));
    for new in complaints.iter().filter(|new| !known.contains(new)) {
        warn!(
            code = new.code.map(Code::id),
            "{}: {new}",
            new.severity.name()
        );
    }
    for mended in before.iter().filter(|mended| !now.contains(mended)) {
        info!("no longer: {mended}");
    }
    in_force.store(Arc::new(complaints));
}

fn announce(snapshot: &Snapshot) {
    info!(
        generation = snapshot.generation,
        services = snapshot.services.len(),
        clusters = snapshot.clusters.len(),
        pods = snapshot.pods.len(),
        "configuration in force"
    );
}

fn set(list: &[Rejected]) -> HashSet<&Rejected> {
    list.iter().collect()
}

fn default_workers() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// A proxy holds two descriptors per connection, and the usual soft limit is 1024.
fn raise_descriptor_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(e) = raised {
        warn!(error = %e, "the limit on open files could not be raised; many connections may not fit");
    }
}
