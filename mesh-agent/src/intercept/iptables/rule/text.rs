//! How iptables writes rules down: what `iptables-save` prints, to the letter, which is also what `iptables-restore`
//! reads.

use std::fmt::{self, Write as _};

use super::{ConnState, Family, Hook, Mark, Match, Protocol, Rule, Table, TableRules, Target};

impl fmt::Display for TableRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "*{}", self.table)?;
        for chain in &self.chains {
            writeln!(f, ":{} - [0:0]", chain.name)?;
        }
        for chain in &self.chains {
            for rule in &chain.rules {
                writeln!(f, "-A {} {rule}", chain.name)?;
            }
        }
        // The kernel's chains last: nothing is steered before there is somewhere to steer to.
        for entry in &self.entries {
            for rule in entry.top.iter().rev() {
                writeln!(f, "-I {} 1 {rule}", entry.hook)?;
            }
            for rule in &entry.bottom {
                writeln!(f, "-A {} {rule}", entry.hook)?;
            }
        }
        writeln!(f, "COMMIT")
    }
}

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(source) = &self.source {
            write!(f, "{}-s {} ", source.sign(), source.value)?;
        }
        if let Some(destination) = &self.destination {
            write!(f, "{}-d {} ", destination.sign(), destination.value)?;
        }
        if let Some(interface) = &self.in_interface {
            write!(f, "{}-i {} ", interface.sign(), interface.value)?;
        }
        if let Some(interface) = &self.out_interface {
            write!(f, "{}-o {} ", interface.sign(), interface.value)?;
        }
        if let Some(protocol) = self.protocol {
            write!(f, "-p {protocol} ")?;
        }
        for condition in &self.matches {
            self.write_match(f, condition)?;
            f.write_char(' ')?;
        }
        write!(f, "-j {}", self.target)
    }
}

impl Rule {
    fn write_match(&self, f: &mut fmt::Formatter<'_>, condition: &Match) -> fmt::Result {
        // A port is a match of its protocol's module, so a rule with a port and no protocol would mean nothing; the
        // constructors always set both.
        let module = self.protocol.unwrap_or(Protocol::Tcp);
        match condition {
            Match::SourcePort(t) => write!(f, "-m {module} {}--sport {}", t.sign(), t.value),
            Match::DestinationPort(t) => write!(f, "-m {module} {}--dport {}", t.sign(), t.value),
            Match::DestinationPorts(t) => {
                let ports: Vec<String> = t.value.iter().map(u16::to_string).collect();
                write!(f, "-m multiport {}--dports {}", t.sign(), ports.join(","))
            }
            Match::Uid(t) => write!(f, "-m owner {}--uid-owner {}", t.sign(), t.value),
            Match::Gid(t) => write!(f, "-m owner {}--gid-owner {}", t.sign(), t.value),
            Match::Mark(t) => write!(f, "-m mark {}--mark {}", t.sign(), t.value),
            Match::ConnMark(t) => write!(f, "-m connmark {}--mark {}", t.sign(), t.value),
            Match::State(ConnState::Invalid) => f.write_str("-m conntrack --ctstate INVALID"),
            Match::State(ConnState::RelatedOrEstablished) => {
                f.write_str("-m conntrack --ctstate RELATED,ESTABLISHED")
            }
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Return => f.write_str("RETURN"),
            Self::Accept => f.write_str("ACCEPT"),
            Self::Drop => f.write_str("DROP"),
            Self::Jump(chain) => f.write_str(chain),
            Self::Redirect(port) => write!(f, "REDIRECT --to-ports {port}"),
            Self::Tproxy { port, mark, family } => {
                let any = match family {
                    Family::V4 => "0.0.0.0",
                    Family::V6 => "::",
                };
                write!(
                    f,
                    "TPROXY --on-port {port} --on-ip {any} --tproxy-mark {mark:#x}/0xffffffff"
                )
            }
            Self::SetMark(mark) => write!(f, "MARK --set-xmark {mark:#x}/0xffffffff"),
            Self::SaveMark => {
                f.write_str("CONNMARK --save-mark --nfmask 0xffffffff --ctmask 0xffffffff")
            }
            Self::RestoreMark => {
                f.write_str("CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff")
            }
            Self::Zone(zone) => write!(f, "CT --zone {zone}"),
        }
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.value)?;
        if self.mask != u32::MAX {
            write!(f, "/{:#x}", self.mask)?;
        }
        Ok(())
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
        })
    }
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prerouting => "PREROUTING",
            Self::Output => "OUTPUT",
        })
    }
}
