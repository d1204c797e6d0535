//! The eBPF mode: a connect hook marks what a pod opens, a policy route keeps it in the pod's namespace, and a socket
//! lookup gives it to the agent's listeners there. No address is rewritten, so an accepted socket's own address is where
//! the connection was headed.
//!
//! Programs and maps are pinned: they go on when the agent is killed, and do then what the pod's policy for that case
//! says. A successor enrols the pods anew, with programs of its own, and ends what its predecessor's do to each. An agent that ends in good order leaves nothing.
//!
//! The hooks tell the agent's own connections by their mark. Users and groups are compared with those of the process
//! that connects, whereas the nat chains look at the socket's creator: that differs for programs that change their user
//! in between, and in pods with a user namespace of their own.

mod cgroup;
mod enrolment;
mod entries;
mod load;
mod log;
mod pins;
pub mod plan;
mod probe;
mod self_test;

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use aya::programs::links::PinnedLink;
use mesh_ebpf::abi::MAX_PODS;
use mesh_ebpf::decide::Reason;
use mesh_ebpf::pair::Tally;
use tracing::level_filters::LevelFilter;

use crate::intercept::journal::{FileError, RUN};
use crate::intercept::{Enrolment, InterceptError, Interceptor, ListenSpec, Mode, Target};
use enrolment::PodEnrolment;
use load::{FastPath, Maps, Object};
use log::Forwarder;
use pins::{Other, Pins};

pub use load::ProgramReport;

/// Where the eBPF mode keeps its things.
#[derive(Clone, Debug)]
pub struct Options {
    /// A directory on a bpffs for the pins. `None`: `/sys/fs/bpf/mesh-agent` where a bpffs is mounted there, otherwise a
    /// bpffs of the agent's own, mounted below `run_dir`.
    pub pin_dir: Option<PathBuf>,
    /// A directory that lasts until the next boot, the same for each agent of this node.
    pub run_dir: PathBuf,
    /// The port, inside a pod, for what it opens.
    pub outbound_port: u16,
    /// The port, inside a pod, for what is opened to it.
    pub inbound_port: u16,
    /// Whether the programs write a log record, at level debug, for each connection they steer, refuse or see
    /// established. That costs time in the hooks, so the default is whether anybody listens at that level.
    pub log_connections: bool,
    /// Which connections within the node may go without TCP.
    pub fast_path: FastPathFor,
}

/// Which connections within the node go without TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FastPathFor {
    /// None.
    Nobody,
    /// Those between the agent's own sockets in two pods: no application can tell.
    Agent,
    /// Also those that have an application at one end, which can tell.
    Applications,
}

/// The eBPF mode, running.
pub struct Ebpf {
    agent: Arc<Agent>,
    listen: ListenSpec,
}

/// What all enrolments of this agent share.
struct Agent {
    object: Mutex<Object>,
    /// Whether `sk_lookup` programs see the interface of a packet.
    sees_ingress: bool,
    cgroup: File,
    reports: Vec<ProgramReport>,
    state: Mutex<State>,
    /// Ends with the agent.
    _log: Option<Forwarder>,
}

/// What changes.
struct State {
    maps: Maps,
    hooks: Vec<PinnedLink>,
    fast_path: Option<FastPath>,
    /// The cookies of the enrolled pods, by index.
    pods: BTreeMap<u32, u64>,
    /// Last, so that everything else is let go of before the directory is.
    pins: Pins,
}

/// How long an agent that ends waits for applications to read what they were handed.
const LAST_WORDS: Duration = Duration::from_secs(1);

impl Default for Options {
    fn default() -> Self {
        Self {
            pin_dir: None,
            run_dir: PathBuf::from(RUN),
            outbound_port: 15001,
            inbound_port: 15006,
            log_connections: LevelFilter::current() >= LevelFilter::DEBUG,
            fast_path: FastPathFor::Nobody,
        }
    }
}

impl Ebpf {
    /// Finds out whether this node can do it, by doing it: in a namespace made for the purpose, with a real connection.
    /// The error says in one line why not.
    pub fn probe(options: &Options) -> Result<(), InterceptError> {
        probe::probe(options)
    }

