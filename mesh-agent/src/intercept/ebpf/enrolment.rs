//! One pod in the eBPF mode: the order in which it is enrolled, kept, and let go.
//!
//! Everything is put in place first, with the policy's two switches off; a self-test proves that it works; then one write
//! to one map turns both directions on. Undoing goes the other way round.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aya::maps::MapError;
use aya::programs::links::PinnedLink;
use mesh_ebpf::abi::{
    CAPTURE_MARK, LISTENER_INBOUND, LISTENER_OUTBOUND, LISTENER_TEST, LISTENERS_PER_POD,
    LOOPBACK_INTERFACE, POLICY_INBOUND, POLICY_OUTBOUND, Policy, slot,
};

use super::entries::gone;
use super::plan::{Facts, Plan, plan};
use super::{Agent, State, lookup_pin, others, pin, self_test};
use crate::intercept::journal::PodNote;
use crate::intercept::policy_route::{Before, Device, PolicyRoute, Spec, Surroundings};
use crate::intercept::{Enrolment, InterceptError, Mode, PodListeners, Target};
use crate::model::{CapturePolicy, CidrSet};
use crate::netns::NetNs;
use crate::sys::netns_cookie::netns_cookie;

/// A pod, as far as it is enrolled: what is `None` or empty has not been done, or has been undone.
pub(super) struct PodEnrolment {
    agent: Arc<Agent>,
    /// Whose it is, for logs and errors.
    name: String,
    netns: NetNs,
    cookie: u64,
    index: u32,
    addresses: Vec<IpAddr>,
    capture: CapturePolicy,
    /// Whether the proxy has IPv6 listeners. They may be there although the namespace has no IPv6.
    listens6: bool,
    /// Whether the namespace has IPv6, and listeners for it.
    ipv6: bool,
    plan: Plan,
    routes: Option<PolicyRoute>,
    lookup: Option<PinnedLink>,
    /// Whether new connections are steered.
    steering: bool,
    /// Whether there is anything to undo.
    enrolled: bool,
}

impl PodEnrolment {
    /// Enrols a pod. On an error everything is undone.
    pub(super) fn start(agent: &Arc<Agent>, target: &Target<'_>) -> Result<Self, InterceptError> {
        let name = target.pod.to_string();
        let in_pod = |step: &str| format!("{step} the namespace of {name}");
        let cookie = netns_cookie(target.netns).map_err(|e| match e.raw_os_error() {
            Some(libc::ENOPROTOOPT) => InterceptError::Unsupported {
                what: "this kernel does not tell which network namespace is which".to_owned(),
                remedy: "the eBPF mode needs Linux 5.14 or newer".to_owned(),
            },
            _ => InterceptError::step(in_pod("asking for the cookie of"), e),
        })?;
        let netns = target
            .netns
            .try_clone()
            .map_err(|e| InterceptError::step(in_pod("keeping"), e))?;
        let index = agent.state().take_index(cookie)?;
        let mut pod = Self {
            agent: Arc::clone(agent),
            name,
            netns,
            cookie,
            index,
            addresses: target.addresses.to_vec(),
            capture: target.policy.clone(),
            listens6: target.listeners.outbound6.is_some() && target.listeners.inbound6.is_some(),
            ipv6: false,
            plan: Plan::default(),
            routes: None,
            lookup: None,
            steering: false,
            enrolled: true,
        };
        // On an error the drop of `pod` undoes what was done.
        pod.enrol(target.listeners)?;
        Ok(pod)
    }

