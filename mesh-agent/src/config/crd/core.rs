//! `Service`, `Pod`, `EndpointSlice` and `Secret`: the fields that the mesh reads. All others are ignored, as the API server knows
//! them and the mesh need not.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::crd::{Number, Port, Present};

/// `metadata` of any object.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct Metadata {
    pub name: String,
    pub namespace: String,
    pub uid: Option<String>,
    pub labels: BTreeMap<String, String>,
    pub annotations: BTreeMap<String, String>,
    pub creation_timestamp: Option<String>,
    pub deletion_timestamp: Option<Present>,
}

/// A port by number or by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(
    untagged,
    expecting = "is neither a port number nor the name of a port"
)]
#[expect(missing_docs, reason = "as the type says")]
pub enum NumberOrName {
    Number(u16),
    Name(String),
}

/// `Service.spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct ServiceSpec {
    pub r#type: String,
    pub selector: BTreeMap<String, String>,
    #[serde(rename = "clusterIP")]
    pub cluster_ip: String,
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Vec<String>,
    pub ports: Vec<ServicePort>,
    pub ip_families: Vec<String>,
    pub publish_not_ready_addresses: bool,
    pub internal_traffic_policy: String,
    pub traffic_distribution: String,
    pub external_name: String,
}

/// `Service.spec.ports[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct ServicePort {
    pub name: String,
    pub protocol: String,
    pub app_protocol: Option<String>,
    pub port: Option<Port>,
    pub target_port: Option<NumberOrName>,
}

/// `Pod.spec`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct PodSpec {
    pub node_name: String,
    pub host_network: bool,
    pub containers: Vec<Container>,
    pub init_containers: Vec<Container>,
    pub security_context: SecurityContext,
}

/// `securityContext`, of a Pod or a container.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct SecurityContext {
    pub run_as_user: Option<Number<i64>>,
}

/// `Pod.spec.containers[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct Container {
    pub name: String,
    pub security_context: SecurityContext,
    pub ports: Vec<ContainerPort>,
}

/// `Pod.spec.containers[].ports[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct ContainerPort {
    pub name: String,
    pub container_port: Option<Port>,
    pub protocol: String,
}

/// `Pod.status`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct PodStatus {
    pub phase: String,
    #[serde(rename = "podIP")]
    pub pod_ip: String,
    #[serde(rename = "podIPs")]
    pub pod_ips: Vec<PodIp>,
    pub conditions: Vec<Condition>,
}

/// `Pod.status.podIPs[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct PodIp {
    pub ip: String,
}

/// `Pod.status.conditions[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct Condition {
    pub r#type: String,
    pub status: String,
}

/// What an `EndpointSlice` has beside its metadata.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct EndpointSliceBody {
    pub address_type: String,
    pub endpoints: Vec<Endpoint>,
    pub ports: Vec<EndpointPort>,
}

/// `endpoints[]`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct Endpoint {
    pub addresses: Vec<String>,
    pub conditions: EndpointConditions,
    pub node_name: String,
    pub zone: String,
    pub target_ref: Option<TargetRef>,
}

/// `endpoints[].conditions`.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct EndpointConditions {
    pub ready: Option<bool>,
    pub terminating: Option<bool>,
}

/// `endpoints[].targetRef`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct TargetRef {
    pub kind: String,
    pub name: String,
    pub namespace: String,
}

/// `ports[]` of an `EndpointSlice`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct EndpointPort {
    pub name: String,
    pub protocol: String,
    pub port: Option<Number<u32>>,
}

/// What a `Secret` has beside its metadata. It has no `Debug`, so that what is in it gets nowhere.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
#[expect(
    missing_docs,
    reason = "the names are Kubernetes', and so is what they mean"
)]
pub struct SecretBody {
    pub r#type: String,
    pub data: BTreeMap<String, Option<String>>,
    pub string_data: BTreeMap<String, Option<String>>,
}
