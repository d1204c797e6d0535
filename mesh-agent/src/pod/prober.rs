//! By which addresses the node asks after a pod: the kernel chooses them by its routes, and says so.

use std::net::{IpAddr, SocketAddr};

use crate::model::CapturePolicy;
use crate::sys::socket;

/// Any port: nothing is sent.
const PORT: u16 = 9;

/// The policy of a pod with these addresses, with the addresses that the node reaches them by. It is to be asked in the
/// node's network namespace, which is the kubelet's.
pub(super) fn with_probers(policy: &CapturePolicy, addresses: &[IpAddr]) -> CapturePolicy {
    let mut policy = policy.clone();
    if !policy.probed_ports.is_empty() {
        // The one that there is no route to is not reached by the kubelet either.
        policy.probers = addresses.iter().filter_map(|to| source(*to)).collect();
    }
    policy
}

/// The address that a connection to `to` would come from, unless it would not leave the machine.
fn source(to: IpAddr) -> Option<IpAddr> {
    let from = socket::others_source_towards(SocketAddr::new(to, PORT)).ok()?;
    (from != to && !from.is_loopback() && !from.is_unspecified()).then_some(from)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn only_what_is_probed_is_asked_for() {
        let policy = CapturePolicy::default();
        let addresses = [Ipv4Addr::LOCALHOST.into()];
        assert_eq!(with_probers(&policy, &addresses), policy);
    }

    #[test]
    fn the_machine_itself_is_no_prober() {
        assert_eq!(source(Ipv4Addr::LOCALHOST.into()), None);
        assert_eq!(source(Ipv6Addr::LOCALHOST.into()), None);
    }
}
