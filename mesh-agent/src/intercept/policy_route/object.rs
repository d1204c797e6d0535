//! A rule or a route: how it is written down, added, told from others, and removed.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, Nla};
use netlink_packet_route::route::{
    RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, IpProtocol, RouteNetlinkMessage};

use super::{PRIORITY_VIRTUAL, PROTOCOL, PolicyRouteError, TABLE, error};
use crate::intercept::netlink::Netlink;

/// A rule or a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Object {
    Rule(RuleMessage),
    Route(RouteMessage),
}

/// What makes a rule or a route what it is; the kernel adds more when it lists one.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Key {
    Rule(AddressFamily, u8, Vec<RuleAttribute>),
    Route(AddressFamily, Vec<RouteAttribute>),
}

impl Object {
    pub(super) fn key(&self) -> Key {
        match self {
            Self::Rule(rule) => {
                let essential = |attribute: &&RuleAttribute| {
                    matches!(
                        attribute,
                        RuleAttribute::Priority(_)
                            | RuleAttribute::FwMark(_)
                            | RuleAttribute::FwMask(_)
                            | RuleAttribute::Iifname(_)
                            | RuleAttribute::Destination(_)
                    )
                };
                let mut essentials: Vec<_> =
                    rule.attributes.iter().filter(essential).cloned().collect();
                essentials.sort_by_key(Nla::kind);
                Key::Rule(rule.header.family, rule.header.dst_len, essentials)
            }
            Self::Route(route) => {
                let essential = |attribute: &&RouteAttribute| {
                    matches!(
                        attribute,
                        RouteAttribute::Oif(_)
                            | RouteAttribute::PrefSource(_)
                            | RouteAttribute::Priority(_)
                    )
                };
                let mut essentials: Vec<_> =
                    route.attributes.iter().filter(essential).cloned().collect();
                essentials.sort_by_key(Nla::kind);
                Key::Route(route.header.address_family, essentials)
            }
        }
    }

    /// Adds it; `Ok(false)` where it was there.
    pub(super) fn add(
        &self,
        netlink: &mut Netlink,
        route_flags: u16,
    ) -> Result<bool, PolicyRouteError> {
        let (message, flags) = match self {
            Self::Rule(rule) => (RouteNetlinkMessage::NewRule(rule.clone()), NLM_F_EXCL),
            Self::Route(route) => (RouteNetlinkMessage::NewRoute(route.clone()), route_flags),
        };
        match netlink.change(message, NLM_F_CREATE | flags) {
            Ok(()) => Ok(true),
            Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
            Err(e) => Err(error("adding", self, e)),
        }
    }

    /// Removes it, if it is there.
    pub(super) fn remove(&self, netlink: &mut Netlink) -> Result<(), PolicyRouteError> {
        let message = match self {
            Self::Rule(rule) => RouteNetlinkMessage::DelRule(rule.clone()),
            Self::Route(route) => RouteNetlinkMessage::DelRoute(route.clone()),
        };
        match netlink.change(message, 0) {
            Ok(()) => Ok(()),
            Err(e)
                if matches!(
                    e.raw_os_error(),
                    // ENODEV: the device went, and its routes with it.
                    Some(libc::ENOENT | libc::ESRCH | libc::ENODEV)
                ) =>
            {
                Ok(())
            }
            Err(e) => Err(error("removing", self, e)),
        }
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, family) = match self {
            Self::Rule(rule) => ("rule", rule.header.family),
            Self::Route(route) => ("route", route.header.address_family),
        };
        let family = if family == AddressFamily::Inet6 {
            "IPv6"
        } else {
            "IPv4"
        };
        write!(f, "the {family} {kind}")?;
        match self {
            Self::Rule(rule) => write!(f, " {:?}", rule.attributes),
            Self::Route(route) => write!(f, " {:?}", route.attributes),
        }
    }
}

/// `local default dev DEVICE table 101 [src SOURCE] [metric METRIC]`
pub(super) fn route(
    ipv6: bool,
    device: u32,
    source: Option<IpAddr>,
    metric: Option<u32>,
) -> Object {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ipv6);
    message.header.table = TABLE as u8;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.kind = RouteType::Local;
    message.header.scope = if ipv6 {
        RouteScope::Universe
    } else {
        RouteScope::Host
    };
    message.attributes.push(RouteAttribute::Oif(device));
    if let Some(source) = source {
        // For IPv4 the kernel finds no source address for a foreign destination on the loopback device; for IPv6 it
        // would find the one that the loopback device happens to have.
        message
            .attributes
            .push(RouteAttribute::PrefSource(source.into()));
    }
    if let Some(metric) = metric {
        message.attributes.push(RouteAttribute::Priority(metric));
    }
    Object::Route(message)
}

/// `fwmark MARK/MASK lookup 101`
pub(super) fn mark_rule(ipv6: bool, mark: u32, mask: u32, priority: u32) -> Object {
    let mut message = rule(ipv6, priority);
    message.attributes.push(RuleAttribute::FwMark(mark));
    message.attributes.push(RuleAttribute::FwMask(mask));
    Object::Rule(message)
}

/// `iif INTERFACE [to RANGE] ipproto tcp lookup 101`
pub(super) fn interface_rule(ipv6: bool, interface: &str, range: Option<IpNet>) -> Object {
    let mut message = rule(ipv6, PRIORITY_VIRTUAL);
    message
        .attributes
        .push(RuleAttribute::Iifname(interface.to_owned()));
    message
        .attributes
        .push(RuleAttribute::IpProtocol(IpProtocol::Tcp));
    if let Some(range) = range.filter(|range| range.prefix_len() > 0) {
        message.header.dst_len = range.prefix_len();
        message
            .attributes
            .push(RuleAttribute::Destination(range.network()));
    }
    Object::Rule(message)
}

fn rule(ipv6: bool, priority: u32) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(ipv6);
    message.header.table = TABLE as u8;
    message.header.action = RuleAction::ToTable;
    message.attributes.push(RuleAttribute::Priority(priority));
    message
        .attributes
        .push(RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)));
    message
}

pub(super) fn source(ipv6: bool, v4: Option<Ipv4Addr>, v6: Option<Ipv6Addr>) -> Option<IpAddr> {
    if ipv6 {
        v6.map(IpAddr::V6)
    } else {
        v4.map(IpAddr::V4)
    }
}

fn family(ipv6: bool) -> AddressFamily {
    if ipv6 {
        AddressFamily::Inet6
    } else {
        AddressFamily::Inet
    }
}
