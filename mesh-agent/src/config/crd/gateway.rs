//! `Gateway` of `networking.istio.io`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::crd::{Port, Present};

/// `Gateway.spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct GatewaySpec {
    pub servers: Vec<Server>,
    pub selector: BTreeMap<String, String>,
}

/// `servers[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct Server {
    pub port: Option<ServerPort>,
    pub bind: Option<String>,
    pub hosts: Vec<String>,
    pub tls: Option<ServerTls>,
    pub default_endpoint: Option<Present>,
    pub name: Option<String>,
}

/// `servers[].port`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct ServerPort {
    pub number: Option<Port>,
    pub protocol: String,
    pub name: String,
    pub target_port: Option<Port>,
}

/// `servers[].tls`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct ServerTls {
    pub https_redirect: bool,
    pub mode: Option<String>,
    pub server_certificate: Option<Present>,
    pub private_key: Option<Present>,
    pub ca_certificates: Option<Present>,
    pub ca_crl: Option<Present>,
    pub credential_name: Option<Present>,
    pub credential_names: Option<Present>,
    pub ca_cert_credential_name: Option<Present>,
    pub tls_certificates: Option<Present>,
    pub subject_alt_names: Option<Present>,
    pub verify_certificate_spki: Option<Present>,
    pub verify_certificate_hash: Option<Present>,
    pub min_protocol_version: Option<Present>,
    pub max_protocol_version: Option<Present>,
    pub cipher_suites: Option<Present>,
}
