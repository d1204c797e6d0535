//! The iptables mode: Istio's chains in the pod's network namespace.
//!
//! [`render::render`] says which rules, pure; [`plan`] says what is missing of them, pure; [`apply`] reads and writes.
//! [`interpret`] says what the rules do, for the comparison with the eBPF mode. This file is the [`Interceptor`].
//!
//! ```text
//! CapturePolicy ─▶ Options ─ render ─▶ RuleSet ─┐
//!                  iptables-save ─ parse ─▶ Saved ┴─ plan ─▶ iptables-restore
//! ```

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use nix::sched::{CloneFlags, unshare};

use crate::intercept::iptables::options::{BackendChoice, Options, Profile};
use crate::intercept::journal::{Journal, PodNote, number};
use crate::intercept::policy_route::{Before, PolicyRoute, PolicyRouteError, Spec};
use crate::intercept::{Enrolment, InterceptError, Interceptor, ListenSpec, Mode, Target};
use crate::model::{FailPolicy, SourceMode};
use crate::netns::NetNs;
use crate::sys::socket::{PROXY_ID, makes_sockets_of_the_proxy};

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

/// How pods are steered with iptables.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Which edition of the chains.
    pub profile: Profile,
    /// Who applies them.
    pub backend: BackendChoice,
    /// Where the pods' own connections are sent.
    pub outbound_port: u16,
    /// Where connections to the pods are sent.
    pub inbound_port: u16,
}

/// The iptables mode, running.
pub struct Iptables {
    settings: Settings,
    journal: Arc<Mutex<Journal>>,
}

impl Default for Settings {
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
        self.settings.listen()
    }

    fn enrol(&self, target: &Target<'_>) -> Result<Box<dyn Enrolment>, InterceptError> {
        let netns = (target.netns.try_clone())
            .map_err(|e| InterceptError::step("opening the pod's network namespace again", e))?;
        let mut steered = Steered {
            settings: self.settings.clone(),
            journal: Arc::clone(&self.journal),
            pod: target.pod.to_string(),
            number: number(&netns),
            netns,
            options: self.settings.options(target),
            routes: None,
            state: State::Stopped,
        };
        // On an error the drop of `steered` removes what was done.
        steered.note(Some(Before::default()))?;
        steered.update(target)?;
        if target.policy.on_agent_loss != FailPolicy::Refuse {
            tracing::warn!(
                pod = steered.pod,
                "on-agent-loss: without an agent the chains refuse; `open` and `hold` need the eBPF mode"
            );
        }
        Ok(Box::new(steered))
    }
}

impl Iptables {
    /// Gets ready to steer. `run_dir` is a directory that lasts until the next boot, the same for each agent of this
    /// node.
    pub fn start(settings: Settings, run_dir: &Path) -> Result<Self, InterceptError> {
        let journal = Journal::create(run_dir)
            .map_err(|e| InterceptError::step("making a place for notes", e))?;
        Ok(Self {
            settings,
            journal: Arc::new(Mutex::new(journal)),
        })
    }
}

impl Settings {
    /// Finds out whether this node can do it, by doing it in a namespace made for the purpose. The error says what is
    /// missing, and the remedy.
    pub fn probe(&self) -> Result<(), InterceptError> {
        let known = makes_sockets_of_the_proxy()
            .map_err(|e| InterceptError::step("making a socket of the proxy's", e))?;
        if !known {
            return Err(InterceptError::Unsupported {
                what: format!(
                    "this process may not make sockets in the name of user and group {PROXY_ID}, by which the chains know \
                     the proxy's own connections"
                ),
                remedy: "run it as root, in a container with the capabilities SETUID and SETGID"
                    .to_owned(),
            });
        }
        let options = Options {
            profile: self.profile,
            backend: self.backend,
            ..Options::default()
        };
        let try_out = || {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(|e| InterceptError::step("making a scratch namespace", e))?;
            let netns = NetNs::current()
                .map_err(|e| InterceptError::step("opening a scratch namespace", e))?;
            apply::apply(&netns, &options)?;
            apply::clean(&netns, &options).map(drop)
        };
        // A thread of its own: it never needs to leave the scratch namespace.
        std::thread::scope(|scope| scope.spawn(try_out).join()).unwrap_or_else(|_| {
            Err(InterceptError::step(
                "trying the iptables mode",
                "it panicked",
            ))
        })
    }

