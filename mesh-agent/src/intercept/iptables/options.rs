//! What can be chosen about the chains: the options of istio-iptables, with its defaults, and what is wrong with them.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};

use ipnet::{IpNet, Ipv4Net};

use crate::intercept::iptables::command::Backend;
use crate::model::{CapturePolicy, CidrSet, PortSet};
use crate::sys::socket::PROXY_ID;

/// Most groups that `owner_groups` may name; each is a match in one rule.
const MAX_OWNER_GROUPS: usize = 64;

/// Longest name of a network interface.
const MAX_INTERFACE_NAME: usize = 15;

/// Everything that decides the rules. The defaults are what Istio's injector asks istio-iptables for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Which edition of Istio's chains.
    pub profile: Profile,
    /// Who applies them.
    pub backend: BackendChoice,
    /// Whether IPv6 is steered too.
    pub ipv6: bool,
    /// Where the pod's own connections are sent.
    pub outbound_port: u16,
    /// Where connections to the pod are sent.
    pub inbound_port: u16,
    /// Istio's tunnel, never redirected inbound.
    pub tunnel_port: u16,
    /// Users whose connections are the proxy's.
    pub proxy_uids: Vec<u32>,
    /// Groups likewise.
    pub proxy_gids: Vec<u32>,
    /// How inbound connections reach the proxy.
    pub mode: InboundMode,
    /// Inbound ports to redirect.
    pub inbound_ports: PortSet,
    /// Inbound ports to leave alone; counts with `PortSet::All` only.
    pub exclude_inbound_ports: Vec<u16>,
    /// Inbound ports to leave alone where the client is one of `probers`, whatever else holds for them.
    pub probed_ports: Vec<u16>,
    /// The node's addresses.
    pub probers: Vec<IpAddr>,
    /// Destinations to redirect.
    pub outbound_cidrs: CidrSet,
    /// Destinations to leave alone; stronger than any include.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// Ports redirected whatever the destination.
    pub include_outbound_ports: Vec<u16>,
    /// Outbound ports to leave alone.
    pub exclude_outbound_ports: Vec<u16>,
    /// Interfaces on which nothing is redirected.
    pub exclude_interfaces: Vec<String>,
    /// Interfaces of virtual machines: what enters there counts as outbound.
    pub virtual_interfaces: Vec<String>,
    /// The mark of packets on their way to a transparent listener.
    pub tproxy_mark: u32,
    /// The routing table for them.
    pub tproxy_table: u32,
    /// Whether DNS is captured, and whose.
    pub dns: DnsCapture,
    /// Where captured DNS is sent.
    pub dns_port: u16,
    /// Drop packets that connection tracking makes nothing of, instead of letting them reset connections.
    pub drop_invalid: bool,
    /// Whose outbound connections are redirected, by group.
    pub owner_groups: OwnerGroups,
    /// The addresses that count as loopback in IPv4.
    pub loopback: Ipv4Net,
}

/// Which edition of Istio's chains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// The chains as Istio documents them.
    Listed,
    /// The chains as Istio has written them since 1.25: `OUTPUT` jumps for all protocols, and calls of the proxy to
    /// its own pod's tunnel port are left alone.
    Current,
}

/// Which iptables applies the rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendChoice {
    /// Whichever the namespace's rules already live in.
    Auto,
    /// This one.
    Forced(Backend),
}

/// How inbound connections reach the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InboundMode {
    /// Their destination is rewritten.
    Redirect,
    /// They are handed to a transparent listener; the client's address survives.
    Tproxy,
}

/// Whether DNS is captured, and whose.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DnsCapture {
    /// It is not.
    Off,
    /// Queries to these servers.
    Servers(Vec<IpAddr>),
    /// Every query.
    All,
}

/// Whose outbound connections are redirected, by group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnerGroups {
    /// Everybody's but these groups'.
    AllBut(Vec<u32>),
    /// These groups' alone.
    Only(Vec<u32>),
}

/// Everything that is wrong with a set of options.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct InvalidOptions {
    /// One sentence each, with what to do.
    pub problems: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self::from(&CapturePolicy::default())
    }
}

