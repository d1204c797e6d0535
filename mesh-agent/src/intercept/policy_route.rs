//! The policy routes in a pod's namespace: what carries a mark of ours stays inside the namespace. And the kernel
//! parameters that the proxy needs there.
//!
//! The eBPF mode steers with the routes, and both modes need them to serve an app with its client's own address. One
//! table, [`TABLE`], says "deliver locally", and rules send marked connections there. Nothing else of the pod's routing
//! is touched, and everything here can be told from what others made.

mod object;
mod surroundings;
mod sysctl;

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{AddressAttribute, AddressMessage, CacheInfo};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use serde::{Deserialize, Serialize};

use crate::intercept::netlink::Netlink;
use crate::netns::NetNs;
use crate::sys::socket::{PRESERVE_MARK, SIDECAR6};
use object::{Key, Object, interface_rule, mark_rule, route, source};
use sysctl::{Parameter, Values};

pub use surroundings::{Route, Surroundings, set_up_loopback};

/// The routing table with the local routes.
pub const TABLE: u32 = 101;
/// The priority of the first rule: before the main table, after the table of the namespace's own addresses.
const PRIORITY_CAPTURE: u32 = 100;
const PRIORITY_PRESERVE: u32 = 101;
const PRIORITY_VIRTUAL: u32 = 102;
/// The bits in which [`PRESERVE_MARK`] is compared.
const PRESERVE_MASK: u32 = 0xfff;
/// Says whose routes these are in `ip route` and `ip rule`.
const PROTOCOL: u8 = 137;
/// Metric of the first route that names a device.
const DEVICE_METRIC: u32 = 10;
/// Metric of the IPv6 route that names the loopback device.
const LOOPBACK_METRIC6: u32 = 1;
const LOOPBACK: u32 = 1;

/// What is asked of the namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Spec {
    /// The bits that mark a steered connection; `None` where something else steers.
    pub capture_mark: Option<u32>,
    /// Whether apps are served with their clients' own addresses.
    pub preserve: bool,
    /// The pod's IPv4 address, for connections whose source is still open. `None`: no IPv4 here.
    pub source4: Option<Ipv4Addr>,
    /// Whether the namespace has IPv6.
    pub ipv6: bool,
    /// The pod's IPv6 address, likewise. `None`: the kernel finds one.
    pub source6: Option<Ipv6Addr>,
    /// The devices that an application may have bound itself to.
    pub devices: Vec<Device>,
    /// Interfaces whose incoming TCP is delivered locally, whatever its destination; with ranges, to these alone.
    pub virtual_interfaces: Vec<(String, Option<Vec<IpNet>>)>,
}

/// A network device of the pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Its index.
    pub index: u32,
    /// Its IPv4 address.
    pub source4: Option<Ipv4Addr>,
    /// Its IPv6 address.
    pub source6: Option<Ipv6Addr>,
}

/// What the namespace was like before. An agent that takes over from another needs the other's.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Before {
    sysctls: Values,
    /// Whether `::6` had to be added.
    added_sidecar6: bool,
}

/// The rules and routes of one namespace. [`PolicyRoute::remove`] takes them away; dropping does too, and logs failure.
#[must_use]
pub struct PolicyRoute {
    netns: NetNs,
    spec: Spec,
    before: Before,
    installed: bool,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{action} {object}")]
pub struct PolicyRouteError {
    action: &'static str,
    object: String,
    #[source]
    source: io::Error,
}

impl PolicyRoute {
    /// Installs everything. What is there already, from an earlier agent, is kept or replaced; `before` is what that
    /// one found.
    pub fn install(
        netns: &NetNs,
        spec: Spec,
        before: Option<Before>,
    ) -> Result<Self, PolicyRouteError> {
        let netns = netns
            .try_clone()
            .map_err(|e| error("opening", "the namespace", e))?;
        let mut this = Self {
            netns,
            spec,
            before: before.unwrap_or_default(),
            installed: true,
        };
        this.apply(NLM_F_REPLACE)?;
        Ok(this)
    }

    /// Puts back what is missing; `Ok(true)` says that something was.
    pub fn repair(&mut self) -> Result<bool, PolicyRouteError> {
        self.apply(NLM_F_EXCL)
    }

