//! Which endpoints a client prefers because of where they are, and how much a tier's health leaves to the next one.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{
    Endpoint, Endpoints, Failover, Group, Labels, Locality, LocalityPolicy, LocalityShare, Members,
    Plan, Pod, Tier, TrafficPolicy, Viewpoint,
};
use crate::route::Client;

/// Envoy's overprovisioning: a tier keeps all its requests until less than 1/1.4 of its endpoints is healthy.
const OVERPROVISIONING: usize = 140;

/// The plan of a client, made when the first of its kind asks for it.
pub(super) fn of<'a>(
    policy: &TrafficPolicy,
    endpoints: &'a Endpoints,
    client: &Client<'_>,
) -> &'a Plan {
    let pod = client.pod();
    if policy.node_local {
        let is = |viewpoint: &Viewpoint| *viewpoint == Viewpoint::Node(pod.node.clone());
        return endpoints.plan(is, || {
            (Viewpoint::Node(pod.node.clone()), on_node(endpoints, pod))
        });
    }
    let has = |wanted: &Wanted, values: &[Option<Arc<str>>]| {
        let own = wanted
            .iter()
            .map(|(key, value)| label_wanted(pod, key, value.as_ref()));
        own.eq(values.iter().map(Option::as_deref))
    };
    let is = |viewpoint: &Viewpoint| match (&policy.locality, viewpoint) {
        (LocalityPolicy::Failover(Failover::Labels(wanted)), Viewpoint::Labels(values)) => {
            has(wanted, values)
        }
        (
            LocalityPolicy::Failover(Failover::LabelsThenRegions { labels, .. }),
            Viewpoint::LabelsAndPlace(values, place),
        ) => *place == pod.locality && has(labels, values),
        (LocalityPolicy::Off, _) => true,
        (_, Viewpoint::Place(place)) => *place == pod.locality,
        (_, _) => false,
    };
    let values = |wanted: &Wanted| {
        let values = wanted.iter();
        let values = values.map(|(key, value)| label_wanted(pod, key, value.as_ref()));
        values.map(|value| value.map(Arc::<str>::from)).collect()
    };
    let own = pod.locality.as_deref();
    endpoints.plan(is, || match &policy.locality {
        LocalityPolicy::Off => (Viewpoint::Any, flat(endpoints)),
        LocalityPolicy::Distribute(entries) => {
            let viewpoint = Viewpoint::Place(pod.locality.clone());
            (viewpoint, distributed(endpoints, pod, entries))
        }
        LocalityPolicy::Failover(Failover::Regions(regions)) => {
            let plan = tiers(endpoints, |endpoint| {
                by_region(own, endpoint.locality.as_deref(), regions)
            });
            (Viewpoint::Place(pod.locality.clone()), plan)
        }
        LocalityPolicy::Failover(Failover::Labels(wanted)) => {
            let plan = tiers(endpoints, |endpoint| by_labels(pod, endpoint, wanted));
            (Viewpoint::Labels(values(wanted)), plan)
        }
        LocalityPolicy::Failover(Failover::LabelsThenRegions { labels, regions }) => {
            let plan = tiers(endpoints, |endpoint| {
                let place = by_region(own, endpoint.locality.as_deref(), regions);
                by_labels(pod, endpoint, labels) * REGION_RANKS + place
            });
            let viewpoint = Viewpoint::LabelsAndPlace(values(labels), pod.locality.clone());
            (viewpoint, plan)
        }
    })
}

/// `failoverPriority`.
type Wanted = [(Arc<str>, Option<Arc<str>>)];

/// How many ranks [`by_region`] knows.
const REGION_RANKS: usize = 5;

/// The endpoints on the client's own node alone.
fn on_node(endpoints: &Endpoints, pod: &Pod) -> Plan {
    let here = |endpoint: &Endpoint| pod.node.is_some() && endpoint.node == pod.node;
    let members = (0_u32..)
        .zip(endpoints)
        .filter(|(_, endpoint)| here(endpoint))
        .map(|(place, _)| place)
        .collect();
    let unready = endpoints.unready().iter();
    let unready = unready.filter(|endpoint| here(endpoint)).count();
    let group = group(endpoints, 1, Members::Some(members), unready);
    plan(endpoints, vec![tier(vec![group])])
}

