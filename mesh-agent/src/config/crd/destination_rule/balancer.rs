//! `loadBalancer` of a traffic policy.
#![expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::crd::Number;

/// `loadBalancer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoadBalancer {
    pub simple: Option<String>,
    pub consistent_hash: Option<ConsistentHash>,
    pub locality_lb_setting: Option<LocalityLbSetting>,
    pub zone_aware_lb_setting: Option<ZoneAwareLbSetting>,
    pub warmup_duration_secs: Option<String>,
    pub warmup: Option<Warmup>,
}

/// `consistentHash`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ConsistentHash {
    pub http_header_name: Option<String>,
    pub http_cookie: Option<HttpCookie>,
    pub use_source_ip: Option<bool>,
    pub http_query_parameter_name: Option<String>,
    pub ring_hash: Option<RingHash>,
    pub maglev: Option<Maglev>,
    pub minimum_ring_size: Option<Number<u64>>,
}

/// `consistentHash.httpCookie`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct HttpCookie {
    pub name: String,
    pub path: Option<String>,
    pub ttl: Option<String>,
    pub attributes: Vec<CookieAttribute>,
}

/// `consistentHash.httpCookie.attributes[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct CookieAttribute {
    pub name: String,
    pub value: String,
}

/// `consistentHash.ringHash`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct RingHash {
    pub minimum_ring_size: Option<Number<u64>>,
}

/// `consistentHash.maglev`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Maglev {
    pub table_size: Option<Number<u64>>,
}

/// `warmup`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Warmup {
    pub duration: Option<String>,
    pub minimum_percent: Option<f64>,
    pub aggression: Option<f64>,
}

/// `localityLbSetting`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LocalityLbSetting {
    pub distribute: Vec<Distribute>,
    pub failover: Vec<Failover>,
    pub failover_priority: Vec<String>,
    pub enabled: Option<bool>,
}

/// `distribute[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Distribute {
    pub from: String,
    pub to: BTreeMap<String, Number<u32>>,
}

/// `failover[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Failover {
    pub from: String,
    pub to: String,
}

/// `zoneAwareLbSetting`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct ZoneAwareLbSetting {
    pub enabled: Option<bool>,
    pub failover: Vec<Failover>,
    pub failover_priority: Vec<String>,
    pub min_cluster_size: Option<Number<u64>>,
}
