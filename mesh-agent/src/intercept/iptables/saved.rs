//! What `iptables-save` says, read back into rules.
//!
//! Versions of iptables differ in how they write the same rule, so what is compared is the meaning. A line that the
//! mesh would never write stays text: it is somebody else's.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::intercept::iptables::rule::{
    CHAIN_PREFIX, ConnState, Family, Mark, Match, Protocol, Rule, Target, Test,
};

/// The rules that a namespace has, of one family.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Its tables, as far as they exist.
    pub tables: Vec<SavedTable>,
}

/// One table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedTable {
    /// Its name.
    pub name: String,
    /// Its chains with their rules, the kernel's chains among them.
    pub chains: Vec<SavedChain>,
}

/// One chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedChain {
    /// Its name.
    pub name: String,
    /// Its rules, in order.
    pub rules: Vec<SavedRule>,
}

/// One rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SavedRule {
    /// What stands behind `-A CHAIN`.
    pub text: String,
    /// What it means, where we know the words.
    pub rule: Option<Rule>,
}

impl Saved {
    /// Reads what `iptables-save` printed.
    pub fn parse(family: Family, output: &str) -> Self {
        let mut saved = Self::default();
        for line in output.lines() {
            if let Some(name) = line.strip_prefix('*') {
                saved.tables.push(SavedTable {
                    name: name.trim().to_owned(),
                    chains: Vec::new(),
                });
                continue;
            }
            let Some(table) = saved.tables.last_mut() else {
                continue;
            };
            if let Some(chain) = line.strip_prefix(':') {
                let name = chain.split_whitespace().next().unwrap_or_default();
                table.chain_mut(name);
            } else if let Some(rule) = line.strip_prefix("-A ") {
                let (chain, text) = rule.split_once(' ').unwrap_or((rule, ""));
                table.chain_mut(chain).rules.push(SavedRule {
                    text: text.to_owned(),
                    rule: parse_rule(family, text),
                });
            }
        }
        saved
    }

    /// The table of that name, where it exists.
    pub fn table(&self, name: &str) -> Option<&SavedTable> {
        self.tables.iter().find(|t| t.name == name)
    }

    /// Whether anything of the mesh's is here: a chain, or a jump to one.
    pub fn has_ours(&self) -> bool {
        self.chains()
            .any(|c| c.is_ours() || c.rules.iter().any(SavedRule::leads_to_ours))
    }

    /// Whether anybody has put anything here.
    pub fn has_rules(&self) -> bool {
        self.chains().any(|c| !c.rules.is_empty() || c.is_ours())
    }

    fn chains(&self) -> impl Iterator<Item = &SavedChain> {
        self.tables.iter().flat_map(|t| &t.chains)
    }
}

impl SavedTable {
    /// The chain of that name, where it exists.
    pub fn chain(&self, name: &str) -> Option<&SavedChain> {
        self.chains.iter().find(|c| c.name == name)
    }

    fn chain_mut(&mut self, name: &str) -> &mut SavedChain {
        let at = match self.chains.iter().position(|c| c.name == name) {
            Some(at) => at,
            None => {
                self.chains.push(SavedChain {
                    name: name.to_owned(),
                    rules: Vec::new(),
                });
                self.chains.len() - 1
            }
        };
        &mut self.chains[at]
    }
}

impl SavedChain {
    /// Whether the chain is the mesh's.
    pub fn is_ours(&self) -> bool {
        self.name.starts_with(CHAIN_PREFIX)
    }

    /// Whether it holds these rules and no others, in this order.
    pub fn holds(&self, rules: &[Rule]) -> bool {
        self.rules.len() == rules.len()
            && self
                .rules
                .iter()
                .zip(rules)
                .all(|(saved, rule)| saved.rule.as_ref() == Some(rule))
    }
}

