//! Finds the root of the cgroup2 hierarchy: whatever is attached there sees every process of the node.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};

use crate::sys::mounts::{mount_points, mounts};

/// Why the root could not be had.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No mount, and none could be made.
    #[error("mounting cgroup2 at {path}")]
    Mount {
        /// Where it was tried.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
    /// There is a mount, but only of a part.
    #[error(
        "{path} shows a part of the cgroup2 hierarchy only; run the agent in the host's cgroup namespace, or mount \
         the host's /sys/fs/cgroup"
    )]
    NotRoot {
        /// Where it is.
        path: PathBuf,
    },
    /// The directory could not be opened.
    #[error("opening {path}")]
    Open {
        /// Which.
        path: PathBuf,
        /// What the kernel said.
        #[source]
        source: io::Error,
    },
}

/// Opens the root: at a mount of the node's, or else at an own one below `run`.
pub fn root(run: &Path) -> Result<File, CgroupError> {
    let mounts = mounts();
    let found: Vec<PathBuf> = mount_points(&mounts, "cgroup2").collect();
    let path = match found.iter().find(|path| is_root(path)) {
        Some(path) => path.clone(),
        None => mount_own(&run.join("cgroup2"))?,
    };
    if !is_root(&path) {
        return Err(CgroupError::NotRoot { path });
    }
    File::open(&path).map_err(|source| CgroupError::Open { path, source })
}

/// Every cgroup has this file but the root.
fn is_root(path: &Path) -> bool {
    path.join("cgroup.procs").exists() && !path.join("cgroup.events").exists()
}

fn mount_own(path: &Path) -> Result<PathBuf, CgroupError> {
    let failed = |source| CgroupError::Mount {
        path: path.to_owned(),
        source,
    };
    fs::create_dir_all(path).map_err(failed)?;
    mount(
        None::<&str>,
        path,
        Some("cgroup2"),
        MsFlags::empty(),
        None::<&str>,
    )
    .map_err(|e| failed(e.into()))?;
    Ok(path.to_owned())
}