    fn enrol(&mut self, listeners: &PodListeners) -> Result<(), InterceptError> {
        let surroundings = self.look()?;
        let plan = self.make_plan(&surroundings)?;
        for difference in &plan.differences {
            tracing::warn!(pod = self.name, "{difference}");
        }
        self.plan = plan;
        self.write_plan()?;
        let before = self.find_before()?;
        let routes = PolicyRoute::install(&self.netns, self.spec(&surroundings), before)
            .map_err(|e| self.step("setting up the policy routes of", e))?;
        self.note(Some(routes.before().clone()))?;
        let cleared = if self.is_shared() {
            Ok(())
        } else {
            routes.remove_others()
        };
        self.routes = Some(routes);
        cleared.map_err(|e| self.step("removing an earlier agent's routes from", e))?;
        self.write_listeners(listeners)?;
        self.attach_lookup()?;
        let mut state = self.agent.state();
        let written = state.maps.pods.insert(self.cookie, self.index, 0);
        drop(state);
        written.map_err(|e| self.step("announcing", e))?;
        self.test()?;
        self.steer(true)?;
        self.agent.state().take_over(self.cookie)
    }

    fn look(&mut self) -> Result<Surroundings, InterceptError> {
        let surroundings = Surroundings::look(&self.netns)
            .map_err(|e| self.step("listing the addresses and routes of", e))?;
        self.ipv6 = self.listens6 && surroundings.addresses.iter().any(|(_, ip)| ip.is_ipv6());
        Ok(surroundings)
    }

    fn make_plan(&self, surroundings: &Surroundings) -> Result<Plan, InterceptError> {
        let facts = Facts {
            pod: self.index,
            addresses: self.addresses.clone(),
            surroundings: surroundings.clone(),
            ipv6: self.ipv6,
            sees_ingress: self.agent.sees_ingress,
        };
        plan(&self.capture, &facts).map_err(|e| InterceptError::Unsupported {
            what: format!("{}: {e}", self.name),
            remedy: "change the option, or use the iptables mode".to_owned(),
        })
    }

    /// Which policy routes the pod needs.
    fn spec(&self, surroundings: &Surroundings) -> Spec {
        let excluded = |index| {
            self.capture
                .exclude_interfaces
                .iter()
                .any(|name| surroundings.interfaces.get(name) == Some(&index))
        };
        let devices = surroundings
            .interfaces
            .values()
            .filter(|&&index| index != LOOPBACK_INTERFACE && !excluded(index))
            .filter_map(|&index| {
                let of_device = || {
                    let addresses = surroundings.addresses.iter();
                    addresses.filter(move |(device, _)| *device == index)
                };
                of_device().next()?;
                Some(Device {
                    index,
                    source4: of_device().find_map(|(_, ip)| v4(*ip)),
                    source6: of_device().find_map(|(_, ip)| v6(*ip)),
                })
            })
            .collect();
        let ranges = match &self.capture.outbound_cidrs {
            CidrSet::All => None,
            CidrSet::Only(ranges) => Some(ranges.clone()),
        };
        Spec {
            capture_mark: Some(CAPTURE_MARK),
            preserve: true,
            source4: self.addresses.iter().find_map(|ip| v4(*ip)),
            ipv6: self.ipv6,
            source6: self.addresses.iter().find_map(|ip| v6(*ip)),
            devices,
            virtual_interfaces: self
                .capture
                .virtual_interfaces
                .iter()
                .map(|name| (name.clone(), ranges.clone()))
                .collect(),
        }
    }

    /// What the namespace was like before the first of the agents that are gone came.
    fn find_before(&self) -> Result<Option<Before>, InterceptError> {
        let state = self.agent.state();
        Ok(others(&state)?
            .iter()
            .find_map(|other| other.entry.notes.get(&self.cookie))
            .map(|note| note.before.clone()))
    }

    fn note(&self, before: Option<Before>) -> Result<(), InterceptError> {
        let note = before.map(|before| PodNote::new(&self.netns, Mode::Ebpf, before));
        self.agent
            .state()
            .pins
            .note(self.cookie, note)
            .map_err(|e| self.step("writing a note about", e))
    }

