//! The rules against the listings of Istio's chains, which were read back from a kernel, and against what no rule set
//! may ever hold.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::cli::iptables::{BackendFlag, Chains};
use crate::intercept::iptables::plan;
use crate::intercept::iptables::rule::Protocol;
use crate::intercept::iptables::saved::Saved;

/// Rules by table and chain.
type Listing = BTreeMap<(String, String), Vec<String>>;

#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    chains: Chains,
}

fn data(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/data")
        .join(path)
}

fn options(flags: &str) -> Options {
    let words = flags
        .split_whitespace()
        .map(|word| if word == "''" { "" } else { word });
    let flags = Flags::try_parse_from(["iptables"].into_iter().chain(words)).expect("flags");
    flags
        .chains
        .options(BackendFlag::Auto)
        .expect("valid options")
}

fn listing(text: &str) -> Listing {
    let mut table = "";
    let mut listing = Listing::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, rule) = rule.split_once(' ').expect("a rule");
            let key = (table.to_owned(), chain.to_owned());
            listing.entry(key).or_default().push(rule.to_owned());
        }
    }
    listing
}

fn rendered(rules: &FamilyRules) -> Listing {
    let mut listing = Listing::new();
    for table in &rules.tables {
        let chains = table
            .chains
            .iter()
            .map(|c| (c.name.to_owned(), c.rules.iter().collect::<Vec<_>>()));
        let entries = table
            .entries
            .iter()
            .map(|e| (e.hook.to_string(), e.rules().collect()));
        for (chain, rules) in chains.chain(entries) {
            let text = rules.iter().map(|r| r.to_string()).collect();
            listing.insert((table.table.to_string(), chain), text);
        }
    }
    listing
}

#[test]
fn the_listings_come_out_to_the_letter() {
    let mut seen = 0;
    for file in fs::read_dir(data("iptables")).expect("the listings") {
        let file = file.expect("a listing").path();
        let text = fs::read_to_string(&file).expect("a listing");
        let header = |name: &str| {
            let line = text.lines().find_map(|l| l.strip_prefix(name));
            line.expect("a header").trim().to_owned()
        };
        let rules = render(&options(&header("# flags:")));
        let rules = match header("# family:").as_str() {
            "ipv6" => rules.v6.expect("IPv6 is on"),
            _ => rules.v4,
        };
        assert_eq!(rendered(&rules), listing(&text), "{}", file.display());
        seen += 1;
    }
    assert_eq!(seen, 20);
}

#[test]
fn the_defaults_are_the_documented_listing() {
    let text = fs::read_to_string(data("iptables-nat-S.txt")).expect("the listing");
    let rules = render(&Options::default()).v4;
    assert_eq!(rendered(&rules), listing(&format!("*nat\n{text}")));
    let chains: Vec<&str> = text.lines().filter_map(|l| l.strip_prefix("-N ")).collect();
    let nat = rules.table(Table::Nat).expect("nat rules");
    assert_eq!(
        nat.chains.iter().map(|c| c.name).collect::<Vec<_>>(),
        chains
    );
}

/// What is rendered, and read as if it had been saved, needs no change.
fn saved(rules: &FamilyRules) -> Saved {
    let mut text = String::new();
    for ((table, chain), rules) in rendered(rules) {
        text.push_str(&format!("*{table}\n:{chain} - [0:0]\n"));
        for rule in rules {
            text.push_str(&format!("-A {chain} {rule}\n"));
        }
    }
    // One section per table, as iptables-save has it.
    let mut merged = Saved::default();
    for table in Saved::parse(rules.family, &text).tables {
        match merged.tables.iter_mut().find(|t| t.name == table.name) {
            Some(there) => there.chains.extend(table.chains),
            None => merged.tables.push(table),
        }
    }
    merged
}

fn cidr() -> impl Strategy<Value = IpNet> {
    prop_oneof![
        (any::<u32>(), 0..=32u8).prop_map(|(a, l)| IpNet::V4(Ipv4Net::new_assert(a.into(), l))),
        (any::<u128>(), 0..=128u8).prop_map(|(a, l)| IpNet::V6(Ipv6Net::new_assert(a.into(), l))),
        (any::<u32>(), 96..=128u8).prop_map(|(a, l)| {
            let mapped = Ipv4Addr::from(a).to_ipv6_mapped();
            IpNet::V6(Ipv6Net::new_assert(mapped, l))
        }),
    ]
}

