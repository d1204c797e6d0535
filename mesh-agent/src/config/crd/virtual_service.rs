//! `VirtualService` of `networking.istio.io`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::crd::{Number, Port, Present, StringMatch};

/// `VirtualService.spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct VirtualServiceSpec {
    pub hosts: Vec<String>,
    pub gateways: Vec<String>,
    pub http: Vec<HttpRoute>,
    pub tls: Vec<Present>,
    pub tcp: Vec<Present>,
    pub export_to: Vec<String>,
}

/// `http[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct HttpRoute {
    pub name: String,
    pub r#match: Vec<HttpMatch>,
    pub route: Vec<RouteDestination>,
    pub redirect: Option<Present>,
    pub direct_response: Option<Present>,
    pub delegate: Option<Present>,
    pub rewrite: Option<Rewrite>,
    pub timeout: Option<String>,
    pub retries: Option<Retries>,
    pub fault: Option<Present>,
    pub mirror: Option<Present>,
    pub mirrors: Vec<Present>,
    pub mirror_percent: Option<Present>,
    pub mirror_percentage: Option<Present>,
    pub cors_policy: Option<Present>,
    pub headers: Option<Present>,
}

/// `http[].match[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct HttpMatch {
    pub name: String,
    pub uri: Option<StringMatch>,
    pub scheme: Option<StringMatch>,
    pub method: Option<StringMatch>,
    pub authority: Option<StringMatch>,
    pub headers: BTreeMap<String, Option<StringMatch>>,
    pub without_headers: BTreeMap<String, Option<StringMatch>>,
    pub query_params: BTreeMap<String, Option<StringMatch>>,
    pub port: Option<Port>,
    pub source_labels: BTreeMap<String, String>,
    pub source_namespace: String,
    pub gateways: Vec<String>,
    pub ignore_uri_case: bool,
    pub stat_prefix: String,
}

/// `http[].route[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct RouteDestination {
    pub destination: Option<Destination>,
    pub weight: Option<Number<i32>>,
    pub headers: Option<Present>,
}

/// `destination`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct Destination {
    pub host: String,
    pub subset: String,
    pub port: Option<PortSelector>,
}

/// `destination.port`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct PortSelector {
    pub number: Option<Port>,
}

/// `http[].rewrite`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct Rewrite {
    pub uri: String,
    pub authority: String,
    pub uri_regex_rewrite: Option<Present>,
}

/// `http[].retries`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Istio's, and so is what they mean"
)]
pub struct Retries {
    pub attempts: Option<Number<i32>>,
    pub per_try_timeout: Option<Present>,
    pub retry_on: Option<Present>,
    pub retry_remote_localities: Option<Present>,
    pub retry_ignore_previous_hosts: Option<Present>,
    pub backoff: Option<Present>,
}
