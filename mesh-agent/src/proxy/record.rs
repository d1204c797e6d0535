//! What the proxy remembers of its work: counters per worker, and a line per request or connection for who wants it.
//!
//! A worker writes only its own counters, so counting costs no more than an addition.

use std::fmt;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::time::Instant;

/// Which part of the mesh a connection passes through.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// From a pod of the mesh.
    Outbound,
    /// To a pod of the mesh.
    Inbound,
    /// From outside, at an ingress gateway.
    Gateway,
}

/// What was peculiar about a request or connection, in Envoy's abbreviations.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flag {
    /// `DI`: held up by a route's `fault.delay`.
    Delayed,
    /// `FI`: answered by a route's `fault.abort`.
    Aborted,
    /// `NR`: no route.
    NoRoute,
    /// `NC`: the route's cluster does not exist.
    NoCluster,
    /// `UH`: the cluster has no endpoint.
    NoEndpoint,
    /// `UO`: a limit of `connectionPool` was reached.
    Overflow,
    /// `UF`: the endpoint could not be connected to.
    ConnectFailure,
    /// `UC`: the endpoint ended the connection.
    UpstreamClosed,
    /// `UR`: the endpoint reset the stream.
    UpstreamReset,
    /// `UPE`: the endpoint did not speak HTTP.
    UpstreamProtocol,
    /// `UT`: the route's timeout.
    Timeout,
    /// `DC`: the client went away.
    ClientClosed,
    /// `DPE`: the client did not speak HTTP as it should.
    ClientProtocol,
    /// `SI`: nothing moved for the idle time-out.
    Idle,
    /// `URX`: the last of the tries that the route allows went wrong as well.
    RetriesExhausted,
    /// `DT`: the cluster's `maxConnectionDuration`.
    Duration,
}

/// All that was peculiar about one request or connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Flags(u16);

/// Counters of all workers, added up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Connections from pods.
    pub outbound: HopStats,
    /// Connections to pods.
    pub inbound: HopStats,
    /// Connections to gateways.
    pub gateway: HopStats,
    /// Requests and connections by flag, those with any.
    pub flags: Vec<(Flag, u64)>,
    /// Connections opened to endpoints and applications.
    pub upstream_connections: u64,
    /// Those of them that went from pod to pod without leaving the process.
    pub passed_on: u64,
    /// Tries after the first.
    pub retries: u64,
}

/// Counters of one hop.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HopStats {
    /// Connections accepted.
    pub accepted: u64,
    /// Connections that are over.
    pub closed: u64,
    /// Requests by class of their response: none, 1xx, 2xx, 3xx, 4xx, 5xx.
    pub requests: [u64; 6],
    /// Connections relayed as TCP.
    pub relayed: u64,
    /// Bytes of bodies, and of relayed connections, from clients.
    pub received: u64,
    /// Likewise to clients.
    pub sent: u64,
}

const HOPS: usize = 3;
const FLAGS: [Flag; 16] = [
    Flag::Delayed,
    Flag::Aborted,
    Flag::NoRoute,
    Flag::NoCluster,
    Flag::NoEndpoint,
    Flag::Overflow,
    Flag::ConnectFailure,
    Flag::UpstreamClosed,
    Flag::UpstreamReset,
    Flag::UpstreamProtocol,
    Flag::Timeout,
    Flag::ClientClosed,
    Flag::ClientProtocol,
    Flag::Idle,
    Flag::RetriesExhausted,
    Flag::Duration,
];

// `index` rests on this: every flag, in the order of the enum.
const _: () = {
    let mut i = 0;
    while i < FLAGS.len() {
        assert!(FLAGS[i] as usize == i);
        i += 1;
    }
    assert!(FLAGS.len() == Flag::Duration as usize + 1);
};

/// The counters of one worker, on cache lines of their own.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(super) struct Counters {
    hops: [HopCounters; HOPS],
    flags: [Counter; FLAGS.len()],
    pub(super) upstream_connections: Counter,
    pub(super) passed_on: Counter,
    pub(super) retries: Counter,
}

#[derive(Debug, Default)]
struct HopCounters {
    accepted: Counter,
    closed: Counter,
    requests: [Counter; 6],
    relayed: Counter,
    received: Counter,
    sent: Counter,
}

/// A number that one thread writes and others may read.
#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

/// A connection that counts as open.
#[derive(Debug)]
#[must_use]
pub(super) struct Open {
    counters: Arc<Counters>,
    hop: Hop,
}

/// The record of one request or relayed connection. Dropping it writes it down.
#[derive(Debug)]
pub(super) struct Record {
    counters: Arc<Counters>,
    hop: Hop,
    /// Where there is a line that says how long it took.
    started: Option<Instant>,
    relayed: bool,
    status: u16,
    flags: Flags,
    complete: bool,
    pub(super) sent: u64,
    pub(super) received: Received,
    line: Option<Box<Line>>,
}

/// Bytes from the client: known, or still being counted by the request's body.
#[derive(Clone, Debug)]
pub(super) enum Received {
    /// That many.
    Known(u64),
    /// Ask there.
    Counting(Rc<std::cell::Cell<u64>>),
}

