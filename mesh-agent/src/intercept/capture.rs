//! What of the connections to a pod its interception is sure to catch, and what of those that a pod opens it lets go:
//! pure, and the same in both modes. Where the agent knows that a connection would come back to it, it can spare it the way.

use std::net::{IpAddr, SocketAddr};

use mesh_ebpf::abi::TUNNEL_PORT;
use mesh_ebpf::decide::{self, Reason, Verdict};

use crate::intercept::ebpf::plan::{Facts, Simulated, plan};
use crate::intercept::{ListenSpec, PodListeners};
use crate::model::{CapturePolicy, PortSet};

/// How connections to a pod are caught, as long as its interception is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capture {
    /// The pod's addresses, as its interception knows them.
    pub addresses: Vec<IpAddr>,
    /// Which of its connections are steered.
    pub policy: CapturePolicy,
    /// Where they are steered to.
    pub ports: ListenSpec,
    /// Whether there is a listener for what comes over IPv6.
    pub ipv6: bool,
}

impl Capture {
    /// What is caught for a pod with these listeners.
    pub fn new(
        addresses: &[IpAddr],
        policy: &CapturePolicy,
        ports: ListenSpec,
        listeners: &PodListeners,
    ) -> Self {
        Self {
            addresses: addresses.to_vec(),
            policy: policy.clone(),
            ports,
            ipv6: listeners.inbound6.is_some(),
        }
    }

    /// Whether a connection from outside the pod to this address is caught on its way in, by whatever interface it comes. The
    /// node's own are another matter where they may be probes; another pod's are not.
    pub fn is_sure_of(&self, destination: SocketAddr) -> bool {
        let (address, port) = (destination.ip().to_canonical(), destination.port());
        let CapturePolicy {
            inbound_ports,
            exclude_inbound_ports,
            // By which one it would come is for the kernel to say.
            exclude_interfaces,
            virtual_interfaces,
            ..
        } = &self.policy;
        let included = match inbound_ports {
            PortSet::All => !exclude_inbound_ports.contains(&port),
            PortSet::Only(ports) => ports.contains(&port),
        };
        let proxy = [
            TUNNEL_PORT,
            self.ports.outbound_port,
            self.ports.inbound_port,
        ];
        included
            && !proxy.contains(&port)
            && exclude_interfaces.is_empty()
            && virtual_interfaces.is_empty()
            && (address.is_ipv4() || self.ipv6)
            && self.addresses.contains(&address)
    }
}

/// Why a connection that an app of a pod opens does not go by way of the agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direct {
    /// It stays within the pod.
    Own,
    /// `excludeOutboundPorts`.
    PortExcluded,
    /// `excludeOutboundIPRanges`.
    AddressExcluded,
    /// Neither `includeOutboundIPRanges` nor `includeOutboundPorts` has it.
    NotIncluded,
}

