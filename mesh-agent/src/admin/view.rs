//! The world and the state of the process as JSON, for people and programs. The names are Istio's where it has one.

use serde_json::{Value, json};

use super::{Admin, metrics};
use crate::model::{
    Cluster, Destination, Forward, Gateway, GatewayListener, Inside, PathMatch, PathRewrite, Pod,
    Route, RouteAction, RouteTable, Service, Snapshot, Termination, VirtualHost,
};
use crate::pod::PodReport;

/// `/status`.
pub fn status(admin: &Admin) -> Value {
    let world = admin.world.load();
    json!({
        "role": admin.role,
        "name": admin.name,
        "version": env!("CARGO_PKG_VERSION"),
        "mode": admin.mode.as_ref().map(|(mode, _)| mode),
        "mode_reason": admin.mode.as_ref().map(|(_, reason)| reason),
        "ready": admin.ready.waiting_for().is_empty(),
        "waiting_for": admin.ready.waiting_for(),
        "generation": world.generation,
        "rejected": **admin.rejected.load(),
        "pods": admin.pods.get(),
    })
}

/// `/stats`: connections and requests, of the process and of each pod.
pub fn stats(admin: &Admin) -> Value {
    let stats = admin.workers.stats();
    let hops: serde_json::Map<_, _> = metrics::hops(&stats)
        .into_iter()
        .map(|(hop, counted)| {
            let value = json!({
                "accepted": counted.accepted,
                "closed": counted.closed,
                "relayed": counted.relayed,
                "requests": counted.requests.iter().sum::<u64>(),
                "received_bytes": counted.received,
                "sent_bytes": counted.sent,
            });
            (hop.to_owned(), value)
        })
        .collect();
    let flags: serde_json::Map<_, _> = stats
        .flags
        .iter()
        .map(|(flag, count)| (flag.abbreviation().to_owned(), json!(count)))
        .collect();
    json!({
        "hops": hops,
        "flags": flags,
        "upstream_connections": stats.upstream_connections,
        "retries": stats.retries,
        "pods": admin.pods.get().iter().map(pod_stats).collect::<Vec<_>>(),
    })
}

fn pod_stats(report: &PodReport) -> Value {
    let accepted = report.accepted();
    json!({ "pod": report.pod, "outbound": accepted.outbound(), "inbound": accepted.inbound() })
}

/// `/config_dump`.
pub fn config(world: &Snapshot) -> Value {
    let mut services: Vec<_> = world.services.values().collect();
    services.sort_by(|a, b| a.host.cmp(&b.host));
    let mut pods: Vec<_> = world.pods.values().collect();
    pods.sort_by(|a, b| a.id.cmp(&b.id));
    let mesh: serde_json::Map<_, _> = world
        .common
        .mesh
        .iter()
        .map(|(port, table)| (port.to_string(), routes(table)))
        .collect();
    let gateways: Vec<_> = world.gateways.iter().map(gateway).collect();
    json!({
        "generation": world.generation,
        "services": services.into_iter().map(|service| self::service(service)).collect::<Vec<_>>(),
        "clusters": clusters(world),
        "mesh": mesh,
        "gateways": gateways,
        "pods": pods.into_iter().map(|pod| self::pod(pod)).collect::<Vec<_>>(),
    })
}

fn gateway(gateway: &Gateway) -> Value {
    let ports: serde_json::Map<_, _> = gateway
        .ports
        .iter()
        .map(|(number, port)| {
            let listener = match &port.listener {
                GatewayListener::Http(table) => json!({ "http": routes(table) }),
                GatewayListener::Secure(servers) => {
                    let servers = servers.iter().map(|server| {
                        let routes = match &server.tls {
                            Termination::Here(_, Inside::Http(table)) => routes(table),
                            Termination::Here(_, Inside::Tcp(_)) | Termination::Beyond(_) => {
                                Value::Null
                            }
                        };
                        json!({ "name": server.name, "hosts": server.hosts, "http": routes })
                    });
                    json!({ "tls": servers.collect::<Vec<_>>() })
                }
                GatewayListener::Tcp(table) => json!({ "tcp": table.routes.len() }),
            };
            (number.to_string(), listener)
        })
        .collect();
    json!({ "gateways": gateway.names, "ports": ports })
}