impl SavedRule {
    /// Whether the rule leads into a chain of ours, whatever else it says.
    pub fn leads_to_ours(&self) -> bool {
        // What stands in quotes is a comment or the like, whatever it says.
        let unquoted = |(at, part): (usize, &str)| (at % 2 == 0).then(|| part.to_owned());
        let plain: String = self
            .text
            .replace("\\\"", "")
            .split('"')
            .enumerate()
            .filter_map(unquoted)
            .collect();
        let mut words = plain.split_whitespace();
        words.any(|word| matches!(word, "-j" | "-g"))
            && words.next().is_some_and(|c| c.starts_with(CHAIN_PREFIX))
    }
}

/// The rule that `text` writes down, or `None` where it has a word that the mesh does not use.
fn parse_rule(family: Family, text: &str) -> Option<Rule> {
    let mut words = text.split_whitespace();
    let mut rule = Rule::to(Target::Return);
    let mut module = "";
    let mut negated = false;
    while let Some(word) = words.next() {
        if word == "!" {
            negated = true;
            continue;
        }
        let value = words.next()?;
        match word {
            "-s" => rule.source = Some(test(negated, network(value)?)),
            "-d" => rule.destination = Some(test(negated, network(value)?)),
            "-i" => rule.in_interface = Some(test(negated, value.to_owned())),
            "-o" => rule.out_interface = Some(test(negated, value.to_owned())),
            "-p" if !negated => rule.protocol = Some(protocol(value)?),
            // A module may match without any option, so a strange one makes a strange rule.
            "-m" if MODULES.contains(&value) => module = value,
            "-j" => {
                let arguments: Vec<&str> = words.collect();
                rule.target = target(family, value, &arguments)?;
                return Some(rule);
            }
            _ => rule.matches.push(condition(module, word, value, negated)?),
        }
        negated = false;
    }
    None
}

const MODULES: [&str; 7] = [
    "tcp",
    "udp",
    "multiport",
    "owner",
    "mark",
    "connmark",
    "conntrack",
];

fn condition(module: &str, option: &str, value: &str, negated: bool) -> Option<Match> {
    Some(match (module, option) {
        ("tcp" | "udp", "--sport") => Match::SourcePort(test(negated, value.parse().ok()?)),
        ("tcp" | "udp", "--dport") => Match::DestinationPort(test(negated, value.parse().ok()?)),
        ("multiport", "--dports") => {
            let ports: Result<Vec<u16>, _> = value.split(',').map(str::parse).collect();
            Match::DestinationPorts(test(negated, ports.ok()?))
        }
        ("owner", "--uid-owner") => Match::Uid(test(negated, value.parse().ok()?)),
        ("owner", "--gid-owner") => Match::Gid(test(negated, value.parse().ok()?)),
        ("mark", "--mark") => Match::Mark(test(negated, mark(value)?)),
        ("connmark", "--mark") => Match::ConnMark(test(negated, mark(value)?)),
        ("conntrack", "--ctstate") if !negated => Match::State(match value {
            "INVALID" => ConnState::Invalid,
            "RELATED,ESTABLISHED" | "ESTABLISHED,RELATED" => ConnState::RelatedOrEstablished,
            _ => return None,
        }),
        _ => return None,
    })
}

fn target(family: Family, name: &str, arguments: &[&str]) -> Option<Target> {
    let value = |option: &str| {
        let at = arguments.iter().position(|a| *a == option)?;
        arguments.get(at + 1).copied()
    };
    // Every word must be known, or the rule says more than we read.
    let only = |options: &[&str], words: usize| {
        arguments.len() == words && options.iter().all(|o| arguments.contains(o))
    };
    Some(match name {
        "RETURN" if only(&[], 0) => Target::Return,
        "ACCEPT" if only(&[], 0) => Target::Accept,
        "DROP" if only(&[], 0) => Target::Drop,
        "REDIRECT" if only(&["--to-ports"], 2) => {
            Target::Redirect(value("--to-ports")?.parse().ok()?)
        }
        "TPROXY" if only(&["--on-port", "--on-ip", "--tproxy-mark"], 6) => {
            let any: IpAddr = value("--on-ip")?.parse().ok()?;
            let mark = mark(value("--tproxy-mark")?)?;
            if !any.is_unspecified() || mark.mask != u32::MAX {
                return None;
            }
            Target::Tproxy {
                port: value("--on-port")?.parse().ok()?,
                mark: mark.value,
                family,
            }
        }
        "MARK" if only(&["--set-xmark"], 2) => {
            let mark = mark(value("--set-xmark")?)?;
            if mark.mask != u32::MAX {
                return None;
            }
            Target::SetMark(mark.value)
        }
        "CONNMARK" if only(&["--save-mark"], arguments.len()) && whole_marks(arguments) => {
            Target::SaveMark
        }
        "CONNMARK" if only(&["--restore-mark"], arguments.len()) && whole_marks(arguments) => {
            Target::RestoreMark
        }
        "CT" if only(&["--zone"], 2) => Target::Zone(value("--zone")?.parse().ok()?),
        chain if chain.starts_with(CHAIN_PREFIX) && only(&[], 0) => Target::Jump(chain.to_owned()),
        _ => return None,
    })
}

