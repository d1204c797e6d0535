//! Which connection is steered where: the pure decision, run by the kernel and by the tests.
//!
//! It gives the answers of Istio's nat chains without their rules: [`connect`] is what `OUTPUT` says of a connection
//! that the pod opens, [`lookup`] what `PREROUTING` says of one that arrives. Two differences are on purpose. What stays
//! on the machine is direct for every user: the chains send the calls of user 1337 to its own pod to the inbound
//! listener, but here the agent has a shorter way for them, and no other process should be that user. And a loopback
//! address cannot be included, because the kernel's local routes come before any rule of ours.

use crate::abi::{
    Address, AddressKey, CIDR_EXCLUDED, CIDR_INCLUDED, CIDR_PROBER, CIDR_ROUTE, CidrKey, FAIL_HOLD,
    FAIL_OPEN, INBOUND, INTERFACE_EXCLUDED, INTERFACE_VIRTUAL, InterfaceKey, LISTENER_INBOUND,
    LISTENER_OUTBOUND, LISTENER_TEST, LOOPBACK_INTERFACE, MARK_MASK, OUTBOUND, OWNER_GROUP,
    OWNER_USER, OwnerKey, POLICY_ALL_INBOUND, POLICY_ALL_OUTBOUND, POLICY_INBOUND,
    POLICY_INTERFACES, POLICY_IPV6, POLICY_OUTBOUND, PORT_EXCLUDED, PORT_INCLUDED, PORT_PROBED,
    PROXY_MARK, Policy, PortKey, TEST_ADDRESS4, TEST_ADDRESS6, TUNNEL_PORT, slot,
};

/// What a decision looks up: the maps in the kernel, a plan on the host.
pub trait Lookups {
    /// How the pod is steered; `None` where it is not.
    fn policy(&self, pod: u32) -> Option<Policy>;
    /// Whether the address is the pod's.
    fn owns(&self, key: &AddressKey) -> bool;
    /// A sum of `PORT_*`, 0 for a port without a rule.
    fn port(&self, key: &PortKey) -> u32;
    /// The value of the longest prefix that holds the address.
    fn cidr(&self, key: &CidrKey) -> Option<u32>;
    /// Whether the user or group is the proxy's.
    fn owner(&self, key: &OwnerKey) -> bool;
    /// A sum of `INTERFACE_*`, 0 for an interface without a rule.
    fn interface(&self, key: &InterfaceKey) -> u32;
    /// Whether a socket listens in the slot.
    fn listens(&self, slot: u32) -> bool;
}

/// A connection that a process of a pod is about to open.
#[derive(Clone, Copy, Debug)]
pub struct Flow {
    /// Pod index.
    pub pod: u32,
    /// Where to.
    pub destination: Address,
    /// Where to, in host order.
    pub port: u16,
    /// The socket's mark.
    pub mark: u32,
    /// The interface that the socket is bound to, 0 for none.
    pub interface: u32,
    /// Whose it is.
    pub user: u32,
    /// Whose it is.
    pub group: u32,
}

/// The first packet of a connection that arrives in a pod's namespace, be it from outside or from the pod itself.
#[derive(Clone, Copy, Debug)]
pub struct Packet {
    /// Pod index.
    pub pod: u32,
    /// Where to.
    pub local: Address,
    /// Where to, in host order.
    pub port: u16,
    /// Where from.
    pub remote: Address,
    /// The interface that it came in on, 0 where the kernel does not say.
    pub interface: u32,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What is done.
    pub verdict: Verdict,
    /// Why.
    pub reason: Reason,
}

/// What is done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing: it goes where it was going.
    Pass,
    /// It goes to the outbound listener.
    Outbound,
    /// It goes to the inbound listener.
    Inbound,
    /// It goes to the listener of the self-test.
    Test,
    /// The client gets `ECONNREFUSED`.
    Refuse,
}

