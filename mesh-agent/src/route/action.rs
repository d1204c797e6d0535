//! What a route does with a request that it took.
//!
//! Chance is drawn in this order, and only where it has something to decide: the destination (of several), the delay, the
//! abort, and each mirror.

use std::sync::Arc;

use crate::model::{
    Balancer, Cluster, Destination, Fault, Forward, HashKey, Mirror, Route, RouteAction, Share,
    Snapshot,
};
use crate::route::{Act, Client, Forwarding, Pick, Request, Routed, cors, path, redirect};

/// Follows a route. `tls` is whether the listener opened TLS.
pub(super) fn follow(
    snapshot: &Snapshot,
    route: &Arc<Route>,
    client: &Client<'_>,
    request: &Request<'_>,
    tls: bool,
    pick: &mut dyn Pick,
) -> Routed {
    let condition = route.when.uri.as_ref();
    let mut routed = Routed {
        route: Arc::clone(route),
        delay: None,
        abort: None,
        cors: cors::verdict(route.cors.as_ref(), request),
        act: Act::Respond,
    };
    match &route.action {
        RouteAction::Respond(_) => {}
        RouteAction::Redirect(redirect) => {
            let location = redirect::location(redirect, condition, request, tls);
            routed.act = Act::Redirect(location);
        }
        RouteAction::Forward(forward) => {
            let (index, destination) = destination(forward, pick);
            let Fault { delay, abort } = &forward.fault;
            routed.delay = delay
                .filter(|delay| hit(delay.share, pick))
                .map(|delay| delay.duration);
            routed.abort = abort
                .filter(|(_, share)| hit(*share, pick))
                .map(|(abort, _)| abort);
            let mirrors = forward.mirrors.iter();
            let mut drawn = |mirror: &&Mirror| hit(mirror.share, pick);
            let cluster = |key| client.cluster(snapshot, key);
            routed.act = match cluster(&destination.cluster) {
                None => Act::NoCluster(destination.cluster.clone()),
                Some(found) => Act::Forward(Forwarding {
                    cluster: Arc::clone(found),
                    destination: index,
                    path: forward
                        .rewrite_path
                        .as_ref()
                        .map(|rewrite| path::rewrite(condition, request.path, rewrite)),
                    authority: forward.rewrite_authority.clone(),
                    hash: hash(snapshot, client, forward, index, found),
                    mirrors: mirrors
                        .filter(|mirror| drawn(mirror))
                        .filter_map(|mirror| cluster(&mirror.cluster).map(Arc::clone))
                        .collect(),
                }),
            };
        }
    }
    routed
}

/// What is hashed of a request that goes to `cluster`, the destination at `index`: Istio puts the key of every
/// destination that takes a share on the route itself, so each of them counts for all.
fn hash(
    snapshot: &Snapshot,
    client: &Client<'_>,
    forward: &Forward,
    index: usize,
    cluster: &Arc<Cluster>,
) -> Vec<Arc<HashKey>> {
    if !matches!(cluster.policy.balancer, Balancer::Hash { .. }) {
        return Vec::new();
    }
    let alone = forward.destinations.len() == 1;
    let taking = forward.destinations.iter().enumerate();
    let taking = taking.filter(|(_, destination)| alone || destination.weight > 0);
    let keys = taking.filter_map(|(place, destination)| {
        let cluster = match place == index {
            true => cluster,
            false => client.cluster(snapshot, &destination.cluster)?,
        };
        let hash = &cluster.policy.hash;
        let key = match destination.names_port {
            true => &hash.at_port,
            false => &hash.at_any_port,
        };
        key.clone()
    });
    keys.collect()
}

/// One of the destinations, by weight, and its place among them.
pub(super) fn destination<'f>(
    forward: &'f Forward,
    pick: &mut dyn Pick,
) -> (usize, &'f Destination) {
    let index = draw(&forward.destinations, forward.total_weight, pick);
    (index, &forward.destinations[index])
}

/// The place of one of the destinations, by weight; one alone takes everything.
pub(super) fn draw(destinations: &[Destination], total_weight: u64, pick: &mut dyn Pick) -> usize {
    if destinations.len() == 1 {
        return 0;
    }
    let mut drawn = pick.pick(total_weight.max(1));
    let hit = destinations.iter().position(|destination| {
        let weight = u64::from(destination.weight);
        let hit = drawn < weight;
        drawn = drawn.saturating_sub(weight);
        hit
    });
    // The total is the sum, so one is always hit.
    hit.unwrap_or(0)
}

/// Whether a request is one of a share.
fn hit(share: Share, pick: &mut dyn Pick) -> bool {
    match share {
        Share(0) => false,
        share if share >= Share::ALL => true,
        Share(parts) => pick.pick(u64::from(Share::ALL.0)) < u64::from(parts),
    }
}

#[cfg(test)]
mod tests;