    fn write_listeners(&self, listeners: &PodListeners) -> Result<(), InterceptError> {
        let mut sockets = vec![
            (LISTENER_OUTBOUND, false, &listeners.outbound4),
            (LISTENER_INBOUND, false, &listeners.inbound4),
        ];
        if let (Some(outbound), Some(inbound)) = (&listeners.outbound6, &listeners.inbound6) {
            sockets.push((LISTENER_OUTBOUND, true, outbound));
            sockets.push((LISTENER_INBOUND, true, inbound));
        }
        let mut state = self.agent.state();
        for (listener, ipv6, socket) in sockets {
            let slot = slot(self.index, listener, ipv6);
            state
                .maps
                .listeners
                .set(slot, socket, 0)
                .map_err(|e| self.step("handing over the listeners of", e))?;
        }
        Ok(())
    }

    fn attach_lookup(&mut self) -> Result<(), InterceptError> {
        let link = self.agent.object().attach_lookup(self.index, &self.netns)?;
        let link = pin(&self.agent.state().pins, &lookup_pin(self.cookie), link)?;
        self.lookup = Some(link);
        Ok(())
    }

    /// A real connection for each family.
    fn test(&self) -> Result<(), InterceptError> {
        let has_v4 = self.addresses.iter().any(|ip| v4(*ip).is_some());
        for ipv6 in [false, true] {
            if if ipv6 { self.ipv6 } else { has_v4 } {
                self.test_family(ipv6)
                    .map_err(|e| self.step("testing the steering of", e))?;
            }
        }
        Ok(())
    }

    fn test_family(&self, ipv6: bool) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let slot = slot(self.index, LISTENER_TEST, ipv6);
        let listener = self_test::listener(&self.netns, ipv6)?;
        self.agent.state().maps.listeners.set(slot, &listener, 0)?;
        // The kernel takes the listener out of the map when it is closed, at the end of this function.
        Ok(self_test::run(&self.netns, &listener, ipv6)?)
    }

    /// Turns both directions on or off.
    fn steer(&mut self, on: bool) -> Result<(), InterceptError> {
        let policy = switched(self.plan.policy, on);
        let written = self
            .agent
            .state()
            .maps
            .policies
            .insert(self.index, policy, 0);
        written.map_err(|e| self.step("switching", e))?;
        self.steering = on;
        Ok(())
    }

    fn write_plan(&self) -> Result<(), InterceptError> {
        let policy = switched(self.plan.policy, self.steering);
        let mut state = self.agent.state();
        state
            .maps
            .policies
            .insert(self.index, policy, 0)
            .and_then(|()| state.maps.write(&self.plan))
            .map_err(|e| self.step("writing the policy of", e))
    }

    /// Whether the maps hold all that they should.
    fn is_written(&self) -> bool {
        let state = self.agent.state();
        let policy = switched(self.plan.policy, self.steering);
        state
            .maps
            .pods
            .get(&self.cookie, 0)
            .is_ok_and(|v| v == self.index)
            && state
                .maps
                .policies
                .get(&self.index, 0)
                .is_ok_and(|v| v == policy)
            && state.maps.hold(&self.plan)
    }

    /// Brings maps, rules and routes to what the pod is now; says whether they were not.
    fn refresh(&mut self) -> Result<bool, InterceptError> {
        let surroundings = self.look()?;
        let plan = self.make_plan(&surroundings)?;
        let mut changed = false;
        if plan != self.plan || !self.is_written() {
            let old = std::mem::replace(&mut self.plan, plan);
            self.write_plan()?;
            let mut state = self.agent.state();
            let written = state
                .maps
                .pods
                .insert(self.cookie, self.index, 0)
                .and_then(|()| state.maps.erase(&old.without(&self.plan)));
            drop(state);
            written.map_err(|e| self.step("writing the policy of", e))?;
            changed = true;
        }
        let spec = self.spec(&surroundings);
        if let Some(routes) = &mut self.routes {
            let repaired = routes.change(spec);
            let before = routes.before().clone();
            if repaired.map_err(|e| self.step("repairing the policy routes of", e))? {
                self.note(Some(before))?;
                changed = true;
            }
        }
        Ok(changed)
    }

    fn undo(&mut self) -> Result<(), InterceptError> {
        if !std::mem::take(&mut self.enrolled) {
            return Ok(());
        }
        let mut first = self.undo_maps();
        // The link's other half is the pin.
        self.lookup = None;
        let mut keep = |result: Result<(), InterceptError>| {
            if first.is_ok() {
                first = result;
            }
        };
        let unpinned = self.agent.state().pins.unpin(&lookup_pin(self.cookie));
        keep(unpinned.map_err(|e| self.step("detaching the socket lookup of", e)));
        if let Some(routes) = self.routes.take() {
            if self.is_shared() {
                routes.leave();
            } else {
                keep(
                    routes
                        .remove()
                        .map_err(|e| self.step("removing the policy routes of", e)),
                );
            }
        }
        keep(self.note(None));
        self.agent.state().pods.remove(&self.index);
        first
    }

    /// First what makes the hooks see the pod, then all that its index stands for: the index may be another pod's next.
    fn undo_maps(&mut self) -> Result<(), InterceptError> {
        let mut state = self.agent.state();
        let State { maps, .. } = &mut *state;
        let mut result = gone(maps.pods.remove(&self.cookie))
            .and(gone(maps.policies.remove(&self.index)))
            .and(maps.erase(&self.plan));
        for listener in 0..LISTENERS_PER_POD {
            let slot = slot(self.index, listener, false);
            // The kernel says EINVAL for an empty slot.
            match maps.listeners.clear_index(&slot) {
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(MapError::SyscallError(e))
                    if e.io_error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(e) => result = result.and(Err(e)),
            }
        }
        drop(state);
        result.map_err(|e| self.step("erasing the policy of", e))
    }

    /// Whether another agent, a living one, has enrolled the same pod, and needs its routes.
    fn is_shared(&self) -> bool {
        others(&self.agent.state()).is_ok_and(|others| {
            others
                .iter()
                .any(|other| !other.is_gone() && other.entry.notes.contains_key(&self.cookie))
        })
    }

    fn step(
        &self,
        doing: &str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> InterceptError {
        InterceptError::step(format!("{doing} {}", self.name), source)
    }
}