    /// Loads the programs and attaches those that serve all pods. No pod is steered yet.
    pub fn start(options: &Options) -> Result<Self, InterceptError> {
        let cgroup = cgroup::root(&options.run_dir)
            .map_err(|e| InterceptError::step("finding the root of cgroup2", e))?;
        // Before anything is pinned: a build without programs should not leave directories.
        Object::exists()?;
        let pins = Pins::create(options.pin_dir.as_deref(), &options.run_dir)
            .map_err(|e| InterceptError::step("making a place for pins", e))?;
        let mut object = Object::new(&pins.maps(), options.log_connections, options.fast_path);
        let mut hooks = object.attach(&cgroup)?;
        if !object.refuses_properly() {
            tracing::info!(
                "this kernel has no choice of errors for connect: applications get EPERM, not ECONNREFUSED, while no \
                 agent runs"
            );
        }
        let log = Forwarder::start(&mut hooks.instance)
            .inspect_err(|e| tracing::warn!(error = &**e, "no log records from BPF programs"))
            .ok();
        for report in &hooks.reports {
            tracing::debug!(
                program = report.name,
                verified_instructions = report.verified_instructions,
                bytes = report.bytes,
                "loaded"
            );
        }
        let mut pinned = Vec::new();
        for (name, link) in hooks.links {
            pinned.push(pin(&pins, name, link)?);
        }
        if object.has_fast_path() {
            hooks
                .maps
                .free_all_pairs()
                .map_err(|e| InterceptError::step("preparing the fast path", e))?;
        }
        let state = State {
            maps: hooks.maps,
            fast_path: hooks.fast_path,
            hooks: pinned,
            pods: BTreeMap::new(),
            pins,
        };
        Ok(Self {
            agent: Arc::new(Agent {
                sees_ingress: object.sees_ingress(),
                object: Mutex::new(object),
                cgroup,
                reports: hooks.reports,
                state: Mutex::new(state),
                _log: log,
            }),
            listen: ListenSpec {
                transparent: true,
                outbound_port: options.outbound_port,
                inbound_port: options.inbound_port,
            },
        })
    }

    /// What the verifier made of each program.
    pub fn programs(&self) -> &[ProgramReport] {
        &self.agent.reports
    }

    /// How many connections of the fast path have one end only: those that are just being made or just ending.
    pub fn half_open_pairs(&self) -> Result<usize, InterceptError> {
        let state = self.agent.state();
        let entries = state.maps.waiting.keys().map(|key| key.map(drop));
        let entries = entries.chain(state.maps.gone.keys().map(|key| key.map(drop)));
        entries
            .collect::<Result<Vec<()>, _>>()
            .map(|all| all.len())
            .map_err(|e| InterceptError::step("reading the maps of the fast path", e))
    }

    /// How often each decision was made since the start, over all pods.
    pub fn stats(&self) -> Result<Vec<(Reason, u64)>, InterceptError> {
        let state = self.agent.state();
        Reason::ALL
            .into_iter()
            .map(|reason| {
                let per_cpu = state
                    .maps
                    .stats
                    .get(&(reason as u32), 0)
                    .map_err(|e| InterceptError::step("reading the counters", e))?;
                Ok((reason, per_cpu.iter().sum()))
            })
            .collect()
    }
}

impl Interceptor for Ebpf {
    fn mode(&self) -> Mode {
        Mode::Ebpf
    }

    fn listen(&self) -> ListenSpec {
        self.listen
    }

    fn enrol(&self, target: &Target<'_>) -> Result<Box<dyn Enrolment>, InterceptError> {
        let enrolment = PodEnrolment::start(&self.agent, target)?;
        Ok(Box::new(enrolment))
    }

    fn tallies(&self) -> Result<Vec<(Tally, u64)>, InterceptError> {
        let state = self.agent.state();
        if state.fast_path.is_none() {
            return Ok(Vec::new());
        }
        Tally::ALL
            .into_iter()
            .map(|tally| {
                let per_cpu = state
                    .maps
                    .tally
                    .get(&(tally as u32), 0)
                    .map_err(|e| InterceptError::step("reading the counters", e))?;
                Ok((tally, per_cpu.iter().sum()))
            })
            .collect()
    }
}

