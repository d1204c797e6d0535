//! What outlives the agent: the directory on bpffs that keeps its programs attached, and the notes beside it.
//!
//! An agent has a directory of its own, `<bpffs>/v<ABI>/<agent>`, and a file that it keeps locked, `<run>/agents/<agent>`,
//! with what a successor needs to know. A directory whose file nobody locks belongs to an agent that is gone.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use mesh_ebpf::abi::ABI_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde::{Deserialize, Serialize};

use super::cgroup::{mount_points, mounts};
use crate::intercept::policy_route::Before;
use crate::netns::NetNsId;

/// Where bpffs usually is.
const BPFFS: &str = "/sys/fs/bpf";
/// Our directory on it.
const DIRECTORY: &str = "mesh-agent";
/// The shared maps, below an agent's directory.
const MAPS: &str = "maps";

/// A failed file operation.
#[derive(Debug, thiserror::Error)]
#[error("{action} {}", path.display())]
pub struct PinError {
    action: &'static str,
    path: PathBuf,
    #[source]
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// What an agent notes of a pod, for whoever comes after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodNote {
    /// The namespace's inode and device.
    pub inode: u64,
    /// Of the inode.
    pub device: u64,
    /// What the namespace was like.
    pub before: Before,
}

/// Pods by netns cookie.
pub type Notes = BTreeMap<u64, PodNote>;

/// The directory of this agent. Dropping it removes everything in it, which detaches what is attached.
#[derive(Debug)]
pub struct Pins {
    base: PathBuf,
    run: PathBuf,
    directory: PathBuf,
    name: String,
    file: Flock<File>,
    notes: Notes,
}

/// The directory of another agent.
#[derive(Debug)]
pub struct Other {
    /// Its pins, where there are any.
    pub directory: Option<PathBuf>,
    /// Its file.
    file: PathBuf,
    /// The lock, held: the agent is gone, and nobody else clears up after it. `None`: it lives.
    lock: Option<Flock<File>>,
    /// What it noted.
    pub notes: Notes,
}

impl PodNote {
    /// The namespace it is about.
    pub fn netns(&self) -> NetNsId {
        NetNsId {
            device: self.device,
            inode: self.inode,
        }
    }
}

impl Pins {
    /// Makes a new directory below `base`, or below the usual place for `None`.
    pub fn create(base: Option<&Path>, run: &Path) -> Result<Self, PinError> {
        let agents = run.join("agents");
        fs::create_dir_all(&agents).map_err(failed("creating", &agents))?;
        let base = match base {
            Some(base) => base.to_owned(),
            None => usual_base(run)?,
        };
        let name = format!("{}_{:08x}", std::process::id(), fastrand::u32(..));
        // The lock comes first: a directory without one would be taken for a dead agent's.
        let path = agents.join(&name);
        let file = lock(&path, true)
            .map_err(failed("creating", &path))?
            .ok_or_else(|| failed("locking", &path)(io::Error::from(io::ErrorKind::WouldBlock)))?;
        let directory = base.join(format!("v{ABI_VERSION}")).join(&name);
        let this = Self {
            base,
            run: run.to_owned(),
            directory,
            name,
            file,
            notes: Notes::new(),
        };
        fs::create_dir_all(this.maps()).map_err(failed("creating", &this.maps()))?;
        Ok(this)
    }

    /// Where the shared maps are pinned.
    pub fn maps(&self) -> PathBuf {
        self.directory.join(MAPS)
    }

    /// Pins a link, replacing what bore the name.
    pub fn pin(&self, name: &str, link: FdLink) -> Result<PinnedLink, PinError> {
        let path = self.directory.join(name);
        remove_file(&path)?;
        link.pin(&path).map_err(|e| PinError {
            action: "pinning",
            path,
            source: e.into(),
        })
    }

    /// Unpins a link.
    pub fn unpin(&self, name: &str) -> Result<(), PinError> {
        remove_file(&self.directory.join(name))
    }

    /// Notes something about a pod, or forgets it.
    pub fn note(&mut self, cookie: u64, note: Option<PodNote>) -> Result<(), PinError> {
        match note {
            Some(note) => self.notes.insert(cookie, note),
            None => self.notes.remove(&cookie),
        };
        let path = self.run.join("agents").join(&self.name);
        let text = serde_json::to_vec(&self.notes).map_err(failed("writing", &path))?;
        // In place, for the lock is on this file, and cut off afterwards: at no moment is there less than a whole note.
        let mut write = || {
            self.file.rewind()?;
            self.file.write_all(&text)?;
            self.file.set_len(text.len() as u64)
        };
        write().map_err(failed("writing", &path))
    }

    /// The other agents that there are traces of.
    pub fn others(&self) -> Result<Vec<Other>, PinError> {
        let agents = self.run.join("agents");
        let mut directories = pinned(&self.base)?;
        let mut others = Vec::new();
        for name in names(&agents)? {
            let directory = directories.remove(&name);
            if name != self.name {
                others.push(Other::open(directory, agents.join(&name))?);
            }
        }
        // Pins without a file: the run directory was wiped, as at a reboot of a container.
        for (name, directory) in directories {
            if name != self.name {
                others.push(Other::open(Some(directory), agents.join(&name))?);
            }
        }
        Ok(others)
    }