    /// Takes the wishes of `spec` instead of the old ones: what is new is added, what is gone is removed.
    pub fn change(&mut self, spec: Spec) -> Result<bool, PolicyRouteError> {
        if spec == self.spec {
            return self.repair();
        }
        let mut netlink = self.netlink()?;
        let wanted = spec.messages();
        for object in self.spec.messages() {
            if !wanted.contains(&object) {
                object.remove(&mut netlink)?;
            }
        }
        self.spec = spec;
        self.apply(NLM_F_REPLACE)?;
        Ok(true)
    }

    /// Removes what an earlier agent made and this one does not want: rules for other interfaces, routes with other
    /// addresses.
    pub fn remove_others(&self) -> Result<(), PolicyRouteError> {
        let mut netlink = self.netlink()?;
        let wanted: Vec<Key> = self.spec.messages().iter().map(Object::key).collect();
        for object in list(&mut netlink)? {
            if !wanted.contains(&object.key()) {
                object.remove(&mut netlink)?;
            }
        }
        Ok(())
    }

    /// What was found at the start, for an agent that takes over.
    pub fn before(&self) -> &Before {
        &self.before
    }

    /// Removes everything.
    pub fn remove(mut self) -> Result<(), PolicyRouteError> {
        self.undo()
    }

    /// Lets go of everything without removing it: another agent needs it.
    pub fn leave(mut self) {
        self.installed = false;
    }

    /// Removes what an agent that is gone has left in `netns`.
    pub fn remove_leftovers(netns: &NetNs, before: &Before) -> Result<(), PolicyRouteError> {
        let mut netlink =
            Netlink::open(netns).map_err(|e| error("opening", "a netlink socket", e))?;
        for object in
            surroundings::ours(&mut netlink).map_err(|e| error("listing", "rules and routes", e))?
        {
            object.remove(&mut netlink)?;
        }
        restore(netns, &mut netlink, before)
    }

    /// Adds everything; says whether anything was missing. `flags` decides what happens to a route that is there.
    fn apply(&mut self, flags: u16) -> Result<bool, PolicyRouteError> {
        let mut changed = self.set_sysctls()?;
        let mut netlink = self.netlink()?;
        if self.spec.ipv6
            && add_sidecar6(&mut netlink).map_err(|e| error("adding", "the address ::6", e))?
        {
            self.before.added_sidecar6 = true;
            changed = true;
        }
        for object in self.spec.messages() {
            changed |= object.add(&mut netlink, flags)?;
        }
        Ok(changed)
    }

    fn undo(&mut self) -> Result<(), PolicyRouteError> {
        if !std::mem::take(&mut self.installed) {
            return Ok(());
        }
        let mut netlink = self.netlink()?;
        let mut result = Ok(());
        for object in self.spec.messages().into_iter().rev() {
            if let Err(e) = object.remove(&mut netlink) {
                result = Err(e);
            }
        }
        restore(&self.netns, &mut netlink, &self.before)?;
        result
    }

    fn set_sysctls(&mut self) -> Result<bool, PolicyRouteError> {
        let mut changed = false;
        for parameter in self.spec.sysctls() {
            changed |= parameter
                .set(&self.netns, &mut self.before.sysctls)
                .map_err(|e| error("setting", parameter.path, e))?;
        }
        Ok(changed)
    }

    fn netlink(&self) -> Result<Netlink, PolicyRouteError> {
        Netlink::open(&self.netns).map_err(|e| error("opening", "a netlink socket", e))
    }
}

impl Drop for PolicyRoute {
    fn drop(&mut self) {
        if let Err(e) = self.undo() {
            tracing::warn!(error = &e as &dyn std::error::Error, "policy routes remain");
        }
    }
}

impl Spec {
    fn sysctls(&self) -> impl Iterator<Item = Parameter> + use<> {
        let (preserve, ipv6) = (self.preserve, self.ipv6);
        let preserving = sysctl::PRESERVE.into_iter().filter(move |_| preserve);
        let preserving6 = sysctl::PRESERVE6.into_iter();
        [sysctl::REUSE_PORTS]
            .into_iter()
            .chain(preserving)
            .chain(preserving6.filter(move |_| preserve && ipv6))
    }