impl From<&CapturePolicy> for Options {
    /// The rules for what a pod asks for. What a policy has no word for stays at istio-iptables' default.
    fn from(policy: &CapturePolicy) -> Self {
        let CapturePolicy {
            inbound_ports,
            exclude_inbound_ports,
            outbound_cidrs,
            exclude_outbound_cidrs,
            include_outbound_ports,
            exclude_outbound_ports,
            exclude_interfaces,
            virtual_interfaces,
            proxy_uids,
            proxy_gids,
            probed_ports,
            probers,
            // Neither has a rule of its own: the source is the proxy's choice, and without an agent there is nobody
            // on the port that connections are sent to.
            source: _,
            on_agent_loss: _,
            fast_path: _,
        } = policy;
        Self {
            profile: Profile::Listed,
            backend: BackendChoice::Auto,
            ipv6: true,
            outbound_port: 15001,
            inbound_port: 15006,
            tunnel_port: 15008,
            proxy_uids: proxy_uids.clone(),
            proxy_gids: proxy_gids.clone(),
            mode: InboundMode::Redirect,
            inbound_ports: inbound_ports.clone(),
            exclude_inbound_ports: exclude_inbound_ports.clone(),
            probed_ports: probed_ports.clone(),
            probers: probers.clone(),
            outbound_cidrs: outbound_cidrs.clone(),
            exclude_outbound_cidrs: exclude_outbound_cidrs.clone(),
            include_outbound_ports: include_outbound_ports.clone(),
            exclude_outbound_ports: exclude_outbound_ports.clone(),
            exclude_interfaces: exclude_interfaces.clone(),
            virtual_interfaces: virtual_interfaces.clone(),
            tproxy_mark: PROXY_ID,
            tproxy_table: 133,
            dns: DnsCapture::Off,
            dns_port: 15053,
            drop_invalid: false,
            owner_groups: OwnerGroups::AllBut(Vec::new()),
            loopback: Ipv4Net::new_assert(Ipv4Addr::LOCALHOST, 32),
        }
    }
}

impl Options {
    /// Says everything that is wrong, at once.
    pub fn validate(&self) -> Result<(), InvalidOptions> {
        let mut problems = Vec::new();
        self.check_ports(&mut problems);
        self.check_owners(&mut problems);
        self.check_interfaces(&mut problems);
        self.check_roles(&mut problems);
        self.check_networks(&mut problems);
        self.check_tproxy(&mut problems);
        if problems.is_empty() {
            Ok(())
        } else {
            Err(InvalidOptions { problems })
        }
    }

    fn check_ports(&self, problems: &mut Vec<String>) {
        let listed = match &self.inbound_ports {
            PortSet::All => &[][..],
            PortSet::Only(ports) => ports,
        };
        let lists: [(&str, &[u16]); 8] = [
            ("outbound capture port", &[self.outbound_port]),
            ("inbound capture port", &[self.inbound_port]),
            ("inbound tunnel port", &[self.tunnel_port]),
            ("DNS port", &[self.dns_port]),
            ("included inbound ports", listed),
            ("excluded inbound ports", &self.exclude_inbound_ports),
            ("included outbound ports", &self.include_outbound_ports),
            ("excluded outbound ports", &self.exclude_outbound_ports),
        ];
        for (name, ports) in lists {
            if ports.contains(&0) {
                problems.push(format!("{name}: 0 is no port; use 1 to 65535"));
            }
        }
        if self.outbound_port == self.inbound_port {
            problems.push(format!(
                "the outbound and the inbound capture port are both {}; give each direction its own listener",
                self.outbound_port
            ));
        }
    }

    fn check_owners(&self, problems: &mut Vec<String>) {
        if self.proxy_uids.is_empty() && self.proxy_gids.is_empty() {
            problems.push(
                "no proxy user and no proxy group: the proxy's own connections would be sent back to it for ever; \
                 name at least one user or group, usually 1337"
                    .to_owned(),
            );
        }
        let (OwnerGroups::AllBut(groups) | OwnerGroups::Only(groups)) = &self.owner_groups;
        if groups.len() > MAX_OWNER_GROUPS {
            problems.push(format!(
                "{} owner groups are more than the {MAX_OWNER_GROUPS} that fit; name fewer, or the opposite set",
                groups.len()
            ));
        }
        for (name, ids) in [
            ("proxy users", &self.proxy_uids),
            ("proxy groups", &self.proxy_gids),
            ("owner groups", groups),
        ] {
            if ids.contains(&u32::MAX) {
                problems.push(format!(
                    "{name}: {} means nobody to the kernel; use a smaller number",
                    u32::MAX
                ));
            }
        }
    }