/// Why; also the index of a counter in `MESH_STATS`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Connect: steered to the agent.
    Steered,
    /// Connect: the pod is not (or no longer) steered.
    Off,
    /// Connect: the proxy's own, by mark.
    ProxyMark,
    /// Connect: the proxy's own, by user or group.
    ProxyOwner,
    /// Connect: to the pod itself.
    Local,
    /// Connect: by an excluded interface.
    Interface,
    /// Connect: to an excluded port.
    PortExcluded,
    /// Connect: to an excluded address.
    CidrExcluded,
    /// Connect: neither port nor address is included.
    NotIncluded,
    /// Connect: IPv6, for which the pod has no listener.
    NoIpv6,
    /// Connect: the agent is gone, refused.
    AgentLostRefused,
    /// Connect: the agent is gone, let pass.
    AgentLostOpen,
    /// Connect: the agent is gone, made to wait.
    AgentLostHeld,
    /// Connect, lookup: a self-test.
    Test,
    /// Lookup: handed to the outbound listener.
    LookupOutbound,
    /// Lookup: handed to the inbound listener.
    LookupInbound,
    /// Lookup: from the pod to itself, or from the proxy with the client's address.
    LookupLocal,
    /// Lookup: not steered, by port, interface or state.
    LookupPassed,
    /// Lookup: the agent is gone, refused.
    LookupAgentLost,
    /// The kernel would not do what was decided.
    Failed,
    /// A process of a pod has a connection now.
    EstablishedActive,
    /// A listener of a pod has a connection now.
    EstablishedPassive,
}

impl Reason {
    /// All, in order.
    pub const ALL: [Self; 22] = [
        Self::Steered,
        Self::Off,
        Self::ProxyMark,
        Self::ProxyOwner,
        Self::Local,
        Self::Interface,
        Self::PortExcluded,
        Self::CidrExcluded,
        Self::NotIncluded,
        Self::NoIpv6,
        Self::AgentLostRefused,
        Self::AgentLostOpen,
        Self::AgentLostHeld,
        Self::Test,
        Self::LookupOutbound,
        Self::LookupInbound,
        Self::LookupLocal,
        Self::LookupPassed,
        Self::LookupAgentLost,
        Self::Failed,
        Self::EstablishedActive,
        Self::EstablishedPassive,
    ];
}

/// What becomes of a connection that a process of a pod opens.
#[inline(always)]
pub fn connect(maps: &impl Lookups, flow: &Flow) -> Decision {
    let Some(policy) = maps.policy(flow.pod) else {
        return pass(Reason::Off);
    };
    let ipv6 = !flow.destination.is_v4();
    // Before the mark: a self-test bears it, so that the programs of an agent that is gone let it pass.
    if is_test(maps, flow.pod, flow.destination, ipv6) {
        return Decision {
            verdict: Verdict::Test,
            reason: Reason::Test,
        };
    }
    if flow.mark & MARK_MASK == PROXY_MARK {
        return pass(Reason::ProxyMark);
    }
    if policy.flags & POLICY_OUTBOUND == 0 {
        return pass(Reason::Off);
    }
    if let Some(reason) = exempt(maps, policy, flow, ipv6) {
        return pass(reason);
    }
    if ipv6 && policy.flags & POLICY_IPV6 == 0 {
        return pass(Reason::NoIpv6);
    }
    if maps.listens(slot(flow.pod, LISTENER_OUTBOUND, ipv6)) {
        return outbound(Reason::Steered);
    }
    match policy.on_agent_loss {
        FAIL_OPEN => pass(Reason::AgentLostOpen),
        FAIL_HOLD => outbound(Reason::AgentLostHeld),
        _ => refuse(Reason::AgentLostRefused),
    }
}

