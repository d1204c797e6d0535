//! Both modes decide alike: random policies and random connections, once through the chains as the iptables mode
//! renders them, once through the decision that the BPF programs make. No kernel is involved, and no rights are needed.

use std::net::{IpAddr, SocketAddr};

use fastrand::Rng;
use ipnet::IpNet;
use mesh_ebpf::decide::{self, Verdict};

use crate::intercept::ListenSpec;
use crate::intercept::capture::Capture;
use crate::intercept::ebpf::plan::{Facts, Simulated, plan};
use crate::intercept::iptables::interpret::{self, Owner, interpret};
use crate::intercept::iptables::options::{Options, Profile};
use crate::intercept::iptables::render::render;
use crate::intercept::iptables::rule::{Hook, Protocol, RuleSet};
use crate::intercept::policy_route::{Route, Surroundings};
use crate::model::{CapturePolicy, CidrSet, PortSet};

const POLICIES: usize = 1_000;
const FLOWS_PER_POLICY: usize = 120;

const OUTBOUND: u16 = 15001;
const INBOUND: u16 = 15006;

/// Interfaces of the pod, by index; the last one belongs to a virtual machine behind the pod.
const INTERFACES: [&str; 5] = ["", "lo", "eth0", "net1", "k6t-eth0"];
const LO: u32 = 1;
const ETH0: u32 = 2;
const NET1: u32 = 3;
const VIRTUAL: u32 = 4;

const PORTS: [u16; 9] = [80, 443, 3306, 8080, 9090, 15008, 15020, 15021, 15090];
const RANGES: [&str; 9] = [
    "10.96.0.0/12",
    "10.244.0.0/16",
    "10.96.0.1/32",
    "172.30.0.0/24",
    "0.0.0.0/1",
    "fd96::/112",
    "fd97::/64",
    "2001:db8::/32",
    "fd30::/64",
];
const FOREIGN: [&str; 10] = [
    "10.96.0.1",
    "10.97.3.4",
    "10.244.9.9",
    "172.30.0.77",
    "203.0.113.5",
    "fd96::7",
    "fd97::9",
    "fd30::77",
    "2001:db8::5",
    "2a00::1",
];
const OWN: [&str; 4] = ["10.97.0.2", "172.30.0.2", "fd97::2", "fd30::2"];
const LOOPBACK: [&str; 3] = ["127.0.0.1", "127.0.0.2", "::1"];
const IDS: [u32; 5] = [0, 1000, 1337, 1338, 65534];

#[test]
fn the_modes_agree_on_a_hundred_thousand_connections() {
    let mut rng = Rng::with_seed(20_260_901);
    let mut steered = [0_usize; 3];
    for _ in 0..POLICIES {
        let policy = random_policy(&mut rng);
        let rules = render(&Options {
            profile: *rng
                .choice(&[Profile::Listed, Profile::Current])
                .expect("two"),
            ipv6: true,
            ..Options::from(&policy)
        });
        let plan = plan(&policy, &facts()).expect("everything here can be planned");
        let maps = Simulated::running(&plan);
        for _ in 0..FLOWS_PER_POLICY {
            let verdict = if rng.bool() {
                check_outbound(&policy, &rules, &maps, &mut rng)
            } else {
                check_inbound(&policy, &rules, &maps, &mut rng)
            };
            match verdict {
                Verdict::Pass => steered[0] += 1,
                Verdict::Outbound => steered[1] += 1,
                Verdict::Inbound => steered[2] += 1,
                Verdict::Test | Verdict::Refuse => panic!("nobody tests, and the agent runs"),
            }
        }
    }
    // A generator that only made dull cases would prove nothing.
    assert!(
        steered
            .iter()
            .all(|count| *count > POLICIES * FLOWS_PER_POLICY / 20),
        "passed, outbound, inbound: {steered:?}"
    );
}