    fn check_interfaces(&self, problems: &mut Vec<String>) {
        for (name, interfaces) in [
            ("excluded interfaces", &self.exclude_interfaces),
            ("virtual interfaces", &self.virtual_interfaces),
        ] {
            for interface in interfaces {
                if !is_interface_name(interface) {
                    problems.push(format!(
                        "{name}: {interface:?} is no interface name; use 1 to {MAX_INTERFACE_NAME} letters, digits and \
                         any of ._:@-, with + at the end for all that begin so"
                    ));
                }
            }
        }
    }

    fn check_roles(&self, problems: &mut Vec<String>) {
        for interface in &self.exclude_interfaces {
            if self.virtual_interfaces.contains(interface) {
                problems.push(format!(
                    "{interface} is both an excluded and a virtual interface; choose one"
                ));
            }
        }
    }

    fn check_networks(&self, problems: &mut Vec<String>) {
        let loopback = Ipv4Net::new_assert(Ipv4Addr::new(127, 0, 0, 0), 8);
        if !loopback.contains(&self.loopback) {
            problems.push(format!(
                "loopback network {}: not within {loopback}; give one that is, such as 127.0.0.1/32",
                self.loopback
            ));
        }
        if let DnsCapture::Servers(servers) = &self.dns
            && servers.iter().any(IpAddr::is_unspecified)
        {
            problems.push(
                "DNS servers: the unspecified address is no server; name the servers of the pod's resolv.conf, or \
                 capture all DNS"
                    .to_owned(),
            );
        }
    }

    fn check_tproxy(&self, problems: &mut Vec<String>) {
        if self.mode == InboundMode::Redirect {
            return;
        }
        if self.tproxy_mark == 0 {
            problems.push(
                "TPROXY mark: 0 is what unmarked packets have; use another number, usually 1337"
                    .to_owned(),
            );
        }
        if matches!(self.tproxy_table, 0 | 253..=255) {
            problems.push(format!(
                "TPROXY route table {}: the kernel's own; use another number, usually 133",
                self.tproxy_table
            ));
        }
    }
}

fn is_interface_name(name: &str) -> bool {
    let stem = name.strip_suffix('+').unwrap_or(name);
    !name.is_empty()
        && name.len() <= MAX_INTERFACE_NAME
        && !name.starts_with('-')
        && name != "."
        && name != ".."
        && stem
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"._:@-".contains(&b))
}

impl fmt::Display for InvalidOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("these options do not work:")?;
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_work() {
        assert_eq!(Options::default().validate(), Ok(()));
    }

    #[test]
    fn every_problem_is_said_at_once() {
        let options = Options {
            outbound_port: 0,
            inbound_port: 0,
            proxy_uids: Vec::new(),
            proxy_gids: Vec::new(),
            mode: InboundMode::Tproxy,
            tproxy_mark: 0,
            tproxy_table: 254,
            exclude_outbound_ports: vec![80, 0],
            exclude_interfaces: vec!["eth0".to_owned(), "a b".to_owned(), "-j".to_owned()],
            virtual_interfaces: vec!["eth0".to_owned(), "much-too-long-name".to_owned()],
            owner_groups: OwnerGroups::Only((0..65).collect()),
            loopback: Ipv4Net::new_assert(Ipv4Addr::new(126, 0, 0, 0), 7),
            dns: DnsCapture::Servers(vec![Ipv4Addr::UNSPECIFIED.into()]),
            ..Options::default()
        };
        let problems = options.validate().expect_err("much is wrong").problems;
        for words in [
            "outbound capture port: 0",
            "inbound capture port: 0",
            "both 0",
            "no proxy user",
            "TPROXY mark: 0",
            "route table 254",
            "excluded outbound ports: 0",
            "\"a b\"",
            "\"-j\"",
            "much-too-long-name",
            "both an excluded and a virtual",
            "65 owner groups",
            "126.0.0.0/7",
            "unspecified",
        ] {
            assert!(
                problems.iter().any(|p| p.contains(words)),
                "{words}: {problems:#?}"
            );
        }
    }
}