/// Ends what agents of this mode that are gone still do to the pod with this cookie: for an agent of the other mode.
pub fn clear(pin_dir: Option<&Path>, run_dir: &Path, cookie: u64) -> Result<(), InterceptError> {
    release(&all(pin_dir, run_dir)?, cookie)
}

/// Removes the programs and maps of agents that are gone, and all that they wrote down.
pub fn remove_dead(pin_dir: Option<&Path>, run_dir: &Path) -> Result<(), InterceptError> {
    let removing = |e| InterceptError::step("removing a dead agent's pins", e);
    for other in all(pin_dir, run_dir)? {
        if other.is_gone()
            && let Some(maps) = other.maps()
            && let Err(e) = Maps::remove_from_pinned(&maps, None)
        {
            tracing::debug!(error = &e as &dyn std::error::Error, "a dead agent's map");
        }
        other.remove().map_err(removing)?;
    }
    pins::remove_empty(pin_dir, run_dir).map_err(removing)
}

fn all(pin_dir: Option<&Path>, run_dir: &Path) -> Result<Vec<Other>, InterceptError> {
    pins::others(pin_dir, run_dir, None).map_err(looking)
}

// === impl Agent ===

impl Drop for Agent {
    /// What the applications have not read yet would go with the maps.
    fn drop(&mut self) {
        let state = self.state();
        let deadline = Instant::now() + LAST_WORDS;
        while state.fast_path.is_some() && state.maps.are_awaited() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Agent {
    fn state(&self) -> MutexGuard<'_, State> {
        // Every change of the state is complete in itself, so a panic elsewhere does not spoil it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn object(&self) -> MutexGuard<'_, Object> {
        self.object.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Attaches the hooks for all pods once more: somebody has detached them by force.
    fn attach_again(&self) -> Result<(), InterceptError> {
        let hooks = self.object().attach(&self.cgroup)?;
        let mut state = self.state();
        state.hooks.clear();
        state.fast_path = hooks.fast_path;
        for (name, link) in hooks.links {
            let link = pin(&state.pins, name, link)?;
            state.hooks.push(link);
        }
        Ok(())
    }
}

// === impl State ===

impl State {
    /// Gives a pod an index that no other has.
    fn take_index(&mut self, cookie: u64) -> Result<u32, InterceptError> {
        if self.pods.values().any(|taken| *taken == cookie) {
            return Err(InterceptError::step(
                "giving the pod an index",
                "its namespace is enrolled already",
            ));
        }
        let free = (0..MAX_PODS).find(|index| !self.pods.contains_key(index));
        let index = free.ok_or_else(|| InterceptError::Unsupported {
            what: format!("{MAX_PODS} pods are enrolled on this node already"),
            remedy: "use the iptables mode".to_owned(),
        })?;
        self.pods.insert(index, cookie);
        Ok(index)
    }

    /// Ends what agents that are gone still do to this pod.
    fn take_over(&self, cookie: u64) -> Result<(), InterceptError> {
        release(&others(self)?, cookie)
    }
}

/// Ends what those of the agents that are gone still do to a pod. Their programs stay, for their other pods.
fn release(others: &[Other], cookie: u64) -> Result<(), InterceptError> {
    for other in others.iter().filter(|other| other.is_gone()) {
        if let Some(maps) = other.maps()
            && let Err(e) = Maps::remove_from_pinned(&maps, Some(cookie))
        {
            tracing::debug!(error = &e as &dyn std::error::Error, "a dead agent's map");
        }
        other
            .unpin(&lookup_pin(cookie))
            .map_err(|e| InterceptError::step("detaching a dead agent's program", e))?;
    }
    Ok(())
}

/// The name that a pod's socket lookup is pinned under.
fn lookup_pin(cookie: u64) -> String {
    format!("lookup_{cookie}")
}

fn pin(
    pins: &Pins,
    name: &str,
    link: aya::programs::links::FdLink,
) -> Result<PinnedLink, InterceptError> {
    pins.pin(name, link)
        .map_err(|e| InterceptError::step("keeping a program attached", e))
}

fn others(state: &State) -> Result<Vec<Other>, InterceptError> {
    state.pins.others().map_err(looking)
}

fn looking(e: FileError) -> InterceptError {
    InterceptError::step("looking for other agents", e)
}