/// A connection that a process of the pod opens.
fn check_outbound(
    policy: &CapturePolicy,
    rules: &RuleSet,
    maps: &Simulated<'_>,
    rng: &mut Rng,
) -> Verdict {
    let destination = destination(rng);
    let local = OWN.contains(&destination.to_string().as_str()) || destination.is_loopback();
    let bound = if local {
        0
    } else {
        *rng.choice(&[0, 0, 0, ETH0, NET1]).expect("five")
    };
    let leaves = match (local, bound) {
        (true, _) => LO,
        (false, 0) => routed(destination),
        (false, bound) => bound,
    };
    let (uid, gid) = (id(rng), id(rng));
    let port = *rng.choice(&PORTS).expect("some");

    let chains = interpret(
        rules,
        &interpret::Flow {
            hook: Hook::Output,
            protocol: Protocol::Tcp,
            source: if local { destination } else { own(destination) },
            destination,
            source_port: 40_000,
            destination_port: port,
            in_interface: String::new(),
            out_interface: INTERFACES[leaves as usize].to_owned(),
            owner: Some(Owner { uid, gid }),
            mark: 0,
        },
    );
    let flow = decide::Flow {
        pod: 0,
        destination: destination.into(),
        port,
        mark: 0,
        interface: bound,
        user: uid,
        group: gid,
    };
    let hooks = decide::connect(maps, &flow);
    let expected = match chains {
        interpret::Verdict::Accept => Verdict::Pass,
        interpret::Verdict::Redirect(OUTBOUND) => Verdict::Outbound,
        // The difference of row 16: a process that runs as the proxy's user and calls its own pod.
        interpret::Verdict::Redirect(INBOUND) if local && is_proxy(policy, uid, gid) => {
            Verdict::Pass
        }
        other => panic!("{other:?} for {flow:?} under {policy:?}"),
    };
    assert_eq!(
        hooks.verdict, expected,
        "{hooks:?} for {flow:?} leaving by {leaves} under {policy:?}"
    );
    hooks.verdict
}

/// A connection that arrives from outside the pod.
fn check_inbound(
    policy: &CapturePolicy,
    rules: &RuleSet,
    maps: &Simulated<'_>,
    rng: &mut Rng,
) -> Verdict {
    let interface = *rng
        .choice(&[ETH0, ETH0, ETH0, NET1, VIRTUAL])
        .expect("five");
    let virtual_machine = policy
        .virtual_interfaces
        .iter()
        .any(|name| name == INTERFACES[interface as usize]);
    // What a virtual machine sends may go anywhere; what others send arrives here because it is for the pod.
    let to = if virtual_machine && rng.bool() {
        foreign(rng)
    } else {
        parse(rng.choice(&OWN).expect("four"))
    };
    let from = loop {
        let from = foreign(rng);
        if from.is_ipv4() == to.is_ipv4() {
            break from;
        }
    };
    let port = *rng.choice(&PORTS).expect("some");
    let chains = interpret(
        rules,
        &interpret::Flow {
            hook: Hook::Prerouting,
            protocol: Protocol::Tcp,
            source: from,
            destination: to,
            source_port: 40_000,
            destination_port: port,
            in_interface: INTERFACES[interface as usize].to_owned(),
            out_interface: String::new(),
            owner: None,
            mark: 0,
        },
    );
    let packet = decide::Packet {
        pod: 0,
        local: to.into(),
        port,
        remote: from.into(),
        interface,
    };
    let lookup = decide::lookup(maps, &packet);
    let expected = match chains {
        interpret::Verdict::Accept => Verdict::Pass,
        interpret::Verdict::Redirect(OUTBOUND) => Verdict::Outbound,
        interpret::Verdict::Redirect(INBOUND) => Verdict::Inbound,
        other => panic!("{other:?} for {packet:?} under {policy:?}"),
    };
    assert_eq!(
        lookup.verdict, expected,
        "{lookup:?} for {packet:?} under {policy:?}"
    );
    check_sure(policy, SocketAddr::new(to, port), lookup.verdict);
    lookup.verdict
}

/// What the agent takes for sure is so in both modes; and it is sure wherever no interface is treated apart.
fn check_sure(policy: &CapturePolicy, to: SocketAddr, verdict: Verdict) {
    let capture = Capture {
        addresses: OWN.into_iter().map(parse).collect(),
        policy: policy.clone(),
        ports: ListenSpec {
            transparent: true,
            outbound_port: OUTBOUND,
            inbound_port: INBOUND,
        },
        ipv6: true,
    };
    let alike = policy.exclude_interfaces.is_empty() && policy.virtual_interfaces.is_empty();
    let expected = alike && verdict == Verdict::Inbound;
    assert_eq!(capture.is_sure_of(to), expected, "{to} under {policy:?}");
}

