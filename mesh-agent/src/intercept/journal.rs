//! What the agents of a node write down: that they live, and which pods they steer, how, and what those were like before.
//!
//! An agent has a file of its own, `<run>/agents/<agent>`, and keeps it locked. A file that nobody locks is of an agent
//! that is gone, and says what there is to take over or to clear away. Agents of both modes write here, so that each can
//! follow the other.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::intercept::Mode;
use crate::intercept::policy_route::Before;
use crate::netns::{NetNs, NetNsId};
use crate::sys::mounts::{mount_points, mounts};
use crate::sys::netns_cookie::netns_cookie;

/// Where agents keep what must outlive them. Gone with a reboot, as are the namespaces.
pub const RUN: &str = "/run/mesh-agent";

/// The files of the agents, below the run directory.
const AGENTS: &str = "agents";

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct FileError {
    pub(super) action: &'static str,
    pub(super) path: PathBuf,
    #[source]
    pub(super) source: Box<dyn std::error::Error + Send + Sync>,
}

/// What an agent notes of a pod, for whoever comes after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNote {
    /// The namespace's inode and device.
    pub inode: u64,
    /// Of the inode.
    pub device: u64,
    /// How it is steered.
    pub mode: Mode,
    /// What its routing was like.
    pub before: Before,
}

/// Pods by the [`number`] of their namespace.
pub type Notes = BTreeMap<u64, PodNote>;

/// The file of this agent. Dropping it removes it.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    name: String,
    file: Flock<File>,
    notes: Notes,
}

/// The file of any agent, as found.
#[derive(Debug)]
pub struct Entry {
    /// Which agent.
    pub name: String,
    path: PathBuf,
    /// The lock, held: the agent is gone, and nobody else clears up after it. `None`: it lives.
    lock: Option<Flock<File>>,
    /// What it noted.
    pub notes: Notes,
}

/// The number that notes about a namespace bear: its cookie, which is never used again, or before Linux 5.14 its inode.
pub fn number(netns: &NetNs) -> u64 {
    netns_cookie(netns).unwrap_or(netns.id().inode)
}

/// The files of all agents, this one's among the living. Dead ones are locked for as long as the result is held.
pub fn entries(run: &Path) -> Result<Vec<Entry>, FileError> {
    names(&run.join(AGENTS))?
        .into_iter()
        .map(|name| Entry::open(run, name))
        .collect()
}

impl PodNote {
    /// A note about a namespace.
    pub fn new(netns: &NetNs, mode: Mode, before: Before) -> Self {
        let NetNsId { device, inode } = netns.id();
        Self {
            inode,
            device,
            mode,
            before,
        }
    }

    /// Finds the namespace again: where it is mounted, or through a process in it.
    pub fn find_netns(&self, number: u64) -> Option<NetNs> {
        let mounts = mounts();
        let mounted = mount_points(&mounts, "nsfs").collect::<Vec<_>>();
        let processes = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path().join("ns/net")));
        mounted
            .into_iter()
            .chain(processes)
            .filter(|path| self.is_about(path))
            .filter_map(|path| NetNs::open(&path).ok())
            .find(|netns| self::number(netns) == number)
    }

    fn is_about(&self, path: &Path) -> bool {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(path)
            .is_ok_and(|found| (found.dev(), found.ino()) == (self.device, self.inode))
    }
}

impl Journal {
    /// Opens a new file below `run`.
    pub fn create(run: &Path) -> Result<Self, FileError> {
        let agents = run.join(AGENTS);
        fs::create_dir_all(&agents).map_err(failed("creating", &agents))?;
        let name = format!("{}_{:08x}", std::process::id(), fastrand::u32(..));
        let path = agents.join(&name);
        let file = lock(&path)
            .map_err(failed("creating", &path))?
            .ok_or_else(|| failed("locking", &path)(io::Error::from(io::ErrorKind::WouldBlock)))?;
        Ok(Self {
            path,
            name,
            file,
            notes: Notes::new(),
        })
    }

