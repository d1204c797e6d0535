//! `localityLbSetting`: which endpoints come first because of where they are.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use crate::config::crd::Number;
use crate::config::crd::destination_rule::{
    Distribute, Failover as WrittenFailover, LocalityLbSetting, ZoneAwareLbSetting,
};
use crate::config::object::node::{REGION, SUBZONE, ZONE};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{Failover, LocalityShare};

/// The labels that say where an endpoint is.
const TOPOLOGY: [&str; 3] = [REGION, ZONE, SUBZONE];

/// `localityLbSetting`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LocalitySetting {
    /// `enabled: false`: all are equal.
    Off,
    /// `failover` and `failoverPriority`, which are in force where endpoints are ejected.
    Failover(Failover),
    /// `distribute`.
    Distribute(Vec<LocalityShare>),
}

/// Reads both settings. `ejects`: `outlierDetection` stands beside the load balancer.
pub(in crate::config::object) fn read(
    locality: Option<LocalityLbSetting>,
    zone_aware: Option<ZoneAwareLbSetting>,
    ejects: bool,
    path: &Path,
    problems: &mut Problems,
) -> Option<LocalitySetting> {
    let zone_path = path.key("zoneAwareLbSetting");
    if locality.is_some() && zone_aware.is_some() {
        problems.error(
            &zone_path,
            "localityLbSetting and zoneAwareLbSetting cannot stand in one load balancer",
            "keep one of them",
        );
    }
    match (locality, zone_aware) {
        (Some(locality), _) => Some(read_locality(
            locality,
            ejects,
            &path.key("localityLbSetting"),
            problems,
        )),
        (None, Some(zone_aware)) => {
            if zone_aware.enabled != Some(false) {
                problems.without_effect(&zone_path, "zoneAwareLbSetting");
            }
            Some(LocalitySetting::Off)
        }
        (None, None) => None,
    }
}

fn read_locality(
    written: LocalityLbSetting,
    ejects: bool,
    path: &Path,
    problems: &mut Problems,
) -> LocalitySetting {
    let LocalityLbSetting {
        distribute,
        failover,
        failover_priority,
        enabled,
    } = written;
    if !distribute.is_empty() && !failover.is_empty() {
        problems.error(
            &path.key("failover"),
            "distribute and failover cannot stand in one setting",
            "keep one of them",
        );
    }
    let fails_over = !failover.is_empty() || !failover_priority.is_empty();
    if fails_over && !ejects {
        problems.warning(
            path,
            "a failover has no effect without outlierDetection",
            "add outlierDetection beside the load balancer",
        );
    }
    let shares = read_distribute(&distribute, &path.key("distribute"), problems);
    let regions_path = path.key("failover");
    let regions = read_failover(failover, &regions_path, problems);
    let labels_path = path.key("failoverPriority");
    let labels = read_priority(&failover_priority, &labels_path, problems);
    let by_place = labels.iter().any(|(label, _)| TOPOLOGY.contains(&&**label));
    if !regions.is_empty() && by_place {
        problems.error(
            &labels_path,
            "failover and a failoverPriority by region or zone say the same thing twice",
            "keep one of them",
        );
    }
    match enabled {
        Some(false) => LocalitySetting::Off,
        Some(true) | None if !shares.is_empty() => LocalitySetting::Distribute(shares),
        Some(true) | None => LocalitySetting::Failover(match (labels, regions) {
            (labels, regions) if labels.is_empty() => Failover::Regions(regions),
            (labels, regions) if regions.is_empty() => Failover::Labels(labels),
            (labels, regions) => Failover::LabelsThenRegions { labels, regions },
        }),
    }
}

fn read_distribute(
    written: &[Distribute],
    path: &Path,
    problems: &mut Problems,
) -> Vec<LocalityShare> {
    let from: Vec<&str> = written.iter().map(|entry| &*entry.from).collect();
    // The first that fits holds, so a wider place may come behind a narrower one.
    check_places(&from, |index| path.index(index).key("from"), problems);
    let shares = written.iter().enumerate().map(|(index, entry)| {
        let path = path.index(index).key("to");
        check_shares(&entry.to, &path, problems);
        let mut places: Vec<&str> = entry.to.keys().map(|place| &**place).collect();
        // These have no order, so none may be part of another: the widest is looked at first.
        places.sort_by_key(|place| !place.ends_with('*'));
        check_places(&places, |index| path.key(places[index]), problems);
        LocalityShare {
            from: entry.from.as_str().into(),
            to: entry
                .to
                .iter()
                .map(|(place, Number(share))| (Arc::from(place.as_str()), *share))
                .collect(),
        }
    });
    shares.collect()
}

