//! Which of two stream routes is more specific, as Envoy's filter chains are: first by address, then by server name.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{ClientMatch, StreamMatch, StreamRoute};

/// How closely a route says what it is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Specificity {
    /// The length of the subnet's prefix; `None` where it is for all addresses.
    subnet: Option<u8>,
    name: NameSpecificity,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
enum NameSpecificity {
    #[default]
    Any,
    /// By its length.
    Wildcard(usize),
    Exact,
}

/// The same route in parts, each of which is as specific as a whole.
pub(super) fn split(route: StreamRoute) -> Vec<StreamRoute> {
    let mut names: BTreeMap<NameSpecificity, Vec<Arc<str>>> = BTreeMap::new();
    for name in &route.when.server_names {
        let names = names.entry(name_specificity(name)).or_default();
        names.push(Arc::clone(name));
    }
    let mut subnets: BTreeMap<u8, Vec<IpNet>> = BTreeMap::new();
    for subnet in &route.when.subnets {
        subnets
            .entry(subnet.prefix_len())
            .or_default()
            .push(*subnet);
    }
    if names.len() < 2 && subnets.len() < 2 {
        return vec![route];
    }
    let names = or_nothing(names.into_values().collect());
    let subnets = or_nothing(subnets.into_values().collect());
    let parts = names.iter().flat_map(|names| {
        subnets.iter().map(|subnets| StreamRoute {
            when: StreamMatch {
                server_names: names.clone(),
                subnets: subnets.clone(),
                client: route.when.client.clone(),
            },
            ..route.clone()
        })
    });
    parts.collect()
}

/// No condition at all is one way to be specific too.
fn or_nothing<T>(mut groups: Vec<Vec<T>>) -> Vec<Vec<T>> {
    if groups.is_empty() {
        groups.push(Vec::new());
    }
    groups
}

/// The most specific first; equals stay in order.
pub(in crate::config::compile) fn sort(routes: &mut [StreamRoute]) {
    routes.sort_by_key(|route| Reverse(specificity(&route.when)));
}

fn specificity(when: &StreamMatch) -> Specificity {
    Specificity {
        subnet: when.subnets.first().map(IpNet::prefix_len),
        name: when
            .server_names
            .first()
            .map(|name| name_specificity(name))
            .unwrap_or_default(),
    }
}

fn name_specificity(name: &str) -> NameSpecificity {
    match name.strip_prefix('*') {
        Some("") => NameSpecificity::Any,
        Some(suffix) => NameSpecificity::Wildcard(suffix.len()),
        None => NameSpecificity::Exact,
    }
}

/// The clients that both concern; `None` where there can be none.
pub(super) fn merge_clients(a: &ClientMatch, b: &ClientMatch) -> Option<ClientMatch> {
    let mut labels = a.labels.clone();
    for (key, value) in &b.labels {
        if labels
            .insert(Arc::clone(key), Arc::clone(value))
            .is_some_and(|other| other != *value)
        {
            return None;
        }
    }
    let namespace = match (&a.namespace, &b.namespace) {
        (Some(a), Some(b)) if a != b => return None,
        (a, b) => a.clone().or_else(|| b.clone()),
    };
    let exported_to = match (&a.exported_to, &b.exported_to) {
        (Some(a), Some(b)) => {
            let both: Vec<_> = a.iter().filter(|name| b.contains(name)).cloned().collect();
            if both.is_empty() {
                return None;
            }
            Some(both)
        }
        (a, b) => a.clone().or_else(|| b.clone()),
    };
    Some(ClientMatch {
        labels,
        namespace,
        exported_to,
    })
}
