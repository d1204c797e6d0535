//! Gateways with the same selector that serve the same host on the same port (IST0145).

use std::collections::HashMap;

use crate::config::compile::analysis::Findings;
use crate::config::compile::analysis::gateways::Found;
use crate::config::compile::hosts::endings;
use crate::config::object::gateway::ServerHost;
use crate::config::path::Path;
use crate::config::problem::{Code, Problem};
use crate::model::Labels;

/// A host that a Gateway serves: the Gateway's place by age, and the field.
#[derive(Clone)]
struct Entry<'a> {
    gateway: usize,
    host: &'a ServerHost,
    path: Path,
}

/// The oldest entry, and the oldest of another Gateway.
#[derive(Clone, Copy, Default)]
struct Oldest(Option<usize>, Option<usize>);

/// Who can see a host: VirtualServices of one namespace, or of all; `Either` has both kinds.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum View<'a> {
    All,
    One(&'a str),
    Either,
}

/// A host, or what follows the star of a wildcard.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Name<'a> {
    Exact(&'a str),
    Wildcard(&'a str),
}

/// Each Gateway is compared with the oldest one that it conflicts with, by looking up the wildcards that cover each host:
/// `below` has under every host and wildcard the oldest entry that is covered by it, `at` the oldest that is equal to it.
pub(super) fn check(gateways: &[Found<'_>], findings: &mut Findings) {
    let mut by_listener: HashMap<(&Labels, u16), Vec<Entry<'_>>> = HashMap::new();
    for (place, (_, gateway)) in gateways.iter().enumerate() {
        for server in &gateway.servers {
            let entries = by_listener
                .entry((&gateway.selector, server.port))
                .or_default();
            entries.extend(server.hosts.iter().enumerate().map(|(index, host)| Entry {
                gateway: place,
                host,
                path: server.path.key("hosts").index(index),
            }));
        }
    }
    for entries in by_listener.into_values() {
        check_listener(gateways, &entries, findings);
    }
}

fn check_listener(gateways: &[Found<'_>], entries: &[Entry<'_>], findings: &mut Findings) {
    let several = entries
        .iter()
        .any(|entry| entry.gateway != entries[0].gateway);
    if !several {
        return;
    }
    let mut at: HashMap<(View<'_>, Name<'_>), Oldest> = HashMap::new();
    let mut below: HashMap<(View<'_>, &str), Oldest> = HashMap::new();
    for (place, entry) in entries.iter().enumerate() {
        for view in [view(entry.host), View::Either] {
            let name = (view, name(&entry.host.host));
            at.entry(name).or_default().take(place, entries);
            for suffix in endings(&entry.host.host) {
                below
                    .entry((view, suffix))
                    .or_default()
                    .take(place, entries);
            }
        }
    }
    for entry in entries {
        let own = view(entry.host);
        let views: &[View<'_>] = match own {
            View::All | View::Either => &[View::Either],
            View::One(_) => &[own, View::All],
        };
        let host = &*entry.host.host;
        let mut oldest: Option<usize> = None;
        let mut consider = |found: Option<&Oldest>| {
            let other = found.and_then(|found| found.other_than(entry.gateway, entries));
            oldest = match (oldest, other) {
                (Some(a), Some(b)) => Some(a.min(b)),
                (a, b) => a.or(b),
            };
        };
        for view in views {
            consider(at.get(&(*view, name(host))));
            for suffix in endings(host) {
                consider(at.get(&(*view, Name::Wildcard(suffix))));
            }
            if let Name::Wildcard(suffix) = name(host) {
                consider(below.get(&(*view, suffix)));
            }
        }
        let older = oldest.map(|place| &entries[place]);
        if let Some(older) = older.filter(|older| older.gateway < entry.gateway) {
            report(gateways, entry, older, findings);
        }
    }
}

impl Oldest {
    /// Entries come in the order of age.
    fn take(&mut self, place: usize, entries: &[Entry<'_>]) {
        match self.0 {
            None => self.0 = Some(place),
            Some(first) if self.1.is_none() && entries[first].gateway != entries[place].gateway => {
                self.1 = Some(place);
            }
            Some(_) => {}
        }
    }

    fn other_than(&self, gateway: usize, entries: &[Entry<'_>]) -> Option<usize> {
        let other = |place: &usize| entries[*place].gateway != gateway;
        self.0.filter(other).or(self.1)
    }
}

fn name(host: &str) -> Name<'_> {
    match host.strip_prefix('*') {
        Some(suffix) => Name::Wildcard(suffix),
        None => Name::Exact(host),
    }
}

fn view(host: &ServerHost) -> View<'_> {
    match &host.namespace {
        Some(namespace) => View::One(namespace),
        None => View::All,
    }
}

fn report(gateways: &[Found<'_>], entry: &Entry<'_>, older: &Entry<'_>, findings: &mut Findings) {
    let (object, _) = gateways[entry.gateway];
    let (other, _) = gateways[older.gateway];
    let message = match entry.host.host == older.host.host {
        true => format!(
            "the older {} serves {} on this port too",
            other.id, entry.host.host
        ),
        false => format!(
            "the older {} serves {} on this port, which overlaps with {}",
            other.id, older.host.host, entry.host.host
        ),
    };
    let remedy = "let each host be served by one Gateway, or give them different selectors";
    let problem = Problem::breach(Code::Ist0145, &entry.path, message, remedy);
    findings.add(
        object,
        problem.see(other.place(&older.path, "the older one serves it here")),
    );
}