fn few<T: std::fmt::Debug + Clone>(of: impl Strategy<Value = T>) -> impl Strategy<Value = Vec<T>> {
    // Repetitions are likely on purpose.
    prop::collection::vec(of, 0..4).prop_map(|mut v| {
        v.extend(v.first().cloned());
        v
    })
}

fn ports() -> impl Strategy<Value = Vec<u16>> {
    few(1..=u16::MAX)
}

fn interfaces(stem: &'static str) -> impl Strategy<Value = Vec<String>> {
    few((0..9u8, any::<bool>())).prop_map(move |names| {
        let name = |(number, more)| format!("{stem}{number}{}", if more { "+" } else { "" });
        names.into_iter().map(name).collect()
    })
}

prop_compose! {
    fn any_options()(
        profile in prop_oneof![Just(Profile::Listed), Just(Profile::Current)],
        mode in prop_oneof![Just(InboundMode::Redirect), Just(InboundMode::Tproxy)],
        inbound in prop::option::of(ports()),
        outbound in prop::option::of(few(cidr())),
        (exclude_inbound_ports, include_outbound_ports, exclude_outbound_ports) in (ports(), ports(), ports()),
        exclude_outbound_cidrs in few(cidr()),
        (exclude_interfaces, virtual_interfaces) in (interfaces("net"), interfaces("k6t-")),
        (proxy_uids, proxy_gids) in (few(0..2000u32), few(0..2000u32)),
        dns in prop_oneof![
            Just(DnsCapture::Off),
            Just(DnsCapture::All),
            few(any::<IpAddr>()).prop_map(DnsCapture::Servers),
        ],
        drop_invalid in any::<bool>(),
        owner_groups in prop_oneof![
            few(0..2000u32).prop_map(OwnerGroups::AllBut),
            few(0..2000u32).prop_map(OwnerGroups::Only),
        ],
    ) -> Options {
        Options {
            profile, mode, exclude_inbound_ports, include_outbound_ports, exclude_outbound_ports, exclude_outbound_cidrs,
            exclude_interfaces, virtual_interfaces, proxy_uids, proxy_gids, dns, drop_invalid, owner_groups,
            inbound_ports: inbound.map_or(PortSet::All, PortSet::Only),
            outbound_cidrs: outbound.map_or(CidrSet::All, CidrSet::Only),
            ..Options::default()
        }
    }
}

fn check(rules: &FamilyRules) -> Result<(), TestCaseError> {
    let listing = rendered(rules);
    for ((table, chain), lines) in &listing {
        let distinct: BTreeSet<_> = lines.iter().collect();
        prop_assert_eq!(
            distinct.len(),
            lines.len(),
            "a rule twice in {} {}",
            table,
            chain
        );
    }
    for table in &rules.tables {
        let all = (table.chains.iter().flat_map(|c| &c.rules))
            .chain(table.entries.iter().flat_map(Entry::rules));
        for rule in all {
            let networks = [&rule.source, &rule.destination];
            for network in networks.into_iter().flatten() {
                let v4 = matches!(network.value, IpNet::V4(_));
                prop_assert_eq!(v4, rules.family == Family::V4, "{}", rule);
                prop_assert_eq!(network.value, network.value.trunc(), "{}", rule);
            }
            for condition in &rule.matches {
                match condition {
                    Match::SourcePort(t) | Match::DestinationPort(t) => {
                        prop_assert!(t.value != 0, "{}", rule);
                        prop_assert!(rule.protocol.is_some(), "{}", rule);
                    }
                    Match::DestinationPorts(t) => {
                        prop_assert!((1..=15).contains(&t.value.len()), "{}", rule);
                        prop_assert_eq!(rule.protocol, Some(Protocol::Tcp), "{}", rule);
                    }
                    Match::Uid(_)
                    | Match::Gid(_)
                    | Match::Mark(_)
                    | Match::ConnMark(_)
                    | Match::State(_) => {}
                }
            }
            if let Target::Jump(chain) = &rule.target {
                prop_assert!(table.chain(chain).is_some(), "no chain for {}", rule);
            }
        }
    }
    Ok(())
}

proptest! {
    #[test]
    fn no_options_give_a_broken_rule(options in any_options()) {
        let rules = render(&options);
        for family in rules.families() {
            check(family)?;
        }
    }

    #[test]
    fn what_is_in_force_needs_no_change(options in any_options()) {
        let rules = render(&options);
        for family in rules.families() {
            let change = plan::converge(&saved(family), family, &plan::unmarked(family));
            prop_assert_eq!(change, None);
        }
    }
}
