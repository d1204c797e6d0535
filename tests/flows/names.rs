//! The fixed addresses of a scene, and the names that the table calls them by.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Context, Result};
use mesh_tests::{NODE_V4, NODE_V6, OUTSIDE_V4, OUTSIDE_V6};

/// The pod whose connections most rows are about.
pub const CLIENT: (Ipv4Addr, Ipv6Addr) = pod(0x11);
/// A pod that serves.
pub const APP: (Ipv4Addr, Ipv6Addr) = pod(0x12);
/// A second interface of the pod that serves.
pub const APP_NET1: (Ipv4Addr, Ipv6Addr) = second(0x12);
/// A second interface of the client.
pub const CLIENT_NET1: (Ipv4Addr, Ipv6Addr) = second(0x11);
/// A pod of another node.
pub const REMOTE: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 98, 0, 10),
    Ipv6Addr::new(0xfd98, 0, 0, 1, 0, 0, 0, 0x10),
);
/// The Service in front of the remote pod.
pub const VIP: (Ipv4Addr, Ipv6Addr) = service(0x10);
/// The Service in front of the client itself.
pub const SELF_VIP: (Ipv4Addr, Ipv6Addr) = service(0x11);
/// The Service in front of the app.
pub const APP_VIP: (Ipv4Addr, Ipv6Addr) = service(0x12);
/// A second external address.
pub const OUTSIDE_B: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(203, 0, 113, 6),
    Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 6),
);

/// What the machine outside has on its link to the node: where its own connections come from.
const OUTSIDE_LINK: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(198, 51, 100, 2),
    Ipv6Addr::new(0xfd98, 0, 0, 0, 0, 0, 0, 2),
);

/// IPv4 and IPv6 of every name; an IPv6 address is called by the name with a 6.
const NAMES: &[(&str, (Ipv4Addr, Ipv6Addr))] = &[
    ("client", CLIENT),
    ("app", APP),
    ("client-net1", CLIENT_NET1),
    ("app-net1", APP_NET1),
    ("remote", REMOTE),
    ("vip", VIP),
    ("self-vip", SELF_VIP),
    ("app-vip", APP_VIP),
    ("external", (OUTSIDE_V4, OUTSIDE_V6)),
    ("external-b", OUTSIDE_B),
    (
        "hole",
        (
            Ipv4Addr::new(203, 0, 113, 66),
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 0x66),
        ),
    ),
    ("node", (NODE_V4, NODE_V6)),
    ("outside-link", OUTSIDE_LINK),
];

/// The address behind `NAME:PORT`, or a literal one.
pub fn resolve(text: &str) -> Result<SocketAddr> {
    if let Ok(address) = text.parse() {
        return Ok(address);
    }
    let (name, port) = text
        .rsplit_once(':')
        .with_context(|| format!("{text:?} has no port"))?;
    let ip = NAMES
        .iter()
        .find_map(|(known, (v4, v6))| match name.strip_prefix(known)? {
            "" => Some(IpAddr::from(*v4)),
            "6" => Some(IpAddr::from(*v6)),
            _ => None,
        })
        .with_context(|| format!("no address is called {name:?}"))?;
    Ok(SocketAddr::new(ip, port.parse().context("port")?))
}

/// What an address is called; itself where it has no name.
pub fn name(ip: IpAddr) -> String {
    let ip = ip.to_canonical();
    for (name, (v4, v6)) in NAMES {
        if ip == IpAddr::from(*v4) {
            return (*name).to_owned();
        }
        if ip == IpAddr::from(*v6) {
            return format!("{name}6");
        }
    }
    ip.to_string()
}

/// An address with its port.
pub fn name_port(address: SocketAddr) -> String {
    format!("{}:{}", name(address.ip()), address.port())
}

const fn pod(last: u16) -> (Ipv4Addr, Ipv6Addr) {
    (
        Ipv4Addr::new(10, 97, 1, last as u8),
        Ipv6Addr::new(0xfd97, 0, 0, 0, 0, 0, 1, last),
    )
}

const fn second(last: u16) -> (Ipv4Addr, Ipv6Addr) {
    (
        Ipv4Addr::new(10, 99, 1, last as u8),
        Ipv6Addr::new(0xfd99, 0, 0, 0, 0, 0, 1, last),
    )
}

const fn service(last: u16) -> (Ipv4Addr, Ipv6Addr) {
    (
        Ipv4Addr::new(10, 96, 0, last as u8),
        Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, last),
    )
}
