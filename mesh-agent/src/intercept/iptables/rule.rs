//! The vocabulary of the chains: rules as values. Nothing here knows which rules the mesh wants.

use std::fmt::Write as _;

use ipnet::IpNet;

mod text;

/// What all of our chains are called; nothing else in a pod may use it.
pub const CHAIN_PREFIX: &str = "ISTIO_";

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// iptables.
    V4,
    /// ip6tables.
    V6,
}

/// The tables that we write to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// Before connection tracking.
    Raw,
    /// Marks.
    Mangle,
    /// Address translation; sees the first packet of a connection alone.
    Nat,
}

/// A chain of the kernel that a packet of a pod enters a table by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Hook {
    /// Packets that arrive.
    Prerouting,
    /// Packets that the pod sends.
    Output,
}

/// All rules of a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleSet {
    /// The rules of IPv4.
    pub v4: FamilyRules,
    /// The rules of IPv6, where it is steered.
    pub v6: Option<FamilyRules>,
}

/// The rules of one family.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FamilyRules {
    /// Which family.
    pub family: Family,
    /// Tables with at least one rule, in the order in which a packet meets them.
    pub tables: Vec<TableRules>,
}

/// The rules of one table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRules {
    /// Which table.
    pub table: Table,
    /// Our own chains, sorted by name, as iptables lists them.
    pub chains: Vec<Chain>,
    /// What we put into the kernel's chains; at most one entry per hook.
    pub entries: Vec<Entry>,
}

/// A chain of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chain {
    /// Its name, which starts with [`CHAIN_PREFIX`].
    pub name: &'static str,
    /// Its rules, in order.
    pub rules: Vec<Rule>,
}

/// Our rules in a chain that we share with others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which chain.
    pub hook: Hook,
    /// Rules ahead of everybody else's.
    pub top: Vec<Rule>,
    /// Rules behind those that were there before us.
    pub bottom: Vec<Rule>,
}

/// One rule: all matches must hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// `-s`.
    pub source: Option<Test<IpNet>>,
    /// `-d`.
    pub destination: Option<Test<IpNet>>,
    /// `-i`.
    pub in_interface: Option<Test<String>>,
    /// `-o`.
    pub out_interface: Option<Test<String>>,
    /// `-p`.
    pub protocol: Option<Protocol>,
    /// The matches behind `-m`, in order.
    pub matches: Vec<Match>,
    /// `-j`.
    pub target: Target,
}

/// A value to be met, or not to be met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Test<T> {
    /// `!`.
    pub negated: bool,
    /// What is compared with.
    pub value: T,
}

/// The protocols that rules name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

/// A match behind `-m`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Match {
    /// `-m tcp --sport` or `-m udp --sport`, as the rule's protocol says.
    SourcePort(Test<u16>),
    /// `--dport` likewise.
    DestinationPort(Test<u16>),
    /// `-m multiport --dports`; at most 15.
    DestinationPorts(Test<Vec<u16>>),
    /// `-m owner --uid-owner`.
    Uid(Test<u32>),
    /// `-m owner --gid-owner`.
    Gid(Test<u32>),
    /// `-m mark --mark`.
    Mark(Test<Mark>),
    /// `-m connmark --mark`.
    ConnMark(Test<Mark>),
    /// `-m conntrack --ctstate`.
    State(ConnState),
}

/// A mark and which of its bits count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The bits.
    pub value: u32,
    /// Those that count.
    pub mask: u32,
}

/// The states of a connection that rules ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConnState {
    /// What connection tracking makes nothing of.
    Invalid,
    /// A later packet of a connection, or one that belongs to it.
    RelatedOrEstablished,
}

/// What becomes of a packet that a rule matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// Leave this chain.
    Return,
    /// Leave this table.
    Accept,
    /// Away with it.
    Drop,
    /// Go on in another chain.
    Jump(String),
    /// `REDIRECT`: to this port of the pod itself.
    Redirect(u16),
    /// `TPROXY`: to the transparent listener on this port, and mark the packet for the policy route.
    Tproxy {
        /// The listener's port.
        port: u16,
        /// The mark.
        mark: u32,
        /// Prints the right unspecified address.
        family: Family,
    },
    /// `MARK --set-xmark`.
    SetMark(u32),
    /// `CONNMARK --save-mark`: the packet's mark becomes the connection's.
    SaveMark,
    /// `CONNMARK --restore-mark`: the connection's mark becomes the packet's.
    RestoreMark,
    /// `CT --zone`: the connection is tracked in this zone.
    Zone(u16),
}

