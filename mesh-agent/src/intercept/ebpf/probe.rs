//! Tries the eBPF mode out, in a namespace that nobody else uses.

use std::error::Error;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use socket2::{Domain, Socket, Type};

use super::{Ebpf, Options};
use crate::intercept::policy_route::set_up_loopback;
use crate::intercept::{InterceptError, Interceptor, Target};
use crate::model::{CapturePolicy, PodId};
use crate::netns::NetNs;
use crate::sys::socket::{listen, original_destination};

/// The scratch pod's address and the one it connects to: both are for documentation, and never leave the namespace.
const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1));
const ELSEWHERE: IpAddr = IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1));

/// See [`Ebpf::probe`].
pub fn probe(options: &Options) -> Result<(), InterceptError> {
    // A thread of its own: if it cannot leave the scratch namespace, nothing else is affected.
    let result = std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name("ebpf-probe".to_owned())
            .spawn_scoped(scope, || try_out(options));
        match thread.map(std::thread::ScopedJoinHandle::join) {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(InterceptError::step("trying the eBPF mode", "it panicked")),
            Err(e) => Err(InterceptError::step("starting a thread", e)),
        }
    });
    result.map_err(|e| match e {
        InterceptError::Unsupported { .. } => e,
        InterceptError::Step { .. } => {
            tracing::debug!(error = ?e, "the eBPF mode was tried and failed");
            InterceptError::Unsupported {
                what: in_one_line(&e),
                remedy: "the whole reason is in the log at level debug".to_owned(),
            }
        }
    })
}

fn try_out(options: &Options) -> Result<(), InterceptError> {
    let scratch = || -> io::Result<NetNs> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let netns = NetNs::current()?;
        set_up_loopback(&netns, &[POD])?;
        Ok(netns)
    };
    let netns = scratch().map_err(|e| InterceptError::step("making a scratch namespace", e))?;
    let ebpf = Ebpf::start(options)?;
    let listeners = listen(&netns, ebpf.listen())
        .map_err(|e| InterceptError::step("opening transparent listeners", e))?;
    let enrolment = ebpf.enrol(&Target {
        pod: &PodId {
            namespace: "mesh-agent".into(),
            name: "probe".into(),
        },
        netns: &netns,
        addresses: &[POD],
        policy: &CapturePolicy::default(),
        listeners: &listeners,
    })?;
    let steered =
        connect(&listeners.outbound4).map_err(|e| InterceptError::step("steering a connection", e));
    enrolment.withdraw()?;
    steered
}

/// Connects from inside the scratch namespace to a foreign address, and sees it arrive.
fn connect(listener: &std::net::TcpListener) -> io::Result<()> {
    let wanted = SocketAddr::new(ELSEWHERE, 80);
    let client = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    client.connect_timeout(&wanted.into(), Duration::from_secs(2))?;
    // The handshake is over, so the connection waits in the listener's queue.
    let (accepted, _) = listener.accept()?;
    let seen = original_destination(&accepted)?;
    if seen == wanted {
        Ok(())
    } else {
        Err(io::Error::other(format!("it arrived as one to {seen}")))
    }
}

/// An error and its causes, each in brief.
pub(super) fn in_one_line(error: &InterceptError) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = brief(&error.to_string());
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        cause = error.source();
    }
    line
}

/// The first line of a text; of one with a verifier's log, what was done and the verifier's complaint, which comes right
/// before its statistics.
fn brief(text: &str) -> String {
    let first = text.lines().next().unwrap_or_default();
    let Some((what, _)) = first.split_once(" Verifier output:") else {
        return first.to_owned();
    };
    let statistics = ["verification time", "stack depth", "processed"];
    let complaint = text
        .lines()
        .skip(1)
        .map(str::trim)
        .take_while(|line| !statistics.iter().any(|s| line.starts_with(s)))
        .last();
    format!("{what} {}", complaint.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_verifiers_log_becomes_one_line() {
        let error = InterceptError::step(
            "loading the BPF program mesh_lookup",
            "the BPF_PROG_LOAD syscall returned EACCES. Verifier output: 0: R1=ctx() R10=fp0\n\
             1: (61) r1 = *(u32 *)(r1 +0)\n\
             dereference of modified ctx ptr R1 off=32 disallowed\n\
             verification time 245 usec\n\
             processed 29 insns (limit 1000000)",
        );
        assert_eq!(
            in_one_line(&error),
            "loading the BPF program mesh_lookup: the BPF_PROG_LOAD syscall returned EACCES. \
             dereference of modified ctx ptr R1 off=32 disallowed"
        );
    }
}
