//! The iptables mode: Istio's chains in the pod's network namespace.
//!
//! [`render::render`] says which rules, pure; [`plan`] says what is missing of them, pure; [`apply`] reads and writes.
//! [`interpret`] says what the rules do, for the comparison with the eBPF mode. This file is the [`Interceptor`].
//!
//! ```text
//! CapturePolicy ─▶ Options ─ render ─▶ RuleSet ─┐
//!                  iptables-save ─ parse ─▶ Saved ┴─ plan ─▶ iptables-restore
//! ```

use crate::intercept::iptables::options::{BackendChoice, Options, Profile};
use crate::intercept::{Enrolment, InterceptError, Interceptor, ListenSpec, Mode, Target};
use crate::model::SourceMode;
use crate::netns::NetNs;

pub mod apply;
pub mod command;
pub mod interpret;
mod kernel;
pub mod options;
pub mod plan;
mod record;
pub mod render;
pub mod rule;
pub mod saved;

/// Steers pods with iptables.
#[derive(Clone, Debug)]
pub struct Iptables {
    /// Which edition of the chains.
    pub profile: Profile,
    /// Who applies them.
    pub backend: BackendChoice,
    /// Where the pods' own connections are sent.
    pub outbound_port: u16,
    /// Where connections to the pods are sent.
    pub inbound_port: u16,
}

impl Default for Iptables {
    fn default() -> Self {
        let options = Options::default();
        Self {
            profile: options.profile,
            backend: options.backend,
            outbound_port: options.outbound_port,
            inbound_port: options.inbound_port,
        }
    }
}

impl Interceptor for Iptables {
    fn mode(&self) -> Mode {
        Mode::Iptables
    }

    fn listen(&self) -> ListenSpec {
        ListenSpec {
            transparent: false,
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
        }
    }

    fn enrol(&self, target: &Target<'_>) -> Result<Box<dyn Enrolment>, InterceptError> {
        let listeners = target.listeners;
        let options = Options {
            profile: self.profile,
            backend: self.backend,
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            // Without a listener a redirect refuses.
            ipv6: listeners.outbound6.is_some() && listeners.inbound6.is_some(),
            ..Options::from(target.policy)
        };
        if target.policy.source == SourceMode::Preserve {
            preserve_source(target)?;
        }
        let netns = (target.netns.try_clone())
            .map_err(|e| InterceptError::step("opening the pod's network namespace again", e))?;
        let applied = apply::apply(&netns, &options)?;
        tracing::info!(
            pod = %target.pod,
            backend = %applied.backend,
            changed = applied.changed,
            "steering by iptables"
        );
        Ok(Box::new(Steered {
            pod: target.pod.to_string(),
            netns,
            options,
            state: State::Steering,
        }))
    }
}

/// A pod with our chains.
struct Steered {
    pod: String,
    netns: NetNs,
    options: Options,
    state: State,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// New connections enter the chains.
    Steering,
    /// The chains serve the connections that are open, and no new ones.
    Stopped,
    /// Nothing is left.
    Withdrawn,
}

impl Enrolment for Steered {
    fn repair(&mut self) -> Result<bool, InterceptError> {
        match self.state {
            State::Steering => Ok(apply::apply(&self.netns, &self.options)?.changed),
            State::Stopped | State::Withdrawn => Ok(false),
        }
    }

    fn stop_steering(&mut self) -> Result<(), InterceptError> {
        if self.state == State::Steering {
            apply::stop_steering(&self.netns, &self.options)?;
            self.state = State::Stopped;
        }
        Ok(())
    }

    fn withdraw(mut self: Box<Self>) -> Result<(), InterceptError> {
        self.remove()
    }
}

impl Steered {
    fn remove(&mut self) -> Result<(), InterceptError> {
        if self.state == State::Withdrawn {
            return Ok(());
        }
        // The jumps first, in a step of their own: a connection that is opened meanwhile goes direct, and whole.
        self.stop_steering()?;
        apply::clean(&self.netns, &self.options)?;
        self.state = State::Withdrawn;
        Ok(())
    }
}

impl Drop for Steered {
    fn drop(&mut self) {
        if let Err(e) = self.remove() {
            tracing::warn!(
                pod = %self.pod,
                error = %e,
                cause = std::error::Error::source(&e).map(tracing::field::display),
                "some of the chains are left behind; `mesh-agent iptables clean --netns PATH` removes them"
            );
        }
    }
}

/// CONNECT: the policy route of [`crate::sys::socket::PRESERVE_MARK`], which both modes share, belongs here, and its
/// guard beside `netns` in [`Steered`], so that it goes with the chains. Until then the mode says that it lacks it:
/// without the route, a connection with the client's address waits until it times out.
fn preserve_source(target: &Target<'_>) -> Result<(), InterceptError> {
    Err(InterceptError::Unsupported {
        what: format!(
            "the iptables mode cannot yet serve {} with its clients' own addresses",
            target.pod
        ),
        remedy: "use the source `sidecar`, or the eBPF mode".to_owned(),
    })
}
