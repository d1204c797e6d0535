//! What is kept of an object of the API server, and the tree that it is read from. Pure.

use std::sync::Arc;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Map, Value as Json, json};

use crate::config::kube::herald::CONDITION;
use crate::config::object::Kind;
use crate::config::yaml::{Key, Location, Node, Value};

/// Annotations that repeat the whole object; nobody reads them here.
const REPEATING: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The labels of a node in the endpoints of `discovery.k8s.io/v1beta1`.
const HOSTNAME: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

/// An object as it would be written, without what the mesh has no use for. `data` is what it has beside its metadata.
pub(super) fn lean(kind: Kind, metadata: ObjectMeta, data: Json) -> Json {
    let mut fields = match data {
        Json::Object(fields) => fields,
        Json::Null | Json::Bool(_) | Json::Number(_) | Json::String(_) | Json::Array(_) => {
            Map::new()
        }
    };
    let ObjectMeta {
        name,
        namespace,
        uid,
        resource_version,
        labels,
        annotations,
        creation_timestamp,
        deletion_timestamp,
        ..
    } = metadata;
    let mut annotations = annotations.unwrap_or_default();
    annotations.remove(REPEATING);
    fields.insert(
        "metadata".to_owned(),
        without_nulls(json!({
            "name": name,
            "namespace": namespace,
            "uid": uid,
            "resourceVersion": resource_version,
            "labels": labels,
            "annotations": annotations,
            "creationTimestamp": creation_timestamp,
            "deletionTimestamp": deletion_timestamp,
        })),
    );
    match kind {
        // Its conditions are what we and others say about it.
        Kind::VirtualService
        | Kind::DestinationRule
        | Kind::Gateway
        | Kind::ServiceEntry
        | Kind::WorkloadEntry
        | Kind::Sidecar
        | Kind::Service
        | Kind::Namespace => {
            let status = fields.remove("status");
            if status.is_some_and(|status| is_marked(&status)) {
                let ours = json!({"conditions": [{"type": CONDITION}]});
                fields.insert("status".to_owned(), ours);
            }
        }
        Kind::EndpointSlice => {
            if let Some(Json::Array(endpoints)) = fields.get_mut("endpoints") {
                endpoints.iter_mut().for_each(place_endpoint);
            }
        }
        Kind::Pod
        | Kind::Node
        | Kind::Secret
        | Kind::AuthorizationPolicy
        | Kind::PeerAuthentication
        | Kind::RequestAuthentication
        | Kind::Telemetry => {}
    }
    Json::Object(fields)
}

/// Whether a status has a condition of ours.
pub(super) fn is_marked(status: &Json) -> bool {
    let conditions = status.get("conditions").and_then(Json::as_array);
    let mut conditions = conditions.into_iter().flatten();
    conditions.any(|condition| condition["type"] == CONDITION)
}

/// An endpoint of `v1beta1` says where it is in a map of labels, one of `v1` in fields.
fn place_endpoint(endpoint: &mut Json) {
    let Json::Object(fields) = endpoint else {
        return;
    };
    let Some(Json::Object(mut topology)) = fields.remove("topology") else {
        return;
    };
    for (label, field) in [(HOSTNAME, "nodeName"), (ZONE, "zone")] {
        if let Some(value) = topology.remove(label) {
            fields.entry(field).or_insert(value);
        }
    }
}

fn without_nulls(mut value: Json) -> Json {
    if let Json::Object(fields) = &mut value {
        fields.retain(|_, value| !value.is_null());
    }
    value
}

/// The tree of an object that was not written in any file: nothing in it has a place.
pub(super) fn node(json: &Json) -> Node {
    let at = Location::default();
    let value = match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Bool(*value),
        Json::Number(number) => number_of(number),
        Json::String(text) => Value::String(text.as_str().into()),
        Json::Array(items) => Value::Sequence(items.iter().map(node).collect()),
        Json::Object(fields) => {
            let entries = fields.iter().map(|(name, value)| {
                let name: Arc<str> = name.as_str().into();
                (Key { name, at, end: at }, node(value))
            });
            Value::Mapping(entries.collect())
        }
    };
    Node { at, end: at, value }
}

fn number_of(number: &serde_json::Number) -> Value {
    let whole = number.as_i64().map(i128::from);
    match whole.or_else(|| number.as_u64().map(i128::from)) {
        Some(whole) => Value::Integer(whole),
        None => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metadata(json: Json) -> ObjectMeta {
        serde_json::from_value(json).expect("metadata")
    }

    #[test]
    fn what_repeats_the_object_is_left_out() {
        let written = metadata(json!({
            "name": "a", "namespace": "n", "resourceVersion": "7", "generation": 3,
            "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {}}}],
            "annotations": {REPEATING: "{}", "mine": "1"},
            "creationTimestamp": "2026-01-02T03:04:05Z",
        }));
        let data = json!({"spec": {"hosts": ["a"]}, "status": {"conditions": []}});
        let expected = json!({
            "metadata": {
                "name": "a", "namespace": "n", "resourceVersion": "7",
                "annotations": {"mine": "1"},
                "creationTimestamp": "2026-01-02T03:04:05Z",
            },
            "spec": {"hosts": ["a"]},
        });
        assert_eq!(lean(Kind::VirtualService, written, data), expected);
    }

    #[test]
    fn an_endpoint_of_v1beta1_says_where_it_is_in_its_topology() {
        let data = json!({"endpoints": [
            {"addresses": ["10.0.0.1"], "topology": {HOSTNAME: "n1", ZONE: "z1", "other": "x"}},
            {"addresses": ["10.0.0.2"], "nodeName": "n2", "topology": {HOSTNAME: "n1"}},
        ]});
        let lean = lean(Kind::EndpointSlice, ObjectMeta::default(), data);
        let expected = json!([
            {"addresses": ["10.0.0.1"], "nodeName": "n1", "zone": "z1"},
            {"addresses": ["10.0.0.2"], "nodeName": "n2"},
        ]);
        assert_eq!(lean["endpoints"], expected);
    }

    #[test]
    fn numbers_stay_what_they_are() {
        let tree = node(&json!([1, -1, 1.5, u64::MAX]));
        let Value::Sequence(items) = tree.value else {
            panic!("a list");
        };
        let values: Vec<Value> = items.into_iter().map(|item| item.value).collect();
        let whole = |number| Value::Integer(number);
        let expected = [
            whole(1),
            whole(-1),
            Value::Float(1.5),
            whole(i128::from(u64::MAX)),
        ];
        assert_eq!(values, expected);
    }
}