fn facts() -> Facts {
    let interfaces = INTERFACES
        .iter()
        .zip(0..)
        .skip(1)
        .map(|(name, index)| ((*name).to_owned(), index));
    let route = |destination: &str, interface| Route {
        destination: destination.parse().expect("a range"),
        interfaces: vec![interface],
    };
    Facts {
        pod: 0,
        addresses: vec![parse("10.97.0.2"), parse("fd97::2")],
        surroundings: Surroundings {
            interfaces: interfaces.collect(),
            addresses: OWN
                .iter()
                .zip([ETH0, NET1, ETH0, NET1])
                .map(|(ip, index)| (index, parse(ip)))
                .collect(),
            routes: vec![
                route("0.0.0.0/0", ETH0),
                route("::/0", ETH0),
                route("172.30.0.0/24", NET1),
                route("fd30::/64", NET1),
            ],
        },
        ipv6: true,
        sees_ingress: true,
    }
}

/// Where the routes of [`facts`] lead.
fn routed(destination: IpAddr) -> u32 {
    let behind_net1 = ["172.30.0.0/24", "fd30::/64"].iter().any(|range| {
        range
            .parse::<IpNet>()
            .expect("a range")
            .contains(&destination)
    });
    if behind_net1 { NET1 } else { ETH0 }
}

fn random_policy(rng: &mut Rng) -> CapturePolicy {
    let ports = |rng: &mut Rng| {
        let count = rng.usize(0..4);
        rng.choose_multiple(PORTS, count)
    };
    let ranges = |rng: &mut Rng| {
        let count = rng.usize(0..4);
        let ranges = rng.choose_multiple(RANGES, count).into_iter();
        ranges
            .map(|range| range.parse().expect("a range"))
            .collect::<Vec<IpNet>>()
    };
    let sometimes = |rng: &mut Rng, name: &str| {
        if rng.u8(0..4) == 0 {
            vec![name.to_owned()]
        } else {
            Vec::new()
        }
    };
    let default = CapturePolicy::default();
    CapturePolicy {
        inbound_ports: if rng.bool() {
            PortSet::All
        } else {
            PortSet::Only(ports(rng))
        },
        exclude_inbound_ports: if rng.bool() {
            default.exclude_inbound_ports
        } else {
            ports(rng)
        },
        outbound_cidrs: if rng.bool() {
            CidrSet::All
        } else {
            CidrSet::Only(ranges(rng))
        },
        exclude_outbound_cidrs: ranges(rng),
        include_outbound_ports: ports(rng),
        exclude_outbound_ports: ports(rng),
        exclude_interfaces: sometimes(rng, "net1"),
        virtual_interfaces: sometimes(rng, "k6t-eth0"),
        proxy_uids: if rng.bool() {
            vec![1337]
        } else {
            vec![1337, 1338]
        },
        proxy_gids: vec![1337],
        ..CapturePolicy::default()
    }
}

/// Whether the chains may take a process for the proxy.
fn is_proxy(policy: &CapturePolicy, uid: u32, gid: u32) -> bool {
    policy.proxy_uids.contains(&uid) || policy.proxy_gids.contains(&gid)
}

fn destination(rng: &mut Rng) -> IpAddr {
    match rng.u8(0..8) {
        0 => parse(rng.choice(&OWN).expect("four")),
        1 => parse(rng.choice(&LOOPBACK).expect("three")),
        _ => foreign(rng),
    }
}

fn foreign(rng: &mut Rng) -> IpAddr {
    parse(rng.choice(&FOREIGN).expect("some"))
}

/// The pod's own address of the same family.
fn own(destination: IpAddr) -> IpAddr {
    parse(if destination.is_ipv4() {
        "10.97.0.2"
    } else {
        "fd97::2"
    })
}

fn id(rng: &mut Rng) -> u32 {
    *rng.choice(&IDS).expect("some")
}

fn parse(address: &str) -> IpAddr {
    address.parse().expect("an address")
}