    /// What this agent is called here.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Notes something about a pod, or forgets it.
    pub fn note(&mut self, number: u64, note: Option<PodNote>) -> Result<(), FileError> {
        match note {
            Some(note) => self.notes.insert(number, note),
            None => self.notes.remove(&number),
        };
        let text = serde_json::to_vec(&self.notes).map_err(failed("writing", &self.path))?;
        // In place, for the lock is on this file, and cut off afterwards: at no moment is there less than a whole note.
        let mut write = || {
            self.file.rewind()?;
            self.file.write_all(&text)?;
            self.file.set_len(text.len() as u64)
        };
        write().map_err(failed("writing", &self.path))
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        if let Err(e) = remove_file(&self.path) {
            tracing::warn!(error = &e as &dyn std::error::Error, "a note remains");
        }
    }
}

impl Entry {
    /// Opens the file of an agent. It is created where it is missing, so that two successors never clear up at once.
    pub(super) fn open(run: &Path, name: String) -> Result<Self, FileError> {
        let path = run.join(AGENTS).join(&name);
        let lock = lock(&path).map_err(failed("locking", &path))?;
        // What cannot be read was written by another version. What follows the first value is left of an older one.
        let text = fs::read(&path).unwrap_or_default();
        let mut values = serde_json::Deserializer::from_slice(&text).into_iter::<Notes>();
        let notes = values.next().and_then(Result::ok).unwrap_or_default();
        Ok(Self {
            name,
            path,
            lock,
            notes,
        })
    }

    /// Whether its agent is gone.
    pub fn is_gone(&self) -> bool {
        self.lock.is_some()
    }

    /// Removes it, unless its agent lives.
    pub fn remove(self) -> Result<(), FileError> {
        match self.is_gone() {
            true => remove_file(&self.path),
            false => Ok(()),
        }
    }
}

/// Opens and locks; `None` where somebody else has the lock.
fn lock(path: &Path) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(e.into()),
    }
}

/// What a directory holds, in order; nothing where there is none.
pub(super) fn names(directory: &Path) -> Result<Vec<String>, FileError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(failed("listing", directory)(e)),
    };
    let mut names: Vec<String> = entries
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .collect();
    names.sort();
    Ok(names)
}

/// Removes a file that may be gone already.
pub(super) fn remove_file(path: &Path) -> Result<(), FileError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("removing", path)(e)),
    }
}

pub(super) fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> FileError {
    let path = path.to_owned();
    move |source| FileError {
        action,
        path,
        source: source.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_living_and_the_dead_are_told_apart() {
        let run = tempfile::tempdir().expect("a directory");
        let netns = NetNs::current().expect("/proc shows the namespace");
        let mut journal = Journal::create(run.path()).expect("a journal");
        let note = PodNote::new(&netns, Mode::Iptables, Before::default());
        journal.note(7, Some(note.clone())).expect("a note");
        // A dead agent's file, longer than what it says: its last write came no further.
        let text = serde_json::to_string(&Notes::from([(8, note.clone())])).expect("JSON");
        fs::write(run.path().join(AGENTS).join("dead"), text + "\"x\"}}").expect("a file");

        let found = entries(run.path()).expect("entries");
        let seen: Vec<_> = found
            .iter()
            .map(|entry| (entry.is_gone(), entry.notes.keys().copied().collect()))
            .collect();
        assert!(seen.contains(&(false, vec![7])), "{seen:?}");
        assert!(seen.contains(&(true, vec![8])), "{seen:?}");
        for entry in found {
            entry.remove().expect("removed, or left alone");
        }
        assert_eq!(
            names(&run.path().join(AGENTS)).expect("names"),
            [journal.name()]
        );
        drop(journal);
        assert!(entries(run.path()).expect("entries").is_empty());
    }
}
