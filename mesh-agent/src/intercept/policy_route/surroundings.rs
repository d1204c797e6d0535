//! What a namespace looks like: its addresses, interfaces and routes, and which of the rules and routes are ours.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use netlink_packet_route::rule::{RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::object::Object;
use super::{LOOPBACK, PROTOCOL, TABLE};
use crate::intercept::netlink::Netlink;
use crate::netns::NetNs;

/// A namespace at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Surroundings {
    /// Index by name.
    pub interfaces: BTreeMap<String, u32>,
    /// Every address, with the index of its interface.
    pub addresses: Vec<(u32, IpAddr)>,
    /// The routes of the main table that lead somewhere.
    pub routes: Vec<Route>,
}

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where to.
    pub destination: IpNet,
    /// The interfaces that it may leave by.
    pub interfaces: Vec<u32>,
}

impl Surroundings {
    /// Looks around in `netns`.
    pub fn look(netns: &NetNs) -> io::Result<Self> {
        let mut netlink = Netlink::open(netns)?;
        let mut this = Self::default();
        for message in netlink.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))? {
            if let RouteNetlinkMessage::NewLink(link) = message {
                for attribute in link.attributes {
                    if let LinkAttribute::IfName(name) = attribute {
                        this.interfaces.insert(name, link.header.index);
                    }
                }
            }
        }
        for message in netlink.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))? {
            if let RouteNetlinkMessage::NewAddress(address) = message {
                this.addresses.extend(own_address(&address));
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in netlink.dump(RouteNetlinkMessage::GetRoute(routes_of(family)))? {
                if let RouteNetlinkMessage::NewRoute(route) = message {
                    this.routes.extend(main_route(&route));
                }
            }
        }
        Ok(this)
    }
}

/// Brings up the loopback interface of a scratch namespace and gives it addresses.
pub fn set_up_loopback(netns: &NetNs, addresses: &[IpAddr]) -> io::Result<()> {
    let mut netlink = Netlink::open(netns)?;
    let mut link = LinkMessage::default();
    link.header.index = LOOPBACK;
    link.header.flags = LinkFlags::Up;
    link.header.change_mask = LinkFlags::Up;
    netlink.change(RouteNetlinkMessage::SetLink(link), 0)?;
    for address in addresses {
        let mut message = AddressMessage::default();
        let (family, length) = match address {
            IpAddr::V4(_) => (AddressFamily::Inet, 32),
            IpAddr::V6(_) => (AddressFamily::Inet6, 128),
        };
        message.header.family = family;
        message.header.prefix_len = length;
        message.header.index = LOOPBACK;
        message.attributes.push(AddressAttribute::Local(*address));
        message.attributes.push(AddressAttribute::Address(*address));
        let message = RouteNetlinkMessage::NewAddress(message);
        netlink.change(message, NLM_F_CREATE | NLM_F_EXCL)?;
    }
    Ok(())
}

/// The rules and routes that bear our protocol number.
pub(super) fn ours(netlink: &mut Netlink) -> io::Result<Vec<Object>> {
    let mut found = Vec::new();
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        let mut rules = RuleMessage::default();
        rules.header.family = family;
        for message in netlink.dump(RouteNetlinkMessage::GetRule(rules))? {
            if let RouteNetlinkMessage::NewRule(rule) = message
                && rule
                    .attributes
                    .contains(&RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)))
            {
                found.push(Object::Rule(rule));
            }
        }
        for message in netlink.dump(RouteNetlinkMessage::GetRoute(routes_of(family)))? {
            if let RouteNetlinkMessage::NewRoute(route) = message
                && route.header.protocol == RouteProtocol::Other(PROTOCOL)
                && u32::from(route.header.table) == TABLE
            {
                found.push(Object::Route(route));
            }
        }
    }
    Ok(found)
}

fn routes_of(family: AddressFamily) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family;
    message
}

fn own_address(message: &AddressMessage) -> Option<(u32, IpAddr)> {
    // On a point-to-point link `Address` is the other end; `Local`, where it is given, is always this one.
    let address =
        message
            .attributes
            .iter()
            .fold(None, |found, attribute| match (found, attribute) {
                (_, AddressAttribute::Local(address)) => Some(*address),
                (None, AddressAttribute::Address(address)) => Some(*address),
                (found, _) => found,
            });
    address.map(|address| (message.header.index, address))
}

fn main_route(message: &RouteMessage) -> Option<Route> {
    if message.header.table != RouteHeader::RT_TABLE_MAIN
        || message.header.kind != RouteType::Unicast
    {
        return None;
    }
    let mut address = match message.header.address_family {
        AddressFamily::Inet6 => IpAddr::from([0u8; 16]),
        _ => IpAddr::from([0u8; 4]),
    };
    let mut interfaces = Vec::new();
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => address = IpAddr::V4(*v4),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => address = IpAddr::V6(*v6),
            RouteAttribute::Oif(index) => interfaces.push(*index),
            RouteAttribute::MultiPath(hops) => {
                interfaces.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    let destination = IpNet::new(address, message.header.destination_prefix_length).ok()?;
    Some(Route {
        destination,
        interfaces,
    })
}