/// What only the access log wants to know.
#[derive(Debug, Default)]
pub(super) struct Line {
    pub(super) peer: Option<SocketAddr>,
    pub(super) destination: Option<SocketAddr>,
    pub(super) method: String,
    pub(super) authority: String,
    pub(super) path: String,
    pub(super) protocol: &'static str,
    pub(super) route: Option<Arc<str>>,
    pub(super) cluster: String,
    pub(super) upstream: Option<SocketAddr>,
    /// Why there is no connection to a server, in Envoy's words.
    pub(super) failure: String,
    pub(super) request_id: String,
    pub(super) attempts: u32,
}

impl Counter {
    /// Adds; by the worker that owns it alone, which is why a load and a store will do.
    pub(super) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Counters {
    /// Counts a connection, until the guard is dropped.
    pub(super) fn open(self: &Arc<Self>, hop: Hop) -> Open {
        self.hops[hop.index()].accepted.add(1);
        Open {
            counters: Arc::clone(self),
            hop,
        }
    }

    /// Adds what this worker counted to `stats`.
    pub(super) fn add_to(&self, stats: &mut Stats) {
        let Stats {
            outbound,
            inbound,
            gateway,
            flags,
            upstream_connections,
            passed_on,
            retries,
        } = stats;
        for (hop, total) in [outbound, inbound, gateway].into_iter().enumerate() {
            let counted = &self.hops[hop];
            total.accepted += counted.accepted.get();
            total.closed += counted.closed.get();
            total.relayed += counted.relayed.get();
            total.received += counted.received.get();
            total.sent += counted.sent.get();
            for (sum, counter) in total.requests.iter_mut().zip(&counted.requests) {
                *sum += counter.get();
            }
        }
        for (flag, counter) in FLAGS.into_iter().zip(&self.flags) {
            let n = counter.get();
            match flags.iter_mut().find(|(known, _)| *known == flag) {
                Some((_, sum)) => *sum += n,
                None if n > 0 => flags.push((flag, n)),
                None => {}
            }
        }
        *upstream_connections += self.upstream_connections.get();
        *passed_on += self.passed_on.get();
        *retries += self.retries.get();
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counters.hops[self.hop.index()].closed.add(1);
    }
}

impl Record {
    /// Begins the record of a request.
    pub(super) fn request(counters: &Arc<Counters>, hop: Hop) -> Self {
        Self::new(counters, hop, false)
    }

    /// Begins the record of a relayed connection.
    pub(super) fn relay(counters: &Arc<Counters>, hop: Hop) -> Self {
        Self::new(counters, hop, true)
    }

    fn new(counters: &Arc<Counters>, hop: Hop, relayed: bool) -> Self {
        let wanted = tracing::enabled!(target: "access", tracing::Level::INFO);
        Self {
            counters: Arc::clone(counters),
            hop,
            started: wanted.then(Instant::now),
            relayed,
            status: 0,
            flags: Flags::default(),
            complete: false,
            sent: 0,
            received: Received::Known(0),
            line: wanted.then(Box::<Line>::default),
        }
    }

    /// The log line, where somebody wants one.
    pub(super) fn line(&mut self) -> Option<&mut Line> {
        self.line.as_deref_mut()
    }

    pub(super) fn status(&mut self, status: http::StatusCode) {
        self.status = status.as_u16();
    }

    /// Notes what was peculiar; the first peculiarity is the cause of the others.
    pub(super) fn flag(&mut self, flag: impl Into<Option<Flag>>) {
        if let Some(flag) = flag.into()
            && (flag.is_aside() || self.flags.has_no_cause())
        {
            self.flags.insert(flag);
        }
    }

    /// What has been noted so far.
    pub(super) fn flags(&self) -> Flags {
        self.flags
    }

    /// Everything went to the client. Without this the client counts as gone.
    pub(super) fn complete(&mut self) {
        self.complete = true;
    }

