//! `DestinationRule` of `networking.istio.io`.
#![expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::crd::{Number, Port};

pub use crate::config::crd::destination_rule::balancer::{
    ConsistentHash, CookieAttribute, Distribute, Failover, HttpCookie, LoadBalancer,
    LocalityLbSetting, Maglev, RingHash, Warmup, ZoneAwareLbSetting,
};

mod balancer;

/// `DestinationRule.spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    pub host: String,
    pub traffic_policy: Option<TrafficPolicy>,
    pub subsets: Vec<Subset>,
    pub export_to: Vec<String>,
    pub workload_selector: Option<WorkloadSelector>,
}

/// `workloadSelector`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct WorkloadSelector {
    pub match_labels: BTreeMap<String, String>,
}

/// `subsets[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Subset {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub traffic_policy: Option<TrafficPolicy>,
}

/// `trafficPolicy`, of a rule or a subset.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TrafficPolicy {
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<Tls>,
    pub port_level_settings: Vec<PortPolicy>,
    pub tunnel: Option<Tunnel>,
    pub proxy_protocol: Option<ProxyProtocol>,
    pub retry_budget: Option<RetryBudget>,
}

/// `trafficPolicy.portLevelSettings[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct PortPolicy {
    pub port: Option<PolicyPort>,
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
    pub tls: Option<Tls>,
}

/// `portLevelSettings[].port`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct PolicyPort {
    pub number: Option<Port>,
}

/// `connectionPool`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConnectionPool {
    pub tcp: Option<TcpSettings>,
    pub http: Option<HttpSettings>,
}

/// `connectionPool.tcp`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct TcpSettings {
    pub max_connections: Option<Number<i32>>,
    pub connect_timeout: Option<String>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub max_connection_duration: Option<String>,
    pub idle_timeout: Option<String>,
}

/// `connectionPool.tcp.tcpKeepalive`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct TcpKeepalive {
    pub probes: Option<Number<u32>>,
    pub time: Option<String>,
    pub interval: Option<String>,
}

/// `connectionPool.http`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct HttpSettings {
    pub http1_max_pending_requests: Option<Number<i32>>,
    pub http2_max_requests: Option<Number<i32>>,
    pub max_requests_per_connection: Option<Number<i32>>,
    pub max_retries: Option<Number<i32>>,
    pub idle_timeout: Option<String>,
    pub h2_upgrade_policy: Option<String>,
    pub use_client_protocol: bool,
    pub max_concurrent_streams: Option<Number<i32>>,
    pub http2_keep_alive: Option<ConnectionKeepalive>,
}

/// `connectionPool.http.http2KeepAlive`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConnectionKeepalive {
    pub interval: Option<String>,
    pub timeout: Option<String>,
}

/// `outlierDetection`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct OutlierDetection {
    pub consecutive_errors: Option<Number<i32>>,
    pub split_external_local_origin_errors: bool,
    pub consecutive_local_origin_failures: Option<Number<u32>>,
    pub consecutive_gateway_errors: Option<Number<u32>>,
    pub consecutive_5xx_errors: Option<Number<u32>>,
    pub interval: Option<String>,
    pub base_ejection_time: Option<String>,
    pub max_ejection_percent: Option<Number<i32>>,
    pub min_health_percent: Option<Number<i32>>,
    pub outlier_detection_http_error_codes: Vec<Number<u32>>,
}

/// `tls` of a traffic policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Tls {
    pub mode: Option<String>,
    pub client_certificate: String,
    pub private_key: String,
    pub ca_certificates: String,
    pub credential_name: String,
    pub subject_alt_names: Vec<String>,
    pub sni: String,
    pub insecure_skip_verify: bool,
    pub ca_crl: String,
}

/// `tunnel`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Tunnel {
    pub protocol: String,
    pub target_host: String,
    pub target_port: Option<Port>,
}

/// `proxyProtocol`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ProxyProtocol {
    pub version: Option<String>,
}

/// `retryBudget`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RetryBudget {
    pub percent: Option<f64>,
    pub min_retry_concurrency: Option<Number<u32>>,
    pub budget_interval: Option<String>,
}
