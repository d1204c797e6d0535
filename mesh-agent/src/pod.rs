//! Enrolment: keeps the pods that are in the mesh equal to the pods that ought to be.
//!
//! What ought to be comes from the snapshot; what is, is held here, one [`Enrolled`] per network namespace. [`plan`]
//! compares the two and is pure. [`Pods::reconcile`] carries the plan out, with blocking system calls, so it runs on a
//! thread where that is welcome. A pod that cannot be enrolled is reported and tried again; it never holds up another.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};

use crate::intercept::capture::Capture;
use crate::intercept::{Enrolment, InterceptError, Interceptor, ListenSpec, Mode, PodListeners};
use crate::model::{CapturePolicy, NetnsPlace, PodId, Snapshot};
use crate::netns::{NetNs, NetNsId};
use crate::proxy::{Accepted, Handle, PodProxy, Workers};
use crate::sys::socket;

mod found;
mod newcomers;
mod plan;

use found::Finder;
use newcomers::Newcomers;
pub use newcomers::{Door, Newcomer};
use plan::{Actual, Step, Wanted, plan};

/// How often pods that could not be enrolled are tried again, and drained ones are cleared away.
const RETRY: Duration = Duration::from_secs(1);

/// How often the steering of each pod is checked, and put back where somebody removed it.
const REPAIR: Duration = Duration::from_secs(5);

/// The pods of this node, as enrolled.
pub struct Pods {
    interceptor: Arc<dyn Interceptor>,
    workers: Arc<Workers>,
    runtime: tokio::runtime::Handle,
    /// How long the connections of a pod that leaves the mesh may go on.
    drain: Duration,
    enrolled: Vec<Enrolled>,
    failures: HashMap<PodId, String>,
    finder: Finder,
    newcomers: Newcomers,
    reports: Reports,
}

/// What is to be known of the pods from outside; cheap to clone, always of the last reconciliation.
#[derive(Clone, Default)]
pub struct Reports(Arc<Mutex<Vec<PodReport>>>);

/// The state of one pod, for people.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PodReport {
    /// `namespace/name`.
    pub pod: String,
    /// The mode that its connections are steered by.
    pub mode: String,
    /// `enrolled`, `draining`, or `failed: ` and why.
    pub state: String,
    /// Why it is outside the mesh, where it ought to be in it.
    #[serde(skip)]
    pub outside: Option<String>,
    /// Its uid, where that is known and it is outside.
    #[serde(skip)]
    pub uid: Option<Arc<str>>,
    #[serde(skip)]
    accepted: Arc<Accepted>,
}

/// A pod whose connections are steered, or were until a moment ago and are being finished.
struct Enrolled {
    pod: PodId,
    netns: Arc<NetNs>,
    addresses: Vec<IpAddr>,
    policy: CapturePolicy,
    enrolment: Box<dyn Enrolment>,
    accepted: Arc<Accepted>,
    service: Service,
}

/// Who takes the steered connections of a pod.
enum Service {
    /// The workers do. The listeners are kept beside theirs for when the pod changes.
    Serving {
        handle: Handle,
        listeners: PodListeners,
    },
    /// The pod leaves: the task ends with its last connection, or when the drain time is over.
    Draining(tokio::task::JoinHandle<()>),
}

/// The pods that should be enrolled.
#[derive(Default)]
struct Census {
    /// Those whose namespaces are there.
    wanted: Vec<Wanted>,
    /// Those whose namespaces are not.
    missing: Vec<PodId>,
    /// Those of `wanted` whose namespaces could not be looked at; what is held of them stands in.
    unseen: Vec<PodId>,
}

impl Pods {
    /// No pod is enrolled yet.
    pub fn new(
        interceptor: Arc<dyn Interceptor>,
        workers: Arc<Workers>,
        runtime: tokio::runtime::Handle,
        drain: Duration,
    ) -> Self {
        Self {
            interceptor,
            workers,
            runtime,
            drain,
            enrolled: Vec::new(),
            failures: HashMap::new(),
            finder: Finder::new(found::host_proc()),
            newcomers: Newcomers::default(),
            reports: Reports::default(),
        }
    }