    fn remove(&self) -> Result<(), PinError> {
        remove_tree(&self.directory)?;
        // The version's directory goes with its last agent.
        if let Some(version) = self.directory.parent() {
            let _ = fs::remove_dir(version);
        }
        remove_file(&self.run.join("agents").join(&self.name))?;
        // So does the directory around it, and a bpffs of our own, whose only other files are the kernel's.
        if self.base == Path::new(BPFFS).join(DIRECTORY) {
            let _ = fs::remove_dir(&self.base);
        }
        let own = own_bpffs(&self.run);
        if self.base == own && versions(&own)?.is_empty() {
            let _ = umount2(&own, MntFlags::MNT_DETACH);
            let _ = fs::remove_dir(&own);
        }
        Ok(())
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            tracing::warn!(error = &e as &dyn std::error::Error, "pins remain");
        }
    }
}

impl Other {
    fn open(directory: Option<PathBuf>, file: PathBuf) -> Result<Self, PinError> {
        // Created where it is missing, so that two successors do not clear up at the same time.
        let lock = lock(&file, true).map_err(failed("locking", &file))?;
        // What cannot be read was written by another version. What follows the first value is left of an older one.
        let text = fs::read(&file).unwrap_or_default();
        let mut values = serde_json::Deserializer::from_slice(&text).into_iter::<Notes>();
        let notes = values.next().and_then(Result::ok).unwrap_or_default();
        Ok(Self {
            directory,
            file,
            lock,
            notes,
        })
    }

    /// Whether its agent is gone.
    pub fn is_gone(&self) -> bool {
        self.lock.is_some()
    }

    /// Its shared maps, where they have the layout that this agent knows.
    pub fn maps(&self) -> Option<PathBuf> {
        let directory = self.directory.as_ref()?;
        let version = directory.parent()?.file_name()?;
        (version.to_str() == Some(&format!("v{ABI_VERSION}"))).then(|| directory.join(MAPS))
    }

    /// Unpins one of its links.
    pub fn unpin(&self, name: &str) -> Result<(), PinError> {
        match &self.directory {
            Some(directory) => remove_file(&directory.join(name)),
            None => Ok(()),
        }
    }

    /// Removes every trace, unless its agent lives.
    pub fn remove(self) -> Result<(), PinError> {
        if !self.is_gone() {
            return Ok(());
        }
        if let Some(directory) = &self.directory {
            remove_tree(directory)?;
            if let Some(version) = directory.parent() {
                let _ = fs::remove_dir(version);
            }
        }
        remove_file(&self.file)
    }
}

/// `/sys/fs/bpf/mesh-agent` where bpffs is there, otherwise a bpffs of our own.
fn usual_base(run: &Path) -> Result<PathBuf, PinError> {
    let mounts = mounts();
    let own = own_bpffs(run);
    let mounted: Vec<PathBuf> = mount_points(&mounts, "bpf").collect();
    if mounted.iter().any(|path| path == Path::new(BPFFS)) {
        return Ok(Path::new(BPFFS).join(DIRECTORY));
    }
    if mounted.contains(&own) {
        return Ok(own);
    }
    fs::create_dir_all(&own).map_err(failed("creating", &own))?;
    mount(
        None::<&str>,
        &own,
        Some("bpf"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(failed("mounting bpffs at", &own))?;
    Ok(own)
}

/// Where a bpffs of our own is mounted.
fn own_bpffs(run: &Path) -> PathBuf {
    run.join("bpf")
}

/// Opens and locks; `None` where somebody else has the lock.
fn lock(path: &Path, create: bool) -> io::Result<Option<Flock<File>>> {
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .open(path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, e)) => Err(e.into()),
    }
}

/// The directories of agents of any version, by agent.
fn pinned(base: &Path) -> Result<BTreeMap<String, PathBuf>, PinError> {
    let mut found = BTreeMap::new();
    for version in versions(base)? {
        for name in names(&version)? {
            found.insert(name.clone(), version.join(name));
        }
    }
    Ok(found)
}

fn versions(base: &Path) -> Result<Vec<PathBuf>, PinError> {
    let names = names(base)?.into_iter();
    let versions = names.filter(|name| name.starts_with('v'));
    Ok(versions.map(|name| base.join(name)).collect())
}

fn names(directory: &Path) -> Result<Vec<String>, PinError> {
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

fn remove_file(path: &Path) -> Result<(), PinError> {
    match fs::remove_file(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("removing", path)(e)),
    }
}

fn remove_tree(path: &Path) -> Result<(), PinError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("removing", path)(e)),
    }
}

fn failed<E: Into<Box<dyn std::error::Error + Send + Sync>>>(
    action: &'static str,
    path: &Path,
) -> impl FnOnce(E) -> PinError {
    let path = path.to_owned();
    move |source| PinError {
        action,
        path,
        source: source.into(),
    }
}