    fn received(&self) -> u64 {
        match &self.received {
            Received::Known(n) => *n,
            Received::Counting(n) => n.get(),
        }
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        if !self.complete {
            self.flag(Flag::ClientClosed);
        }
        let hop = &self.counters.hops[self.hop.index()];
        let received = self.received();
        hop.received.add(received);
        hop.sent.add(self.sent);
        if self.relayed {
            hop.relayed.add(1);
        } else {
            let class = usize::from(self.status / 100).min(5);
            hop.requests[class].add(1);
        }
        for flag in self.flags.iter() {
            self.counters.flags[flag.index()].add(1);
        }
        if let Some(line) = self.line.take() {
            self.log(&line, received);
        }
    }
}

impl Record {
    fn log(&self, line: &Line, received: u64) {
        let duration = self.started.map(|started| started.elapsed());
        let duration = duration.unwrap_or_default();
        let address = |address: Option<SocketAddr>| {
            address.map_or_else(|| "-".to_owned(), |address| address.to_string())
        };
        tracing::info!(
            target: "access",
            hop = %self.hop,
            method = line.method,
            path = line.path,
            protocol = line.protocol,
            status = self.status,
            flags = %self.flags,
            received,
            sent = self.sent,
            duration_ms = duration.as_millis() as u64,
            authority = line.authority,
            request_id = line.request_id,
            route = line.route.as_deref().unwrap_or("-"),
            cluster = line.cluster,
            upstream = address(line.upstream),
            failure = match line.failure.as_str() {
                "" => "-",
                failure => failure,
            },
            attempts = line.attempts,
            peer = address(line.peer),
            destination = address(line.destination),
        );
    }
}

impl Hop {
    fn index(self) -> usize {
        match self {
            Self::Outbound => 0,
            Self::Inbound => 1,
            Self::Gateway => 2,
        }
    }
}

impl Flag {
    /// As Envoy writes it.
    pub fn abbreviation(self) -> &'static str {
        match self {
            Self::Delayed => "DI",
            Self::Aborted => "FI",
            Self::NoRoute => "NR",
            Self::NoCluster => "NC",
            Self::NoEndpoint => "UH",
            Self::Overflow => "UO",
            Self::ConnectFailure => "UF",
            Self::UpstreamClosed => "UC",
            Self::UpstreamReset => "UR",
            Self::UpstreamProtocol => "UPE",
            Self::Timeout => "UT",
            Self::ClientClosed => "DC",
            Self::ClientProtocol => "DPE",
            Self::Idle => "SI",
            Self::RetriesExhausted => "URX",
            Self::Duration => "DT",
        }
    }

    /// Whether it says something beside what went wrong.
    fn is_aside(self) -> bool {
        matches!(self, Self::Delayed | Self::RetriesExhausted)
    }

    fn index(self) -> usize {
        self as usize
    }
}

impl Flags {
    fn insert(&mut self, flag: Flag) {
        self.0 |= 1 << flag.index();
    }

    fn has_no_cause(self) -> bool {
        self.iter().all(Flag::is_aside)
    }

    fn iter(self) -> impl Iterator<Item = Flag> {
        FLAGS
            .into_iter()
            .filter(move |flag| self.0 & (1 << flag.index()) != 0)
    }
}

impl fmt::Display for Flags {
    /// `UF,URX`; `-` where there is none.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("-");
        }
        for (index, flag) in self.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(f, "{comma}{}", flag.abbreviation())?;
        }
        Ok(())
    }
}

impl fmt::Display for Hop {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
            Self::Gateway => "gateway",
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            lines.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, act: impl FnOnce(&Arc<Counters>)) -> (String, Stats) {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let counters = Arc::<Counters>::default();
        tracing::subscriber::with_default(subscriber, || act(&counters));
        let mut stats = Stats::default();
        counters.add_to(&mut stats);
        let bytes = lines.0.lock().unwrap_or_else(PoisonError::into_inner);
        (String::from_utf8_lossy(&bytes).into_owned(), stats)
    }

    fn refused(counters: &Arc<Counters>) {
        let mut record = Record::request(counters, Hop::Gateway);
        if let Some(line) = record.line() {
            line.method = "GET".to_owned();
            line.path = "/a?b".to_owned();
            line.cluster = "outbound|80|v1|web".to_owned();
        }
        record.status(http::StatusCode::SERVICE_UNAVAILABLE);
        record.flag(Flag::NoEndpoint);
        record.flag(Flag::ClientClosed);
        record.complete();
    }

    #[test]
    fn says_what_became_of_a_request() {
        let (line, stats) = logged("access=info", refused);
        for part in [
            "access: ",
            "hop=gateway",
            "method=\"GET\" path=\"/a?b\"",
            "status=503 flags=UH",
            "cluster=\"outbound|80|v1|web\"",
        ] {
            assert!(line.contains(part), "{part} in {line}");
        }
        assert_eq!(stats.gateway.requests, [0, 0, 0, 0, 0, 1]);
        assert_eq!(stats.flags, [(Flag::NoEndpoint, 1)]);
        let (line, stats) = logged("access=warn", refused);
        assert_eq!(line, "");
        assert_eq!(stats.gateway.requests[5], 1);
    }

    #[test]
    fn says_what_else_was_peculiar() {
        let (line, stats) = logged("access=info", |counters| {
            let mut record = Record::request(counters, Hop::Outbound);
            record.flag(Flag::Delayed);
            record.flag(Flag::RetriesExhausted);
            record.flag(Flag::ConnectFailure);
            record.flag(Flag::ClientClosed);
        });
        assert!(line.contains("flags=DI,UF,URX"), "{line}");
        assert_eq!(
            stats.flags,
            [
                (Flag::Delayed, 1),
                (Flag::ConnectFailure, 1),
                (Flag::RetriesExhausted, 1)
            ]
        );
    }

    #[test]
    fn a_request_without_an_end_is_the_clients_doing() {
        let (line, stats) = logged("access=info", |counters| {
            drop(Record::request(counters, Hop::Inbound));
        });
        assert!(line.contains("status=0 flags=DC"), "{line}");
        assert_eq!(stats.inbound.requests[0], 1);
        assert_eq!(stats.flags, [(Flag::ClientClosed, 1)]);
    }
}
