//! Policies against flows: what the eBPF mode decides, asked as the kernel asks it.

use std::net::IpAddr;

use mesh_ebpf::abi::{Address, CAPTURE_MARK, PRESERVE_MARK, PROXY_MARK};
use mesh_ebpf::decide::{self, Flow, Packet, Reason, Verdict};

use super::*;
use crate::intercept::policy_route::Route;

const POD: u32 = 7;
const ETH0: u32 = 2;
const NET1: u32 = 3;
const TAP0: u32 = 4;

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn net(text: &str) -> IpNet {
    text.parse().expect("a range")
}

fn facts() -> Facts {
    let route = |destination, interface| Route {
        destination: net(destination),
        interfaces: vec![interface],
    };
    Facts {
        pod: POD,
        addresses: vec![ip("10.1.0.2"), ip("fd00::2")],
        surroundings: Surroundings {
            interfaces: [("lo", 1), ("eth0", ETH0), ("net1", NET1), ("tap0", TAP0)]
                .map(|(name, index)| (name.to_owned(), index))
                .into(),
            addresses: vec![(ETH0, ip("10.1.0.2")), (NET1, ip("10.2.0.2"))],
            routes: vec![
                route("0.0.0.0/0", ETH0),
                route("10.2.0.0/16", NET1),
                route("10.2.9.0/24", ETH0),
                route("::/0", ETH0),
            ],
        },
        ipv6: true,
        sees_ingress: true,
    }
}

fn planned(policy: &CapturePolicy) -> Plan {
    plan(policy, &facts()).expect("a plan")
}

fn flow(destination: &str, port: u16) -> Flow {
    Flow {
        pod: POD,
        destination: Address::from(ip(destination)),
        port,
        mark: 0,
        interface: 0,
        user: 1000,
        group: 1000,
    }
}

fn packet(local: &str, port: u16, remote: &str, interface: u32) -> Packet {
    Packet {
        pod: POD,
        local: Address::from(ip(local)),
        port,
        remote: Address::from(ip(remote)),
        interface,
    }
}

fn connects(policy: &CapturePolicy, cases: &[(&str, u16, Reason)]) {
    let plan = planned(policy);
    let maps = Simulated::running(&plan);
    for (destination, port, reason) in cases {
        let decision = decide::connect(&maps, &flow(destination, *port));
        assert_eq!(decision.reason, *reason, "to {destination} port {port}");
        let steered = *reason == Reason::Steered;
        assert_eq!(decision.verdict == Verdict::Outbound, steered);
    }
}

fn arrives(policy: &CapturePolicy, cases: &[(&str, u16, &str, u32, Verdict)]) {
    let plan = planned(policy);
    let maps = Simulated::running(&plan);
    for (local, port, remote, interface, verdict) in cases {
        let decision = decide::lookup(&maps, &packet(local, *port, remote, *interface));
        assert_eq!(
            decision.verdict, *verdict,
            "from {remote} to {local} port {port} by {interface}: {:?}",
            decision.reason
        );
    }
}

#[test]
fn the_default_steers_all_but_the_pod_itself() {
    connects(
        &CapturePolicy::default(),
        &[
            ("203.0.113.5", 80, Reason::Steered),
            ("2001:db8::5", 80, Reason::Steered),
            ("::ffff:203.0.113.5", 80, Reason::Steered),
            // Another pod's, on this node or not.
            ("10.1.0.3", 80, Reason::Steered),
            ("10.1.0.2", 80, Reason::Local),
            ("::ffff:10.1.0.2", 80, Reason::Local),
            ("10.2.0.2", 80, Reason::Local),
            ("fd00::2", 80, Reason::Local),
            ("127.0.0.1", 80, Reason::Local),
            ("127.255.0.9", 80, Reason::Local),
            ("::ffff:127.0.0.1", 80, Reason::Local),
            ("0.0.0.0", 80, Reason::Local),
            ("::", 80, Reason::Local),
            ("::1", 80, Reason::Local),
            ("::6", 80, Reason::Local),
            ("::7", 80, Reason::Steered),
        ],
    );
}

