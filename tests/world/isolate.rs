//! The shell around a world: own namespaces, so that the host stays as it is, and a supervisor, so that everything ends
//! with the program, however that ends.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::{SigSet, SigmaskHow, Signal, kill, pthread_sigmask};
use nix::sys::signalfd::SignalFd;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, Uid, pipe};

use super::FILES;
use super::sys::fork;

/// Gives the calling thread, and what it starts from now on, a network namespace of its own and a mount namespace in
/// which `/run` and `/sys/fs/bpf` are new and empty, with `/run/netns` and [`FILES`] in it. Everything in them vanishes with the last process.
pub fn isolate() -> Result<()> {
    if !Uid::effective().is_root() {
        bail!("making network namespaces needs root; run it through sudo");
    }
    // A thread may have a mount namespace of its own only if it shares no working directory with others.
    unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWNET).context(
        "unshare of the mount and network namespaces; in a container this needs --privileged",
    )?;
    make_private(Path::new("/"))?;
    // The agent, iptables and `ip` keep their state below /run; the host's has no part in this.
    mount_new("tmpfs", "/run")?;
    for directory in ["/run/netns", FILES] {
        fs::create_dir_all(directory).with_context(|| format!("creating {directory}"))?;
        mount_new("tmpfs", directory)?;
    }
    // Pins must not outlive the world either. A kernel without BPF has nothing to pin.
    if Path::new("/sys/fs/bpf").exists()
        && let Err(e) = mount_new("bpf", "/sys/fs/bpf")
        && e.downcast_ref::<Errno>() != Some(&Errno::ENODEV)
    {
        return Err(e);
    }
    Ok(())
}

/// Runs `main` isolated, in a process namespace of its own: when this process ends, even by SIGKILL, so does every
/// process below it. SIGINT, SIGTERM and SIGHUP are passed on, and so is the exit code.
///
/// To be called first in a program, while it has one thread. It returns once in each of two processes, so a caller
/// returns the result from its own `main` at once.
pub fn isolate_and_supervise(main: impl FnOnce() -> ExitCode) -> Result<ExitCode> {
    if !Uid::effective().is_root() {
        bail!("making namespaces needs root; run it through sudo");
    }
    let before = block_signals()?;
    unshare(CloneFlags::CLONE_NEWPID)
        .context("unshare of the process namespace; in a container this needs --privileged")?;
    let (ready, parent_lives) = pipe().context("pipe")?;
    match fork().context("fork")? {
        ForkResult::Parent { child } => {
            drop(ready);
            std::fs::File::from(parent_lives)
                .write_all(b"!")
                .context("starting the supervised process")?;
            let code = supervise(child)?;
            restore_signals(&before)?;
            Ok(ExitCode::from(code))
        }
        ForkResult::Child => {
            drop(parent_lives);
            become_init(ready, &before)?;
            Ok(main())
        }
    }
}

/// In the first process of the namespace: isolates, forks, and returns in the child alone.
fn become_init(ready: OwnedFd, before: &SigSet) -> Result<()> {
    let mut byte = [0];
    set_pdeathsig(Signal::SIGKILL).context("asking to die with the parent")?;
    // The parent may have died before that; then nobody ever wrote, or nobody is left to.
    if std::fs::File::from(ready).read(&mut byte).unwrap_or(0) == 0 {
        std::process::exit(1);
    }
    isolate()?;
    mount_new("proc", "/proc")?;
    match fork().context("fork")? {
        ForkResult::Parent { child } => {
            let code = supervise(child).unwrap_or(1);
            // The kernel kills what is left in the namespace.
            std::process::exit(i32::from(code));
        }
        ForkResult::Child => restore_signals(before),
    }
}

/// Waits for `main_child`, reaping whatever else ends up here, and returns its exit code as a shell would tell it.
fn supervise(main_child: Pid) -> Result<u8> {
    let signals = SignalFd::new(&watched_signals()).context("signalfd")?;
    loop {
        loop {
            match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) if pid == main_child => {
                    return Ok(u8::try_from(code & 0xff).unwrap_or(1));
                }
                Ok(WaitStatus::Signaled(pid, signal, _)) if pid == main_child => {
                    return Ok(128 + u8::try_from(signal as i32).unwrap_or(0));
                }
                Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => break,
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(e).context("waiting for the supervised process"),
            }
        }
        let Some(signal) = signals.read_signal().context("reading signals")? else {
            continue;
        };
        // The terminal sends its signals to the whole process group, so the child has had those already.
        let from_a_process = signal.ssi_code <= 0;
        let number = i32::try_from(signal.ssi_signo).unwrap_or(0);
        if let Ok(signal) = Signal::try_from(number)
            && signal != Signal::SIGCHLD
            && from_a_process
        {
            match kill(main_child, signal) {
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(e) => return Err(e).context("passing a signal on"),
            }
        }
    }
}

fn watched_signals() -> SigSet {
    [
        Signal::SIGINT,
        Signal::SIGTERM,
        Signal::SIGHUP,
        Signal::SIGCHLD,
    ]
    .into_iter()
    .collect()
}

/// Blocks the watched signals, so that they wait for `signalfd`; returns the mask from before.
fn block_signals() -> Result<SigSet> {
    let mut before = SigSet::empty();
    pthread_sigmask(
        SigmaskHow::SIG_BLOCK,
        Some(&watched_signals()),
        Some(&mut before),
    )
    .context("blocking signals")?;
    Ok(before)
}

fn restore_signals(before: &SigSet) -> Result<()> {
    pthread_sigmask(SigmaskHow::SIG_SETMASK, Some(before), None).context("unblocking signals")
}

fn make_private(path: &Path) -> Result<()> {
    mount(
        None::<&str>,
        path,
        None::<&str>,
        MsFlags::MS_REC | MsFlags::MS_PRIVATE,
        None::<&str>,
    )
    .with_context(|| format!("making the mounts under {} private", path.display()))
}

fn mount_new(filesystem: &str, at: &str) -> Result<()> {
    mount(
        Some(filesystem),
        at,
        Some(filesystem),
        MsFlags::empty(),
        None::<&str>,
    )
    .with_context(|| format!("mounting {filesystem} on {at}"))
}
