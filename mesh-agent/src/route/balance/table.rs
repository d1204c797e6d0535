//! Consistent hashes: the ring and Maglev's table, built as Envoy builds them, so that a request finds the same endpoint
//! here as there.

use crate::model::{Endpoint, Endpoints, HashTable, Ring, Tier};
use crate::route::balance::hash::xxhash64;

/// The most points that a ring has, whatever it is asked for.
const LARGEST_RING: f64 = 8_388_608.0;

/// The largest table that Maglev's algorithm is configured with.
const LARGEST_TABLE: u64 = 5_000_011;

/// An endpoint, by its place in the list, and its part of all weights.
struct Weighted {
    place: u32,
    key: String,
    weight: f64,
}

/// The table of a tier.
pub(super) fn build(ring: Ring, tier: &Tier, endpoints: &Endpoints) -> HashTable {
    let weighted = weights(tier, endpoints);
    match ring {
        Ring::RingHash { minimum_size } => HashTable::Ring(ring_hash(&weighted, minimum_size)),
        Ring::Maglev { table_size } => HashTable::Maglev(maglev(weighted, table_size)),
    }
}

/// The endpoint of a hash; the next one that is usable, where its own is not.
pub(super) fn find(table: &HashTable, hash: u64, usable: impl Fn(u32) -> bool) -> Option<u32> {
    match table {
        HashTable::Ring(points) => {
            let start = points.partition_point(|(point, _)| *point < hash);
            let (before, after) = points.split_at(start);
            let mut found = after.iter().chain(before).map(|(_, place)| *place);
            found.find(|place| usable(*place))
        }
        HashTable::Maglev(slots) => {
            let size = slots.len() as u64;
            let slot = |hash: u64| usize::try_from(hash.checked_rem(size)?).ok();
            // The first few as Envoy looks for others; then simply the slots that follow.
            let spread = (1..=5_u64).map(|attempt| hash ^ (u64::MAX - attempt + 1));
            let spread = std::iter::once(hash).chain(spread);
            let mut spread = spread.filter_map(|hash| slots.get(slot(hash)?).copied());
            spread.find(|place| usable(*place)).or_else(|| {
                let (before, after) = slots.split_at(slot(hash)?);
                after
                    .iter()
                    .chain(before)
                    .copied()
                    .find(|place| usable(*place))
            })
        }
    }
}

/// Of every endpoint of the tier the part that it has of all weights; those of a group share the group's.
fn weights(tier: &Tier, endpoints: &Endpoints) -> Vec<Weighted> {
    let all: f64 = tier
        .groups
        .iter()
        .filter(|group| group.members.count(endpoints) > 0)
        .map(|group| f64::from(group.share))
        .sum();
    let weight = |endpoint: &Endpoint| f64::from(endpoint.weight.max(1));
    tier.groups
        .iter()
        .flat_map(|group| {
            let sum: f64 = group.members.of(endpoints).map(weight).sum();
            group.members.places(endpoints).map(move |place| {
                let endpoint = &endpoints[place as usize];
                Weighted {
                    place,
                    key: endpoint.address.to_string(),
                    weight: f64::from(group.share) / all * weight(endpoint) / sum,
                }
            })
        })
        .collect()
}

/// Each endpoint has points by its weight: the hashes of `ADDRESS_0`, `ADDRESS_1` and so on.
fn ring_hash(weighted: &[Weighted], minimum_size: u64) -> Vec<(u64, u32)> {
    let least = weighted.iter().map(|weighted| weighted.weight);
    let least = least.fold(1.0, f64::min);
    // So large that the endpoint with the least weight has a whole number of points.
    let size = ((least * minimum_size as f64).ceil() / least).min(LARGEST_RING);
    let mut points = Vec::new();
    let (mut current, mut target) = (0.0, 0.0);
    let mut text = String::new();
    for Weighted { place, key, weight } in weighted {
        target += size * weight;
        let mut number = 0_u32;
        while current < target {
            text.clear();
            // Writing to a string cannot fail.
            let _ = std::fmt::Write::write_fmt(&mut text, format_args!("{key}_{number}"));
            points.push((xxhash64(text.as_bytes(), 0), *place));
            number += 1;
            current += 1.0;
        }
    }
    points.sort_by_key(|(point, _)| *point);
    points
}

/// Each endpoint in turn, by its weight, takes the next slot of its own order that is still free.
fn maglev(mut weighted: Vec<Weighted>, table_size: u64) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let size = table_size.clamp(2, LARGEST_TABLE);
    weighted.sort_by(|a, b| a.key.cmp(&b.key));
    let largest = weighted.iter().map(|weighted| weighted.weight);
    let largest = largest.fold(0.0, f64::max);
    struct Entry {
        place: u32,
        weight: f64,
        /// The sum of weights at which it has its next turn.
        target: f64,
        slot: u64,
        skip: u64,
    }
    let mut entries: Vec<Entry> = weighted
        .iter()
        .map(|weighted| Entry {
            place: weighted.place,
            weight: weighted.weight,
            target: 0.0,
            slot: xxhash64(weighted.key.as_bytes(), 0) % size,
            skip: xxhash64(weighted.key.as_bytes(), 1) % (size - 1) + 1,
        })
        .collect();
    if entries.is_empty() {
        return Vec::new();
    }
    let mut slots = vec![FREE; usize::try_from(size).unwrap_or(0)];
    let mut free = slots.len();
    let mut round = 0.0;
    while free > 0 {
        round += 1.0;
        for entry in &mut entries {
            if free == 0 {
                break;
            }
            if round * entry.weight < entry.target {
                continue;
            }
            entry.target += largest;
            // The size is a prime, so an endpoint's order visits every slot.
            let taken = |slots: &[u32], slot: u64| slots[slot as usize] != FREE;
            while taken(&slots, entry.slot) {
                entry.slot = (entry.slot + entry.skip) % size;
            }
            slots[entry.slot as usize] = entry.place;
            entry.slot = (entry.slot + entry.skip) % size;
            free -= 1;
        }
    }
    slots
}