/// Whether a connection of an app of an enrolled pod goes past the agent, while one runs. By which interface it would
/// leave is left out.
pub fn direct(
    policy: &CapturePolicy,
    addresses: &[IpAddr],
    destination: SocketAddr,
) -> Option<Direct> {
    let facts = Facts {
        addresses: addresses.to_vec(),
        ipv6: true,
        sees_ingress: true,
        ..Facts::default()
    };
    let plan = plan(policy, &facts).ok()?;
    let flow = decide::Flow {
        pod: facts.pod,
        destination: destination.ip().to_canonical().into(),
        port: destination.port(),
        mark: 0,
        interface: 0,
        // No proxy's: those are the policy's, and none of them is an app's.
        user: u32::MAX,
        group: u32::MAX,
    };
    let decision = decide::connect(&Simulated::running(&plan), &flow);
    match decision.reason {
        _ if decision.verdict != Verdict::Pass => None,
        Reason::PortExcluded => Some(Direct::PortExcluded),
        Reason::CidrExcluded => Some(Direct::AddressExcluded),
        Reason::NotIncluded => Some(Direct::NotIncluded),
        _ => Some(Direct::Own),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::CidrSet;

    #[test]
    fn what_a_pod_opens() {
        let addresses = ["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()];
        let check = |edit: fn(&mut CapturePolicy), destination: &str, expected| {
            let mut policy = CapturePolicy::default();
            edit(&mut policy);
            let destination: SocketAddr = destination.parse().unwrap();
            assert_eq!(
                direct(&policy, &addresses, destination),
                expected,
                "{destination}"
            );
        };
        let nothing = |_: &mut CapturePolicy| {};
        check(nothing, "10.0.0.3:80", None);
        check(nothing, "[fd00::3]:80", None);
        check(nothing, "127.0.0.1:80", Some(Direct::Own));
        check(nothing, "[::1]:80", Some(Direct::Own));
        check(nothing, "[::ffff:10.0.0.2]:80", Some(Direct::Own));
        check(nothing, "[fd00::2]:80", Some(Direct::Own));
        let port = |policy: &mut CapturePolicy| policy.exclude_outbound_ports.push(80);
        check(port, "10.0.0.3:80", Some(Direct::PortExcluded));
        check(port, "10.0.0.3:81", None);
        let range = |policy: &mut CapturePolicy| {
            policy
                .exclude_outbound_cidrs
                .push("10.0.0.0/24".parse().unwrap());
        };
        check(range, "10.0.0.3:80", Some(Direct::AddressExcluded));
        check(range, "10.0.1.3:80", None);
        let none = |policy: &mut CapturePolicy| {
            policy.outbound_cidrs = CidrSet::Only(Vec::new());
            policy.include_outbound_ports.push(443);
        };
        check(none, "10.0.0.3:80", Some(Direct::NotIncluded));
        check(none, "10.0.0.3:443", None);
    }

    #[track_caller]
    fn check(edit: impl FnOnce(&mut Capture), destination: &str, expected: bool) {
        let mut capture = Capture {
            addresses: vec!["10.0.0.2".parse().unwrap(), "fd00::2".parse().unwrap()],
            policy: CapturePolicy::default(),
            ports: ListenSpec {
                transparent: true,
                outbound_port: 15001,
                inbound_port: 15006,
            },
            ipv6: true,
        };
        edit(&mut capture);
        let destination = destination.parse().unwrap();
        assert_eq!(capture.is_sure_of(destination), expected, "{destination}");
    }

    #[test]
    fn is_sure_where_no_rule_leaves_it_open() {
        check(|_| {}, "10.0.0.2:80", true);
        check(|_| {}, "[fd00::2]:80", true);
        check(|_| {}, "[::ffff:10.0.0.2]:80", true);
        check(|_| {}, "10.0.0.3:80", false);
        check(|_| {}, "127.0.0.1:80", false);
        for port in [15001, 15006, 15008, 15020, 15021, 15090] {
            check(|_| {}, &format!("10.0.0.2:{port}"), false);
            check(|_| {}, &format!("[fd00::2]:{port}"), false);
        }
        check(|capture| capture.ipv6 = false, "10.0.0.2:80", true);
        check(|capture| capture.ipv6 = false, "[fd00::2]:80", false);
    }

    #[test]
    fn ports_are_included_or_excluded() {
        let only = |ports: &[u16]| {
            let ports = ports.to_vec();
            move |capture: &mut Capture| {
                capture.policy.inbound_ports = PortSet::Only(ports);
                // Without effect beside a list.
                capture.policy.exclude_inbound_ports = vec![80];
            }
        };
        check(only(&[80, 81]), "10.0.0.2:80", true);
        check(only(&[80, 81]), "10.0.0.2:82", false);
        check(only(&[]), "10.0.0.2:80", false);
        check(only(&[15008]), "10.0.0.2:15008", false);
        let without = |port: u16| {
            move |capture: &mut Capture| capture.policy.exclude_inbound_ports = vec![port]
        };
        check(without(80), "10.0.0.2:80", false);
        check(without(80), "10.0.0.2:15020", true);
        let interface = || vec!["net1".to_owned()];
        check(
            |capture| capture.policy.exclude_interfaces = interface(),
            "10.0.0.2:80",
            false,
        );
        check(
            |capture| capture.policy.virtual_interfaces = interface(),
            "10.0.0.2:80",
            false,
        );
    }
}
