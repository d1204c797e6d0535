//! Connections that are not HTTP: which route of a table takes one, and where it goes.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::model::{
    ClusterKey, RouteAction, Snapshot, StreamMatch, StreamRoute, StreamTable, Unknown,
};
use crate::route::{
    Client, Flow, Mismatch, Pick, Relaying, StreamDecision, StreamScope, action, gateway, matching,
};

/// What a table has for a connection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum StreamFound<'a> {
    /// The first route that matches.
    Route(&'a StreamRoute),
    /// Routes for this client, none of which matches.
    NoRoute,
    /// None that concerns this client.
    Nothing,
}

/// Whether [`stream`] needs the name that the client asks for in its TLS.
pub fn needs_server_name(snapshot: &Snapshot, client: &Client<'_>, scope: &StreamScope) -> bool {
    stream_table(snapshot, client, scope).is_some_and(StreamTable::needs_server_name)
}

/// Decides over a connection that is not HTTP.
pub fn stream(
    snapshot: &Snapshot,
    client: &Client<'_>,
    scope: &StreamScope,
    flow: &Flow<'_>,
    pick: &mut dyn Pick,
) -> StreamDecision {
    let to = |key: &ClusterKey| match client.cluster(snapshot, key) {
        Some(cluster) => StreamDecision::Forward(Relaying {
            cluster: Arc::clone(cluster),
            conduct: Arc::clone(cluster),
        }),
        None => StreamDecision::Refuse,
    };
    let unknown = |pick: &mut dyn Pick| match &snapshot.outlook(client.pod()).unknown {
        Unknown::Allow => StreamDecision::Passthrough,
        Unknown::Refuse => StreamDecision::Refuse,
        Unknown::Through(route) => match &route.action {
            RouteAction::Forward(forward) => to(&action::destination(forward, pick).1.cluster),
            RouteAction::Redirect(_) | RouteAction::Respond(_) => StreamDecision::Refuse,
        },
    };
    let found = stream_table(snapshot, client, scope).map_or(StreamFound::Nothing, |table| {
        stream_route(table, client, flow)
    });
    match (found, scope) {
        (StreamFound::Route(route), _) => {
            let index = action::draw(&route.destinations, route.total_weight, pick);
            let decided = to(&route.destinations[index].cluster);
            match (decided, first_of_several(route)) {
                (StreamDecision::Forward(relaying), Some(first)) => {
                    let conduct = client.cluster(snapshot, &first);
                    StreamDecision::Forward(Relaying {
                        conduct: conduct.map_or(relaying.conduct, Arc::clone),
                        ..relaying
                    })
                }
                (decided, _) => decided,
            }
        }
        // A Service without routes of its own has its cluster.
        (StreamFound::Nothing, StreamScope::Service { host, port }) => {
            let key = ClusterKey {
                host: Arc::clone(host),
                port: *port,
                subset: None,
            };
            match to(&key) {
                // The Service has gone since the connection came in.
                StreamDecision::Refuse => unknown(pick),
                decision => decision,
            }
        }
        (_, StreamScope::Gateway { .. }) => StreamDecision::Refuse,
        (StreamFound::NoRoute, StreamScope::Service { .. })
        | (_, StreamScope::Port(_) | StreamScope::Unknown) => unknown(pick),
    }
}

/// The first destination, without its subset, where there are several.
fn first_of_several(route: &StreamRoute) -> Option<ClusterKey> {
    match route.destinations.as_slice() {
        [first, _, ..] => Some(ClusterKey {
            subset: None,
            ..first.cluster.clone()
        }),
        _ => None,
    }
}

/// The table of a scope.
pub fn stream_table<'a>(
    snapshot: &'a Snapshot,
    client: &Client<'_>,
    scope: &StreamScope,
) -> Option<&'a StreamTable> {
    match scope {
        StreamScope::Service { host, port } => {
            let outlook = snapshot.outlook(client.pod());
            outlook.streams.get(host)?.get(port).map(|table| &**table)
        }
        StreamScope::Port(port) => snapshot.outlook(client.pod()).whole_ports.get(port),
        StreamScope::Gateway { port, server } => {
            gateway::stream_table(snapshot, client, *port, server.as_deref())
        }
        StreamScope::Unknown => None,
    }
}

/// The first route that matches, in the first of a table and its stand-ins that concerns the client.
pub fn stream_route<'a>(
    table: &'a StreamTable,
    client: &Client<'_>,
    flow: &Flow<'_>,
) -> StreamFound<'a> {
    for table in with_stand_ins(table) {
        let mut judged = judged(table, client, flow);
        if let Some((route, _)) = judged.find(|(_, mismatch)| mismatch.is_none()) {
            return StreamFound::Route(route);
        }
        if concerns(table, client) {
            return StreamFound::NoRoute;
        }
    }
    StreamFound::Nothing
}

/// Every route of a table, and why it is not for this connection.
///
/// As with Envoy's chains of filters, the narrowest subnet that has the address decides which names there are: no wider one
/// is asked for a name that this one has not.
pub fn judged<'t: 'a, 'a>(
    table: &'t StreamTable,
    client: &Client<'a>,
    flow: &Flow<'a>,
) -> impl Iterator<Item = (&'t StreamRoute, Option<Mismatch<'a>>)> {
    let (client, flow) = (*client, *flow);
    let mut narrowest = None;
    table.routes.iter().map(move |route| {
        let mismatch = mismatch(&route.when, &client, &flow);
        if let None | Some(Mismatch::ServerName { .. }) = mismatch {
            let length = route.when.subnets.first().map(IpNet::prefix_len);
            if *narrowest.get_or_insert(length) != length {
                let found = flow.destination.ip().to_canonical();
                return (route, Some(Mismatch::WiderSubnet { found }));
            }
        }
        (route, mismatch)
    })
}

/// A table, and what stands in for it where it does not concern the client, in order.
pub fn with_stand_ins(table: &StreamTable) -> impl Iterator<Item = &StreamTable> {
    std::iter::successors(Some(table), |table| table.next.as_deref())
}

/// Whether any route of a table is for this client, whatever it opens.
pub fn concerns(table: &StreamTable, client: &Client<'_>) -> bool {
    let is_for = |route: &StreamRoute| matching::stranger(&route.when.client, client).is_none();
    table.routes.iter().any(is_for)
}

/// Why a route, by itself, is not for this connection; `None` where it is.
fn mismatch<'a>(
    conditions: &'a StreamMatch,
    client: &Client<'a>,
    flow: &Flow<'a>,
) -> Option<Mismatch<'a>> {
    let StreamMatch {
        server_names,
        subnets,
        client: audience,
    } = conditions;
    if let Some(stranger) = matching::stranger(audience, client) {
        return Some(stranger);
    }
    let to: IpAddr = flow.destination.ip().to_canonical();
    if !subnets.is_empty() && !subnets.iter().any(|subnet| subnet.contains(&to)) {
        return Some(Mismatch::Subnet {
            expected: subnets,
            found: to,
        });
    }
    let asked = flow.server_name;
    let named = asked.is_some_and(|name| server_names.iter().any(|pattern| names(pattern, name)));
    (!server_names.is_empty() && !named).then_some(Mismatch::ServerName {
        expected: server_names,
        found: asked,
    })
}

/// Whether a server name is meant: `*.x` is any name below `x`, `*` is any.
pub fn names(pattern: &str, name: &str) -> bool {
    match pattern.strip_prefix('*') {
        None => pattern == name,
        Some("") => true,
        Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
    }
}

#[cfg(test)]
mod tests;
