//! Where a connection goes that is not HTTP.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::explain::condition;
use crate::explain::hosts::Drawn;
use crate::explain::{Destination, Explanation, Host, Rule, Teller, Verdict};
use crate::model::{ClusterKey, RouteAction, StreamMatch, StreamTable, Unknown};
use crate::route::stream::{self, StreamFound, concerns, judged, stream_route, with_stand_ins};
use crate::route::{Relaying, StreamDecision, StreamScope};

impl Teller<'_> {
    /// A connection, which was headed there.
    pub(super) fn connection(&self, scope: &StreamScope, to: SocketAddr, told: &mut Explanation) {
        let (snapshot, client) = (&self.world.snapshot, &self.client);
        let flow = self.flow(to);
        let table = stream::stream_table(snapshot, client, scope);
        if let Some(table) = table {
            self.tables(table, to, told);
        }
        let found = table.map_or(StreamFound::Nothing, |table| {
            stream_route(table, client, &flow)
        });
        let shares: Vec<(ClusterKey, u64)> = match (found, scope) {
            (StreamFound::Route(route), _) => shares(&route.destinations),
            (StreamFound::Nothing, StreamScope::Service { host, port }) => {
                let key = ClusterKey {
                    host: Arc::clone(host),
                    port: *port,
                    subset: None,
                };
                vec![(key, 1)]
            }
            _ => match &snapshot.outlook(client.pod()).unknown {
                Unknown::Through(route) => match &route.action {
                    RouteAction::Forward(forward) => shares(&forward.destinations),
                    RouteAction::Redirect(_) | RouteAction::Respond(_) => Vec::new(),
                },
                Unknown::Allow | Unknown::Refuse => Vec::new(),
            },
        };
        let total: u64 = shares.iter().map(|(_, share)| share).sum();
        let mut before = 0;
        let mut results = Vec::new();
        for (key, share) in &shares {
            let drawn = Some(before).filter(|_| shares.len() > 1);
            before += share;
            let decided = stream::stream(snapshot, client, scope, &flow, &mut Drawn(drawn));
            let percent = 100.0 * *share as f64 / total.max(1) as f64;
            let line = result(&decided, key, to);
            results.push(match shares.len() {
                1 => line,
                _ => format!("{} % {line}", super::forward::rounded(percent)),
            });
            told.destinations.push(match &decided {
                StreamDecision::Forward(relaying) => self.relayed(percent, relaying, to),
                StreamDecision::Passthrough | StreamDecision::Refuse => {
                    self.destination(percent, key, None, "the connection is closed", None)
                }
            });
        }
        if results.is_empty() {
            let decided = stream::stream(snapshot, client, scope, &flow, &mut Drawn(None));
            results.push(nowhere(&decided, scope, to));
        }
        told.result = results;
    }

    fn relayed(&self, percent: f64, relaying: &Relaying, to: SocketAddr) -> Destination {
        let Relaying { cluster, conduct } = relaying;
        let hash = crate::route::hash_of_source(&conduct.policy, self.source());
        let to = Some(to).filter(|to| !to.ip().is_unspecified());
        let gone = "the connection is closed";
        let mut destination = self.destination(percent, &cluster.key, Some(cluster), gone, to);
        // What is relayed is spoken by the client.
        destination
            .policy
            .0
            .retain(|(label, _)| *label != "protocol");
        if conduct.policy != cluster.policy {
            let whose = format!(
                "how long it may last, and whether its source is hashed, is said by {}, the first destination",
                conduct.key.host
            );
            destination.policy.add("conduct", whose);
        }
        if let Some(taken) = hash.and_then(|hash| self.taken(cluster, hash)) {
            let told = format!("of the client's address: takes {taken}");
            destination.policy.add("hash", told);
        }
        destination
    }

    fn tables(&self, table: &StreamTable, to: SocketAddr, told: &mut Explanation) {
        let flow = self.flow(to);
        let mut asked = false;
        for table in with_stand_ins(table) {
            let mut from: Vec<String> = table
                .routes
                .iter()
                .filter_map(|route| route.origin.as_ref())
                .map(|(object, _)| format!("VirtualService {object}"))
                .collect();
            from.sort();
            from.dedup();
            let takes = !asked && concerns(table, &self.client);
            told.hosts.push(Host {
                name: "rules for connections".to_owned(),
                from,
                verdict: match (takes, asked) {
                    (true, _) => Verdict::Taken,
                    (false, true) => Verdict::NotReached,
                    (false, false) => Verdict::Failed,
                },
                why: (!takes && !asked).then(|| "not for this client".to_owned()),
            });
            if takes {
                let mut taken = false;
                for (route, failed) in judged(table, &self.client, &flow) {
                    let verdict = match (&failed, taken) {
                        (_, true) => Verdict::NotReached,
                        (None, false) => Verdict::Taken,
                        (Some(_), false) => Verdict::Failed,
                    };
                    taken |= verdict == Verdict::Taken;
                    let origin = route.origin.as_ref();
                    let failed = failed.filter(|_| verdict == Verdict::Failed);
                    told.rules.push(Rule {
                        name: origin.map_or_else(
                            || "the Service's own route".to_owned(),
                            |(_, field)| field.to_string(),
                        ),
                        object: origin.map(|(object, _)| format!("VirtualService {object}")),
                        field: origin.map(|(_, field)| format!("spec.{field}")),
                        place: origin.and_then(|(object, field)| {
                            self.world.place_of_stream_rule(object, field)
                        }),
                        conditions: conditions(&route.when),
                        verdict,
                        failed: failed.map(|failed| condition::told(&failed, None)),
                    });
                }
            }
            asked |= takes;
        }
    }
}

/// The conditions of a rule on a connection, in words.
fn conditions(when: &StreamMatch) -> Vec<String> {
    let subnets = when
        .subnets
        .iter()
        .map(|subnet| format!("destinationSubnets {subnet}"));
    let names = when
        .server_names
        .iter()
        .map(|name| format!("sniHosts {name}"));
    subnets.chain(names).collect()
}

/// Who takes which share; one alone takes everything, and who has no weight takes nothing.
fn shares(destinations: &[crate::model::Destination]) -> Vec<(ClusterKey, u64)> {
    match destinations {
        [only] => vec![(only.cluster.clone(), 1)],
        several => several
            .iter()
            .filter(|destination| destination.weight > 0)
            .map(|destination| (destination.cluster.clone(), u64::from(destination.weight)))
            .collect(),
    }
}

fn result(decided: &StreamDecision, key: &ClusterKey, to: SocketAddr) -> String {
    match decided {
        StreamDecision::Forward(relaying) => format!("relayed to {}", relaying.cluster.key),
        StreamDecision::Passthrough => format!("passed through to {to}"),
        StreamDecision::Refuse => format!("closed: there is no {key}"),
    }
}

fn nowhere(decided: &StreamDecision, scope: &StreamScope, to: SocketAddr) -> String {
    let to = match to.ip().is_unspecified() {
        true => "wherever the name leads".to_owned(),
        false => to.to_string(),
    };
    match (decided, scope) {
        (StreamDecision::Forward(relaying), _) => {
            format!("relayed to {}", relaying.cluster.key)
        }
        (StreamDecision::Passthrough, _) => {
            format!("passed through to {to}: nobody in the mesh has it")
        }
        (StreamDecision::Refuse, StreamScope::Gateway { .. }) => {
            "closed: none of the gateway's rules takes it".to_owned()
        }
        (StreamDecision::Refuse, _) => {
            "closed: nobody in the mesh has it, and REGISTRY_ONLY holds".to_owned()
        }
    }
}
