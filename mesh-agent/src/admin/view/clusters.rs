//! Clusters as JSON: endpoints, and the policy that holds for them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::routes::{compact, duration, flag};
use crate::model::{
    Balancer, ClientTls, Cluster, ConnectionPool, Credential, Discovery, Endpoint, Failover,
    HashKey, LocalityPolicy, NamedEndpoint, OutlierDetection, ProxyProtocol, Ring, TrafficPolicy,
    UpstreamHttp,
};

/// One cluster.
pub fn cluster(cluster: &Cluster) -> Value {
    let named = |named: &NamedEndpoint| json!(format!("{}:{}", named.name, named.port));
    let (discovery, names): (_, Value) = match &cluster.discovery {
        Discovery::Listed => ("LISTED", Value::Null),
        Discovery::Headless => ("HEADLESS", Value::Null),
        Discovery::Original => ("ORIGINAL_DST", Value::Null),
        Discovery::Dns {
            names,
            every_address,
        } => {
            let kind = match every_address {
                true => "STRICT_DNS",
                false => "LOGICAL_DNS",
            };
            (kind, names.iter().map(named).collect())
        }
    };
    compact([
        ("name", json!(cluster.key.to_string())),
        ("protocol", json!(format!("{:?}", cluster.protocol))),
        ("discovery", json!(discovery)),
        ("names", names),
        // Shown even where there is none: that is what one looks for.
        ("endpoint_count", json!(cluster.endpoints.len())),
        (
            "endpoints",
            cluster.endpoints.iter().map(endpoint).collect(),
        ),
        ("policy", policy(&cluster.policy)),
    ])
}

fn endpoint(endpoint: &Endpoint) -> Value {
    compact([
        ("address", json!(endpoint.address)),
        ("pod", json!(endpoint.pod.as_ref().map(ToString::to_string))),
        (
            "locality",
            json!(endpoint.locality.as_ref().map(ToString::to_string)),
        ),
        (
            "weight",
            match endpoint.weight {
                1 => Value::Null,
                weight => json!(weight),
            },
        ),
    ])
}

fn policy(policy: &TrafficPolicy) -> Value {
    let TrafficPolicy {
        balancer,
        // The balancer tells of its key; the routes' are told with the routes.
        hash: _,
        locality,
        node_local,
        pool,
        outliers,
        tls,
        proxy_protocol,
        http,
    } = policy;
    compact([
        ("loadBalancer", self::balancer(balancer)),
        ("locality", self::locality(locality)),
        ("internalTrafficPolicyLocal", flag(*node_local)),
        ("connectionPool", self::pool(pool)),
        (
            "outlierDetection",
            outliers.as_ref().map_or(Value::Null, self::outliers),
        ),
        ("tls", tls.as_deref().map_or(Value::Null, self::tls)),
        (
            "proxyProtocol",
            match proxy_protocol {
                None => Value::Null,
                Some(ProxyProtocol::V1) => json!("V1"),
                Some(ProxyProtocol::V2) => json!("V2"),
            },
        ),
        (
            "http",
            match http {
                UpstreamHttp::AsDeclared => Value::Null,
                UpstreamHttp::Http2 => json!("UPGRADE"),
                UpstreamHttp::AsClient => json!("useClientProtocol"),
            },
        ),
    ])
}

fn balancer(balancer: &Balancer) -> Value {
    let (name, warmup) = match balancer {
        Balancer::LeastRequest { warmup } => ("LEAST_REQUEST", *warmup),
        Balancer::RoundRobin { warmup } => ("ROUND_ROBIN", *warmup),
        Balancer::Random => ("RANDOM", None),
        Balancer::Hash { key, ring } => return hash(key, *ring),
    };
    compact([
        ("simple", json!(name)),
        ("warmup", duration(warmup.map(|warmup| warmup.duration))),
    ])
}

fn hash(key: &HashKey, ring: Ring) -> Value {
    let key = match key {
        HashKey::Header(name) => json!({ "httpHeaderName": name.as_str() }),
        HashKey::Cookie { name, .. } => json!({ "httpCookie": name }),
        HashKey::SourceAddress => json!({ "useSourceIp": true }),
        HashKey::QueryParameter(name) => json!({ "httpQueryParameterName": name }),
    };
    let ring = match ring {
        Ring::RingHash { minimum_size } => json!({ "ringHash": minimum_size }),
        Ring::Maglev { table_size } => json!({ "maglev": table_size }),
    };
    json!({ "consistentHash": key, "algorithm": ring })
}

