//! `connectionPool`: the limits of one proxy for one cluster.

use std::time::Duration;

use crate::config::crd::Number;
use crate::config::crd::destination_rule::{
    ConnectionKeepalive, ConnectionPool as Written, HttpSettings, TcpKeepalive, TcpSettings,
};
use crate::config::object::duration;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{ConnectionPool, Keepalive, UpstreamHttp};

/// `connectionPool`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Pool {
    /// The limits; the retry budget is written elsewhere.
    pub limits: ConnectionPool,
    /// `h2UpgradePolicy` and `useClientProtocol`.
    pub http: UpstreamHttp,
    /// Whether `connectTimeout` is written; else the mesh's holds.
    pub has_connect_timeout: bool,
    /// `h2UpgradePolicy: DO_NOT_UPGRADE`: the mesh's does not hold.
    pub never_upgraded: bool,
}

/// Reads a pool.
pub(in crate::config::object) fn read(
    written: Written,
    path: &Path,
    problems: &mut Problems,
) -> Pool {
    let Written { tcp, http } = written;
    if tcp.is_none() && http.is_none() {
        problems.error(
            path,
            "this connection pool says nothing",
            "fill it, or remove it",
        );
    }
    let mut pool = Pool::default();
    if let Some(tcp) = tcp {
        pool.has_connect_timeout = tcp.connect_timeout.is_some();
        read_tcp(tcp, &mut pool.limits, &path.key("tcp"), problems);
    }
    if let Some(http) = http {
        read_http(http, &mut pool, &path.key("http"), problems);
    }
    pool
}

fn read_tcp(tcp: TcpSettings, limits: &mut ConnectionPool, path: &Path, problems: &mut Problems) {
    let TcpSettings {
        max_connections,
        connect_timeout,
        tcp_keepalive,
        max_connection_duration,
        idle_timeout,
    } = tcp;
    limits.max_connections = limit(max_connections, &path.key("maxConnections"), problems);
    if let Some(timeout) = time(connect_timeout, &path.key("connectTimeout"), problems) {
        limits.connect_timeout = timeout;
    }
    limits.keepalive = tcp_keepalive
        .map(|keepalive| read_keepalive(keepalive, &path.key("tcpKeepalive"), problems));
    let path_of_duration = path.key("maxConnectionDuration");
    limits.max_connection_duration = time(max_connection_duration, &path_of_duration, problems);
    let idle = match idle_timeout {
        // No limit at all, which is a duration here and nowhere else.
        Some(text) if duration::parse(&text) == Some(Duration::ZERO) => Some(Duration::ZERO),
        text => time(text, &path.key("idleTimeout"), problems),
    };
    if let Some(idle) = idle {
        limits.tcp_idle_timeout = idle;
        limits.http_idle_timeout = idle;
    }
}

/// Istio hands on whole seconds; less than one would be an error in the kernel.
pub(in crate::config::object) fn read_keepalive(
    written: TcpKeepalive,
    path: &Path,
    problems: &mut Problems,
) -> Keepalive {
    let TcpKeepalive {
        probes,
        time: idle,
        interval,
    } = written;
    let mut seconds = |text, name| {
        let duration = time(text, &path.key(name), problems)?;
        Some(Duration::from_secs(duration.as_secs().max(1)))
    };
    Keepalive {
        time: seconds(idle, "time"),
        interval: seconds(interval, "interval"),
        probes: probes
            .map(|Number(probes)| probes)
            .filter(|probes| *probes > 0),
    }
}

fn read_http(http: HttpSettings, pool: &mut Pool, path: &Path, problems: &mut Problems) {
    let HttpSettings {
        http1_max_pending_requests,
        http2_max_requests,
        max_requests_per_connection,
        max_retries,
        idle_timeout,
        h2_upgrade_policy,
        use_client_protocol,
        max_concurrent_streams,
        http2_keep_alive,
    } = http;
    let limits = &mut pool.limits;
    for (field, written, name) in [
        (
            &mut limits.max_pending_requests,
            http1_max_pending_requests,
            "http1MaxPendingRequests",
        ),
        (
            &mut limits.max_requests,
            http2_max_requests,
            "http2MaxRequests",
        ),
        (
            &mut limits.max_requests_per_connection,
            max_requests_per_connection,
            "maxRequestsPerConnection",
        ),
        (&mut limits.max_retries, max_retries, "maxRetries"),
        (
            &mut limits.max_concurrent_streams,
            max_concurrent_streams,
            "maxConcurrentStreams",
        ),
    ] {
        *field = limit(written, &path.key(name), problems);
    }
    if let Some(idle) = time(idle_timeout, &path.key("idleTimeout"), problems) {
        limits.http_idle_timeout = idle;
    }
    limits.http2_keepalive = http2_keep_alive
        .and_then(|written| read_http2_keepalive(written, &path.key("http2KeepAlive"), problems));
    pool.never_upgraded = h2_upgrade_policy.as_deref() == Some("DO_NOT_UPGRADE");
    pool.http = read_version(
        h2_upgrade_policy.as_deref(),
        use_client_protocol,
        path,
        problems,
    );
}

fn read_http2_keepalive(
    written: ConnectionKeepalive,
    path: &Path,
    problems: &mut Problems,
) -> Option<(Duration, Duration)> {
    let ConnectionKeepalive { interval, timeout } = written;
    let mut needed = |text: Option<String>, name: &str| {
        let path = path.key(name);
        if text.is_none() {
            problems.error(&path, format!("http2KeepAlive needs {name}"), "add it");
        }
        time(text, &path, problems)
    };
    let interval = needed(interval, "interval");
    let timeout = needed(timeout, "timeout");
    interval.zip(timeout)
}

fn read_version(
    upgrade: Option<&str>,
    as_client: bool,
    path: &Path,
    problems: &mut Problems,
) -> UpstreamHttp {
    match (upgrade, as_client) {
        (Some("UPGRADE"), true) => {
            problems.error(
                &path.key("useClientProtocol"),
                "useClientProtocol and h2UpgradePolicy: UPGRADE contradict each other",
                "keep one of them",
            );
            UpstreamHttp::AsClient
        }
        (None | Some("DEFAULT" | "DO_NOT_UPGRADE"), true) => UpstreamHttp::AsClient,
        (None | Some("DEFAULT" | "DO_NOT_UPGRADE"), false) => UpstreamHttp::AsDeclared,
        (Some("UPGRADE"), false) => UpstreamHttp::Http2,
        (Some(other), _) => {
            problems.error(
                &path.key("h2UpgradePolicy"),
                format!("\"{other}\" is no upgrade policy"),
                "write DEFAULT, DO_NOT_UPGRADE or UPGRADE",
            );
            UpstreamHttp::AsDeclared
        }
    }
}

/// A limit; 0 is none.
fn limit(written: Option<Number<i32>>, path: &Path, problems: &mut Problems) -> Option<u32> {
    let Number(number) = written?;
    let Ok(limit) = u32::try_from(number) else {
        problems.error(
            path,
            format!("the limit {number} is negative"),
            "write 1 or more, or leave it out",
        );
        return None;
    };
    (limit > 0).then_some(limit)
}

fn time(written: Option<String>, path: &Path, problems: &mut Problems) -> Option<Duration> {
    duration::read(&written?, path, problems)
}
