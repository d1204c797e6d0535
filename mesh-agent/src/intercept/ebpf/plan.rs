//! What the maps must hold for a pod: a pure function of its policy and of what its namespace looks like.
//!
//! [`Plan`] is also the world that [`mesh_ebpf::decide`] can be asked about on the host: [`Simulated`] answers its
//! lookups from a plan as the kernel's maps would.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;
use mesh_ebpf::abi::{
    Address, AddressKey, CIDR_EXCLUDED, CIDR_INCLUDED, CIDR_KEY_BITS, CIDR_PROBER, CIDR_ROUTE,
    CidrKey, FAIL_HOLD, FAIL_OPEN, FAIL_REFUSE, INBOUND, INTERFACE_EXCLUDED, INTERFACE_VIRTUAL,
    InterfaceKey, LISTENER_INBOUND, LISTENER_OUTBOUND, OUTBOUND, OWNER_GROUP, OWNER_USER, OwnerKey,
    POLICY_ALL_INBOUND, POLICY_ALL_OUTBOUND, POLICY_FAST_PATH, POLICY_INBOUND, POLICY_INTERFACES,
    POLICY_IPV6, POLICY_OUTBOUND, PORT_EXCLUDED, PORT_INCLUDED, PORT_PROBED, Policy, PortKey, slot,
};
use mesh_ebpf::decide::Lookups;

use crate::intercept::policy_route::Surroundings;
use crate::model::{CapturePolicy, CidrSet, FailPolicy, PortSet, SourceMode};
use crate::sys::socket::SIDECAR6;

/// What there is to know about a pod besides its policy.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// The index that the pod has in every key.
    pub pod: u32,
    /// The pod's addresses as the cluster knows them; those of its interfaces are added.
    pub addresses: Vec<IpAddr>,
    /// Its namespace.
    pub surroundings: Surroundings,
    /// Whether it has IPv6 listeners.
    pub ipv6: bool,
    /// Whether the kernel tells `sk_lookup` programs by which interface a connection came in.
    pub sees_ingress: bool,
}

/// The entries of the maps for one pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The index in every key.
    pub pod: u32,
    /// The policy when everything is in force.
    pub policy: Policy,
    /// The pod's own addresses.
    pub addresses: BTreeSet<AddressKey>,
    /// Ports with a rule.
    pub ports: BTreeMap<PortKey, u32>,
    /// Address ranges with a rule, by length of the prefix (with the part of the key before the address).
    pub cidrs: BTreeMap<(u32, CidrKey), u32>,
    /// The proxy's users and groups.
    pub owners: BTreeSet<OwnerKey>,
    /// Interfaces with a rule.
    pub interfaces: BTreeMap<InterfaceKey, u32>,
    /// What was asked for and is not done, or not as the nat chains do it: for the log, one sentence each.
    pub differences: Vec<String>,
}

/// A wish that cannot be met at all.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The app is to see its client's address, but the kernel could not tell the proxy's connection from the client's.
    #[error("the source mode `preserve` needs Linux 5.17 in eBPF mode")]
    Preserve,
    /// Traffic of virtual interfaces could not be told from inbound traffic.
    #[error("virtual interfaces need Linux 5.17 in eBPF mode")]
    VirtualInterfaces,
}

/// The entries for a pod with this policy.
pub fn plan(policy: &CapturePolicy, facts: &Facts) -> Result<Plan, PlanError> {
    if !facts.sees_ingress {
        if policy.source == SourceMode::Preserve {
            return Err(PlanError::Preserve);
        }
        if !policy.virtual_interfaces.is_empty() {
            return Err(PlanError::VirtualInterfaces);
        }
    }
    let mut plan = Plan {
        pod: facts.pod,
        ..Plan::default()
    };
    plan.policy = Policy {
        flags: POLICY_OUTBOUND
            | POLICY_INBOUND
            | if facts.ipv6 { POLICY_IPV6 } else { 0 }
            | if policy.fast_path {
                POLICY_FAST_PATH
            } else {
                0
            },
        on_agent_loss: match policy.on_agent_loss {
            FailPolicy::Refuse => FAIL_REFUSE,
            FailPolicy::Open => FAIL_OPEN,
            FailPolicy::Hold => FAIL_HOLD,
        },
    };
    plan.add_addresses(facts);
    plan.add_inbound(policy);
    plan.add_probes(policy);
    plan.add_outbound(policy);
    plan.add_owners(policy);
    plan.add_interfaces(policy, facts);
    if policy.on_agent_loss == FailPolicy::Hold {
        plan.differences.push(
            "while the agent is gone, connections to the pod and IPv6 connections are refused: \
             only outgoing IPv4 connections can be held"
                .to_owned(),
        );
    }
    Ok(plan)
}

