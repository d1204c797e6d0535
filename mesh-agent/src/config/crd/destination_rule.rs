//! `DestinationRule` of `networking.istio.io`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::crd::{Port, Present};

/// `DestinationRule.spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct DestinationRuleSpec {
    pub host: String,
    pub traffic_policy: Option<TrafficPolicy>,
    pub subsets: Vec<Subset>,
    pub export_to: Vec<String>,
    pub workload_selector: Option<Present>,
}

/// `subsets[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct Subset {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub traffic_policy: Option<TrafficPolicy>,
}

/// `trafficPolicy`, of a rule or a subset.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct TrafficPolicy {
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<Present>,
    pub outlier_detection: Option<Present>,
    pub tls: Option<Tls>,
    pub port_level_settings: Vec<PortPolicy>,
    pub tunnel: Option<Present>,
    pub proxy_protocol: Option<Present>,
    pub retry_budget: Option<Present>,
}

/// `trafficPolicy.portLevelSettings[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct PortPolicy {
    pub port: Option<PolicyPort>,
    pub load_balancer: Option<LoadBalancer>,
    pub connection_pool: Option<Present>,
    pub outlier_detection: Option<Present>,
    pub tls: Option<Tls>,
}

/// `portLevelSettings[].port`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct PolicyPort {
    pub number: Option<Port>,
}

/// `loadBalancer`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct LoadBalancer {
    pub simple: Option<String>,
    pub consistent_hash: Option<Present>,
    pub locality_lb_setting: Option<Present>,
    pub zone_aware_lb_setting: Option<Present>,
    pub warmup_duration_secs: Option<Present>,
    pub warmup: Option<Present>,
}

/// `tls` of a traffic policy.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct Tls {
    pub mode: Option<String>,
    pub client_certificate: Option<Present>,
    pub private_key: Option<Present>,
    pub ca_certificates: Option<Present>,
    pub credential_name: Option<Present>,
    pub subject_alt_names: Option<Present>,
    pub sni: Option<Present>,
    pub insecure_skip_verify: Option<Present>,
    pub ca_crl: Option<Present>,
}
