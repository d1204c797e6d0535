//! What a set of rules does to the first packet of a connection: the reference for both modes.
//!
//! The eBPF mode's decision is compared with this, and this is compared with the kernel. It walks the tables as the
//! kernel does, raw, mangle, nat, and knows only the words that [`crate::intercept::iptables::rule`] has.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::intercept::iptables::rule::{
    ConnState, Family, FamilyRules, Hook, Match, Protocol, Rule, RuleSet, Table, TableRules,
    Target, Test,
};

/// The first packet of a connection, as one hook sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Where it is seen.
    pub hook: Hook,
    /// Its protocol.
    pub protocol: Protocol,
    /// Where it comes from. Of the same family as `destination`.
    pub source: IpAddr,
    /// Where it goes to.
    pub destination: IpAddr,
    /// From which port.
    pub source_port: u16,
    /// To which port.
    pub destination_port: u16,
    /// The interface it came in through; empty on output.
    pub in_interface: String,
    /// The interface it leaves through; empty on arrival.
    pub out_interface: String,
    /// Who made the socket; `None` where the packet has none, as on arrival.
    pub owner: Option<Owner>,
    /// The packet's mark.
    pub mark: u32,
}

/// User and group of a socket's file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It goes to this port of the pod instead.
    Redirect(u16),
    /// It goes where it was going.
    Accept,
    /// It goes nowhere.
    Drop,
}

const LOOPBACK: &str = "lo";

/// What `rules` do to `flow`, on its whole way from the hook that it is given at to a socket. A family without rules is not touched.
pub fn interpret(rules: &RuleSet, flow: &Flow) -> Verdict {
    let family = match flow.destination {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    };
    match rules.families().find(|f| f.family == family) {
        Some(rules) => interpret_family(rules, flow),
        None => Verdict::Accept,
    }
}

fn interpret_family(rules: &FamilyRules, flow: &Flow) -> Verdict {
    // Rules change the mark on the way.
    let mut flow = flow.clone();
    let verdict = pass(rules, &mut flow, &[Table::Raw, Table::Mangle, Table::Nat]);
    if verdict != Verdict::Accept || flow.hook != Hook::Output || flow.out_interface != LOOPBACK {
        return verdict;
    }
    // What leaves through the loopback device comes in again there, with its mark. Its address is settled by then: nat
    // is not asked a second time.
    flow.hook = Hook::Prerouting;
    flow.in_interface = std::mem::take(&mut flow.out_interface);
    flow.owner = None;
    pass(rules, &mut flow, &[Table::Raw, Table::Mangle])
}

/// One hook.
fn pass(rules: &FamilyRules, flow: &mut Flow, tables: &[Table]) -> Verdict {
    for table in tables {
        let Some(table) = rules.table(*table) else {
            continue;
        };
        let Some(entry) = table.entry(flow.hook) else {
            continue;
        };
        match walk(table, entry.rules(), flow) {
            Outcome::Decided(verdict) => return verdict,
            // The end of the chain: the policy, which is to accept.
            Outcome::NextTable | Outcome::Returned => {}
        }
    }
    Verdict::Accept
}

enum Outcome {
    /// No rule of the chain had the last word.
    Returned,
    /// Accepted, as far as this table goes.
    NextTable,
    Decided(Verdict),
}

fn walk<'a>(table: &TableRules, rules: impl Iterator<Item = &'a Rule>, flow: &mut Flow) -> Outcome {
    for rule in rules {
        if !matches(rule, flow) {
            continue;
        }
        match &rule.target {
            Target::Return => return Outcome::Returned,
            Target::Accept => return Outcome::NextTable,
            Target::Drop => return Outcome::Decided(Verdict::Drop),
            Target::Redirect(port) | Target::Tproxy { port, .. } => {
                return Outcome::Decided(Verdict::Redirect(*port));
            }
            Target::Jump(name) => {
                let chain = table.chain(name).map(|c| c.rules.iter());
                match walk(table, chain.into_iter().flatten(), flow) {
                    Outcome::Returned => {}
                    decided @ (Outcome::NextTable | Outcome::Decided(_)) => return decided,
                }
            }
            Target::SetMark(mark) => flow.mark = *mark,
            // A new connection has no mark yet, and neither this nor the zone is asked for again in its first packet.
            Target::RestoreMark => flow.mark = 0,
            Target::SaveMark | Target::Zone(_) => {}
        }
    }
    Outcome::Returned
}