/// What each tier takes, in percent, and how healthy all are together. Of each tier: its healthy endpoints, and all.
pub(super) fn loads(tiers: impl Iterator<Item = (usize, usize)>) -> (Vec<u32>, u32) {
    let health: Vec<u32> = tiers
        .map(|(usable, all)| match all {
            0 => 0,
            _ => u32::try_from((OVERPROVISIONING * usable / all).min(100)).unwrap_or(100),
        })
        .collect();
    let total = health.iter().sum::<u32>().min(100);
    let mut left = 100;
    let mut loads: Vec<u32> = health
        .iter()
        .map(|health| {
            let load = (100 * health).checked_div(total).unwrap_or(0).min(left);
            left -= load;
            load
        })
        .collect();
    // What rounding lost goes to the first that can take it.
    let first = health.iter().position(|health| *health > 0).unwrap_or(0);
    if let Some(first) = loads.get_mut(first) {
        *first += left;
    }
    (loads, total)
}

/// What each tier takes, in percent, where health says nothing.
pub(super) fn loads_by_size(sizes: impl Iterator<Item = usize>) -> Vec<u32> {
    let sizes: Vec<usize> = sizes.collect();
    let total = sizes.iter().sum::<usize>();
    let mut left = 100;
    let mut loads: Vec<u32> = sizes
        .iter()
        .map(|size| {
            let load = (100 * size).checked_div(total).unwrap_or(0);
            let load = u32::try_from(load).unwrap_or(100).min(left);
            left -= load;
            load
        })
        .collect();
    let first = sizes.iter().position(|size| *size > 0).unwrap_or(0);
    if let Some(first) = loads.get_mut(first) {
        *first += left;
    }
    loads
}

/// The share of a group once its health is looked at; in parts of 10,000 so that little is lost.
pub(super) fn effective_share(share: u32, usable: usize, all: usize) -> u64 {
    let health = (OVERPROVISIONING * 100 * usable)
        .checked_div(all)
        .unwrap_or(0);
    u64::from(share) * health.min(10_000) as u64
}

/// Whether a place is `region/zone/subzone` as `distribute` writes it: `*` and what is missing is any.
pub(super) fn covers(written: &str, place: Option<&Locality>) -> bool {
    let mut parts = written.split('/');
    let mut part = || parts.next().unwrap_or_default();
    let (region, zone, subzone) = (part(), part(), part());
    let text = |own: fn(&Locality) -> &Arc<str>| place.map_or("", |place| own(place));
    (region == "*" || region == text(|place| &place.region))
        && (matches!(zone, "*" | "") || zone == text(|place| &place.zone))
        && (matches!(subzone, "*" | "") || subzone == text(|place| &place.subzone))
}

/// All endpoints alike.
fn flat(endpoints: &Endpoints) -> Plan {
    let unready = endpoints.unready().len();
    let group = group(endpoints, 1, Members::All, unready);
    plan(endpoints, vec![tier(vec![group])])
}

/// A tier for each rank that an endpoint has; the lowest first. Ranks that nobody has leave no gap.
fn tiers(endpoints: &Endpoints, rank: impl Fn(&Endpoint) -> usize) -> Plan {
    let mut ranks: BTreeMap<usize, (Vec<u32>, usize)> = BTreeMap::new();
    for (place, endpoint) in (0_u32..).zip(endpoints) {
        ranks.entry(rank(endpoint)).or_default().0.push(place);
    }
    for endpoint in endpoints.unready() {
        ranks.entry(rank(endpoint)).or_default().1 += 1;
    }
    if ranks.len() < 2 {
        return flat(endpoints);
    }
    let tiers = ranks
        .into_values()
        .map(|(members, unready)| tier(vec![group(endpoints, 1, Members::Some(members), unready)]));
    plan(endpoints, tiers.collect())
}

