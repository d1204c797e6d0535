//! `MeshConfig` of `mesh.istio.io`, as the ConfigMap `istio` has it: of it only what is read.
#![expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::crd::destination_rule::{
    ConnectionPool, LocalityLbSetting, OutlierDetection, TcpKeepalive,
};
use crate::config::crd::sidecar::OutboundTrafficPolicy;
use crate::config::crd::virtual_service::Retries;

/// A ConfigMap.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct ConfigMapBody {
    pub data: BTreeMap<String, String>,
}

/// What stands under `data.mesh`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct MeshConfigSpec {
    pub connect_timeout: Option<String>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    pub h2_upgrade_policy: Option<String>,
    pub default_http_retry_policy: Option<Retries>,
    pub default_traffic_policy: Option<DefaultTrafficPolicy>,
    pub locality_lb_setting: Option<LocalityLbSetting>,
    pub outbound_traffic_policy: Option<OutboundTrafficPolicy>,
    pub default_service_export_to: Vec<String>,
    pub default_virtual_service_export_to: Vec<String>,
    pub default_destination_rule_export_to: Vec<String>,
    pub root_namespace: Option<String>,
}

/// `defaultTrafficPolicy`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct DefaultTrafficPolicy {
    pub connection_pool: Option<ConnectionPool>,
    pub outlier_detection: Option<OutlierDetection>,
}
