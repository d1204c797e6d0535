//! The process' own metrics, for Prometheus. They are read off at each scrape: what counts is counted elsewhere, by the
//! worker that does the work. Istio's standard metrics come with the observability of the next versions.

use std::sync::atomic::AtomicU64;

use mesh_ebpf::pair::Tally;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

use super::Admin;
use crate::config::Severity;
use crate::proxy::{HopStats, Stats};

/// The prefix of every name.
const PREFIX: &str = "mesh_agent";

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Hop {
    hop: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Response {
    hop: &'static str,
    response_class: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Flagged {
    response_flag: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct State {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Way {
    way: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
    event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Level {
    severity: &'static str,
}

type Counters<L> = Family<L, Counter<u64, AtomicU64>>;

/// The metrics of this moment, in OpenMetrics' text format.
pub(super) fn render(admin: &Admin) -> String {
    let mut registry = Registry::with_prefix(PREFIX);
    state(&mut registry, admin);
    traffic(&mut registry, &admin.workers.stats());
    fast_path(&mut registry, admin);
    let mut text = String::new();
    // Writing to a String cannot fail.
    let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
    text
}

fn state(registry: &mut Registry, admin: &Admin) {
    let generation = Gauge::<i64>::default();
    generation.set(i64::try_from(admin.world.load().generation).unwrap_or(i64::MAX));
    registry.register(
        "snapshot_generation",
        "Counts up with each configuration put in force",
        generation,
    );

    let ready = Gauge::<i64>::default();
    ready.set(i64::from(admin.ready.waiting_for().is_empty()));
    registry.register(
        "ready",
        "1 when the process serves all that it should",
        ready,
    );

    let rejected = Family::<Level, Gauge>::default();
    for (severity, name) in [(Severity::Error, "error"), (Severity::Warning, "warning")] {
        let count = admin
            .rejected
            .load()
            .iter()
            .filter(|rejected| rejected.severity == severity)
            .count();
        rejected
            .get_or_create(&Level { severity: name })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register(
        "rejected_objects",
        "Complaints about manifests, by severity",
        rejected,
    );

    let pods = Family::<State, Gauge>::default();
    for state in ["enrolled", "draining", "failed"] {
        let count = admin
            .pods
            .get()
            .iter()
            .filter(|pod| pod.state.starts_with(state))
            .count();
        pods.get_or_create(&State { state })
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }
    registry.register(
        "pods",
        "Pods of this node that are or should be in the mesh, by state",
        pods,
    );
}

fn traffic(registry: &mut Registry, stats: &Stats) {
    let opened = Counters::<Hop>::default();
    let closed = Counters::<Hop>::default();
    let relayed = Counters::<Hop>::default();
    let received = Counters::<Hop>::default();
    let sent = Counters::<Hop>::default();
    let requests = Counters::<Response>::default();
    for (hop, counted) in hops(stats) {
        let labels = Hop { hop };
        opened.get_or_create(&labels).inc_by(counted.accepted);
        closed.get_or_create(&labels).inc_by(counted.closed);
        relayed.get_or_create(&labels).inc_by(counted.relayed);
        received.get_or_create(&labels).inc_by(counted.received);
        sent.get_or_create(&labels).inc_by(counted.sent);
        for (response_class, count) in ["none", "1xx", "2xx", "3xx", "4xx", "5xx"]
            .into_iter()
            .zip(counted.requests)
        {
            requests
                .get_or_create(&Response {
                    hop,
                    response_class,
                })
                .inc_by(count);
        }
    }
    registry.register("connections_accepted", "Connections accepted", opened);
    registry.register(
        "connections_closed",
        "Accepted connections that are over",
        closed,
    );
    registry.register(
        "connections_relayed",
        "Connections carried as plain TCP",
        relayed,
    );
    registry.register(
        "received_bytes",
        "Bytes of bodies and of relayed connections from clients",
        received,
    );
    registry.register(
        "sent_bytes",
        "Bytes of bodies and of relayed connections to clients",
        sent,
    );
    registry.register(
        "requests",
        "HTTP requests by the class of their response",
        requests,
    );

    let flags = Counters::<Flagged>::default();
    for (flag, count) in &stats.flags {
        flags
            .get_or_create(&Flagged {
                response_flag: flag.abbreviation(),
            })
            .inc_by(*count);
    }
    registry.register(
        "response_flags",
        "Requests and connections with a response flag, in Envoy's abbreviations",
        flags,
    );

    let upstream = Counter::<u64, AtomicU64>::default();
    upstream.inc_by(stats.upstream_connections);
    registry.register(
        "upstream_connections",
        "Connections opened to endpoints and applications",
        upstream,
    );
    let one_hop = Counter::<u64, AtomicU64>::default();
    one_hop.inc_by(stats.passed_on);
    registry.register(
        "one_hop_connections",
        "Those of the opened connections that went from pod to pod of this node without leaving the process",
        one_hop,
    );
    let retries = Counter::<u64, AtomicU64>::default();
    retries.inc_by(stats.retries);
    registry.register("retries", "Tries of requests after the first", retries);
}

fn fast_path(registry: &mut Registry, admin: &Admin) {
    let tallies = (admin.tallies)();
    if tallies.is_empty() {
        return;
    }
    let bytes = Counters::<Way>::default();
    let events = Counters::<Event>::default();
    for (tally, amount) in tallies {
        let event = match tally {
            Tally::RedirectedBytes => {
                bytes
                    .get_or_create(&Way { way: "redirected" })
                    .inc_by(amount);
                continue;
            }
            Tally::PlainBytes => {
                bytes.get_or_create(&Way { way: "tcp" }).inc_by(amount);
                continue;
            }
            Tally::Joined => "joined",
            Tally::Ended => "ended",
            Tally::Full => "full",
            Tally::Slow => "slow",
        };
        events.get_or_create(&Event { event }).inc_by(amount);
    }
    registry.register(
        "fast_path_bytes",
        "Bytes of connections on the fast path: handed over without TCP, or sent by TCP all the same",
        bytes,
    );
    registry.register(
        "fast_path_events",
        "Connections that joined the fast path or ended, that found no room, and directions whose reader was slow",
        events,
    );
}

/// The hops by their names.
pub(super) fn hops(stats: &Stats) -> [(&'static str, &HopStats); 3] {
    [
        ("outbound", &stats.outbound),
        ("inbound", &stats.inbound),
        ("gateway", &stats.gateway),
    ]
}
