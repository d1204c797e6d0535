//! Options to rules, pure. The order is istio-iptables' own, step by step, because the first rule that matches wins.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::intercept::iptables::options::{DnsCapture, InboundMode, Options, OwnerGroups, Profile};
use crate::intercept::iptables::rule::{
    Chain, ConnState, Entry, Family, FamilyRules, Hook, Match, Rule, RuleSet, Table, TableRules,
    Target, Test, is, is_not,
};
use crate::model::{CidrSet, PortSet};

mod dns;
mod tproxy;

const INBOUND: &str = "ISTIO_INBOUND";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
const OUTPUT: &str = "ISTIO_OUTPUT";
const REDIRECT: &str = "ISTIO_REDIRECT";
const DROP: &str = "ISTIO_DROP";

const LOOPBACK: &str = "lo";

const DNS: u16 = 53;

/// The rules for these options, which must be valid.
pub fn render(options: &Options) -> RuleSet {
    RuleSet {
        v4: Renderer::new(options, Family::V4).run(),
        v6: options
            .ipv6
            .then(|| Renderer::new(options, Family::V6).run()),
    }
}

/// What differs between the families, and the rules so far.
struct Renderer<'a> {
    options: &'a Options,
    family: Family,
    /// The loopback address or network.
    loopback: IpNet,
    /// Where the proxy connects to its pod's applications from.
    sidecar: IpNet,
    chains: BTreeMap<(Table, &'static str), Vec<Rule>>,
    entries: BTreeMap<(Table, Hook), (Vec<Rule>, Vec<Rule>)>,
}

