//! What of the connections to a pod its interception is sure to catch: pure, and the same in both modes. Where the agent
//! knows that a connection would come back to it, it can spare it the way.

use std::net::{IpAddr, SocketAddr};

use mesh_ebpf::abi::TUNNEL_PORT;

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

    /// Whether a connection from outside the pod to this address is caught on its way in, by whatever interface it comes.
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

#[cfg(test)]
mod tests {
    use super::*;

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