/// What becomes of a connection that arrives in a pod's namespace.
#[inline(always)]
pub fn lookup(maps: &impl Lookups, packet: &Packet) -> Decision {
    let Some(policy) = maps.policy(packet.pod) else {
        return pass(Reason::LookupPassed);
    };
    let ipv6 = !packet.local.is_v4();
    if is_test(maps, packet.pod, packet.local, ipv6) {
        return Decision {
            verdict: Verdict::Test,
            reason: Reason::Test,
        };
    }
    if ipv6 && policy.flags & POLICY_IPV6 == 0 {
        return pass(Reason::LookupPassed);
    }
    let interface = interface(maps, policy, packet.pod, packet.interface);
    if interface & INTERFACE_VIRTUAL != 0 {
        return if policy.flags & POLICY_ALL_OUTBOUND != 0
            || cidr(maps, packet.pod, CIDR_INCLUDED, packet.local, ipv6).is_some()
        {
            to_outbound(maps, policy, packet.pod, ipv6)
        } else {
            pass(Reason::LookupPassed)
        };
    }
    if interface & INTERFACE_EXCLUDED != 0 {
        return pass(Reason::LookupPassed);
    }

    // Membership is asked for this pod alone: for a call from pod A to pod B on one node the same pair of addresses
    // arrives in A's namespace, as A's outbound, and then in B's, as B's inbound.
    let from_self = is_own(maps, packet.pod, packet.remote);
    let by_loopback = packet.interface == LOOPBACK_INTERFACE;
    if is_own(maps, packet.pod, packet.local) {
        // Over loopback but from a foreign address: the proxy, serving the app in the client's name.
        if from_self || by_loopback {
            return pass(Reason::LookupLocal);
        }
    } else if from_self || by_loopback {
        return to_outbound(maps, policy, packet.pod, ipv6);
    }
    // What comes from outside to an address that is not known as the pod's is inbound: the pod got a new one.
    if policy.flags & POLICY_INBOUND == 0 || !includes_inbound(maps, policy, packet) {
        return pass(Reason::LookupPassed);
    }
    to_inbound(maps, policy, packet.pod, ipv6)
}

/// The first rule of `OUTPUT` that lets the flow go, in the order of the chains.
#[inline(always)]
fn exempt(maps: &impl Lookups, policy: Policy, flow: &Flow, ipv6: bool) -> Option<Reason> {
    if policy.flags & POLICY_INTERFACES != 0 && leaves_by_excluded(maps, policy, flow, ipv6) {
        return Some(Reason::Interface);
    }
    let port = maps.port(&PortKey {
        pod: flow.pod,
        port: flow.port,
        direction: OUTBOUND,
    });
    if port & PORT_EXCLUDED != 0 {
        return Some(Reason::PortExcluded);
    }
    if flow.interface == LOOPBACK_INTERFACE || is_own(maps, flow.pod, flow.destination) {
        return Some(Reason::Local);
    }
    if owner(maps, flow.pod, OWNER_USER, flow.user)
        || owner(maps, flow.pod, OWNER_GROUP, flow.group)
    {
        return Some(Reason::ProxyOwner);
    }
    if cidr(maps, flow.pod, CIDR_EXCLUDED, flow.destination, ipv6).is_some() {
        return Some(Reason::CidrExcluded);
    }
    if policy.flags & POLICY_ALL_OUTBOUND != 0
        || port & PORT_INCLUDED != 0
        || cidr(maps, flow.pod, CIDR_INCLUDED, flow.destination, ipv6).is_some()
    {
        return None;
    }
    Some(Reason::NotIncluded)
}

#[inline(always)]
fn leaves_by_excluded(maps: &impl Lookups, policy: Policy, flow: &Flow, ipv6: bool) -> bool {
    if flow.interface != 0 {
        return interface(maps, policy, flow.pod, flow.interface) & INTERFACE_EXCLUDED != 0;
    }
    // What stays on the machine does not leave, whatever the routes say.
    !is_own(maps, flow.pod, flow.destination)
        && cidr(maps, flow.pod, CIDR_ROUTE, flow.destination, ipv6) == Some(1)
}

