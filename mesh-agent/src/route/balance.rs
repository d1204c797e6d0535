//! Which endpoint of a cluster takes a request or a connection (`istio-routing.md` 2.3).
//!
//! A choice is made in three steps, as Envoy makes it, and chance is drawn in this order: a tier, by the health of all of
//! them; in the tier a group, by the shares of places; in the group an endpoint, by the load balancer. Where a step has
//! nothing to choose, nothing is drawn.

use std::net::SocketAddr;

use crate::model::{Balancer, Cluster, Endpoint, Endpoints, Group, Plan, Tier, Warmup};
use crate::route::balance::candidates::{Candidates, Without};
use crate::route::{Client, Condition, Pick};

pub use crate::route::balance::hash::{NewCookie, hash_of, hash_of_source, hash_of_text};

mod candidates;
mod hash;
mod plan;
mod table;

/// What a try avoids, for it has been tried.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tried<'a> {
    /// These, while there is another in the same tier.
    pub endpoints: &'a [SocketAddr],
    /// `retryRemoteLocalities`: after every second try the tiers that were tried too, while there is another.
    pub tiers: bool,
}

/// Which of `endpoints` takes a request or a connection: those of `cluster`, or those that its names stand for just now.
/// `hash` is of the request, where [`hash_of`] has one. `None` where none is usable: none there, none ready, all ejected.
pub fn endpoint(
    cluster: &Cluster,
    endpoints: &Endpoints,
    client: &Client<'_>,
    hash: Option<u64>,
    tried: Tried<'_>,
    condition: &dyn Condition,
    pick: &mut dyn Pick,
) -> Option<SocketAddr> {
    let choice = Choice {
        cluster,
        endpoints,
        hash,
        tried,
        condition,
    };
    choice.make(client, pick)
}

/// How endpoints are ordered for a client, for who wants to show it.
pub fn plan<'a>(cluster: &Cluster, endpoints: &'a Endpoints, client: &Client<'_>) -> &'a Plan {
    plan::of(&cluster.policy, endpoints, client)
}

/// Everything that a choice depends on but chance.
struct Choice<'a> {
    cluster: &'a Cluster,
    endpoints: &'a Endpoints,
    hash: Option<u64>,
    tried: Tried<'a>,
    condition: &'a dyn Condition,
}

/// Weights are scaled up by this where an endpoint warms up, so that parts of them count.
const WARM: u64 = 1000;

impl<'a> Choice<'a> {
    fn make(&self, client: &Client<'_>, pick: &mut dyn Pick) -> Option<SocketAddr> {
        let plan = plan(self.cluster, self.endpoints, client);
        let takes_hash = matches!(self.cluster.policy.balancer, Balancer::Hash { .. });
        // Without one, chance takes its place, in all that follows.
        let hash = takes_hash.then(|| self.hash.unwrap_or_else(|| pick.pick(u64::MAX)));
        let (tier, panic) = self.tier(plan, hash, pick)?;
        let all = Without {
            ejected: (!panic && self.condition.any_ejected()).then_some(self.condition),
            tried: &[],
        };
        let fresh = Without {
            tried: self.tried.endpoints,
            ..all
        };
        let without = match self.tried.endpoints {
            [] => all,
            _ if tier.has_any(self.endpoints, fresh) => fresh,
            _ => all,
        };
        if let (Balancer::Hash { ring, .. }, Some(hash)) = (&self.cluster.policy.balancer, hash) {
            let table = tier
                .table
                .get_or_init(|| table::build(*ring, tier, self.endpoints));
            let usable = |index: u32| without.leaves_in(&self.endpoints[index as usize]);
            if without.leaves_all_in() || tier.has_any(self.endpoints, without) {
                let index = table::find(table, hash, usable)?;
                return Some(self.endpoints[index as usize].address);
            }
            return None;
        }
        let group = self.group(tier, without, pick)?;
        self.within(&group.candidates(self.endpoints, without), pick)
    }