    /// Where the state of the pods can be read.
    pub fn reports(&self) -> Reports {
        self.reports.clone()
    }

    /// Makes the enrolled pods equal to the snapshot's. Returns whether every pod that should be enrolled, and is there,
    /// is.
    pub fn reconcile(&mut self, snapshot: &Snapshot) -> bool {
        self.finish_drained();
        let Census {
            wanted,
            missing,
            unseen,
        } = self.take_census(snapshot);
        let actual: Vec<_> = self.enrolled.iter().map(Enrolled::actual).collect();
        let steps = plan(&wanted, &actual);
        // A failure stays for as long as its pod is missing, unseen, or still to be worked on.
        let unsettled: Vec<_> = steps.iter().filter_map(Step::wanted).collect();
        self.failures.retain(|pod, _| {
            missing.contains(pod)
                || unseen.contains(pod)
                || unsettled.iter().any(|index| &wanted[*index].pod == pod)
        });
        for step in steps {
            match step {
                Step::Enrol(index) => self.enrol(&wanted[index]),
                Step::Update {
                    wanted: index,
                    actual,
                } => self.update(actual, &wanted[index]),
                Step::Withdraw(index) => {
                    // Whose namespace is gone, or has been replaced, has nobody left to drain for, and what we hold of
                    // it keeps its interfaces alive.
                    let pod = &self.enrolled[index].pod;
                    let gone = missing.contains(pod) || wanted.iter().any(|w| &w.pod == pod);
                    self.start_drain(index, if gone { Duration::ZERO } else { self.drain });
                }
            }
        }
        self.publish(|pod| snapshot.pods.get(pod)?.uid.clone());
        // A Pod may outlive its namespace, or come before it; that is no reason not to be ready for the others.
        self.failures.keys().all(|pod| missing.contains(pod))
    }

    /// Takes in what a CNI plugin asks. It is answered by [`Pods::answer`].
    pub fn welcome(&mut self, newcomer: Newcomer) {
        self.newcomers.take(newcomer, Instant::now());
    }

    /// Answers the CNI plugins that wait, after a reconciliation.
    pub fn answer(&mut self, snapshot: &Snapshot) {
        let Self {
            newcomers,
            enrolled,
            failures,
            ..
        } = self;
        let is_enrolled = |pod: &PodId, netns: NetNsId| {
            let mut found = enrolled.iter();
            found.any(|held| held.pod == *pod && held.netns.id() == netns && !held.is_draining())
        };
        let failed = |pod: &PodId| failures.get(pod).cloned();
        newcomers.answer(snapshot, Instant::now(), is_enrolled, failed);
    }

    /// Puts back what somebody took away from under an enrolled pod.
    pub fn repair(&mut self) {
        for enrolled in self
            .enrolled
            .iter_mut()
            .filter(|enrolled| !enrolled.is_draining())
        {
            let pod = &enrolled.pod;
            match enrolled.enrolment.repair() {
                Ok(false) => {}
                Ok(true) => {
                    warn!(%pod, "the steering of the pod had been tampered with; it is whole again");
                }
                Err(e) => {
                    error!(%pod, error = chain(&e), "the steering of the pod could not be repaired");
                }
            }
        }
    }

    /// Takes every pod out of the mesh: nothing new is steered from now on, what is carried may end within the drain
    /// time, and then nothing of the agent is left in any pod.
    pub async fn withdraw_all(mut self) {
        for index in 0..self.enrolled.len() {
            self.start_drain(index, self.drain);
        }
        for enrolled in self.enrolled.drain(..) {
            if let Service::Draining(task) = enrolled.service
                && task.await.is_err()
            {
                error!(pod = %enrolled.pod, "the connections of the pod were cut");
            }
            withdraw(&enrolled.pod, enrolled.enrolment);
        }
        self.failures.clear();
        self.publish(|_| None);
    }

