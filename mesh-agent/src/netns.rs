//! A network namespace, and how to do something inside it.
//!
//! A socket belongs for life to the namespace it was created in, so only its creation happens inside: everything here
//! is synchronous, short, and back home before it returns.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::{CloneFlags, setns};

/// Where the parameters of the calling thread's network namespace are.
const SYSCTLS: &str = "/proc/sys/net";

/// A handle that keeps a network namespace alive.
#[derive(Debug)]
pub struct NetNs {
    file: File,
    id: NetNsId,
}

/// Tells network namespaces apart, for as long as somebody holds a handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NetNsId {
    /// Device of the namespace's inode.
    pub device: u64,
    /// The inode.
    pub inode: u64,
}

impl NetNs {
    /// Opens the namespace that is mounted, or shown by `/proc/PID/ns/net`, at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        Self::of(File::open(path)?)
    }

    /// The namespace that a descriptor is of, as somebody else has opened it. An error where it is of something else.
    pub fn from_descriptor(descriptor: OwnedFd) -> io::Result<Self> {
        let kind = nix::sys::statfs::fstatfs(&descriptor)?.filesystem_type();
        if kind != nix::sys::statfs::NSFS_MAGIC {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the descriptor is not of a namespace",
            ));
        }
        Self::of(File::from(descriptor))
    }

    fn of(file: File) -> io::Result<Self> {
        let metadata = file.metadata()?;
        Ok(Self {
            file,
            id: NetNsId {
                device: metadata.dev(),
                inode: metadata.ino(),
            },
        })
    }

    /// The namespace of the calling thread.
    pub fn current() -> io::Result<Self> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Another handle of the same namespace.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self {
            file: self.file.try_clone()?,
            id: self.id,
        })
    }

    /// Which namespace this is.
    pub fn id(&self) -> NetNsId {
        self.id
    }

    /// Runs `action` with the calling thread inside the namespace. `action` must not await and should be short.
    ///
    /// # Panics
    ///
    /// Where the way back is barred: a thread of the agent must not go on in the wrong namespace.
    pub fn run<T>(&self, action: impl FnOnce() -> T) -> io::Result<T> {
        let home = Self::current()?;
        setns(&self.file, CloneFlags::CLONE_NEWNET)?;
        // Only now is there a way to go back.
        let home = Home(home);
        let result = action();
        drop(home);
        Ok(result)
    }

    /// A parameter of the namespace, as of `/proc/sys/net`, which shows that of the thread that looks. `path` is below it.
    pub fn sysctl(&self, path: &str) -> io::Result<String> {
        let text = self.run(|| fs::read_to_string(Path::new(SYSCTLS).join(path)))??;
        Ok(text.trim().to_owned())
    }

    /// Sets it. A container may see its parameters read-only; those of the node's file system are the same, and open to
    /// whoever has `CAP_SYS_PTRACE`.
    pub fn set_sysctl(&self, path: &str, value: &str) -> io::Result<()> {
        self.run(|| {
            let own = fs::write(Path::new(SYSCTLS).join(path), value);
            match own {
                Err(e) if e.kind() == io::ErrorKind::ReadOnlyFilesystem => {
                    fs::write(format!("/proc/1/root{SYSCTLS}/{path}"), value)
                }
                outcome => outcome,
            }
        })?
    }
}

impl AsFd for NetNs {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// Brings the thread home, also when the action panics.
struct Home(NetNs);

impl Drop for Home {
    fn drop(&mut self) {
        setns(&self.0.file, CloneFlags::CLONE_NEWNET)
            .expect("a thread can always return to the namespace it came from");
    }
}
