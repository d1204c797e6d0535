//! From the rules that are there to those that should be, pure: the text of one `iptables-restore --noflush`.
//!
//! A transaction touches our chains and our own rules in the kernel's chains, by name, and nothing else. An empty plan
//! is `None`, so that a second apply does not even reset a counter.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::intercept::iptables::rule::{Entry, FamilyRules, Rule, TableRules};
use crate::intercept::iptables::saved::{Saved, SavedChain, SavedRule, SavedTable};

/// Rules in the kernel's chains that are ours although they lead to no chain of ours, as table, chain and text. They
/// cannot be told from other people's by their looks.
pub type Known = Vec<(String, String, String)>;

/// What makes `wanted` of `saved`; `None` where it is so already.
pub fn converge(saved: &Saved, wanted: &FamilyRules, known: &Known) -> Option<String> {
    transaction(saved, known, |name| {
        wanted.tables.iter().find(|t| t.table.to_string() == name)
    })
}

/// What removes all that is ours; `None` where there is nothing.
pub fn withdraw(saved: &Saved, known: &Known) -> Option<String> {
    transaction(saved, known, |_| None)
}

/// What takes the pod's packets away from our chains but leaves the chains, and with them the translation of the
/// connections that are open.
pub fn stop_steering(saved: &Saved, known: &Known) -> Option<String> {
    let mut text = String::new();
    for table in &saved.tables {
        let mut body = String::new();
        for chain in table.chains.iter().filter(|c| !c.is_ours()) {
            for at in ours(chain, None, &known_of(known, &table.name, &chain.name)) {
                let _ = writeln!(body, "-D {} {}", chain.name, chain.rules[at].text);
            }
        }
        commit(&mut text, &table.name, &body);
    }
    (!text.is_empty()).then_some(text)
}

/// The rules that must be remembered as [`Known`] once `wanted` is in force.
pub fn unmarked(wanted: &FamilyRules) -> Known {
    let mut known = Known::new();
    for table in &wanted.tables {
        for entry in &table.entries {
            for rule in entry.rules().filter(|r| !r.is_jump_to_ours()) {
                known.push((
                    table.table.to_string(),
                    entry.hook.to_string(),
                    rule.to_string(),
                ));
            }
        }
    }
    known
}

fn transaction<'a>(
    saved: &Saved,
    known: &Known,
    wanted: impl Fn(&str) -> Option<&'a TableRules>,
) -> Option<String> {
    let nothing = SavedTable {
        name: String::new(),
        chains: Vec::new(),
    };
    let mut text = String::new();
    for name in ["raw", "mangle", "nat", "filter", "security"] {
        let body = change(
            saved.table(name).unwrap_or(&nothing),
            name,
            wanted(name),
            known,
        );
        commit(&mut text, name, &body);
    }
    (!text.is_empty()).then_some(text)
}

fn commit(text: &mut String, table: &str, body: &str) {
    if !body.is_empty() {
        // Writing to a String cannot fail, here and below.
        let _ = write!(text, "*{table}\n{body}COMMIT\n");
    }
}

/// The lines between `*table` and `COMMIT`.
fn change(saved: &SavedTable, name: &str, wanted: Option<&TableRules>, known: &Known) -> String {
    let chains = wanted.map(|w| w.chains.as_slice()).unwrap_or_default();
    let different: Vec<_> = chains
        .iter()
        .filter(|c| !saved.chain(c.name).is_some_and(|s| s.holds(&c.rules)))
        .collect();
    let stale: Vec<_> = saved
        .chains
        .iter()
        .filter(|s| s.is_ours() && !chains.iter().any(|c| c.name == s.name))
        .collect();
    let mut text = String::new();
    // Declaring a chain makes it, or empties the one that is there.
    for name in (different.iter().map(|c| c.name)).chain(stale.iter().map(|c| c.name.as_str())) {
        let _ = writeln!(text, ":{name} - [0:0]");
    }
    for chain in &different {
        for rule in &chain.rules {
            let _ = writeln!(text, "-A {} {rule}", chain.name);
        }
    }
    let mut entries: BTreeMap<String, Option<&Entry>> = saved
        .chains
        .iter()
        .filter(|c| !c.is_ours())
        .map(|c| (c.name.clone(), None))
        .collect();
    for entry in wanted.into_iter().flat_map(|w| &w.entries) {
        entries.insert(entry.hook.to_string(), Some(entry));
    }
    for (chain, entry) in entries {
        let nobody = SavedChain {
            name: chain.clone(),
            rules: Vec::new(),
        };
        let present = saved.chain(&chain).unwrap_or(&nobody);
        text.push_str(&enter(present, entry, &known_of(known, name, &chain)));
    }
    for chain in stale {
        let _ = writeln!(text, "-X {}", chain.name);
    }
    text
}

/// The lines that make the rules of `entry`, and no others of ours, stand in a chain of the kernel, each once and in
/// order. What others have put between them may stay there.
fn enter(present: &SavedChain, entry: Option<&Entry>, known: &[&str]) -> String {
    let wanted: Vec<&Rule> = entry.into_iter().flat_map(Entry::rules).collect();
    let ours = ours(present, entry, known);
    let as_wanted = ours.len() == wanted.len()
        && ours
            .iter()
            .zip(&wanted)
            .all(|(&at, rule)| present.rules[at].rule.as_ref() == Some(*rule));
    let mut text = String::new();
    if as_wanted {
        return text;
    }
    for &at in &ours {
        let _ = writeln!(text, "-D {} {}", present.name, present.rules[at].text);
    }
    let Some(entry) = entry else {
        return text;
    };
    // Where our rules stood among other people's, there they stand again.
    let others = present.rules.len() - ours.len();
    let is_top = |at: usize| {
        let rule = present.rules[at].rule.as_ref();
        rule.is_some_and(|rule| entry.top.contains(rule))
    };
    let before = match ours.iter().position(|&at| !is_top(at)) {
        Some(index) => ours[index] - index,
        None => others,
    };
    for (offset, rule) in entry.bottom.iter().enumerate() {
        if before == others {
            let _ = writeln!(text, "-A {} {rule}", present.name);
        } else {
            let position = before + offset + 1;
            let _ = writeln!(text, "-I {} {position} {rule}", present.name);
        }
    }
    for rule in entry.top.iter().rev() {
        let _ = writeln!(text, "-I {} 1 {rule}", present.name);
    }
    text
}