    /// The tier, by how healthy each is, and whether it takes its ejected endpoints back.
    fn tier<'p>(
        &self,
        plan: &'p Plan,
        hash: Option<u64>,
        pick: &mut dyn Pick,
    ) -> Option<(&'p Tier, bool)> {
        let threshold = self
            .cluster
            .policy
            .outliers
            .as_ref()
            .map_or(0, |outliers| outliers.min_health_percent);
        let any_ejected = self.condition.any_ejected();
        if threshold == 0 && !self.tried.tiers && (!any_ejected || plan.tiers.len() == 1) {
            let index = draw_tier(&plan.loads, hash, pick)?;
            return Some((&plan.tiers[index], false));
        }
        let without = Without {
            ejected: any_ejected.then_some(self.condition),
            tried: &[],
        };
        let mut health: Vec<(usize, usize)> = plan
            .tiers
            .iter()
            .map(|tier| {
                let usable = tier.usable(self.endpoints, without);
                (usable, tier.total(self.endpoints))
            })
            .collect();
        if self.tried.tiers {
            self.leave_tried_tiers(plan, &mut health);
        }
        let (mut loads, total) = plan::loads(health.iter().copied());
        let in_panic = |(usable, all): (usize, usize)| {
            total < 100 && (usable * 100) < all * threshold as usize
        };
        // Where all have too few, they share by size, healthy or not.
        if health.iter().all(|health| in_panic(*health)) {
            let sizes = plan.tiers.iter().map(|tier| tier.count(self.endpoints));
            loads = plan::loads_by_size(sizes);
        }
        let index = draw_tier(&loads, hash, pick)?;
        Some((&plan.tiers[index], in_panic(health[index])))
    }

    /// Takes their health from tiers that were tried: two tries at a time, and anew once none is left.
    fn leave_tried_tiers(&self, plan: &Plan, health: &mut [(usize, usize)]) {
        let mut left = vec![false; health.len()];
        for pair in self.tried.endpoints.chunks_exact(2) {
            for (tier, left) in plan.tiers.iter().zip(&mut left) {
                *left |= pair.iter().any(|tried| tier.has(self.endpoints, *tried));
            }
            let another = health
                .iter()
                .zip(&left)
                .any(|((usable, _), left)| !left && *usable > 0);
            if !another {
                left.fill(false);
            }
        }
        for ((usable, _), _) in health.iter_mut().zip(&left).filter(|(_, left)| **left) {
            *usable = 0;
        }
    }

    /// One of the groups of a tier, by their shares; one with few healthy endpoints has less of its share.
    fn group<'p>(
        &self,
        tier: &'p Tier,
        without: Without<'_>,
        pick: &mut dyn Pick,
    ) -> Option<&'p Group> {
        if let [only] = tier.groups.as_slice() {
            return Some(only);
        }
        let share = |group: &Group| {
            let usable = group.candidates(self.endpoints, without).usable();
            let total = group.count(self.endpoints) + group.unready;
            plan::effective_share(group.share, usable, total)
        };
        let total: u64 = tier.groups.iter().map(share).sum();
        if total == 0 {
            return None;
        }
        let mut drawn = pick.pick(total);
        tier.groups.iter().find(|group| {
            let share = share(group);
            let hit = drawn < share;
            drawn = drawn.saturating_sub(share);
            hit
        })
    }

    /// The last step: the load balancer's.
    fn within(&self, candidates: &Candidates<'a>, pick: &mut dyn Pick) -> Option<SocketAddr> {
        let chosen = match &self.cluster.policy.balancer {
            Balancer::LeastRequest { warmup } => {
                self.least_request(candidates, warmup.as_ref(), pick)
            }
            Balancer::RoundRobin { warmup } => self.round_robin(candidates, warmup.as_ref()),
            // Weights are nothing to it, nor are they in Envoy.
            Balancer::Random | Balancer::Hash { .. } => match candidates.usable() {
                0 => None,
                count => candidates.nth(draw(count, pick)),
            },
        };
        chosen.map(|endpoint| endpoint.address)
    }

    /// The less busy of two drawn by chance, by weight where they differ. The two are never the same.
    fn least_request(
        &self,
        candidates: &Candidates<'a>,
        warmup: Option<&Warmup>,
        pick: &mut dyn Pick,
    ) -> Option<&'a Endpoint> {
        let load = |endpoint: &Endpoint| u64::from(self.condition.load(endpoint.address));
        if candidates.uniform && warmup.is_none() {
            let count = candidates.usable();
            if count < 2 {
                return candidates.nth(0);
            }
            let first = draw(count, pick);
            let second = (first + 1 + draw(count - 1, pick)) % count;
            let (first, second) = (candidates.nth(first)?, candidates.nth(second)?);
            return Some(if load(second) < load(first) {
                second
            } else {
                first
            });
        }
        let weight = |endpoint: &Endpoint| self.weight(endpoint, warmup);
        let total: u64 = candidates.iter().map(weight).sum();
        if total == 0 {
            return None;
        }
        let first = candidates.at(pick.pick(total), weight)?;
        let other = |endpoint: &Endpoint| match std::ptr::eq(endpoint, first) {
            true => 0,
            false => weight(endpoint),
        };
        let rest = total - weight(first);
        if rest == 0 {
            return Some(first);
        }
        let second = candidates.at(pick.pick(rest), other)?;
        let busier = u128::from(load(first)) * u128::from(weight(second));
        Some(
            match u128::from(load(second)) * u128::from(weight(first)) < busier {
                true => second,
                false => first,
            },
        )
    }

    /// One after the other; by weight where they differ, each as often as it weighs before it begins anew.
    fn round_robin(
        &self,
        candidates: &Candidates<'a>,
        warmup: Option<&Warmup>,
    ) -> Option<&'a Endpoint> {
        if candidates.uniform && warmup.is_none() {
            let count = candidates.usable();
            let turn = self.condition.turn().checked_rem(count as u64)?;
            return candidates.nth(usize::try_from(turn).ok()?);
        }
        let weight = |endpoint: &Endpoint| self.weight(endpoint, warmup);
        let total: u64 = candidates.iter().map(weight).sum();
        let turn = self.condition.turn().checked_rem(total)?;
        // A stride that has no factor in common with the total visits every place once; one near the golden section does
        // so without lingering.
        let position = u128::from(turn) * u128::from(stride(total)) % u128::from(total);
        candidates.at(u64::try_from(position).ok()?, weight)
    }

    /// The weight of an endpoint; one that is new weighs less for a while.
    fn weight(&self, endpoint: &Endpoint, warmup: Option<&Warmup>) -> u64 {
        let weight = u64::from(endpoint.weight.max(1));
        let Some(warmup) = warmup else {
            return weight;
        };
        let age = self.condition.age(endpoint.address);
        weight * warmth(warmup, age)
    }
}

