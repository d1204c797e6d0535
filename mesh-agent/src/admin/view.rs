//! The world and the state of the process as JSON, for people and programs. The names are Istio's where it has one.

use serde_json::{Value, json};

use super::{Admin, metrics};
use crate::model::{Outlook, Pod, Service, Snapshot, Unknown};
use crate::pod::PodReport;

mod clusters;
mod gateways;
mod routes;

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
        "one_hop_connections": stats.passed_on,
        "retries": stats.retries,
        "pods": admin.pods.get().iter().map(pod_stats).collect::<Vec<_>>(),
    })
}

fn pod_stats(report: &PodReport) -> Value {
    let accepted = report.accepted();
    json!({
        "pod": report.pod,
        "outbound": accepted.outbound(),
        "inbound": accepted.inbound(),
        "one_hop": accepted.passed_on(),
    })
}

/// `/config_dump`.
pub fn config(world: &Snapshot) -> Value {
    let mut services: Vec<_> = world.services.values().collect();
    services.sort_by(|a, b| a.host.cmp(&b.host));
    let mut pods: Vec<_> = world.pods.values().collect();
    pods.sort_by(|a, b| a.id.cmp(&b.id));
    json!({
        "generation": world.generation,
        "services": services.into_iter().map(|service| self::service(service)).collect::<Value>(),
        "clusters": clusters(world),
        "mesh": outlook(&world.common),
        "sidecars": world.restricted.iter().map(|one| outlook(one)).collect::<Value>(),
        "gateways": world.gateways.iter().map(|one| gateways::gateway(one)).collect::<Value>(),
        "pods": pods.into_iter().map(|pod| self::pod(pod)).collect::<Value>(),
    })
}

/// `/clusters`.
pub fn clusters(world: &Snapshot) -> Value {
    let mut clusters: Vec<_> = world.clusters.values().collect();
    clusters.sort_by(|a, b| a.key.cmp(&b.key));
    clusters
        .into_iter()
        .map(|cluster| clusters::cluster(cluster))
        .collect()
}

fn outlook(outlook: &Outlook) -> Value {
    let ports: serde_json::Map<_, _> = outlook
        .mesh
        .iter()
        .map(|(port, table)| (port.to_string(), routes::table(table)))
        .collect();
    let streams: serde_json::Map<_, _> = outlook
        .streams
        .iter()
        .flat_map(|(host, ports)| {
            ports
                .iter()
                .map(move |(port, table)| (format!("{host}:{port}"), routes::streams(table)))
        })
        .collect();
    let whole: serde_json::Map<_, _> = outlook
        .whole_ports
        .iter()
        .map(|(port, table)| (port.to_string(), routes::streams(table)))
        .collect();
    let unknown = match &outlook.unknown {
        Unknown::Allow => json!("ALLOW_ANY"),
        Unknown::Refuse => json!("REGISTRY_ONLY"),
        Unknown::Through(_) => json!("egressProxy"),
    };
    json!({
        "http": ports,
        "streams": streams,
        "whole_ports": whole,
        "outboundTrafficPolicy": unknown,
    })
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
        "netns": pod.local.as_ref().map(|local| local.netns.to_string()),
        "enrol": pod.local.as_ref().is_some_and(|local| local.enrol),
    })
}