#[inline(always)]
fn includes_inbound(maps: &impl Lookups, policy: Policy, packet: &Packet) -> bool {
    if packet.port == TUNNEL_PORT {
        return false;
    }
    let port = maps.port(&PortKey {
        pod: packet.pod,
        port: packet.port,
        direction: INBOUND,
    });
    let included = if policy.flags & POLICY_ALL_INBOUND != 0 {
        port & PORT_EXCLUDED == 0
    } else {
        port & PORT_INCLUDED != 0
    };
    included && !(port & PORT_PROBED != 0 && is_prober(maps, packet))
}

#[inline(always)]
fn is_prober(maps: &impl Lookups, packet: &Packet) -> bool {
    let ipv6 = !packet.remote.is_v4();
    cidr(maps, packet.pod, CIDR_PROBER, packet.remote, ipv6).is_some()
}

#[inline(always)]
fn to_outbound(maps: &impl Lookups, policy: Policy, pod: u32, ipv6: bool) -> Decision {
    if maps.listens(slot(pod, LISTENER_OUTBOUND, ipv6)) {
        return outbound(Reason::LookupOutbound);
    }
    match policy.on_agent_loss {
        // No socket has the address, and over IPv4 the kernel cannot answer in its name either: the client waits.
        FAIL_OPEN | FAIL_HOLD => pass(Reason::LookupPassed),
        _ => refuse(Reason::LookupAgentLost),
    }
}

#[inline(always)]
fn to_inbound(maps: &impl Lookups, policy: Policy, pod: u32, ipv6: bool) -> Decision {
    if maps.listens(slot(pod, LISTENER_INBOUND, ipv6)) {
        return Decision {
            verdict: Verdict::Inbound,
            reason: Reason::LookupInbound,
        };
    }
    match policy.on_agent_loss {
        FAIL_OPEN => pass(Reason::LookupPassed),
        // The kernel has no way to keep a client of another host waiting without a socket; refusing is the safe side.
        _ => refuse(Reason::LookupAgentLost),
    }
}

#[inline(always)]
fn is_test(maps: &impl Lookups, pod: u32, destination: Address, ipv6: bool) -> bool {
    (destination == TEST_ADDRESS4 || destination == TEST_ADDRESS6)
        && maps.listens(slot(pod, LISTENER_TEST, ipv6))
}

#[inline(always)]
fn is_own(maps: &impl Lookups, pod: u32, address: Address) -> bool {
    address.is_loopback() || maps.owns(&AddressKey { pod, address })
}

#[inline(always)]
fn owner(maps: &impl Lookups, pod: u32, kind: u32, id: u32) -> bool {
    maps.owner(&OwnerKey { pod, kind, id })
}

#[inline(always)]
fn cidr(maps: &impl Lookups, pod: u32, kind: u32, address: Address, ipv6: bool) -> Option<u32> {
    maps.cidr(&CidrKey {
        pod,
        kind: kind + ipv6 as u32,
        address,
    })
}

#[inline(always)]
fn interface(maps: &impl Lookups, policy: Policy, pod: u32, interface: u32) -> u32 {
    if policy.flags & POLICY_INTERFACES == 0 || interface == 0 {
        return 0;
    }
    maps.interface(&InterfaceKey { pod, interface })
}

#[inline(always)]
const fn pass(reason: Reason) -> Decision {
    Decision {
        verdict: Verdict::Pass,
        reason,
    }
}

#[inline(always)]
const fn outbound(reason: Reason) -> Decision {
    Decision {
        verdict: Verdict::Outbound,
        reason,
    }
}