    /// The rules and routes, in the order they are added: routes first, so that no rule ever finds an empty table.
    fn messages(&self) -> Vec<Object> {
        let mut objects = Vec::new();
        if self.capture_mark.is_none() && !self.preserve {
            return objects;
        }
        for ipv6 in [false, true] {
            if ipv6 && !self.ipv6 {
                continue;
            }
            let source = source(ipv6, self.source4, self.source6);
            if ipv6 || source.is_some() {
                // For IPv6 the kernel takes "none" for 1024, which would come after the devices.
                let metric = ipv6.then_some(LOOPBACK_METRIC6);
                objects.push(route(ipv6, LOOPBACK, source, metric));
            }
            if self.capture_mark.is_some() {
                for (metric, device) in (DEVICE_METRIC..).zip(&self.devices) {
                    let source = self::source(ipv6, device.source4, device.source6);
                    if ipv6 || source.is_some() {
                        objects.push(route(ipv6, device.index, source, Some(metric)));
                    }
                }
            }
            if let Some(mark) = self.capture_mark {
                objects.push(mark_rule(ipv6, mark, mark, PRIORITY_CAPTURE));
            }
            if self.preserve {
                objects.push(mark_rule(
                    ipv6,
                    PRESERVE_MARK,
                    PRESERVE_MASK,
                    PRIORITY_PRESERVE,
                ));
            }
            for (interface, ranges) in &self.virtual_interfaces {
                match ranges {
                    None => objects.push(interface_rule(ipv6, interface, None)),
                    Some(ranges) => objects.extend(
                        ranges
                            .iter()
                            .filter(|range| matches!(range, IpNet::V6(_)) == ipv6)
                            .map(|range| interface_rule(ipv6, interface, Some(*range))),
                    ),
                }
            }
        }
        objects
    }
}

/// The rules and routes that bear our protocol number.
fn list(netlink: &mut Netlink) -> Result<Vec<Object>, PolicyRouteError> {
    surroundings::ours(netlink).map_err(|e| error("listing", "rules and routes", e))
}

/// Puts back what was changed besides rules and routes.
fn restore(netns: &NetNs, netlink: &mut Netlink, before: &Before) -> Result<(), PolicyRouteError> {
    sysctl::restore(netns, &before.sysctls).map_err(|e| error("restoring", "/proc/sys/net", e))?;
    if before.added_sidecar6 {
        remove_sidecar6(netlink).map_err(|e| error("removing", "the address ::6", e))?;
    }
    Ok(())
}

/// Gives the loopback device [`SIDECAR6`]; says whether it was missing.
pub(super) fn add_sidecar6(netlink: &mut Netlink) -> io::Result<bool> {
    let message = RouteNetlinkMessage::NewAddress(sidecar6());
    match netlink.change(message, NLM_F_CREATE | NLM_F_EXCL) {
        Ok(()) => Ok(true),
        Err(e) if e.raw_os_error() == Some(libc::EEXIST) => Ok(false),
        Err(e) => Err(e),
    }
}

/// Takes it away, if it is there.
pub(super) fn remove_sidecar6(netlink: &mut Netlink) -> io::Result<()> {
    match netlink.change(RouteNetlinkMessage::DelAddress(sidecar6()), 0) {
        Err(e)
            if !matches!(
                e.raw_os_error(),
                // A kernel without IPv6 has no such address either.
                Some(libc::EADDRNOTAVAIL | libc::EAFNOSUPPORT | libc::EOPNOTSUPP)
            ) =>
        {
            Err(e)
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn sidecar6() -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = 128;
    message.header.index = LOOPBACK;
    message
        .attributes
        .push(AddressAttribute::Address(IpAddr::V6(SIDECAR6)));
    // Not preferred, so that nobody gets it as a source address without asking for it.
    let mut lifetime = CacheInfo::default();
    lifetime.ifa_valid = u32::MAX;
    message
        .attributes
        .push(AddressAttribute::CacheInfo(lifetime));
    message
}

fn error(action: &'static str, object: impl fmt::Display, source: io::Error) -> PolicyRouteError {
    PolicyRouteError {
        action,
        object: object.to_string(),
        source,
    }
}