    /// What the pods' listeners must be like.
    pub fn listen(&self) -> ListenSpec {
        ListenSpec {
            transparent: false,
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
        }
    }

    /// The chains that a pod needs.
    fn options(&self, target: &Target<'_>) -> Options {
        let listeners = target.listeners;
        Options {
            profile: self.profile,
            backend: self.backend,
            outbound_port: self.outbound_port,
            inbound_port: self.inbound_port,
            // Without a listener a redirect refuses.
            ipv6: listeners.outbound6.is_some() && listeners.inbound6.is_some(),
            ..Options::from(target.policy)
        }
    }
}

/// A pod with our chains.
struct Steered {
    settings: Settings,
    journal: Arc<Mutex<Journal>>,
    pod: String,
    netns: NetNs,
    /// What the namespace is called in the journal.
    number: u64,
    options: Options,
    /// What the proxy needs there besides the chains.
    routes: Option<PolicyRoute>,
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
    fn update(&mut self, target: &Target<'_>) -> Result<(), InterceptError> {
        self.options = self.settings.options(target);
        self.route(target)?;
        // From here on there is something to undo, however far it gets.
        self.state = State::Steering;
        let applied = apply::apply(&self.netns, &self.options)?;
        tracing::debug!(
            pod = self.pod,
            backend = %applied.backend,
            changed = applied.changed,
            "steering by iptables"
        );
        Ok(())
    }

    fn repair(&mut self) -> Result<bool, InterceptError> {
        match self.state {
            State::Steering => {
                let routes = match &mut self.routes {
                    None => false,
                    Some(routes) => routes.repair().map_err(|e| step(&self.pod, e))?,
                };
                Ok(apply::apply(&self.netns, &self.options)?.changed || routes)
            }
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
        if let Some(routes) = self.routes.take() {
            routes.remove().map_err(|e| step(&self.pod, e))?;
        }
        self.note(None)
    }

    /// Tells successors of the pod, and of what its routing was like before.
    fn note(&self, before: Option<Before>) -> Result<(), InterceptError> {
        let note = before.map(|before| PodNote::new(&self.netns, Mode::Iptables, before));
        let mut journal = self.journal.lock().unwrap_or_else(PoisonError::into_inner);
        journal
            .note(self.number, note)
            .map_err(|e| InterceptError::step(format!("writing a note about {}", self.pod), e))
    }

    /// With `source: preserve`, the policy route that keeps both directions of a connection with a foreign address on the
    /// loopback device. Once there it stays until the end: connections may live by it.
    fn route(&mut self, target: &Target<'_>) -> Result<(), InterceptError> {
        let spec = match target.policy.source {
            SourceMode::Sidecar => Spec::default(),
            SourceMode::Preserve => Spec {
                preserve: true,
                source4: target.addresses.iter().find_map(|address| match address {
                    IpAddr::V4(address) => Some(*address),
                    IpAddr::V6(_) => None,
                }),
                ipv6: self.options.ipv6,
                ..Spec::default()
            },
        };
        let changed = match &mut self.routes {
            Some(routes) if spec.preserve => routes.change(spec).map(drop),
            Some(_) => Ok(()),
            None => PolicyRoute::install(&self.netns, spec, None)
                .map(|routes| self.routes = Some(routes)),
        };
        changed.map_err(|e| step(&self.pod, e))?;
        self.note(self.routes.as_ref().map(|routes| routes.before().clone()))
    }
}

fn step(pod: &str, source: PolicyRouteError) -> InterceptError {
    InterceptError::step(format!("setting up the policy routes of {pod}"), source)
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
