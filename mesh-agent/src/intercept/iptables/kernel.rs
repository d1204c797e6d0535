//! What the chains need of a namespace beside rules: a sysctl, an address, and for TPROXY a policy route.

use std::fs;
use std::io;
use std::path::Path;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::intercept::InterceptError;
use crate::intercept::netlink::Netlink;
use crate::intercept::policy_route::{add_sidecar6, remove_sidecar6};
use crate::netns::NetNs;
use crate::sys::socket::SIDECAR6;

/// Whether connection tracking takes up connections that it has not seen from the start.
const TCP_LOOSE: &str = "netfilter/nf_conntrack_tcp_loose";

/// The loopback device is the first of every namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Just before the main table. With a number of its own, the rule cannot be added twice.
const TPROXY_PRIORITY: u32 = 32764;

/// The value of the sysctl, or `None` where the kernel has not loaded connection tracking yet.
pub fn tcp_loose(netns: &NetNs) -> io::Result<Option<String>> {
    match netns.sysctl(TCP_LOOSE) {
        Ok(value) => Ok(Some(value)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

/// Sets the sysctl.
pub fn set_tcp_loose(netns: &NetNs, value: &str) -> io::Result<()> {
    netns.set_sysctl(TCP_LOOSE, value)
}

/// Whether the namespace has IPv6 at all.
pub fn has_ipv6(netns: &NetNs) -> io::Result<bool> {
    netns.run(|| Path::new("/proc/sys/net/ipv6/conf/lo").exists())
}

/// Whether some device, which can only be loopback, has the address `::6`.
pub fn has_sidecar_address(netns: &NetNs) -> io::Result<bool> {
    let digits = format!("{:032x}", SIDECAR6.to_bits());
    netns.run(|| {
        // Without IPv6 there is no such file, and no address.
        fs::read_to_string("/proc/thread-self/net/if_inet6")
            .is_ok_and(|addresses| addresses.lines().any(|line| line.starts_with(&digits)))
    })
}

/// Gives the loopback device the address `::6`. Says whether it was missing.
pub fn add_sidecar_address(netns: &NetNs) -> Result<bool, InterceptError> {
    ask(netns, "adding ::6 to the loopback device", add_sidecar6)
}

/// Takes it away again.
pub fn remove_sidecar_address(netns: &NetNs) -> Result<(), InterceptError> {
    ask(
        netns,
        "removing ::6 from the loopback device",
        remove_sidecar6,
    )
}

/// Routes packets with this mark to the pod itself, whatever their destination. Says whether anything was missing.
pub fn add_tproxy_route(
    netns: &NetNs,
    mark: u32,
    table: u32,
    ipv6: bool,
) -> Result<bool, InterceptError> {
    ask(netns, "adding the policy route for TPROXY", |netlink| {
        let mut added = false;
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            if family == AddressFamily::Inet6 && !ipv6 {
                continue;
            }
            for message in [
                RouteNetlinkMessage::NewRule(tproxy_rule(family, mark, table)),
                RouteNetlinkMessage::NewRoute(tproxy_route(family, table)),
            ] {
                added |= unless(
                    netlink.change(message, NLM_F_CREATE | NLM_F_EXCL),
                    &[libc::EEXIST],
                )?;
            }
        }
        Ok(added)
    })
}

/// Takes it away again.
pub fn remove_tproxy_route(netns: &NetNs, mark: u32, table: u32) -> Result<(), InterceptError> {
    ask(netns, "removing the policy route for TPROXY", |netlink| {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in [
                RouteNetlinkMessage::DelRule(tproxy_rule(family, mark, table)),
                RouteNetlinkMessage::DelRoute(tproxy_route(family, table)),
            ] {
                unless(netlink.change(message, 0), &NOT_THERE)?;
            }
        }
        Ok(())
    })
}

/// What the kernel says where there is nothing to delete, or no such family.
const NOT_THERE: [i32; 4] = [
    libc::ENOENT,
    libc::ESRCH,
    libc::EAFNOSUPPORT,
    libc::EOPNOTSUPP,
];

/// `fwmark MARK lookup TABLE`
fn tproxy_rule(family: AddressFamily, mark: u32, table: u32) -> RuleMessage {
    let mut rule = RuleMessage::default();
    rule.header.family = family;
    rule.header.action = RuleAction::ToTable;
    rule.attributes.extend([
        RuleAttribute::Priority(TPROXY_PRIORITY),
        RuleAttribute::FwMark(mark),
        RuleAttribute::Table(table),
    ]);
    rule
}

/// `local default dev lo table TABLE`
fn tproxy_route(family: AddressFamily, table: u32) -> RouteMessage {
    let mut route = RouteMessage::default();
    route.header.address_family = family;
    route.header.protocol = RouteProtocol::Static;
    route.header.kind = RouteType::Local;
    route.header.scope = match family {
        AddressFamily::Inet => RouteScope::Host,
        _ => RouteScope::Universe,
    };
    route.attributes.extend([
        RouteAttribute::Table(table),
        RouteAttribute::Oif(LOOPBACK_INDEX),
    ]);
    route
}

fn ask<T>(
    netns: &NetNs,
    step: &str,
    request: impl FnOnce(&mut Netlink) -> io::Result<T>,
) -> Result<T, InterceptError> {
    Netlink::open(netns)
        .and_then(|mut netlink| request(&mut netlink))
        .map_err(|e| InterceptError::step(step, e))
}

/// Whether a request had something to do; `false` where the kernel's objection is one of those expected.
fn unless(result: io::Result<()>, expected: &[i32]) -> io::Result<bool> {
    match result {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error().is_some_and(|e| expected.contains(&e)) => Ok(false),
        Err(e) => Err(e),
    }
}
