//! Brings the log records of the BPF programs into the agent's log.

use std::io::{self, PipeWriter};
use std::os::fd::AsFd;
use std::thread::{self, JoinHandle};

use aya::Ebpf;
use aya_log::EbpfLogger;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// A thread that waits for records. Dropping it ends the thread.
pub struct Forwarder {
    stop: Option<PipeWriter>,
    thread: Option<JoinHandle<()>>,
}

impl Forwarder {
    /// Starts forwarding what the programs of `instance` write.
    pub fn start(instance: &mut Ebpf) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut logger = EbpfLogger::init(instance)?;
        let (stopped, stop) = io::pipe()?;
        let thread = thread::Builder::new()
            .name("bpf-log".to_owned())
            .spawn(move || {
                loop {
                    let mut wanted = [
                        PollFd::new(logger.as_fd(), PollFlags::POLLIN),
                        PollFd::new(stopped.as_fd(), PollFlags::POLLIN),
                    ];
                    let result = poll(&mut wanted, PollTimeout::NONE);
                    let ended = wanted[1].any().unwrap_or(true);
                    logger.flush();
                    // The writer's end is closed, or the wait failed in a way that waiting again would not mend.
                    if ended || result.is_err_and(|e| e != nix::errno::Errno::EINTR) {
                        return;
                    }
                }
            })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