fn matches(rule: &Rule, flow: &Flow) -> bool {
    let Rule {
        source,
        destination,
        in_interface,
        out_interface,
        protocol,
        matches,
        target: _,
    } = rule;
    let address = |test: &Option<Test<IpNet>>, address: IpAddr| {
        test.as_ref()
            .is_none_or(|t| t.passes(|network| network.contains(&address)))
    };
    let interface = |test: &Option<Test<String>>, name: &str| {
        test.as_ref()
            .is_none_or(|t| t.passes(|pattern| matches_interface(pattern, name)))
    };
    address(source, flow.source)
        && address(destination, flow.destination)
        && interface(in_interface, &flow.in_interface)
        && interface(out_interface, &flow.out_interface)
        && protocol.is_none_or(|p| p == flow.protocol)
        && matches.iter().all(|m| holds(m, flow))
}

/// A `+` at the end stands for anything.
fn matches_interface(pattern: &str, name: &str) -> bool {
    match pattern.strip_suffix('+') {
        Some(start) => name.starts_with(start),
        None => name == pattern,
    }
}

fn holds(condition: &Match, flow: &Flow) -> bool {
    match condition {
        Match::SourcePort(t) => t.passes(|p| *p == flow.source_port),
        Match::DestinationPort(t) => t.passes(|p| *p == flow.destination_port),
        Match::DestinationPorts(t) => t.passes(|p| p.contains(&flow.destination_port)),
        // A packet without a socket belongs to nobody, and so meets every "not this owner".
        Match::Uid(t) => t.passes(|id| flow.owner.is_some_and(|o| o.uid == *id)),
        Match::Gid(t) => t.passes(|id| flow.owner.is_some_and(|o| o.gid == *id)),
        Match::Mark(t) => t.passes(|m| flow.mark & m.mask == m.value),
        Match::ConnMark(t) => t.passes(|m| m.value == 0),
        // The first packet of a connection is new.
        Match::State(ConnState::Invalid | ConnState::RelatedOrEstablished) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intercept::iptables::options::{InboundMode, Options};
    use crate::intercept::iptables::render::render;

    /// The kernel itself is asked in the tests of the namespaces; these are the landmarks.
    fn check(destination: &str, port: u16, uid: u32, interface: &str, verdict: Verdict) {
        let destination: IpAddr = destination.parse().expect("an address");
        let flow = Flow {
            hook: Hook::Output,
            protocol: Protocol::Tcp,
            source: destination,
            destination,
            source_port: 40000,
            destination_port: port,
            in_interface: String::new(),
            out_interface: interface.to_owned(),
            owner: Some(Owner { uid, gid: uid }),
            mark: 0,
        };
        assert_eq!(
            interpret(&render(&Options::default()), &flow),
            verdict,
            "{flow:?}"
        );
    }

    #[test]
    fn outbound() {
        for (external, own, loopback) in [
            ("203.0.113.5", "10.0.0.1", "127.0.0.1"),
            ("2001:db8::5", "fd00::1", "::1"),
        ] {
            check(external, 80, 0, "eth0", Verdict::Redirect(15001));
            check(external, 80, 1337, "eth0", Verdict::Accept);
            check(own, 80, 0, "lo", Verdict::Accept);
            check(own, 80, 1337, "lo", Verdict::Redirect(15006));
            check(loopback, 80, 0, "lo", Verdict::Accept);
            check(loopback, 80, 1337, "lo", Verdict::Accept);
        }
    }

    #[test]
    fn inbound_in_either_mode() {
        let flow = |port| Flow {
            hook: Hook::Prerouting,
            protocol: Protocol::Tcp,
            source: [10, 0, 0, 1].into(),
            destination: [10, 0, 0, 2].into(),
            source_port: 40000,
            destination_port: port,
            in_interface: "eth0".to_owned(),
            out_interface: String::new(),
            owner: None,
            mark: 0,
        };
        for mode in [InboundMode::Redirect, InboundMode::Tproxy] {
            let options = Options {
                mode,
                ..Options::default()
            };
            let rules = render(&options);
            assert_eq!(interpret(&rules, &flow(80)), Verdict::Redirect(15006));
            assert_eq!(interpret(&rules, &flow(15021)), Verdict::Accept);
            let mut datagram = flow(80);
            datagram.protocol = Protocol::Udp;
            assert_eq!(interpret(&rules, &datagram), Verdict::Accept);
        }
    }
}