/// A group for each place that has a share. Without an entry for the client's place, all endpoints are alike.
fn distributed(endpoints: &Endpoints, pod: &Pod, entries: &[LocalityShare]) -> Plan {
    let own = pod.locality.as_deref();
    let Some(entry) = entries.iter().find(|entry| covers(&entry.from, own)) else {
        return flat(endpoints);
    };
    // One that two places cover counts for the first.
    let place_of = |endpoint: &Endpoint| {
        let place = endpoint.locality.as_deref();
        entry.to.iter().position(|(to, _)| covers(to, place))
    };
    let groups = entry.to.iter().enumerate().map(|(index, (_, share))| {
        let is_here = |endpoint: &Endpoint| place_of(endpoint) == Some(index);
        let members = (0_u32..)
            .zip(endpoints)
            .filter(|(_, endpoint)| is_here(endpoint))
            .map(|(place, _)| place)
            .collect();
        let unready = endpoints.unready().iter();
        let unready = unready.filter(|endpoint| is_here(endpoint)).count();
        group(endpoints, *share, Members::Some(members), unready)
    });
    let groups: Vec<Group> = groups.filter(|group| group.share > 0).collect();
    plan(endpoints, vec![tier(groups)])
}

fn plan(endpoints: &Endpoints, tiers: Vec<Tier>) -> Plan {
    let health = tiers
        .iter()
        .map(|tier| (tier.count(endpoints), tier.total(endpoints)));
    let (loads, _) = loads(health);
    Plan { tiers, loads }
}

fn tier(groups: Vec<Group>) -> Tier {
    Tier {
        unready: groups.iter().map(|group| group.unready).sum(),
        groups,
        ..Tier::default()
    }
}

fn group(endpoints: &Endpoints, share: u32, members: Members, unready: usize) -> Group {
    let uniform = {
        let mut weights = members.of(endpoints).map(|endpoint| endpoint.weight.max(1));
        let first = weights.next();
        weights.all(|weight| Some(weight) == first)
    };
    Group {
        share,
        members,
        unready,
        uniform,
    }
}

/// 0 for the same subzone, then zone, then region, then the region that is named for it, then all others.
fn by_region(
    own: Option<&Locality>,
    other: Option<&Locality>,
    regions: &[(Arc<str>, Arc<str>)],
) -> usize {
    let nowhere = Locality::default();
    let (own, other) = (own.unwrap_or(&nowhere), other.unwrap_or(&nowhere));
    if own.region == other.region {
        return match (own.zone == other.zone, own.subzone == other.subzone) {
            (true, true) => 0,
            (true, false) => 1,
            (false, _) => 2,
        };
    }
    match regions.iter().find(|(from, _)| *from == own.region) {
        Some((_, to)) if *to != other.region => 4,
        Some(_) | None => 3,
    }
}

/// 0 where all labels are as wanted; else the later the first is that is not, the better.
fn by_labels(pod: &Pod, endpoint: &Endpoint, wanted: &[(Arc<str>, Option<Arc<str>>)]) -> usize {
    let place = endpoint.locality.as_deref();
    let first = wanted.iter().position(|(key, value)| {
        label(endpoint.labels.as_deref(), place, key) != label_wanted(pod, key, value.as_ref())
    });
    first.map_or(0, |first| wanted.len() - first)
}

fn label_wanted<'a>(pod: &'a Pod, key: &str, value: Option<&'a Arc<str>>) -> Option<&'a str> {
    match value {
        Some(value) => Some(value),
        None => label(Some(&pod.labels), pod.locality.as_deref(), key),
    }
}

/// A label; Istio gives everyone those that say where it is. An empty one is none.
fn label<'a>(
    labels: Option<&'a Labels>,
    place: Option<&'a Locality>,
    key: &str,
) -> Option<&'a str> {
    let written = labels.and_then(|labels| labels.get(key));
    let derived = || {
        let place = place?;
        match key {
            "topology.kubernetes.io/region" => Some(&place.region),
            "topology.kubernetes.io/zone" => Some(&place.zone),
            "topology.istio.io/subzone" => Some(&place.subzone),
            _ => None,
        }
    };
    let value: Option<&'a str> = written.or_else(derived).map(|value| &**value);
    value.filter(|value| !value.is_empty())
}
