//! What outlives the agent: the directory on bpffs that keeps its programs attached.
//!
//! An agent has a directory of its own, `<bpffs>/v<ABI>/<agent>`, named as its [`Journal`] is. A directory whose journal
//! nobody locks belongs to an agent that is gone.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use aya::programs::links::{FdLink, PinnedLink};
use mesh_ebpf::abi::ABI_VERSION;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use tracing::warn;

use crate::intercept::journal::{
    self, Entry, FileError, Journal, PodNote, failed, names, remove_file,
};
use crate::node::Node;
use crate::sys::mounts::{mount_points, mounts};

/// Where bpffs usually is.
const BPFFS: &str = "/sys/fs/bpf";
/// Our directory on it.
const DIRECTORY: &str = "mesh-agent";
/// The shared maps, below an agent's directory.
const MAPS: &str = "maps";

/// The directory of this agent. Dropping it removes everything in it, which detaches what is attached.
#[derive(Debug)]
pub struct Pins {
    base: PathBuf,
    run: PathBuf,
    directory: PathBuf,
    /// Last: a directory without a journal would be taken for a dead agent's.
    journal: Journal,
}

/// Another agent.
#[derive(Debug)]
pub struct Other {
    /// Its pins, where there are any.
    directory: Option<PathBuf>,
    /// What it wrote down.
    pub entry: Entry,
}

/// The other agents that there are traces of, but for the one called `own`. Without `base`, the pins are where they are
/// usually.
pub fn others(base: Option<&Path>, run: &Path, own: Option<&str>) -> Result<Vec<Other>, FileError> {
    let mut directories = BTreeMap::new();
    for base in bases(base, run) {
        directories.append(&mut pinned(&base)?);
    }
    let mut others = Vec::new();
    for entry in journal::entries(run)? {
        let directory = directories.remove(&entry.name);
        if own != Some(entry.name.as_str()) {
            others.push(Other { directory, entry });
        }
    }
    // Pins without a file: the run directory was wiped, as at a reboot of a container.
    for (name, directory) in directories {
        if own != Some(name.as_str()) {
            let directory = Some(directory);
            let entry = Entry::open(run, name)?;
            others.push(Other { directory, entry });
        }
    }
    Ok(others)
}

/// Removes the directories that hold nothing any more, and a bpffs of our own.
pub fn remove_empty(base: Option<&Path>, run: &Path) -> Result<(), FileError> {
    for base in bases(base, run) {
        for version in versions(&base)? {
            let _ = fs::remove_dir(version);
        }
        // The usual bpffs is not ours, but our directory on it is.
        if base == Path::new(BPFFS).join(DIRECTORY) {
            let _ = fs::remove_dir(&base);
        }
        // The other files there are the kernel's.
        if base == own_bpffs(run) && base.exists() && versions(&base)?.is_empty() {
            let _ = umount2(&base, MntFlags::MNT_DETACH);
            let _ = fs::remove_dir(&base);
        }
    }
    Ok(())
}

impl Pins {
    /// Makes a new directory below `base`, or below the usual place for `None`.
    pub fn create(base: Option<&Path>, run: &Path) -> Result<Self, FileError> {
        let journal = Journal::create(run)?;
        let base = match base {
            Some(base) => base.to_owned(),
            None => usual_base(run)?,
        };
        let directory = base.join(format!("v{ABI_VERSION}")).join(journal.name());
        let this = Self {
            base,
            run: run.to_owned(),
            directory,
            journal,
        };
        fs::create_dir_all(this.maps()).map_err(failed("creating", &this.maps()))?;
        Ok(this)
    }

    /// Where the shared maps are pinned.
    pub fn maps(&self) -> PathBuf {
        self.directory.join(MAPS)
    }

    /// Pins a link, replacing what bore the name.
    pub fn pin(&self, name: &str, link: FdLink) -> Result<PinnedLink, FileError> {
        let path = self.directory.join(name);
        remove_file(&path)?;
        link.pin(&path).map_err(failed("pinning", &path))
    }

    /// Unpins a link.
    pub fn unpin(&self, name: &str) -> Result<(), FileError> {
        remove_file(&self.directory.join(name))
    }

    /// Notes something about a pod, or forgets it.
    pub fn note(&mut self, number: u64, note: Option<PodNote>) -> Result<(), FileError> {
        self.journal.note(number, note)
    }

    /// The other agents that there are traces of.
    pub fn others(&self) -> Result<Vec<Other>, FileError> {
        others(Some(&self.base), &self.run, Some(self.journal.name()))
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let removed =
            remove_tree(&self.directory).and_then(|()| remove_empty(Some(&self.base), &self.run));
        if let Err(e) = removed {
            tracing::warn!(error = &e as &dyn std::error::Error, "pins remain");
        }
    }
}

impl Other {
    /// Whether it is gone.
    pub fn is_gone(&self) -> bool {
        self.entry.is_gone()
    }

    /// Its shared maps, where they have the layout that this agent knows.
    pub fn maps(&self) -> Option<PathBuf> {
        let directory = self.directory.as_ref()?;
        let version = directory.parent()?.file_name()?;
        (version.to_str() == Some(&format!("v{ABI_VERSION}"))).then(|| directory.join(MAPS))
    }

    /// Unpins one of its links.
    pub fn unpin(&self, name: &str) -> Result<(), FileError> {
        match &self.directory {
            Some(directory) => remove_file(&directory.join(name)),
            None => Ok(()),
        }
    }

    /// Removes every trace, unless it lives.
    pub fn remove(self) -> Result<(), FileError> {
        if let Some(directory) = &self.directory
            && self.is_gone()
        {
            remove_tree(directory)?;
        }
        self.entry.remove()
    }
}

/// Where pins are, if there are any.
fn bases(base: Option<&Path>, run: &Path) -> Vec<PathBuf> {
    match base {
        Some(base) => vec![base.to_owned()],
        None => vec![Path::new(BPFFS).join(DIRECTORY), own_bpffs(run)],
    }
}

/// `/sys/fs/bpf/mesh-agent` where bpffs is there, otherwise a bpffs of our own.
fn usual_base(run: &Path) -> Result<PathBuf, FileError> {
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
    if matches!(Node::around(), Ok(Some(_))) {
        warn!(
            "no bpffs is mounted at {BPFFS}: what happens to pods when the agent dies is not in force here, as this \
             container's own bpffs dies with it; mount one on the node (mount -t bpf bpf {BPFFS}) and let the container see it"
        );
    }
    Ok(own)
}

/// Where a bpffs of our own is mounted.
fn own_bpffs(run: &Path) -> PathBuf {
    run.join("bpf")
}

/// The directories of agents of any version, by agent.
fn pinned(base: &Path) -> Result<BTreeMap<String, PathBuf>, FileError> {
    let mut found = BTreeMap::new();
    for version in versions(base)? {
        for name in names(&version)? {
            found.insert(name.clone(), version.join(name));
        }
    }
    Ok(found)
}

fn versions(base: &Path) -> Result<Vec<PathBuf>, FileError> {
    let names = names(base)?.into_iter();
    let versions = names.filter(|name| name.starts_with('v'));
    Ok(versions.map(|name| base.join(name)).collect())
}

fn remove_tree(path: &Path) -> Result<(), FileError> {
    match fs::remove_dir_all(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(e) => Err(failed("removing", path)(e)),
    }
}