    /// The pods that should be enrolled, as their namespaces are found.
    fn take_census(&mut self, snapshot: &Snapshot) -> Census {
        let mut census = Census::default();
        for pod in snapshot.pods.values() {
            let Some(local) = pod.local.as_ref().filter(|local| local.enrol) else {
                continue;
            };
            let opened = match &local.netns {
                NetnsPlace::Path(path) => NetNs::open(path).map_err(|e| {
                    let why = format!(
                        "its network namespace {} cannot be opened: {e}; check the annotation mesh-agent.io/netns",
                        path.display()
                    );
                    (e, why)
                }),
                NetnsPlace::Processes(uid) => self.finder.find(uid).map_err(|e| {
                    let why = format!("its network namespace cannot be found: {e}");
                    (e, why)
                }),
            };
            let shown = self.newcomers.shown(&pod.id, pod.uid.as_deref());
            let addresses = match (pod.addresses.as_slice(), &shown) {
                ([], Some((_, addresses))) => addresses.to_vec(),
                (addresses, _) => addresses.to_vec(),
            };
            if addresses.is_empty() {
                // Its sandbox is being made; who makes it will say when it is there.
                continue;
            }
            let netns = match (opened, shown) {
                (Ok(netns), _) => Arc::new(netns),
                // No process runs in it yet.
                (Err((e, _)), Some((netns, _))) if e.kind() == io::ErrorKind::NotFound => netns,
                (Err((e, why)), _) => {
                    self.failed(&pod.id, why);
                    let held = self.enrolled.iter().find(|enrolled| enrolled.pod == pod.id);
                    match held {
                        // Out of descriptors, say. That is no word about the pod, which stays as it is.
                        Some(held) if e.kind() != io::ErrorKind::NotFound => {
                            census.unseen.push(pod.id.clone());
                            Arc::clone(&held.netns)
                        }
                        Some(_) | None => {
                            census.missing.push(pod.id.clone());
                            continue;
                        }
                    }
                }
            };
            census.wanted.push(Wanted {
                pod: pod.id.clone(),
                netns,
                addresses,
                policy: local.capture.clone(),
            });
        }
        census.wanted.sort_by(|a, b| a.pod.cmp(&b.pod));
        census
    }

    fn enrol(&mut self, wanted: &Wanted) {
        match self.try_enrol(wanted) {
            Ok(enrolled) => {
                info!(pod = %wanted.pod, mode = %self.interceptor.mode(), "enrolled");
                self.failures.remove(&wanted.pod);
                self.enrolled.push(enrolled);
            }
            Err(e) => self.failed(&wanted.pod, chain(&e)),
        }
    }

    /// Accepting comes before steering: a connection that is steered finds somebody listening.
    fn try_enrol(&self, wanted: &Wanted) -> Result<Enrolled, InterceptError> {
        let listeners = self.listen(wanted)?;
        let handle = self.serve(wanted, &listeners)?;
        let enrolment = self.interceptor.enrol(&wanted.target(&listeners))?;
        handle.catch(Some(capture(wanted, self.interceptor.listen(), &listeners)));
        Ok(Enrolled {
            pod: wanted.pod.clone(),
            netns: Arc::clone(&wanted.netns),
            addresses: wanted.addresses.clone(),
            policy: wanted.policy.clone(),
            enrolment,
            accepted: handle.accepted(),
            service: Service::Serving { handle, listeners },
        })
    }

    /// Follows a pod that changed, or takes back one that was about to leave. What is carried goes on.
    fn update(&mut self, index: usize, wanted: &Wanted) {
        match self.try_update(index, wanted) {
            Ok(()) => {
                info!(pod = %wanted.pod, "enrolment updated");
                self.failures.remove(&wanted.pod);
            }
            Err(e) => self.failed(&wanted.pod, chain(&e)),
        }
    }

