//! The node around the agent's container: what the agent's own file system lacks may be there.

use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::panic;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

/// The node's file system, where it is another than the agent's: in a container that sees the node's processes.
#[derive(Debug)]
pub struct Node {
    mounts: File,
}

impl Node {
    /// `None` where the agent's file system is that of the first process that it sees. An error where it may not look:
    /// that takes `CAP_SYS_PTRACE`.
    pub fn around() -> io::Result<Option<Self>> {
        let own = File::open("/proc/self/ns/mnt")?.metadata()?;
        let mounts = File::open("/proc/1/ns/mnt")?;
        let first = mounts.metadata()?;
        let same = (own.dev(), own.ino()) == (first.dev(), first.ino());
        Ok((!same).then_some(Self { mounts }))
    }

    /// Runs `action` with the node's files in place of the agent's, and waits for it. It has a thread of its own, for a
    /// thread that has changed its file system cannot be trusted with other work. It takes `CAP_SYS_ADMIN` and `CAP_SYS_CHROOT`.
    pub fn run<T: Send>(&self, action: impl FnOnce() -> T + Send) -> io::Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                // The root and the working directory are shared by threads, and must not be when they change.
                unshare(CloneFlags::CLONE_FS)?;
                setns(&self.mounts, CloneFlags::CLONE_NEWNS)?;
                Ok(action())
            });
            inside
                .join()
                .unwrap_or_else(|panicked| panic::resume_unwind(panicked))
        })
    }
}
