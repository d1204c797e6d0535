//! One mode per pod: what agents that are gone have left of the other mode goes before a pod is enrolled, and what they
//! have left in pods that nobody wants any more goes afterwards.
//!
//! In between, a connection of the pod goes direct, and whole. Living agents are left alone.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use mesh_ebpf::pair::Tally;

use crate::intercept::iptables::apply;
use crate::intercept::iptables::options::Options;
use crate::intercept::journal::{self, Entry, FileError, PodNote};
use crate::intercept::policy_route::PolicyRoute;
use crate::intercept::{Enrolment, InterceptError, Interceptor, ListenSpec, Mode, Target, ebpf};
use crate::netns::NetNs;

/// Where agents of both modes leave their traces.
#[derive(Clone, Debug)]
pub struct Places {
    /// As in [`ebpf::Options::pin_dir`].
    pub pin_dir: Option<PathBuf>,
    /// As in [`ebpf::Options::run_dir`].
    pub run_dir: PathBuf,
}

/// An [`Interceptor`] that comes after others.
pub struct Successor {
    interceptor: Arc<dyn Interceptor>,
    places: Places,
}

impl Default for Places {
    fn default() -> Self {
        Self {
            pin_dir: None,
            run_dir: PathBuf::from(journal::RUN),
        }
    }
}

impl Successor {
    /// Lets `interceptor` have the pods that others had.
    pub fn new(interceptor: Arc<dyn Interceptor>, places: Places) -> Self {
        Self {
            interceptor,
            places,
        }
    }

    /// Clears away what agents that are gone have left, but for the pods that a living agent has enrolled. To be called
    /// once the pods are enrolled; until then what the dead left guards them. Calling it again does no harm.
    pub fn sweep(&self) -> Result<(), InterceptError> {
        let Places { pin_dir, run_dir } = &self.places;
        let (gone, living): (Vec<_>, Vec<_>) =
            entries(run_dir)?.into_iter().partition(Entry::is_gone);
        for (number, note) in gone.iter().flat_map(|entry| &entry.notes) {
            if living.iter().any(|entry| entry.notes.contains_key(number)) {
                continue;
            }
            if let Some(netns) = note.find_netns(*number)
                && let Err(e) = free(&netns, note)
            {
                tracing::warn!(
                    error = &e as &dyn std::error::Error,
                    "something of an agent that is gone remains in a namespace"
                );
            }
        }
        drop(gone);
        ebpf::remove_dead(pin_dir.as_deref(), run_dir)
    }

    fn make_way(&self, netns: &NetNs) -> Result<(), InterceptError> {
        let Places { pin_dir, run_dir } = &self.places;
        let number = journal::number(netns);
        let entries = entries(run_dir)?;
        let notes = || {
            entries
                .iter()
                .filter_map(|entry| Some((entry.is_gone(), entry.notes.get(&number)?)))
        };
        let mode = self.interceptor.mode();
        if let Some((_, note)) = notes().find(|(gone, note)| !gone && note.mode != mode) {
            return Err(InterceptError::Unsupported {
                what: format!("another agent steers this pod, in {} mode", note.mode),
                remedy: "stop that agent first".to_owned(),
            });
        }
        let left: Vec<PodNote> = notes()
            .filter(|(gone, _)| *gone)
            .map(|(_, note)| note.clone())
            .collect();
        // The locks on dead agents' files are needed again.
        drop(entries);
        match mode {
            Mode::Ebpf => {
                // Chains may also have been applied by hand: `clean` asks for the note that they leave.
                if apply::is_noted(netns) || left.iter().any(|note| note.mode == Mode::Iptables) {
                    apply::clean(netns, &Options::default())?;
                }
            }
            Mode::Iptables => {
                ebpf::clear(pin_dir.as_deref(), run_dir, number)?;
                for note in &left {
                    remove_routes(netns, note)?;
                }
            }
        }
        Ok(())
    }
}

impl Interceptor for Successor {
    fn mode(&self) -> Mode {
        self.interceptor.mode()
    }

    fn listen(&self) -> ListenSpec {
        self.interceptor.listen()
    }

    fn enrol(&self, target: &Target<'_>) -> Result<Box<dyn Enrolment>, InterceptError> {
        self.make_way(target.netns)?;
        self.interceptor.enrol(target)
    }

    fn tallies(&self) -> Result<Vec<(Tally, u64)>, InterceptError> {
        self.interceptor.tallies()
    }
}

/// Removes from a namespace what a dead agent left there, but for its programs.
fn free(netns: &NetNs, note: &PodNote) -> Result<(), InterceptError> {
    match note.mode {
        Mode::Ebpf => {}
        Mode::Iptables => {
            apply::clean(netns, &Options::default())?;
        }
    }
    remove_routes(netns, note)
}

fn remove_routes(netns: &NetNs, note: &PodNote) -> Result<(), InterceptError> {
    PolicyRoute::remove_leftovers(netns, &note.before)
        .map_err(|e| InterceptError::step("removing a dead agent's policy routes", e))
}

fn entries(run: &Path) -> Result<Vec<Entry>, InterceptError> {
    journal::entries(run)
        .map_err(|e: FileError| InterceptError::step("looking for other agents", e))
}
