//! Clusters, with what DestinationRules say of them.

use serde_json::{Value, json};

use super::super::scenery::SERVICES;
use super::action::seconds;
use super::tls;
use super::view::{View, array, map};

/// The cluster of a name, where it exists: of a Service's port, and of a subset that is declared.
pub fn cluster(view: &View<'_>, name: &str) -> Option<Value> {
    let mut parts = name.strip_prefix(view.prefix)?.split('|').skip(2);
    let (port, subset, host) = (parts.next()?, parts.next()?, parts.next()?);
    let number: u16 = port.parse().ok()?;
    let service = SERVICES.iter().find(|service| service.fqdn() == host)?;
    let (port_name, _, target) = service.ports.iter().find(|(_, port, _)| *port == number)?;
    let rule = view.rule(service);
    let subset = (!subset.is_empty()).then_some(subset);
    let mut wanted = Vec::new();
    if let Some(subset) = subset {
        let all = array(&rule?["spec"]["subsets"]);
        let declared = all.iter().find(|own| own["name"] == subset)?;
        wanted = map(&declared["labels"]);
    }
    let endpoints: Vec<Value> = service
        .pods()
        .filter(|pod| {
            wanted.iter().all(|(key, value)| {
                let value = value.as_str().unwrap_or_default();
                pod.labels.contains(&(key.as_str(), value))
            })
        })
        .map(|pod| {
            let health = if pod.ready { "HEALTHY" } else { "UNHEALTHY" };
            let ip = pod.ip(view.place.family);
            let address = json!({"socket_address": {"address": ip, "port_value": target}});
            json!({"endpoint": {"address": address}, "health_status": health})
        })
        .collect();
    let nothing = Value::Null;
    let policy = rule.map_or(nothing, |rule| policy(rule, subset, number));
    let pool = &policy["connectionPool"];
    let mut made = json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": pool["tcp"]["connectTimeout"].as_str().and_then(seconds).unwrap_or("10s".to_owned()),
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": endpoints}]},
        "circuit_breakers": {"thresholds": [{
            "max_connections": limit(&pool["tcp"]["maxConnections"]),
            "max_pending_requests": limit(&pool["http"]["http1MaxPendingRequests"]),
            "max_requests": limit(&pool["http"]["http2MaxRequests"]),
            "max_retries": limit(&pool["http"]["maxRetries"]),
        }]},
        // Istio leaves the window at a second, and so do two ejections in it wait for its end: no test waits so long.
        "common_lb_config": {"healthy_panic_threshold": {}, "update_merge_window": "0s"},
    });
    balancer(&policy["loadBalancer"], &mut made);
    if !policy["outlierDetection"].is_null() {
        made["outlier_detection"] = outlier(&policy["outlierDetection"]);
    }
    let http2 = port_name.starts_with("http2")
        || port_name.starts_with("grpc")
        || pool["http"]["h2UpgradePolicy"] == "UPGRADE";
    let mut options = json!({
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    });
    if pool["http"]["useClientProtocol"] == true {
        options["use_downstream_protocol_config"] =
            json!({"http_protocol_options": {}, "http2_protocol_options": {}});
    } else if http2 {
        options["explicit_http_config"] = json!({"http2_protocol_options": {}});
    } else {
        options["explicit_http_config"] = json!({"http_protocol_options": {}});
    }
    if let Some(count) = pool["http"]["maxRequestsPerConnection"].as_u64() {
        options["common_http_protocol_options"] = json!({"max_requests_per_connection": count});
    }
    if let Some((socket, automatic)) = tls::originated(view, &policy["tls"], http2) {
        made["transport_socket"] = socket;
        options["upstream_http_protocol_options"] = automatic;
    }
    made["typed_extension_protocol_options"] =
        json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": options});
    Some(made)
}

/// The policy that holds for a subset and a port.
pub fn policy(rule: &Value, subset: Option<&str>, port: u16) -> Value {
    const BLOCKS: [&str; 4] = ["loadBalancer", "connectionPool", "outlierDetection", "tls"];
    let of_port = |policy: &Value| {
        let levels = array(&policy["portLevelSettings"]);
        let own = levels.iter().find(|level| level["port"]["number"] == port);
        own.cloned()
    };
    let top = &rule["spec"]["trafficPolicy"];
    let mut merged = of_port(top).unwrap_or_else(|| top.clone());
    let subsets = array(&rule["spec"]["subsets"]);
    if let Some(own) = subsets
        .iter()
        .find(|own| own["name"].as_str() == subset && subset.is_some())
    {
        let own = &own["trafficPolicy"];
        if let Some(level) = of_port(own) {
            merged = level;
        } else if !own.is_null() {
            if !merged.is_object() {
                merged = json!({});
            }
            for block in BLOCKS {
                if !own[block].is_null() {
                    merged[block] = own[block].clone();
                }
            }
        }
    }
    merged
}

fn limit(value: &Value) -> u64 {
    value
        .as_u64()
        .filter(|limit| *limit > 0)
        .unwrap_or(u64::from(u32::MAX))
}

fn balancer(balancer: &Value, made: &mut Value) {
    let hash = &balancer["consistentHash"];
    let policy = match balancer["simple"].as_str() {
        Some("ROUND_ROBIN") => "ROUND_ROBIN",
        Some("RANDOM") => "RANDOM",
        _ if !hash["maglev"].is_null() => "MAGLEV",
        _ if !hash.is_null() => "RING_HASH",
        _ => "LEAST_REQUEST",
    };
    made["lb_policy"] = json!(policy);
    if policy == "RING_HASH" {
        made["ring_hash_lb_config"] = json!({"minimum_ring_size": 1024});
    }
}

fn outlier(detection: &Value) -> Value {
    let mut made = json!({
        "enforcing_success_rate": 0,
        "enforcing_consecutive_gateway_failure": 0,
    });
    if !detection["consecutive5xxErrors"].is_null() {
        let count = detection["consecutive5xxErrors"].as_u64().unwrap_or(0);
        made["consecutive_5xx"] = json!(count);
        made["enforcing_consecutive_5xx"] = json!(if count > 0 { 100 } else { 0 });
    }
    if !detection["consecutiveGatewayErrors"].is_null() {
        let count = detection["consecutiveGatewayErrors"].as_u64().unwrap_or(0);
        made["consecutive_gateway_failure"] = json!(count);
        made["enforcing_consecutive_gateway_failure"] = json!(if count > 0 { 100 } else { 0 });
    }
    for (from, to) in [
        ("interval", "interval"),
        ("baseEjectionTime", "base_ejection_time"),
    ] {
        if let Some(length) = detection[from].as_str().and_then(seconds) {
            made[to] = json!(length);
        }
    }
    if !detection["maxEjectionPercent"].is_null() {
        made["max_ejection_percent"] = detection["maxEjectionPercent"].clone();
    }
    made
}