// === impl RuleSet ===

impl RuleSet {
    /// The families that have rules.
    pub fn families(&self) -> impl Iterator<Item = &FamilyRules> {
        std::iter::once(&self.v4).chain(&self.v6)
    }
}

impl FamilyRules {
    /// The rules of a table, where it has any.
    pub fn table(&self, table: Table) -> Option<&TableRules> {
        self.tables.iter().find(|t| t.table == table)
    }

    /// Input for `iptables-restore --noflush` in a namespace that has none of our rules.
    pub fn to_restore(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            // Writing to a String cannot fail.
            let _ = write!(text, "{table}");
        }
        text
    }
}

impl TableRules {
    /// The rules of a chain of ours.
    pub fn chain(&self, name: &str) -> Option<&Chain> {
        self.chains.iter().find(|c| c.name == name)
    }

    /// Our rules in a chain of the kernel.
    pub fn entry(&self, hook: Hook) -> Option<&Entry> {
        self.entries.iter().find(|e| e.hook == hook)
    }
}

impl Entry {
    /// Our rules in the order in which a packet meets them.
    pub fn rules(&self) -> impl Iterator<Item = &Rule> {
        self.top.iter().chain(&self.bottom)
    }
}

// === impl Rule ===

impl Rule {
    /// A rule that matches everything.
    pub fn to(target: Target) -> Self {
        Self {
            source: None,
            destination: None,
            in_interface: None,
            out_interface: None,
            protocol: None,
            matches: Vec::new(),
            target,
        }
    }

    /// A rule that matches everything and goes on in `chain`.
    pub fn jump(chain: &str) -> Self {
        Self::to(Target::Jump(chain.to_owned()))
    }

    /// Packets from `network`.
    pub fn from_network(mut self, network: IpNet) -> Self {
        self.source = Some(is(network));
        self
    }

    /// Packets to `network`.
    pub fn to_network(mut self, network: IpNet) -> Self {
        self.destination = Some(is(network));
        self
    }

    /// Packets to anywhere but `network`.
    pub fn not_to_network(mut self, network: IpNet) -> Self {
        self.destination = Some(is_not(network));
        self
    }

    /// Packets that came in through `interface`.
    pub fn entering(mut self, interface: &str) -> Self {
        self.in_interface = Some(is(interface.to_owned()));
        self
    }

    /// Packets that leave through `interface`.
    pub fn leaving(mut self, interface: &str) -> Self {
        self.out_interface = Some(is(interface.to_owned()));
        self
    }

    /// Packets of TCP.
    pub fn tcp(mut self) -> Self {
        self.protocol = Some(Protocol::Tcp);
        self
    }

    /// Packets of UDP.
    pub fn udp(mut self) -> Self {
        self.protocol = Some(Protocol::Udp);
        self
    }

    /// One more condition.
    pub fn when(mut self, condition: Match) -> Self {
        self.matches.push(condition);
        self
    }

    /// Packets to this port; the protocol comes with `tcp` or `udp`.
    pub fn port(self, port: u16) -> Self {
        self.when(Match::DestinationPort(is(port)))
    }

    /// Packets to any other port.
    pub fn not_port(self, port: u16) -> Self {
        self.when(Match::DestinationPort(is_not(port)))
    }

    /// Whether the rule leads into a chain of ours.
    pub fn is_jump_to_ours(&self) -> bool {
        matches!(&self.target, Target::Jump(chain) if chain.starts_with(CHAIN_PREFIX))
    }
}

/// The value must be met.
pub fn is<T>(value: T) -> Test<T> {
    Test {
        negated: false,
        value,
    }
}

/// The value must not be met.
pub fn is_not<T>(value: T) -> Test<T> {
    Test {
        negated: true,
        value,
    }
}

impl<T> Test<T> {
    /// Whether the test passes, given whether the value was met.
    pub fn passes(&self, met: impl FnOnce(&T) -> bool) -> bool {
        met(&self.value) != self.negated
    }

    /// What iptables writes in front of it.
    fn sign(&self) -> &'static str {
        if self.negated { "! " } else { "" }
    }
}

impl Mark {
    /// A mark of which every bit counts.
    pub fn exact(value: u32) -> Self {
        Self {
            value,
            mask: u32::MAX,
        }
    }
}
