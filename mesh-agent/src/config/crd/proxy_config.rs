//! `ProxyConfig` of `mesh.istio.io`, as the annotation `proxy.istio.io/config` has it: of it only what is read.

use serde::Deserialize;

use crate::config::crd::{Number, Present};

/// What the annotation has.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct ProxyConfig {
    pub gateway_topology: Option<GatewayTopology>,
}

/// `gatewayTopology`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct GatewayTopology {
    pub num_trusted_proxies: Option<Number<u32>>,
    pub forward_client_cert_details: Option<String>,
    pub proxy_protocol: Option<Present>,
}