/// Which rules of a chain of the kernel are ours, by position: those that lead to a chain of ours, those that we
/// remember, and those that we would write.
fn ours(present: &SavedChain, entry: Option<&Entry>, known: &[&str]) -> Vec<usize> {
    let is_ours = |at: &usize| {
        let SavedRule { text, rule } = &present.rules[*at];
        let would_write = |rule: &Rule| entry.is_some_and(|e| e.rules().any(|r| r == rule));
        present.rules[*at].leads_to_ours()
            || known.contains(&text.as_str())
            || rule.as_ref().is_some_and(would_write)
    };
    (0..present.rules.len()).filter(is_ours).collect()
}

/// What we remember of one chain.
fn known_of<'a>(known: &'a Known, table: &str, chain: &str) -> Vec<&'a str> {
    let here = |k: &&(String, String, String)| k.0 == table && k.1 == chain;
    known.iter().filter(here).map(|k| k.2.as_str()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::intercept::iptables::options::Options;
    use crate::intercept::iptables::render::render;
    use crate::intercept::iptables::rule::Family;

    fn saved(nat: &str) -> Saved {
        Saved::parse(Family::V4, &format!("*nat\n{nat}COMMIT\n"))
    }

    /// What `converge` does to the kernel's chains.
    fn entries(nat: &str, options: &Options) -> Vec<String> {
        let rules = render(options).v4;
        let text = converge(&saved(nat), &rules, &unmarked(&rules)).expect("a change");
        let in_hooks = |line: &&str| line.contains(" OUTPUT ") || line.contains(" PREROUTING ");
        text.lines().filter(in_hooks).map(str::to_owned).collect()
    }

    #[test]
    fn nothing_is_there() {
        assert_eq!(
            entries("", &Options::default()),
            [
                "-A OUTPUT -p tcp -j ISTIO_OUTPUT",
                "-A PREROUTING -p tcp -j ISTIO_INBOUND"
            ]
        );
        assert_eq!(withdraw(&saved(""), &Known::new()), None);
        assert_eq!(stop_steering(&saved(""), &Known::new()), None);
    }

    #[test]
    fn a_jump_stays_where_it_was() {
        let nat = "-A PREROUTING -p tcp -j ISTIO_INBOUND\n\
                   -A OUTPUT -p tcp -j ACCEPT\n\
                   -A OUTPUT -p udp -j ISTIO_OUTPUT\n\
                   -A OUTPUT -p tcp -j ISTIO_OUTPUT\n\
                   -A OUTPUT -p udp -j ACCEPT\n";
        assert_eq!(
            entries(nat, &Options::default()),
            [
                "-D OUTPUT -p udp -j ISTIO_OUTPUT",
                "-D OUTPUT -p tcp -j ISTIO_OUTPUT",
                "-I OUTPUT 2 -p tcp -j ISTIO_OUTPUT"
            ]
        );
    }

    #[test]
    fn what_goes_on_top_goes_on_top_again() {
        let options = Options {
            virtual_interfaces: vec!["k6t".to_owned()],
            ..Options::default()
        };
        let nat = "-A PREROUTING -p udp -j ACCEPT\n\
                   -A PREROUTING -i k6t -j RETURN\n\
                   -A OUTPUT -p tcp -j ISTIO_OUTPUT\n";
        assert_eq!(
            entries(nat, &options),
            [
                "-D PREROUTING -i k6t -j RETURN",
                "-A PREROUTING -p tcp -j ISTIO_INBOUND",
                "-I PREROUTING 1 -i k6t -j RETURN",
                "-I PREROUTING 1 -i k6t -j ISTIO_REDIRECT"
            ]
        );
    }

    #[test]
    fn only_what_is_ours_goes() {
        let nat = ":ISTIO_OLD - [0:0]\n\
                   -A OUTPUT -o net1 -j RETURN\n\
                   -A OUTPUT -o net2 -j RETURN\n\
                   -A OUTPUT -j ISTIO_OLD\n\
                   -A FOREIGN -j ISTIO_OLD\n\
                   -A ISTIO_OLD -j ACCEPT\n";
        let known = vec![(
            "nat".to_owned(),
            "OUTPUT".to_owned(),
            "-o net1 -j RETURN".to_owned(),
        )];
        assert_eq!(
            withdraw(&saved(nat), &known).expect("a change"),
            "*nat\n:ISTIO_OLD - [0:0]\n-D FOREIGN -j ISTIO_OLD\n-D OUTPUT -o net1 -j RETURN\n\
             -D OUTPUT -j ISTIO_OLD\n-X ISTIO_OLD\nCOMMIT\n"
        );
        assert_eq!(
            stop_steering(&saved(nat), &Known::new()).expect("a change"),
            "*nat\n-D OUTPUT -j ISTIO_OLD\n-D FOREIGN -j ISTIO_OLD\nCOMMIT\n"
        );
    }
}
