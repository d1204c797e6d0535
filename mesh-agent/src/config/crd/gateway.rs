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
    pub mode: String,
    pub server_certificate: String,
    pub private_key: String,
    pub ca_certificates: String,
    pub ca_crl: String,
    pub credential_name: String,
    pub credential_names: Vec<String>,
    pub ca_cert_credential_name: String,
    pub tls_certificates: Vec<TlsCertificate>,
    pub subject_alt_names: Vec<String>,
    pub verify_certificate_spki: Vec<String>,
    pub verify_certificate_hash: Vec<String>,
    pub min_protocol_version: String,
    pub max_protocol_version: String,
    pub cipher_suites: Vec<String>,
    pub insecure_skip_verify: bool,
}

/// `servers[].tls.tlsCertificates[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct TlsCertificate {
    pub server_certificate: String,
    pub private_key: String,
    pub ca_certificates: String,
}