/// Answers the lookups of [`mesh_ebpf::decide`] from a plan.
#[derive(Clone, Debug)]
pub struct Simulated<'a> {
    /// The maps.
    pub plan: &'a Plan,
    /// The slots in which a socket listens.
    pub listening: BTreeSet<u32>,
}

impl Plan {
    /// The entries that `other` does not have.
    pub fn without(&self, other: &Self) -> Self {
        let mut rest = self.clone();
        rest.addresses.retain(|key| !other.addresses.contains(key));
        rest.ports.retain(|key, _| !other.ports.contains_key(key));
        rest.cidrs.retain(|key, _| !other.cidrs.contains_key(key));
        rest.owners.retain(|key| !other.owners.contains(key));
        rest.interfaces
            .retain(|key, _| !other.interfaces.contains_key(key));
        rest
    }

    fn add_addresses(&mut self, facts: &Facts) {
        let pod = self.pod;
        let seen = facts.surroundings.addresses.iter().map(|(_, ip)| ip);
        let mut addresses: BTreeSet<IpAddr> = facts.addresses.iter().chain(seen).copied().collect();
        if facts.ipv6 {
            // Not there yet when the pod is looked at for the first time. Its IPv4 sibling is in 127/8.
            addresses.insert(SIDECAR6.into());
        }
        self.addresses = addresses
            .into_iter()
            .map(|ip| AddressKey {
                pod,
                address: Address::from(ip),
            })
            .collect();
    }

    fn add_inbound(&mut self, policy: &CapturePolicy) {
        match &policy.inbound_ports {
            PortSet::All => {
                self.policy.flags |= POLICY_ALL_INBOUND;
                self.add_ports(INBOUND, &policy.exclude_inbound_ports, PORT_EXCLUDED);
            }
            PortSet::Only(ports) => self.add_ports(INBOUND, ports, PORT_INCLUDED),
        }
    }

    fn add_probes(&mut self, policy: &CapturePolicy) {
        self.add_ports(INBOUND, &policy.probed_ports, PORT_PROBED);
        if policy.probed_ports.is_empty() {
            return;
        }
        for prober in &policy.probers {
            self.add_cidr(CIDR_PROBER, IpNet::from(*prober), 1);
        }
    }

    fn add_outbound(&mut self, policy: &CapturePolicy) {
        self.add_ports(OUTBOUND, &policy.exclude_outbound_ports, PORT_EXCLUDED);
        self.add_ports(OUTBOUND, &policy.include_outbound_ports, PORT_INCLUDED);
        for range in &policy.exclude_outbound_cidrs {
            self.add_cidr(CIDR_EXCLUDED, *range, 1);
        }
        match &policy.outbound_cidrs {
            CidrSet::All => self.policy.flags |= POLICY_ALL_OUTBOUND,
            CidrSet::Only(ranges) => {
                for range in ranges {
                    if is_loopback(*range) {
                        self.differences.push(format!(
                            "the included range {range} holds loopback addresses, which stay direct"
                        ));
                    }
                    self.add_cidr(CIDR_INCLUDED, *range, 1);
                }
            }
        }
    }

    fn add_owners(&mut self, policy: &CapturePolicy) {
        let pod = self.pod;
        let users = policy.proxy_uids.iter().map(|&id| (OWNER_USER, id));
        let groups = policy.proxy_gids.iter().map(|&id| (OWNER_GROUP, id));
        self.owners = users
            .chain(groups)
            .map(|(kind, id)| OwnerKey { pod, kind, id })
            .collect();
    }