/// `/clusters`.
pub fn clusters(world: &Snapshot) -> Value {
    let mut clusters: Vec<_> = world.clusters.values().collect();
    clusters.sort_by(|a, b| a.key.cmp(&b.key));
    clusters
        .into_iter()
        .map(|cluster| self::cluster(cluster))
        .collect()
}

fn cluster(cluster: &Cluster) -> Value {
    let endpoints: Vec<_> = cluster
        .endpoints
        .iter()
        .map(|endpoint| {
            json!({
                "address": endpoint.address,
                "pod": endpoint.pod.as_ref().map(ToString::to_string),
            })
        })
        .collect();
    json!({ "name": cluster.key.to_string(), "protocol": format!("{:?}", cluster.protocol), "endpoints": endpoints })
}

fn service(service: &Service) -> Value {
    let ports: Vec<_> = service
        .ports
        .iter()
        .map(|port| json!({ "number": port.number, "name": port.name, "protocol": format!("{:?}", port.protocol) }))
        .collect();
    json!({ "host": service.host, "addresses": service.addresses, "ports": ports })
}

fn pod(pod: &Pod) -> Value {
    json!({
        "pod": pod.id.to_string(),
        "labels": pod.labels,
        "addresses": pod.addresses,
        "ready": pod.ready,
        "netns": pod.local.as_ref().map(|local| &local.netns),
        "enrol": pod.local.as_ref().is_some_and(|local| local.enrol),
    })
}

fn routes(table: &RouteTable) -> Value {
    let mut exact: Vec<_> = table.exact.iter().collect();
    exact.sort_by(|a, b| a.0.cmp(b.0));
    let exact = exact
        .into_iter()
        .map(|(host, routes)| (host.to_string(), routes));
    let suffixes = table
        .suffixes
        .iter()
        .map(|(suffix, routes)| (format!("*{suffix}"), routes));
    let any = table.any.iter().map(|routes| ("*".to_owned(), routes));
    exact
        .chain(suffixes)
        .chain(any)
        .map(|(host, routes)| (host, virtual_host(routes)))
        .collect()
}

fn virtual_host(host: &VirtualHost) -> Value {
    json!({ "name": host.name, "routes": host.routes.iter().map(|route| self::route(route)).collect::<Vec<_>>() })
}

fn route(route: &Route) -> Value {
    let uri = route.when.uri.as_ref().map(|uri| match uri {
        PathMatch::Exact(text) => json!({ "exact": text }),
        PathMatch::Prefix(text) => json!({ "prefix": text }),
        PathMatch::ExactIgnoreCase(text) => json!({ "exact": text, "ignoreUriCase": true }),
        PathMatch::PrefixIgnoreCase(text) => json!({ "prefix": text, "ignoreUriCase": true }),
        PathMatch::Regex(regex) => json!({ "regex": regex.as_str() }),
    });
    let action = match &route.action {
        RouteAction::Forward(forward) => self::forward(forward),
        RouteAction::Redirect(redirect) => json!({ "redirect": redirect.status.as_u16() }),
        RouteAction::Respond(response) => json!({ "respond": response.status.as_u16() }),
    };
    json!({ "name": route.name, "uri": uri, "action": action })
}

fn forward(forward: &Forward) -> Value {
    let destination = |destination: &Destination| json!({ "cluster": destination.cluster.to_string(), "weight": destination.weight });
    json!({
        "destinations": forward.destinations.iter().map(destination).collect::<Vec<_>>(),
        "rewrite_uri": match &forward.rewrite_path {
            None => Value::Null,
            Some(PathRewrite::Matched(text)) => json!(text),
            Some(PathRewrite::Regex(regex, with)) => json!({ "regex": regex.as_str(), "with": with }),
        },
        "rewrite_authority": forward.rewrite_authority,
        "timeout_ms": forward.timeout.map(|timeout| timeout.as_millis()),
        "retries": forward.retry.attempts,
    })
}