impl<'a> Renderer<'a> {
    fn new(options: &'a Options, family: Family) -> Self {
        let (loopback, sidecar) = match family {
            Family::V4 => (
                IpNet::V4(options.loopback).trunc(),
                host(Ipv4Addr::new(127, 0, 0, 6).into()),
            ),
            Family::V6 => (
                host(Ipv6Addr::LOCALHOST.into()),
                host(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6).into()),
            ),
        };
        Self {
            options,
            family,
            loopback,
            sidecar,
            chains: BTreeMap::new(),
            entries: BTreeMap::new(),
        }
    }

    fn run(mut self) -> FamilyRules {
        self.interfaces();
        self.drop_invalid();
        self.redirect_chains();
        self.inbound();
        self.outbound();
        self.tproxy_marks();
        self.finish()
    }

    fn interfaces(&mut self) {
        let tables: &[Table] = match self.options.mode {
            InboundMode::Redirect => &[Table::Nat],
            InboundMode::Tproxy => &[Table::Nat, Table::Mangle],
        };
        for &table in tables {
            for interface in &self.options.exclude_interfaces {
                let leave = Rule::to(Target::Return);
                self.bottom(table, Hook::Prerouting, leave.clone().entering(interface));
                self.bottom(table, Hook::Output, leave.leaving(interface));
            }
        }
        for interface in &self.options.virtual_interfaces {
            self.top(Rule::to(Target::Return).entering(interface));
        }
    }

    fn drop_invalid(&mut self) {
        if self.options.drop_invalid {
            let invalid = Rule::jump(DROP).when(Match::State(ConnState::Invalid));
            self.bottom(Table::Mangle, Hook::Prerouting, invalid);
            self.add(Table::Mangle, DROP, Rule::to(Target::Drop));
        }
    }

    fn redirect_chains(&mut self) {
        let tunnel = Rule::to(Target::Return)
            .tcp()
            .port(self.options.tunnel_port);
        self.nat(INBOUND, tunnel);
        let outbound = Rule::to(Target::Redirect(self.options.outbound_port)).tcp();
        self.nat(REDIRECT, outbound);
        let inbound = Rule::to(Target::Redirect(self.options.inbound_port)).tcp();
        self.nat(IN_REDIRECT, inbound);
    }

    fn inbound(&mut self) {
        if self.options.inbound_ports == PortSet::Only(Vec::new()) {
            return;
        }
        let (table, steer) = match self.options.mode {
            InboundMode::Redirect => (Table::Nat, IN_REDIRECT),
            InboundMode::Tproxy => {
                self.tproxy_chains();
                (Table::Mangle, tproxy::TPROXY)
            }
        };
        self.bottom(table, Hook::Prerouting, Rule::jump(INBOUND).tcp());
        let probers: Vec<IpNet> = self.options.probers.iter().copied().map(host).collect();
        for prober in self.of_family(&probers) {
            for &port in &self.options.probed_ports {
                let probe = Rule::to(Target::Return).from_network(prober);
                self.add(table, INBOUND, probe.tcp().port(port));
            }
        }
        // A transparent connection's later packets must reach the same socket, so they are marked too.
        let established = |rule: Rule| rule.when(Match::State(ConnState::RelatedOrEstablished));
        match &self.options.inbound_ports {
            PortSet::All => {
                for &port in &self.options.exclude_inbound_ports {
                    self.add(table, INBOUND, Rule::to(Target::Return).tcp().port(port));
                }
                if self.options.mode == InboundMode::Tproxy {
                    self.add(
                        table,
                        INBOUND,
                        established(Rule::jump(tproxy::DIVERT).tcp()),
                    );
                }
                self.add(table, INBOUND, Rule::jump(steer).tcp());
            }
            PortSet::Only(ports) => {
                for &port in ports {
                    if self.options.mode == InboundMode::Tproxy {
                        let divert = established(Rule::jump(tproxy::DIVERT).tcp().port(port));
                        self.add(table, INBOUND, divert);
                    }
                    self.add(table, INBOUND, Rule::jump(steer).tcp().port(port));
                }
            }
        }
    }

    fn outbound(&mut self) {
        let jump = Rule::jump(OUTPUT);
        self.bottom(
            Table::Nat,
            Hook::Output,
            match self.options.profile {
                Profile::Listed => jump.tcp(),
                Profile::Current => jump,
            },
        );
        for &port in &self.options.exclude_outbound_ports {
            self.nat(OUTPUT, Rule::to(Target::Return).tcp().port(port));
            self.nat(OUTPUT, Rule::to(Target::Return).udp().port(port));
        }
        let from_proxy = Rule::to(Target::Return)
            .from_network(self.sidecar)
            .leaving(LOOPBACK);
        self.nat(OUTPUT, from_proxy);
        self.proxy_owners();
        self.owner_groups();
        self.dns();
        let loopback = Rule::to(Target::Return).to_network(self.loopback);
        self.nat(OUTPUT, loopback);
        for network in self.of_family(&self.options.exclude_outbound_cidrs) {
            self.nat(OUTPUT, Rule::to(Target::Return).to_network(network));
        }
        for &port in &self.options.include_outbound_ports {
            self.nat(OUTPUT, Rule::jump(REDIRECT).tcp().port(port));
        }
        self.include_networks();
    }

    fn include_networks(&mut self) {
        let rules = match &self.options.outbound_cidrs {
            CidrSet::All => vec![Rule::jump(REDIRECT)],
            CidrSet::Only(networks) => self
                .of_family(networks)
                .into_iter()
                .map(|network| Rule::jump(REDIRECT).to_network(network))
                .collect(),
        };
        for rule in rules {
            for interface in &self.options.virtual_interfaces {
                self.top(rule.clone().entering(interface));
            }
            self.nat(OUTPUT, rule);
        }
    }

    /// For each user, then each group, that the proxy runs as: its calls to its own pod go through the inbound
    /// listener, everybody else's do not, and whatever it sends elsewhere goes straight out.
    fn proxy_owners(&mut self) {
        let dns = self.options.dns != DnsCapture::Off;
        // Whoever includes a loopback network wants loopback calls to reach the proxy.
        let loopback_included = match &self.options.outbound_cidrs {
            CidrSet::All => false,
            CidrSet::Only(networks) => networks.iter().any(|n| n.addr().is_loopback()),
        };
        let uids = self.options.proxy_uids.iter();
        let gids = self.options.proxy_gids.iter();
        let users = uids
            .into_iter()
            .map(|&id| (Match::Uid as fn(Test<u32>) -> Match, id, true));
        let groups = gids
            .into_iter()
            .map(|&id| (Match::Gid as fn(Test<u32>) -> Match, id, false));
        for (owner, id, is_user) in users.chain(groups) {
            let self_call = Rule::jump(IN_REDIRECT)
                .not_to_network(self.loopback)
                .leaving(LOOPBACK);
            let tunnel = self.options.tunnel_port;
            let self_call = match (dns && is_user, self.options.profile) {
                (true, Profile::Current) => self_call
                    .tcp()
                    .when(Match::DestinationPorts(is_not(vec![DNS, tunnel]))),
                (true, Profile::Listed) => self_call.tcp().not_port(DNS),
                (false, Profile::Current) => self_call.tcp().not_port(tunnel),
                (false, Profile::Listed) => self_call,
            };
            self.nat(OUTPUT, self_call.when(owner(is(id))));
            if !loopback_included {
                let other = Rule::to(Target::Return).leaving(LOOPBACK);
                // A DNS server on loopback is captured as any other.
                let other = if dns {
                    other.tcp().not_port(DNS)
                } else {
                    other
                };
                self.nat(OUTPUT, other.when(owner(is_not(id))));
            }
            self.nat(OUTPUT, Rule::to(Target::Return).when(owner(is(id))));
        }
    }

    fn owner_groups(&mut self) {
        match &self.options.owner_groups {
            OwnerGroups::AllBut(groups) => {
                for &group in groups {
                    let rule = Rule::to(Target::Return).when(Match::Gid(is(group)));
                    self.nat(OUTPUT, rule);
                }
            }
            OwnerGroups::Only(groups) => {
                let rule = unique(groups)
                    .into_iter()
                    .fold(Rule::to(Target::Return), |rule, &group| {
                        rule.when(Match::Gid(is_not(group)))
                    });
                self.nat(OUTPUT, rule);
            }
        }
    }

    fn finish(self) -> FamilyRules {
        let mut tables: BTreeMap<Table, TableRules> = BTreeMap::new();
        let empty = |table| TableRules {
            table,
            chains: Vec::new(),
            entries: Vec::new(),
        };
        for ((table, name), rules) in self.chains {
            let of_table = tables.entry(table).or_insert_with(|| empty(table));
            of_table.chains.push(Chain { name, rules });
        }
        for ((table, hook), (top, bottom)) in self.entries {
            let of_table = tables.entry(table).or_insert_with(|| empty(table));
            of_table.entries.push(Entry { hook, top, bottom });
        }
        FamilyRules {
            family: self.family,
            tables: tables.into_values().collect(),
        }
    }

    fn nat(&mut self, chain: &'static str, rule: Rule) {
        self.add(Table::Nat, chain, rule);
    }

    fn add(&mut self, table: Table, chain: &'static str, rule: Rule) {
        push_once(self.chains.entry((table, chain)).or_default(), rule);
    }

    /// Ahead of what is there, our own included: as `-I 1` does.
    fn top(&mut self, rule: Rule) {
        let (top, _) = self
            .entries
            .entry((Table::Nat, Hook::Prerouting))
            .or_default();
        if !top.contains(&rule) {
            top.insert(0, rule);
        }
    }

    fn bottom(&mut self, table: Table, hook: Hook, rule: Rule) {
        let (_, bottom) = self.entries.entry((table, hook)).or_default();
        push_once(bottom, rule);
    }

    /// Those of this family, as iptables writes them: without host bits, none twice.
    fn of_family(&self, networks: &[IpNet]) -> Vec<IpNet> {
        let mut result = Vec::new();
        for network in networks {
            let network = undressed(*network).trunc();
            let family = match network {
                IpNet::V4(_) => Family::V4,
                IpNet::V6(_) => Family::V6,
            };
            if family == self.family && !result.contains(&network) {
                result.push(network);
            }
        }
        result
    }
}

/// A network of IPv4 addresses in IPv6 clothes is one of IPv4.
fn undressed(network: IpNet) -> IpNet {
    match network {
        IpNet::V4(_) => network,
        IpNet::V6(v6) => match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
            (Some(v4), Some(length)) => IpNet::V4(Ipv4Net::new_assert(v4, length)),
            _ => IpNet::V6(v6),
        },
    }
}

fn host(address: IpAddr) -> IpNet {
    match address {
        IpAddr::V4(v4) => IpNet::V4(Ipv4Net::from(v4)),
        IpAddr::V6(v6) => IpNet::V6(Ipv6Net::from(v6)),
    }
}

/// What a rule did not catch the first time it would not catch the second time.
fn push_once(rules: &mut Vec<Rule>, rule: Rule) {
    if !rules.contains(&rule) {
        rules.push(rule);
    }
}

/// Each value once, in the order in which it came first.
fn unique<T: PartialEq>(values: &[T]) -> Vec<&T> {
    let mut result: Vec<&T> = Vec::new();
    for value in values {
        if !result.contains(&value) {
            result.push(value);
        }
    }
    result
}

#[cfg(test)]
mod tests;