fn locality(policy: &LocalityPolicy) -> Value {
    match policy {
        LocalityPolicy::Off => Value::Null,
        LocalityPolicy::Failover(Failover::Regions(regions)) => {
            json!({ "failover": self::regions(regions) })
        }
        LocalityPolicy::Failover(Failover::Labels(labels)) => {
            json!({ "failoverPriority": priorities(labels) })
        }
        LocalityPolicy::Failover(Failover::LabelsThenRegions { labels, regions }) => {
            json!({ "failoverPriority": priorities(labels), "failover": self::regions(regions) })
        }
        LocalityPolicy::Distribute(shares) => {
            let shares = shares
                .iter()
                .map(|share| json!({ "from": share.from, "to": share.to }));
            json!({ "distribute": shares.collect::<Value>() })
        }
    }
}

fn regions(pairs: &[(Arc<str>, Arc<str>)]) -> Value {
    let pairs = pairs
        .iter()
        .map(|(from, to)| json!({ "from": from, "to": to }));
    pairs.collect()
}

fn priorities(labels: &[(Arc<str>, Option<Arc<str>>)]) -> Value {
    let labels = labels.iter().map(|(key, value)| match value {
        Some(value) => json!(format!("{key}={value}")),
        None => json!(key),
    });
    labels.collect()
}

/// What differs from the defaults.
fn pool(pool: &ConnectionPool) -> Value {
    let usual = ConnectionPool::default();
    let changed = |value, usual| duration((value != usual).then_some(value));
    let ConnectionPool {
        max_connections,
        connect_timeout,
        keepalive,
        max_connection_duration,
        tcp_idle_timeout,
        http_idle_timeout,
        max_pending_requests,
        max_requests,
        max_retries,
        max_requests_per_connection,
        max_concurrent_streams,
        http2_keepalive,
        retry_budget,
    } = pool;
    compact([
        ("maxConnections", json!(max_connections)),
        (
            "connectTimeout",
            changed(*connect_timeout, usual.connect_timeout),
        ),
        ("tcpKeepalive", flag(keepalive.is_some())),
        ("http2KeepAlive", flag(http2_keepalive.is_some())),
        ("maxConnectionDuration", duration(*max_connection_duration)),
        (
            "tcpIdleTimeout",
            changed(*tcp_idle_timeout, usual.tcp_idle_timeout),
        ),
        (
            "httpIdleTimeout",
            changed(*http_idle_timeout, usual.http_idle_timeout),
        ),
        ("http1MaxPendingRequests", json!(max_pending_requests)),
        ("http2MaxRequests", json!(max_requests)),
        ("maxRetries", json!(max_retries)),
        (
            "maxRequestsPerConnection",
            json!(max_requests_per_connection),
        ),
        ("maxConcurrentStreams", json!(max_concurrent_streams)),
        ("retryBudget", json!(retry_budget)),
    ])
}

fn outliers(outliers: &OutlierDetection) -> Value {
    let OutlierDetection {
        consecutive_5xx,
        consecutive_gateway,
        consecutive_local,
        codes,
        interval,
        base_ejection_time,
        max_ejection_percent,
        min_health_percent,
    } = outliers;
    compact([
        ("consecutive5xxErrors", json!(consecutive_5xx)),
        ("consecutiveGatewayErrors", json!(consecutive_gateway)),
        ("consecutiveLocalOriginFailures", json!(consecutive_local)),
        ("codes", json!(codes)),
        ("interval", duration(Some(*interval))),
        ("baseEjectionTime", duration(Some(*base_ejection_time))),
        ("maxEjectionPercent", json!(max_ejection_percent)),
        ("minHealthPercent", json!(min_health_percent)),
    ])
}

fn tls(tls: &ClientTls) -> Value {
    let ClientTls {
        certificate,
        verification,
        server_name,
        bears_host: _,
    } = tls;
    compact([
        (
            "certificate",
            certificate.as_ref().map_or(Value::Null, credential),
        ),
        ("insecureSkipVerify", flag(verification.is_none())),
        (
            "caCertificates",
            verification
                .as_ref()
                .and_then(|verification| verification.roots.as_ref())
                .map_or(Value::Null, credential),
        ),
        (
            "subjectAltNames",
            json!(
                verification
                    .as_ref()
                    .map(|verification| &verification.names)
            ),
        ),
        ("sni", json!(server_name)),
    ])
}

/// Where key material comes from; never the material.
pub(super) fn credential<T>(credential: &Credential<T>) -> Value {
    match credential {
        Credential::Given(_) => json!("from a Secret"),
        Credential::Files(files) => json!(files),
        Credential::Missing(why) => json!(format!("missing: {why}")),
    }
}