/// How much of its weight an endpoint of this age has, in parts of [`WARM`].
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of WARM, clamped to it"
)]
fn warmth(warmup: &Warmup, age: std::time::Duration) -> u64 {
    if age >= warmup.duration {
        return WARM;
    }
    let time = age.as_secs_f64().max(0.001) / warmup.duration.as_secs_f64();
    let risen = time.powf(1.0 / warmup.aggression.max(f64::MIN_POSITIVE));
    let factor = risen.max(warmup.minimum_percent / 100.0).clamp(0.0, 1.0);
    ((factor * WARM as f64) as u64).max(1)
}

/// A number below `total` that has no factor in common with it, near its golden section.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "only about the size matters"
)]
fn stride(total: u64) -> u64 {
    let golden = (total as f64 * 0.618_033_988_75) as u64;
    (golden.max(1)..=total)
        .find(|stride| coprime(*stride, total))
        .unwrap_or(1)
}

fn coprime(a: u64, b: u64) -> bool {
    let (mut a, mut b) = (a, b);
    while b > 0 {
        (a, b) = (b, a % b);
    }
    a == 1
}

/// A tier by their loads, in percent; where one has all, nothing is drawn.
fn draw_tier(loads: &[u32], hash: Option<u64>, pick: &mut dyn Pick) -> Option<usize> {
    if let Some(all) = loads.iter().position(|load| *load == 100) {
        return Some(all);
    }
    let mut drawn = hash.unwrap_or_else(|| pick.pick(100)) % 100;
    loads.iter().position(|load| {
        let load = u64::from(*load);
        let hit = drawn < load;
        drawn = drawn.saturating_sub(load);
        hit
    })
}

fn draw(count: usize, pick: &mut dyn Pick) -> usize {
    usize::try_from(pick.pick(count as u64)).unwrap_or(0)
}

#[cfg(test)]
mod tests;