/// Whether the masks of a `CONNMARK`, if it has any, let all bits through.
fn whole_marks(arguments: &[&str]) -> bool {
    match arguments {
        [_] => true,
        [_, "--nfmask", a, "--ctmask", b] => [a, b].iter().all(|m| number(m) == Some(u32::MAX)),
        _ => false,
    }
}

fn test<T>(negated: bool, value: T) -> Test<T> {
    Test { negated, value }
}

fn network(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))
}

fn protocol(text: &str) -> Option<Protocol> {
    match text {
        "tcp" | "6" => Some(Protocol::Tcp),
        "udp" | "17" => Some(Protocol::Udp),
        _ => None,
    }
}

fn mark(text: &str) -> Option<Mark> {
    let (value, mask) = match text.split_once('/') {
        Some((value, mask)) => (number(value)?, number(mask)?),
        None => (number(text)?, u32::MAX),
    };
    Some(Mark { value, mask })
}

fn number(text: &str) -> Option<u32> {
    match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_is_read_as_it_was_written() {
        for text in [
            "-p tcp -j ISTIO_INBOUND",
            "! -d 127.0.0.1/32 -o lo -p tcp -m multiport ! --dports 53,15008 -m owner --uid-owner 1337 -j ISTIO_IN_REDIRECT",
            "-s 10.96.0.10/32 -p udp -m udp --sport 53 -j CT --zone 1",
            "-p tcp -m connmark --mark 0x539 -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff",
            "! -d 127.0.0.1/32 -p tcp -j TPROXY --on-port 15006 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff",
            "-i lo -p tcp -m mark ! --mark 0x53a -j RETURN",
            "-m conntrack --ctstate INVALID -j ISTIO_DROP",
        ] {
            let rule = parse_rule(Family::V4, text).expect(text);
            assert_eq!(rule.to_string(), text);
        }
    }

    #[test]
    fn a_comment_leads_nowhere() {
        let leads = |text: &str| {
            let text = text.to_owned();
            SavedRule { text, rule: None }.leads_to_ours()
        };
        assert!(leads("-p tcp -j ISTIO_OUTPUT"));
        assert!(leads("-m comment --comment \"a b\" -g ISTIO_OUTPUT"));
        assert!(!leads(
            "-m comment --comment \"say \\\"hi\\\" -j ISTIO_OUTPUT\" -j RETURN"
        ));
        assert!(!leads("-j FOREIGN"));
    }

    #[test]
    fn a_strange_rule_stays_text() {
        for text in [
            "-p tcp -m comment --comment x -j RETURN",
            "-m socket -j RETURN",
            "-p tcp -m tcp --dport 80 -j DNAT --to-destination 10.0.0.1:80",
            "-p tcp -m tcp --dport 80:90 -j RETURN",
            "-p tcp -j REDIRECT --to-ports 15001 --random",
            "-p tcp -j SOMEBODY",
            "-p tcp",
            "",
        ] {
            assert_eq!(parse_rule(Family::V4, text), None, "{text}");
        }
    }
}