#[test]
fn exclusions_are_stronger_than_inclusions() {
    let policy = CapturePolicy {
        outbound_cidrs: CidrSet::Only(vec![net("10.0.0.0/8"), net("192.0.2.0/24"), net("::/0")]),
        exclude_outbound_cidrs: vec![net("10.3.0.0/16"), net("192.0.0.0/16"), net("fd09::/16")],
        include_outbound_ports: vec![443, 3306],
        exclude_outbound_ports: vec![3306],
        ..CapturePolicy::default()
    };
    connects(
        &policy,
        &[
            ("10.4.0.1", 80, Reason::Steered),
            // The shorter prefix excludes, the longer includes.
            ("192.0.2.1", 80, Reason::CidrExcluded),
            ("10.3.0.1", 80, Reason::CidrExcluded),
            ("10.3.0.1", 443, Reason::CidrExcluded),
            ("203.0.113.5", 80, Reason::NotIncluded),
            ("203.0.113.5", 443, Reason::Steered),
            ("10.4.0.1", 3306, Reason::PortExcluded),
            // `::/0` is IPv6 alone, also in disguise.
            ("::ffff:203.0.113.5", 80, Reason::NotIncluded),
            ("2001:db8::5", 80, Reason::Steered),
            ("fd09::1", 80, Reason::CidrExcluded),
        ],
    );
    let nothing = CapturePolicy {
        outbound_cidrs: CidrSet::Only(Vec::new()),
        ..CapturePolicy::default()
    };
    connects(&nothing, &[("203.0.113.5", 80, Reason::NotIncluded)]);
}

#[test]
fn all_of_ipv4_as_a_range_is_not_all() {
    let policy = CapturePolicy {
        outbound_cidrs: CidrSet::Only(vec![net("0.0.0.0/0")]),
        ..CapturePolicy::default()
    };
    connects(
        &policy,
        &[
            ("203.0.113.5", 80, Reason::Steered),
            ("2001:db8::5", 80, Reason::NotIncluded),
        ],
    );
}

#[test]
fn the_proxy_is_told_by_mark_and_by_owner() {
    let plan = planned(&CapturePolicy::default());
    let maps = Simulated::running(&plan);
    let elsewhere = flow("203.0.113.5", 80);
    for (mark, user, group, reason) in [
        (PROXY_MARK, 0, 0, Reason::ProxyMark),
        (PROXY_MARK | 0xf000, 0, 0, Reason::ProxyMark),
        (PROXY_MARK | 0x800, 0, 0, Reason::Steered),
        (PRESERVE_MARK, 0, 0, Reason::Steered),
        (CAPTURE_MARK, 0, 0, Reason::Steered),
        (0, 1337, 0, Reason::ProxyOwner),
        (0, 0, 1337, Reason::ProxyOwner),
        (0, 1338, 1338, Reason::Steered),
    ] {
        let flow = Flow {
            mark,
            user,
            group,
            ..elsewhere
        };
        let decision = decide::connect(&maps, &flow);
        assert_eq!(decision.reason, reason, "{mark:#x} {user} {group}");
    }
    // Row 16 of the flows: user 1337 to its own pod is direct here, and goes to the inbound listener by the chains.
    let own = Flow {
        user: 1337,
        ..flow("10.1.0.2", 80)
    };
    assert_eq!(decide::connect(&maps, &own).reason, Reason::Local);
}

#[test]
fn excluded_interfaces_are_excluded_with_what_lies_behind() {
    let policy = CapturePolicy {
        exclude_interfaces: vec!["net1".to_owned()],
        ..CapturePolicy::default()
    };
    connects(
        &policy,
        &[
            ("10.2.0.9", 80, Reason::Interface),
            ("10.2.9.9", 80, Reason::Steered),
            ("203.0.113.5", 80, Reason::Steered),
            ("2001:db8::5", 80, Reason::Steered),
            ("10.2.0.2", 80, Reason::Local),
        ],
    );
    let plan = planned(&policy);
    let maps = Simulated::running(&plan);
    for (interface, reason) in [
        (NET1, Reason::Interface),
        (ETH0, Reason::Steered),
        (LOOPBACK, Reason::Local),
    ] {
        let flow = Flow {
            interface,
            ..flow("203.0.113.5", 80)
        };
        assert_eq!(decide::connect(&maps, &flow).reason, reason);
    }
    arrives(
        &policy,
        &[
            ("10.1.0.2", 80, "10.1.0.9", ETH0, Verdict::Inbound),
            ("10.2.0.2", 80, "10.2.0.9", NET1, Verdict::Pass),
        ],
    );
}

