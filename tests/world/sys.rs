//! What the world needs of the kernel that has no safe wrapper: forking, what a child does before it execs, and the
//! credentials of a single thread. All `unsafe` of the tests lives here.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, Signal};
use nix::unistd::ForkResult;

/// Handles of the two namespaces that make a pod.
#[derive(Debug)]
pub(super) struct Namespaces {
    pub(super) net: File,
    pub(super) mount: File,
}

/// A user and a group to run as.
#[derive(Clone, Copy, Debug)]
pub(super) struct Owner {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// Forks a process that has one thread.
#[expect(unsafe_code, reason = "fork has no safe form")]
pub(super) fn fork() -> nix::Result<ForkResult> {
    // SAFETY: the callers run first in `main`, when there is one thread, so no lock can be held by another.
    unsafe { nix::unistd::fork() }
}

/// Makes `command` run inside the namespaces, as `owner`, and end with the thread that starts it.
pub(super) fn enter_before_exec(
    command: &mut Command,
    namespaces: Arc<Namespaces>,
    owner: Option<Owner>,
) {
    before_exec(command, move || {
        set_pdeathsig(Signal::SIGKILL)?;
        setns(namespaces.net.as_fd(), CloneFlags::CLONE_NEWNET)?;
        setns(namespaces.mount.as_fd(), CloneFlags::CLONE_NEWNS)?;
        if let Some(owner) = owner {
            become_owner(owner)?;
            // The kernel forgets the wish when the user changes.
            set_pdeathsig(Signal::SIGKILL)?;
        }
        SigSet::empty().thread_set_mask()?;
        Ok(())
    });
}

/// Makes `command` end with the thread that starts it.
pub(super) fn die_with_parent(command: &mut Command) {
    before_exec(command, || {
        set_pdeathsig(Signal::SIGKILL)?;
        SigSet::empty().thread_set_mask()?;
        Ok(())
    });
}

/// Makes `command` run in new network and mount namespaces. `binds` are files to show in other places there.
pub(super) fn unshare_before_exec(
    command: &mut Command,
    hidden: CString,
    binds: Vec<(CString, CString)>,
) {
    before_exec(command, move || {
        set_pdeathsig(Signal::SIGKILL)?;
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
        mount(None::<&str>, c"/", None::<&str>, private, None::<&str>)?;
        // A copy of the other pods' mounts would keep their namespaces alive after they are gone.
        umount2(hidden.as_c_str(), MntFlags::MNT_DETACH)?;
        for (source, target) in &binds {
            let source = Some(source.as_c_str());
            mount(
                source,
                target.as_c_str(),
                None::<&str>,
                MsFlags::MS_BIND,
                None::<&str>,
            )?;
        }
        Ok(())
    });
}

/// Takes the calling thread, and it alone, into the namespaces and to the owner, for good.
pub(super) fn enter_thread(namespaces: &Namespaces, owner: Option<Owner>) -> io::Result<()> {
    setns(namespaces.net.as_fd(), CloneFlags::CLONE_NEWNET)?;
    // A thread can change its mount namespace only if it shares no working directory with others.
    unshare(CloneFlags::CLONE_FS)?;
    setns(namespaces.mount.as_fd(), CloneFlags::CLONE_NEWNS)?;
    owner.map_or(Ok(()), become_owner)
}

/// The kernel's own calls: those of the C library would change every thread of the process.
fn become_owner(owner: Owner) -> io::Result<()> {
    set_ids(libc::SYS_setresgid, owner.gid)?;
    set_ids(libc::SYS_setresuid, owner.uid)
}

#[expect(unsafe_code, reason = "the C library's wrapper changes every thread")]
fn set_ids(call: libc::c_long, id: u32) -> io::Result<()> {
    // SAFETY: setresuid and setresgid read three integers and touch no memory of ours.
    let result = unsafe { libc::syscall(call, id, id, id) };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// `action` may only make system calls: it runs in a forked child, where another thread's lock may be held for ever.
#[expect(unsafe_code, reason = "pre_exec has no safe form")]
fn before_exec(
    command: &mut Command,
    action: impl FnMut() -> io::Result<()> + Send + Sync + 'static,
) {
    // SAFETY: the closures above make system calls on values that were prepared before the fork, and allocate nothing.
    unsafe { command.pre_exec(action) };
}