    fn try_update(&mut self, index: usize, wanted: &Wanted) -> Result<(), InterceptError> {
        let enrolled = &self.enrolled[index];
        let serving_suits =
            !enrolled.is_draining() && enrolled.policy.source == wanted.policy.source;
        let fresh = match &enrolled.service {
            Service::Serving { .. } if serving_suits => None,
            Service::Serving { listeners, .. } => {
                let listeners = listeners.try_clone().map_err(|e| {
                    InterceptError::step(format!("duplicating the listeners of {}", wanted.pod), e)
                })?;
                Some((self.serve(wanted, &listeners)?, listeners))
            }
            Service::Draining(_) => {
                let listeners = self.listen(wanted)?;
                Some((self.serve(wanted, &listeners)?, listeners))
            }
        };
        let (drain, runtime) = (self.drain, self.runtime.clone());
        let ports = self.interceptor.listen();
        let enrolled = &mut self.enrolled[index];
        if let Some((handle, listeners)) = fresh {
            enrolled.accepted = handle.accepted();
            let old = std::mem::replace(
                &mut enrolled.service,
                Service::Serving { handle, listeners },
            );
            if let Service::Serving { handle, .. } = old {
                runtime.spawn(handle.drain(drain));
            }
        }
        let Service::Serving { listeners, handle } = &enrolled.service else {
            return Ok(());
        };
        enrolled.enrolment.update(&wanted.target(listeners))?;
        handle.catch(Some(capture(wanted, ports, listeners)));
        enrolled.addresses.clone_from(&wanted.addresses);
        enrolled.policy = wanted.policy.clone();
        Ok(())
    }

    /// New connections go their own way from now on, those that are carried get the drain time.
    fn start_drain(&mut self, index: usize, deadline: Duration) {
        let enrolled = &mut self.enrolled[index];
        if enrolled.is_draining() {
            return;
        }
        info!(pod = %enrolled.pod, "leaving the mesh");
        if let Service::Serving { handle, .. } = &enrolled.service {
            handle.catch(None);
        }
        if let Err(e) = enrolled.enrolment.stop_steering() {
            error!(pod = %enrolled.pod, error = chain(&e), "the steering of the pod could not be stopped");
        }
        let ended = Service::Draining(self.runtime.spawn(std::future::ready(())));
        if let Service::Serving { handle, listeners } =
            std::mem::replace(&mut enrolled.service, ended)
        {
            drop(listeners);
            enrolled.service = Service::Draining(self.runtime.spawn(handle.drain(deadline)));
        }
    }

    /// Removes the last traces of the agent from pods whose connections have ended.
    fn finish_drained(&mut self) {
        let (gone, stay) = std::mem::take(&mut self.enrolled).into_iter().partition(
            |enrolled| matches!(&enrolled.service, Service::Draining(task) if task.is_finished()),
        );
        self.enrolled = stay;
        for enrolled in Vec::from_iter::<Vec<Enrolled>>(gone) {
            withdraw(&enrolled.pod, enrolled.enrolment);
        }
    }

    fn listen(&self, wanted: &Wanted) -> Result<PodListeners, InterceptError> {
        let spec = self.interceptor.listen();
        socket::listen(&wanted.netns, spec).map_err(|e| {
            let ports = format!("{} and {}", spec.outbound_port, spec.inbound_port);
            InterceptError::step(
                format!(
                    "listening on ports {ports} in the namespace of {}",
                    wanted.pod
                ),
                e,
            )
        })
    }

    fn serve(&self, wanted: &Wanted, listeners: &PodListeners) -> Result<Handle, InterceptError> {
        let listeners = listeners.try_clone().map_err(|e| {
            InterceptError::step(format!("duplicating the listeners of {}", wanted.pod), e)
        })?;
        let proxy = PodProxy {
            pod: wanted.pod.clone(),
            netns: Arc::clone(&wanted.netns),
            listeners,
            ports: self.interceptor.listen(),
            source: wanted.policy.source,
        };
        self.workers
            .serve_pod(proxy)
            .map_err(|e| InterceptError::step(format!("serving {}", wanted.pod), e))
    }