const LOOPBACK: u32 = mesh_ebpf::abi::LOOPBACK_INTERFACE;

#[test]
fn what_arrives_is_told_apart_by_both_addresses() {
    arrives(
        &CapturePolicy::default(),
        &[
            ("10.1.0.2", 80, "10.1.0.9", ETH0, Verdict::Inbound),
            ("fd00::2", 80, "fd00::9", ETH0, Verdict::Inbound),
            // To itself, also by the addresses of the sidecar.
            ("10.1.0.2", 80, "10.1.0.2", LOOPBACK, Verdict::Pass),
            ("10.1.0.2", 80, "10.1.0.2", ETH0, Verdict::Pass),
            ("10.1.0.2", 80, "127.0.0.6", LOOPBACK, Verdict::Pass),
            ("fd00::2", 80, "::6", LOOPBACK, Verdict::Pass),
            ("127.0.0.1", 80, "127.0.0.1", LOOPBACK, Verdict::Pass),
            // The proxy with its client's address.
            ("10.1.0.2", 80, "198.51.100.9", LOOPBACK, Verdict::Pass),
            // Steered by the mark, with and without a device.
            ("203.0.113.5", 80, "10.1.0.2", LOOPBACK, Verdict::Outbound),
            ("203.0.113.5", 80, "10.1.0.2", ETH0, Verdict::Outbound),
            ("203.0.113.5", 80, "127.0.0.1", LOOPBACK, Verdict::Outbound),
            ("203.0.113.5", 80, "10.1.0.77", LOOPBACK, Verdict::Outbound),
            ("2001:db8::5", 80, "fd00::2", LOOPBACK, Verdict::Outbound),
            // From outside to an address that is not known yet.
            ("10.1.0.77", 80, "10.1.0.9", ETH0, Verdict::Inbound),
            ("10.1.0.2", 15008, "10.1.0.9", ETH0, Verdict::Pass),
            ("10.1.0.2", 15021, "10.1.0.9", ETH0, Verdict::Pass),
            // An excluded inbound port is not excluded outbound.
            (
                "203.0.113.5",
                15021,
                "10.1.0.2",
                LOOPBACK,
                Verdict::Outbound,
            ),
        ],
    );
}

#[test]
fn a_list_of_inbound_ports_ignores_the_excluded_ones() {
    let policy = CapturePolicy {
        inbound_ports: PortSet::Only(vec![80, 15008]),
        exclude_inbound_ports: vec![80],
        ..CapturePolicy::default()
    };
    arrives(
        &policy,
        &[
            ("10.1.0.2", 80, "10.1.0.9", ETH0, Verdict::Inbound),
            ("10.1.0.2", 81, "10.1.0.9", ETH0, Verdict::Pass),
            ("10.1.0.2", 15008, "10.1.0.9", ETH0, Verdict::Pass),
        ],
    );
}

#[test]
fn virtual_interfaces_are_outbound_where_the_ranges_are_included() {
    let policy = CapturePolicy {
        virtual_interfaces: vec!["tap0".to_owned()],
        exclude_interfaces: vec!["tap0".to_owned()],
        outbound_cidrs: CidrSet::Only(vec![net("203.0.113.0/24")]),
        ..CapturePolicy::default()
    };
    arrives(
        &policy,
        &[
            ("203.0.113.5", 80, "10.9.0.2", TAP0, Verdict::Outbound),
            ("198.51.100.5", 80, "10.9.0.2", TAP0, Verdict::Pass),
            ("10.1.0.2", 80, "10.9.0.2", TAP0, Verdict::Pass),
            ("10.1.0.2", 80, "10.9.0.2", ETH0, Verdict::Inbound),
        ],
    );
}