impl Enrolment for PodEnrolment {
    fn update(&mut self, target: &Target<'_>) -> Result<(), InterceptError> {
        self.addresses = target.addresses.to_vec();
        self.capture = target.policy.clone();
        self.listens6 = target.listeners.outbound6.is_some() && target.listeners.inbound6.is_some();
        // The listeners first: once the pod is steered, somebody must be there.
        self.write_listeners(target.listeners)?;
        self.refresh()?;
        self.steer(true)
    }

    fn repair(&mut self) -> Result<bool, InterceptError> {
        let changed = self.refresh()?;
        if self.test().is_ok() {
            return Ok(changed);
        }
        // Somebody has detached a program.
        self.attach_lookup()?;
        if self.test().is_err() {
            self.agent.attach_again()?;
            self.test()?;
        }
        Ok(true)
    }

    fn stop_steering(&mut self) -> Result<(), InterceptError> {
        // The routes and the socket lookup stay: they carry what was steered, and what is on its way.
        self.steer(false)
    }

    fn withdraw(mut self: Box<Self>) -> Result<(), InterceptError> {
        self.undo()
    }
}

impl Drop for PodEnrolment {
    fn drop(&mut self) {
        if let Err(e) = self.undo() {
            tracing::warn!(pod = self.name, error = ?e, "not everything could be undone");
        }
    }
}

fn switched(mut policy: Policy, on: bool) -> Policy {
    if !on {
        policy.flags &= !(POLICY_OUTBOUND | POLICY_INBOUND);
    }
    policy
}

/// An address that others can be reached from: a link-local one serves its link alone.
fn v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(address) => Some(address).filter(|ip| !ip.is_unicast_link_local()),
        IpAddr::V4(_) => None,
    }
}

fn v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(_) => None,
    }
}