fn check_shares(to: &BTreeMap<String, Number<u32>>, path: &Path, problems: &mut Problems) {
    let mut total: u64 = 0;
    for (place, Number(share)) in to {
        total += u64::from(*share);
        if !(1..=100).contains(share) {
            problems.error(
                &path.key(place),
                format!("the share {share} is none"),
                "write one between 1 and 100",
            );
        }
    }
    if total != 100 {
        problems.error(
            path,
            format!("the shares make {total}, not 100"),
            "let them make 100",
        );
    }
}

/// Whether places are places, and none is part of one before it; nor one before it part of it, unless its `*` says that
/// it is what remains.
fn check_places(places: &[&str], path: impl Fn(usize) -> Path, problems: &mut Problems) {
    // What those before cover, and all beginnings of them.
    let mut covered: HashSet<Vec<&str>> = HashSet::new();
    let mut begun: HashSet<Vec<&str>> = HashSet::new();
    for (index, place) in places.iter().enumerate() {
        let Some(parts) = parts(place) else {
            problems.error(
                &path(index),
                format!("\"{place}\" is no place"),
                "write region, region/zone or region/zone/subzone; the last part may be *",
            );
            continue;
        };
        let beginnings = || (0..=parts.len()).map(|length| &parts[..length]);
        if begun.contains(&parts) || beginnings().any(|beginning| covered.contains(beginning)) {
            let message = format!("\"{place}\" overlaps with another place here");
            problems.error(&path(index), message, "let no place be part of another");
        }
        begun.extend(beginnings().map(<[_]>::to_vec));
        covered.insert(match parts.split_last() {
            Some((&"*", stem)) => stem.to_vec(),
            _ => parts,
        });
    }
}

/// Region, zone and subzone, as far as written.
fn parts(place: &str) -> Option<Vec<&str>> {
    if place.matches('*').count() > 1 || place.contains('*') && !place.ends_with('*') {
        return None;
    }
    let parts: Vec<&str> = place.splitn(3, '/').collect();
    parts.iter().all(|part| !part.is_empty()).then_some(parts)
}

fn read_failover(
    written: Vec<WrittenFailover>,
    path: &Path,
    problems: &mut Problems,
) -> Vec<(Arc<str>, Arc<str>)> {
    let regions = written.into_iter().enumerate().map(|(index, entry)| {
        let path = path.index(index);
        let WrittenFailover { from, to } = entry;
        if from == to {
            problems.error(
                &path.key("to"),
                format!("\"{to}\" stands in for itself"),
                "name another region",
            );
        }
        for (region, name) in [(&from, "from"), (&to, "to")] {
            if region.contains(['/', '*']) {
                problems.error(
                    &path.key(name),
                    format!("\"{region}\" is no region"),
                    "write a region alone",
                );
            }
        }
        (Arc::from(from), Arc::from(to))
    });
    regions.collect()
}

/// `key`, whose value is to be the client's, or `key=value`.
fn read_priority(
    written: &[String],
    path: &Path,
    problems: &mut Problems,
) -> Vec<(Arc<str>, Option<Arc<str>>)> {
    let labels = written.iter().enumerate().map(|(index, label)| {
        let mut parts = label.split('=');
        let key = parts.next().unwrap_or_default();
        if key.is_empty() {
            problems.error(
                &path.index(index),
                format!("\"{label}\" names no label"),
                "write a label, or label=value",
            );
        }
        // As Istio splits it: two signs, and there is no value.
        let value = match (parts.next(), parts.next()) {
            (Some(value), None) => Some(Arc::from(value)),
            _ => None,
        };
        (Arc::from(key), value)
    });
    labels.collect()
}
