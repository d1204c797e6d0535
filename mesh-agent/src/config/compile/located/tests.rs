//! Where pods and other endpoints are, and what that makes of their labels.

use std::sync::Arc;

use super::parse;
use crate::config::fixture::{istio, pod, service, sound_world};
use crate::model::{ClusterKey, Locality, Snapshot};

fn node(name: &str, labels: &str) -> String {
    format!("---\napiVersion: v1\nkind: Node\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n")
}

fn on(node: &str, pod: &str) -> String {
    pod.replace("spec: {", &format!("spec: {{nodeName: {node}, "))
}

/// Two zones of a region with a node each, and one in the old words.
fn nodes() -> String {
    node(
        "n1",
        "topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z1, topology.istio.io/subzone: s",
    ) + &node(
        "n2",
        "topology.kubernetes.io/region: r, topology.kubernetes.io/zone: z2",
    ) + &node(
        "old",
        "failure-domain.beta.kubernetes.io/region: q, failure-domain.beta.kubernetes.io/zone: z9",
    ) + &node("nowhere", "a: b")
}

fn show(locality: Option<&Arc<Locality>>) -> String {
    locality.map_or_else(String::new, |locality| locality.to_string())
}

/// Address, place and node of the endpoints of `default/a`, or of a subset of it.
fn endpoints(snapshot: &Snapshot, subset: Option<&str>) -> Vec<String> {
    let key = ClusterKey {
        host: "a.default.svc.cluster.local".into(),
        port: 80,
        subset: subset.map(Into::into),
    };
    let cluster = snapshot.cluster(&key, "default").expect("the cluster");
    let shown = cluster.endpoints.iter().map(|endpoint| {
        let node = endpoint.node.as_deref().unwrap_or("-");
        format!(
            "{} {} {node}",
            endpoint.address.ip(),
            show(endpoint.locality.as_ref())
        )
    });
    shown.collect()
}

#[test]
fn a_pod_is_where_its_node_is_unless_it_says_otherwise() {
    let (here, dotted) = ("istio-locality: x.y.z", "istio-locality: x/y");
    let newer = "topology.istio.io/locality: v.w, istio-locality: x.y.z";
    let cases = [
        ("n1", "", "r/z1/s"),
        ("n2", "", "r/z2/"),
        ("old", "", "q/z9/"),
        ("nowhere", "", ""),
        ("unknown", "", ""),
        ("", "", ""),
        ("n1", here, "x/y/z"),
        ("", here, "x/y/z"),
        ("n1", dotted, "x/y/"),
        ("n1", newer, "v/w/"),
        ("n1", "istio-locality: ''", "r/z1/s"),
    ];
    for (node, labels, expected) in cases {
        let text = pod("a-1", "10.1.0.1", &format!("app=a,{labels}"));
        let text = if node.is_empty() {
            text
        } else {
            on(node, &text)
        };
        let snapshot = sound_world(&(service("a", "10.0.0.1", &["http:80"]) + &text + &nodes()));
        let pod = snapshot.pods.values().next().expect("the pod");
        let known = (!node.is_empty()).then_some(node);
        assert_eq!(show(pod.locality.as_ref()), expected, "{node} {labels}");
        assert_eq!(pod.node.as_deref(), known, "{node} {labels}");
        let shown = format!("10.1.0.1 {expected} {}", known.unwrap_or("-"));
        assert_eq!(endpoints(&snapshot, None), [shown], "{node} {labels}");
    }
}

#[test]
fn a_place_is_written_with_dots_or_slashes() {
    let cases = [
        ("r", "r//"),
        ("r.z", "r/z/"),
        ("r.z.s", "r/z/s"),
        ("r.z.s.t", "r/z/s"),
        ("r/z.1/s", "r/z.1/s"),
    ];
    for (written, expected) in cases {
        assert_eq!(parse(written).to_string(), expected, "{written}");
    }
}

