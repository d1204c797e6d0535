//! Steers a pod's TCP connections to the agent's listeners, by eBPF or by iptables.
//!
//! The proxy does not know the mode: it accepts from [`PodListeners`] and asks [`crate::sys`] where a connection was
//! headed. What differs between the modes stays behind [`Interceptor`].

use std::fmt;
use std::io;
use std::net::{IpAddr, TcpListener};

use mesh_ebpf::pair::Tally;
use serde::{Deserialize, Serialize};

use crate::model::{CapturePolicy, PodId};
use crate::netns::NetNs;

pub mod capture;
pub mod ebpf;
#[cfg(test)]
mod equivalence;
pub mod iptables;
pub mod journal;
mod netlink;
pub mod policy_route;
pub mod succession;

/// How connections are steered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Mode {
    /// Connect hooks, policy routing and `sk_lookup`.
    Ebpf,
    /// The nat chains.
    Iptables,
}

/// Steers the connections of pods, and stops doing so.
pub trait Interceptor: Send + Sync {
    /// Which mode this is.
    fn mode(&self) -> Mode;

    /// What the pod's listeners must be like for this mode; asked before `enrol`.
    fn listen(&self) -> ListenSpec;

    /// Starts steering, in both directions, for both families. Whatever an earlier agent of this mode left in the
    /// namespace is taken over or replaced; [`succession`] sees to what one of the other mode left. On an error nothing of
    /// this agent is left in the namespace.
    fn enrol(&self, target: &Target<'_>) -> Result<Box<dyn Enrolment>, InterceptError>;

    /// How much has gone without TCP, and how much of what might have has not, since the start; empty where nothing can.
    fn tallies(&self) -> Result<Vec<(Tally, u64)>, InterceptError> {
        Ok(Vec::new())
    }
}

/// A pod that is being steered. Dropping it withdraws, and logs what could not be undone.
pub trait Enrolment: Send {
    /// Follows a change of the pod's addresses, policy or listeners; also takes back a pod after [`stop_steering`].
    /// Connections that the proxy carries are left alone.
    ///
    /// [`stop_steering`]: Enrolment::stop_steering
    fn update(&mut self, target: &Target<'_>) -> Result<(), InterceptError>;

    /// Whether everything is still as `enrol` left it. What is missing is put back; `Ok(true)` says that something was.
    fn repair(&mut self) -> Result<bool, InterceptError>;

    /// Stops steering new connections, and leaves those that the proxy carries alone.
    fn stop_steering(&mut self) -> Result<(), InterceptError>;

    /// Removes everything. Connections that the proxy still carries may break now.
    fn withdraw(self: Box<Self>) -> Result<(), InterceptError>;
}

/// What an interceptor may know of a pod.
pub struct Target<'a> {
    /// Whose it is, for logs.
    pub pod: &'a PodId,
    /// Its network namespace.
    pub netns: &'a NetNs,
    /// Its addresses; never empty.
    pub addresses: &'a [IpAddr],
    /// Which of its connections are steered.
    pub policy: &'a CapturePolicy,
    /// Where they are steered to.
    pub listeners: &'a PodListeners,
}

/// How the listeners of a pod are opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenSpec {
    /// Accept connections to any address (`IP_TRANSPARENT`), bound to the loopback address. Without it the listeners
    /// are bound to the unspecified address, which is where `REDIRECT` finds them.
    pub transparent: bool,
    /// The port for what the pod opens; Istio's 15001.
    pub outbound_port: u16,
    /// The port for what is opened to the pod; Istio's 15006.
    pub inbound_port: u16,
}

/// The agent's listeners inside a pod's network namespace. The IPv6 ones are missing where the namespace has no IPv6.
#[derive(Debug)]
pub struct PodListeners {
    /// Connections that the pod opens, IPv4.
    pub outbound4: TcpListener,
    /// The same for IPv6.
    pub outbound6: Option<TcpListener>,
    /// Connections to the pod, IPv4.
    pub inbound4: TcpListener,
    /// The same for IPv6.
    pub inbound6: Option<TcpListener>,
}

/// Why steering could not start, or stop.
#[derive(Debug, thiserror::Error)]
pub enum InterceptError {
    /// A step failed; `step` says what was being done and to what.
    #[error("{step}")]
    Step {
        /// For example `adding the policy route in the namespace of default/client`.
        step: String,
        /// What the kernel or the program said.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// This node cannot do it at all; `remedy` says what would help.
    #[error("{what}; {remedy}")]
    Unsupported {
        /// What is missing.
        what: String,
        /// What the operator can do.
        remedy: String,
    },
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ebpf => "ebpf",
            Self::Iptables => "iptables",
        })
    }
}

impl PodListeners {
    /// Second descriptors of the same listeners.
    pub fn try_clone(&self) -> io::Result<Self> {
        let clone = |listener: &Option<TcpListener>| {
            listener.as_ref().map(TcpListener::try_clone).transpose()
        };
        Ok(Self {
            outbound4: self.outbound4.try_clone()?,
            outbound6: clone(&self.outbound6)?,
            inbound4: self.inbound4.try_clone()?,
            inbound6: clone(&self.inbound6)?,
        })
    }
}

impl InterceptError {
    /// A failed step with its cause.
    pub fn step(
        step: impl Into<String>,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self::Step {
            step: step.into(),
            source: source.into(),
        }
    }
}