    fn failed(&mut self, pod: &PodId, why: String) {
        if self.failures.get(pod) != Some(&why) {
            error!(%pod, why, "the pod could not be enrolled; it runs outside the mesh, and is tried again");
        }
        self.failures.insert(pod.clone(), why);
    }

    /// `uid` knows the pods that are in the world.
    fn publish(&self, uid: impl Fn(&PodId) -> Option<Arc<str>>) {
        let mode = self.interceptor.mode();
        let mut reports: Vec<_> = self
            .enrolled
            .iter()
            .map(|enrolled| enrolled.report(mode))
            .collect();
        reports.extend(self.failures.iter().map(|(pod, why)| PodReport {
            pod: pod.to_string(),
            mode: mode.to_string(),
            state: format!("failed: {why}"),
            outside: Some(why.clone()),
            uid: uid(pod),
            accepted: Arc::default(),
        }));
        reports.sort_by(|a, b| a.pod.cmp(&b.pod));
        *self
            .reports
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = reports;
    }
}

impl PodReport {
    /// What its listeners have taken so far.
    pub fn accepted(&self) -> &Accepted {
        &self.accepted
    }
}

impl Reports {
    /// The pods, by name.
    pub fn get(&self) -> Vec<PodReport> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Follows the snapshots for as long as the agent runs, and takes every pod out of the mesh at its end. `enrolled` is
/// called after every round, with whether every pod is in the mesh. `newcomers` are the questions of CNI plugins; where
/// nobody asks, the other end is to be dropped.
pub async fn run(
    mut pods: Pods,
    mut snapshots: watch::Receiver<Arc<Snapshot>>,
    mut newcomers: mpsc::Receiver<Newcomer>,
    mut enrolled: impl FnMut(bool),
    shutdown: impl Future<Output = ()>,
) {
    let mut retry = tokio::time::interval(RETRY);
    let mut repair = tokio::time::interval(REPAIR);
    let mut shutdown = std::pin::pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            changed = snapshots.changed() => if changed.is_err() { break },
            Some(newcomer) = newcomers.recv() => pods.welcome(newcomer),
            _ = retry.tick() => {}
            _ = repair.tick() => pods.repair(),
        }
        let snapshot = Arc::clone(&snapshots.borrow_and_update());
        let complete = pods.reconcile(&snapshot);
        pods.answer(&snapshot);
        enrolled(complete);
    }
    pods.withdraw_all().await;
}

impl Enrolled {
    fn is_draining(&self) -> bool {
        matches!(self.service, Service::Draining(_))
    }

    fn actual(&self) -> Actual<'_> {
        Actual {
            pod: &self.pod,
            netns: self.netns.id(),
            addresses: &self.addresses,
            policy: &self.policy,
            draining: self.is_draining(),
        }
    }

    fn report(&self, mode: Mode) -> PodReport {
        let state = if self.is_draining() {
            "draining"
        } else {
            "enrolled"
        };
        PodReport {
            pod: self.pod.to_string(),
            mode: mode.to_string(),
            state: state.to_owned(),
            outside: None,
            uid: None,
            accepted: Arc::clone(&self.accepted),
        }
    }
}

/// What of the connections to a pod is caught once it is enrolled so.
fn capture(wanted: &Wanted, ports: ListenSpec, listeners: &PodListeners) -> Capture {
    Capture::new(&wanted.addresses, &wanted.policy, ports, listeners)
}

fn withdraw(pod: &PodId, enrolment: Box<dyn Enrolment>) {
    match enrolment.withdraw() {
        Ok(()) => info!(%pod, "withdrawn"),
        Err(e) => {
            error!(%pod, error = chain(&e), "something of the agent is left in the pod's namespace");
        }
    }
}

/// An error with its causes, on one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}