#[test]
fn labels_tell_the_place_to_whoever_matches_them() {
    let subset = |name: &str, key: &str, value: &str| {
        format!("{{name: {name}, labels: {{{key}: {value}}}}}")
    };
    let subsets = [
        subset("zone", "topology.kubernetes.io/zone", "z1"),
        subset("node", "kubernetes.io/hostname", "n2"),
        subset("claimed", "topology.kubernetes.io/zone", "mine"),
    ];
    let text = service("a", "10.0.0.1", &["http:80"])
        + &on(
            "n1",
            &pod("a-1", "10.1.0.1", "app=a,topology.kubernetes.io/zone=mine"),
        )
        + &on("n2", &pod("a-2", "10.1.0.2", "app=a"))
        + &pod("a-3", "10.1.0.3", "app=a,topology.kubernetes.io/zone=mine")
        + &nodes()
        + &istio(
            "DestinationRule",
            "a",
            &format!("{{host: a, subsets: [{}]}}", subsets.join(", ")),
        );
    let snapshot = sound_world(&text);
    assert_eq!(endpoints(&snapshot, Some("zone")), ["10.1.0.1 r/z1/s n1"]);
    assert_eq!(endpoints(&snapshot, Some("node")), ["10.1.0.2 r/z2/ n2"]);
    assert_eq!(endpoints(&snapshot, Some("claimed")), ["10.1.0.3  -"]);
    let labels = |name: &str| {
        let pod = snapshot.pods.values().find(|pod| &*pod.id.name == name);
        let pod = pod.expect("the pod");
        let known = pod
            .labels
            .iter()
            .map(|(key, value)| format!("{key}={value}"));
        known.collect::<Vec<_>>().join(",")
    };
    assert_eq!(
        labels("a-1"),
        "app=a,kubernetes.io/hostname=n1,topology.istio.io/subzone=s,topology.kubernetes.io/region=r,\
         topology.kubernetes.io/zone=z1"
    );
    assert_eq!(labels("a-3"), "app=a,topology.kubernetes.io/zone=mine");
}

#[test]
fn an_address_without_a_pod_is_where_its_slice_says() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: a\n  \
         labels: {kubernetes.io/service-name: a}\naddressType: IPv4\nports: [{name: http, port: 80}]\nendpoints:
- {addresses: [10.2.0.1], nodeName: n2, zone: z1}
- {addresses: [10.2.0.2], zone: z1}
- {addresses: [10.2.0.3], zone: elsewhere}
- {addresses: [10.2.0.4]}
- {addresses: [10.1.0.1], nodeName: n2, zone: z2}
- {addresses: [10.2.0.5], nodeName: nowhere, zone: z2}
";
    let text = service("a", "10.0.0.1", &["http:80"])
        + &on("n1", &pod("a-1", "10.1.0.1", "app=a"))
        + slice
        + &nodes();
    assert_eq!(
        endpoints(&sound_world(&text), None),
        [
            "10.2.0.1 r/z2/ n2",
            "10.2.0.2 r/z1/ -",
            "10.2.0.3 /elsewhere/ -",
            "10.2.0.4  -",
            "10.1.0.1 r/z1/s n1",
            "10.2.0.5 r/z2/ nowhere",
        ]
    );
}

#[test]
fn a_selector_takes_those_who_have_all_its_labels() {
    let text = service("a", "10.0.0.1", &["http:80"]).replace(
        "selector: {app: a}",
        "selector: {app: a, tier: x, owner: all}",
    ) + &pod("one", "10.1.0.1", "app=a,owner=all,tier=x,more=y1")
        + &pod("two", "10.1.0.2", "app=a,owner=all")
        + &pod("three", "10.1.0.3", "owner=all,tier=x")
        + &pod("other/one", "10.1.0.4", "app=a,owner=all,tier=x");
    assert_eq!(endpoints(&sound_world(&text), None), ["10.1.0.1  -"]);
    let nobody = text.replace("tier: x, owner", "tier: w, owner");
    assert_eq!(endpoints(&sound_world(&nobody), None), Vec::<String>::new());
}