#[test]
fn without_an_agent_the_policy_for_that_case_decides() {
    let outside = flow("203.0.113.5", 80);
    let inside = packet("10.1.0.2", 80, "10.1.0.9", ETH0);
    let late = packet("203.0.113.5", 80, "10.1.0.2", LOOPBACK);
    for (fail, connect, inbound, outbound) in [
        (
            FailPolicy::Refuse,
            (Verdict::Refuse, Reason::AgentLostRefused),
            Verdict::Refuse,
            Verdict::Refuse,
        ),
        (
            FailPolicy::Open,
            (Verdict::Pass, Reason::AgentLostOpen),
            Verdict::Pass,
            Verdict::Pass,
        ),
        (
            FailPolicy::Hold,
            (Verdict::Outbound, Reason::AgentLostHeld),
            Verdict::Refuse,
            Verdict::Pass,
        ),
    ] {
        let plan = planned(&CapturePolicy {
            on_agent_loss: fail,
            exclude_outbound_ports: vec![81],
            ..CapturePolicy::default()
        });
        let maps = Simulated::without_agent(&plan);
        let decision = decide::connect(&maps, &outside);
        assert_eq!((decision.verdict, decision.reason), connect, "{fail:?}");
        assert_eq!(decide::lookup(&maps, &inside).verdict, inbound, "{fail:?}");
        assert_eq!(decide::lookup(&maps, &late).verdict, outbound, "{fail:?}");
        // What was never steered does not care.
        let excluded = flow("203.0.113.5", 81);
        assert_eq!(decide::connect(&maps, &excluded).verdict, Verdict::Pass);
    }
}

#[test]
fn a_pod_without_ipv6_listeners_keeps_its_ipv6() {
    let mut facts = facts();
    facts.ipv6 = false;
    let plan = plan(&CapturePolicy::default(), &facts).expect("a plan");
    let maps = Simulated::running(&plan);
    let decision = decide::connect(&maps, &flow("2001:db8::5", 80));
    assert_eq!(decision.reason, Reason::NoIpv6);
    let inbound = packet("fd00::2", 80, "fd00::9", ETH0);
    assert_eq!(decide::lookup(&maps, &inbound).verdict, Verdict::Pass);
}

#[test]
fn other_pods_see_nothing_of_a_plan() {
    let plan = planned(&CapturePolicy::default());
    let maps = Simulated::running(&plan);
    let other = Flow {
        pod: POD + 1,
        ..flow("203.0.113.5", 80)
    };
    assert_eq!(decide::connect(&maps, &other).reason, Reason::Off);
}

#[test]
fn what_cannot_be_had_is_said() {
    let differences = |policy: &CapturePolicy, facts: &Facts| {
        plan(policy, facts).map(|plan| plan.differences.join("; "))
    };
    let mut old_kernel = facts();
    old_kernel.sees_ingress = false;
    let preserve = CapturePolicy {
        source: SourceMode::Preserve,
        ..CapturePolicy::default()
    };
    assert_eq!(differences(&preserve, &facts()), Ok(String::new()));
    assert_eq!(
        differences(&preserve, &old_kernel),
        Err(PlanError::Preserve)
    );
    let machines = CapturePolicy {
        virtual_interfaces: vec!["tap0".to_owned()],
        ..CapturePolicy::default()
    };
    assert_eq!(
        differences(&machines, &old_kernel),
        Err(PlanError::VirtualInterfaces)
    );
    for (policy, facts, wanted) in [
        (
            CapturePolicy {
                exclude_interfaces: vec!["net9".to_owned()],
                ..CapturePolicy::default()
            },
            facts(),
            "no interface net9",
        ),
        (
            CapturePolicy {
                exclude_interfaces: vec!["net1".to_owned()],
                ..CapturePolicy::default()
            },
            old_kernel,
            "Linux 5.17",
        ),
        (
            CapturePolicy {
                outbound_cidrs: CidrSet::Only(vec![net("127.1.2.3/32")]),
                ..CapturePolicy::default()
            },
            facts(),
            "127.1.2.3/32",
        ),
        (
            CapturePolicy {
                on_agent_loss: FailPolicy::Hold,
                ..CapturePolicy::default()
            },
            facts(),
            "can be held",
        ),
    ] {
        let said = differences(&policy, &facts).expect("a plan");
        assert!(said.contains(wanted), "{said}");
    }
}

#[test]
fn the_difference_of_two_plans_is_what_to_erase() {
    let old = planned(&CapturePolicy {
        exclude_outbound_ports: vec![80, 81],
        exclude_outbound_cidrs: vec![net("10.0.0.0/8")],
        ..CapturePolicy::default()
    });
    let new = planned(&CapturePolicy {
        exclude_outbound_ports: vec![81],
        ..CapturePolicy::default()
    });
    let rest = old.without(&new);
    assert_eq!(rest.ports.keys().map(|k| k.port).collect::<Vec<_>>(), [80]);
    assert_eq!(rest.cidrs.len(), 1);
    assert!(rest.addresses.is_empty() && rest.owners.is_empty());
}
