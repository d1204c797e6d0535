//! `Sidecar` of `networking.istio.io`.

use serde::Deserialize;

use crate::config::crd::destination_rule::ConnectionPool;
use crate::config::crd::service_entry::WorkloadSelector;
use crate::config::crd::virtual_service::Destination;
use crate::config::crd::{Port, Present};

/// `Sidecar.spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct SidecarSpec {
    pub workload_selector: Option<WorkloadSelector>,
    pub ingress: Vec<Ingress>,
    pub egress: Vec<Egress>,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    pub inbound_connection_pool: Option<ConnectionPool>,
}

/// `ingress[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct Ingress {
    pub port: Option<SidecarPort>,
    pub bind: String,
    pub capture_mode: Option<String>,
    pub default_endpoint: String,
    pub tls: Option<Present>,
    pub connection_pool: Option<ConnectionPool>,
}

/// `egress[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct Egress {
    pub port: Option<SidecarPort>,
    pub bind: String,
    pub capture_mode: Option<String>,
    pub hosts: Vec<String>,
}

/// `port` of both.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct SidecarPort {
    pub number: Option<Port>,
    pub protocol: String,
    pub name: String,
    pub target_port: Option<Port>,
}

/// `outboundTrafficPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct OutboundTrafficPolicy {
    pub mode: Option<String>,
    pub egress_proxy: Option<Destination>,
}