#[inline(always)]
const fn refuse(reason: Reason) -> Decision {
    Decision {
        verdict: Verdict::Refuse,
        reason,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pod with nothing but a policy and listeners. Policies with more to them are tested where they are made, in the
    /// agent.
    struct Bare {
        policy: Policy,
        listening: &'static [u32],
    }

    impl Lookups for Bare {
        fn policy(&self, pod: u32) -> Option<Policy> {
            (pod == 0).then_some(self.policy)
        }
        fn owns(&self, key: &AddressKey) -> bool {
            key.address == Address::v4([10, 0, 0, 1])
        }
        fn port(&self, _: &PortKey) -> u32 {
            0
        }
        fn cidr(&self, _: &CidrKey) -> Option<u32> {
            None
        }
        fn owner(&self, _: &OwnerKey) -> bool {
            false
        }
        fn interface(&self, _: &InterfaceKey) -> u32 {
            0
        }
        fn listens(&self, slot: u32) -> bool {
            self.listening.contains(&slot)
        }
    }

    const ALL: &[u32] = &[0, 1, 2, 3];

    fn bare(flags: u32, listening: &'static [u32]) -> Bare {
        let on_agent_loss = crate::abi::FAIL_REFUSE;
        Bare {
            policy: Policy {
                flags: flags | POLICY_ALL_OUTBOUND | POLICY_ALL_INBOUND | POLICY_IPV6,
                on_agent_loss,
            },
            listening,
        }
    }

    fn to(destination: Address) -> Flow {
        Flow {
            pod: 0,
            destination,
            port: 80,
            mark: 0,
            interface: 0,
            user: 0,
            group: 0,
        }
    }

    fn from(remote: Address, local: Address) -> Packet {
        Packet {
            pod: 0,
            local,
            port: 80,
            remote,
            interface: 0,
        }
    }

    const POD: Address = Address::v4([10, 0, 0, 1]);
    const ELSEWHERE: Address = Address::v4([203, 0, 113, 5]);

    #[test]
    fn the_switches_turn_off_what_is_new_and_keep_what_is_on_its_way() {
        let off = bare(0, ALL);
        assert_eq!(connect(&off, &to(ELSEWHERE)).reason, Reason::Off);
        let inbound = from(ELSEWHERE, POD);
        assert_eq!(lookup(&off, &inbound).verdict, Verdict::Pass);
        let on_its_way = from(POD, ELSEWHERE);
        assert_eq!(lookup(&off, &on_its_way).verdict, Verdict::Outbound);
        let on = bare(POLICY_OUTBOUND | POLICY_INBOUND, ALL);
        assert_eq!(connect(&on, &to(ELSEWHERE)).verdict, Verdict::Outbound);
        assert_eq!(lookup(&on, &inbound).verdict, Verdict::Inbound);
    }

    #[test]
    fn a_self_test_works_before_anything_else_does_and_with_the_proxys_mark() {
        let testing = bare(0, &[LISTENER_TEST, LISTENER_TEST + 1]);
        let idle = bare(0, ALL);
        for address in [TEST_ADDRESS4, TEST_ADDRESS6] {
            let flow = Flow {
                mark: PROXY_MARK,
                ..to(address)
            };
            assert_eq!(connect(&testing, &flow).verdict, Verdict::Test);
            let packet = from(POD, address);
            assert_eq!(lookup(&testing, &packet).verdict, Verdict::Test);
            assert_eq!(connect(&idle, &flow).reason, Reason::ProxyMark);
            assert_eq!(lookup(&idle, &packet).verdict, Verdict::Outbound);
        }
    }

    #[test]
    fn a_pod_that_is_not_there_is_left_alone() {
        let maps = bare(POLICY_OUTBOUND | POLICY_INBOUND, ALL);
        let flow = Flow {
            pod: 1,
            ..to(ELSEWHERE)
        };
        assert_eq!(connect(&maps, &flow).verdict, Verdict::Pass);
        let packet = Packet {
            pod: 1,
            ..from(ELSEWHERE, POD)
        };
        assert_eq!(lookup(&maps, &packet).verdict, Verdict::Pass);
    }

    #[test]
    fn reasons_are_numbered_in_order() {
        for (number, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, number);
        }
    }
}