    fn add_interfaces(&mut self, policy: &CapturePolicy, facts: &Facts) {
        let mut excluded = BTreeSet::new();
        for (names, rule, option) in [
            (
                &policy.exclude_interfaces,
                INTERFACE_EXCLUDED,
                "excludeInterfaces",
            ),
            (
                &policy.virtual_interfaces,
                INTERFACE_VIRTUAL,
                "virtual interfaces",
            ),
        ] {
            for name in names {
                let Some(&interface) = facts.surroundings.interfaces.get(name) else {
                    self.differences.push(format!(
                        "{option}: the namespace has no interface {name} yet"
                    ));
                    continue;
                };
                let pod = self.pod;
                *self
                    .interfaces
                    .entry(InterfaceKey { pod, interface })
                    .or_default() |= rule;
                if rule == INTERFACE_EXCLUDED {
                    excluded.insert(interface);
                }
            }
        }
        if !self.interfaces.is_empty() {
            self.policy.flags |= POLICY_INTERFACES;
        }
        if excluded.is_empty() {
            return;
        }
        if !facts.sees_ingress {
            self.differences.push(
                "excludeInterfaces: connections that come in are steered all the same; \
                 leaving them out needs Linux 5.17"
                    .to_owned(),
            );
        }
        for route in &facts.surroundings.routes {
            let leaves = route.interfaces.iter().all(|i| excluded.contains(i));
            self.add_cidr(CIDR_ROUTE, route.destination, leaves.into());
        }
    }

    fn add_ports(&mut self, direction: u16, ports: &[u16], rule: u32) {
        for &port in ports {
            let key = PortKey {
                pod: self.pod,
                port,
                direction,
            };
            *self.ports.entry(key).or_default() |= rule;
        }
    }

    fn add_cidr(&mut self, kind: u32, range: IpNet, value: u32) {
        let (family, before) = match range {
            IpNet::V4(_) => (0, 96),
            IpNet::V6(_) => (1, 0),
        };
        let key = CidrKey {
            pod: self.pod,
            kind: kind + family,
            address: Address::from(range.network()),
        };
        let prefix = CIDR_KEY_BITS + before + u32::from(range.prefix_len());
        // Of two routes to the same place, the one that is not excluded decides: better one connection too many
        // through the mesh than one past it.
        self.cidrs
            .entry((prefix, key))
            .and_modify(|old| *old = (*old).min(value))
            .or_insert(value);
    }
}

impl<'a> Simulated<'a> {
    /// With all of the agent's listeners open.
    pub fn running(plan: &'a Plan) -> Self {
        let listening = [LISTENER_OUTBOUND, LISTENER_INBOUND]
            .into_iter()
            .flat_map(|listener| [false, true].map(|ipv6| slot(plan.pod, listener, ipv6)))
            .collect();
        Self { plan, listening }
    }

    /// With the agent gone.
    pub fn without_agent(plan: &'a Plan) -> Self {
        Self {
            plan,
            listening: BTreeSet::new(),
        }
    }
}

impl Lookups for Simulated<'_> {
    fn policy(&self, pod: u32) -> Option<Policy> {
        (pod == self.plan.pod).then_some(self.plan.policy)
    }

    fn owns(&self, key: &AddressKey) -> bool {
        self.plan.addresses.contains(key)
    }

    fn port(&self, key: &PortKey) -> u32 {
        self.plan.ports.get(key).copied().unwrap_or(0)
    }

    fn cidr(&self, key: &CidrKey) -> Option<u32> {
        let wanted = bits(key);
        let matching = self.plan.cidrs.iter().filter(|((prefix, entry), _)| {
            wanted
                .iter()
                .zip(bits(entry))
                .take(*prefix as usize)
                .all(|(a, b)| *a == b)
        });
        matching
            .max_by_key(|((prefix, _), _)| *prefix)
            .map(|(_, value)| *value)
    }

    fn owner(&self, key: &OwnerKey) -> bool {
        self.plan.owners.contains(key)
    }

    fn interface(&self, key: &InterfaceKey) -> u32 {
        self.plan.interfaces.get(key).copied().unwrap_or(0)
    }

    fn listens(&self, slot: u32) -> bool {
        self.listening.contains(&slot)
    }
}

/// A key as the trie sees it, first bit first.
fn bits(key: &CidrKey) -> Vec<bool> {
    let [a, b, c, d] = key.address.words_be;
    [key.pod, key.kind, a, b, c, d]
        .iter()
        .flat_map(|word| word.to_ne_bytes())
        .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1 == 1))
        .collect()
}

fn is_loopback(range: IpNet) -> bool {
    range.prefix_len() > 0 && range.network().is_loopback()
}

#[cfg(test)]
mod tests;
