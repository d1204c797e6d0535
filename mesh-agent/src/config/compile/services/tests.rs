//! Which endpoints take requests, which only count, and which do neither.

use crate::config::fixture::{istio, pod, service, sound_world, world};
use crate::config::problem::Code;
use crate::model::{Cluster, ClusterKey, Snapshot};

fn cluster<'s>(snapshot: &'s Snapshot, subset: Option<&str>) -> &'s Cluster {
    let key = ClusterKey {
        host: "a.default.svc.cluster.local".into(),
        port: 80,
        subset: subset.map(Into::into),
    };
    snapshot.cluster(&key, "default").expect("the cluster")
}

/// The last parts of the addresses of those that may be picked, and of those that only count.
fn parts(cluster: &Cluster) -> (Vec<String>, Vec<String>) {
    let last = |endpoint: &crate::model::Endpoint| {
        let address = endpoint.address.ip().to_string();
        address
            .rsplit(['.', ':'])
            .next()
            .unwrap_or_default()
            .to_owned()
    };
    (
        cluster.endpoints.iter().map(last).collect(),
        cluster.endpoints.unready().iter().map(last).collect(),
    )
}

fn strings(parts: &[&str]) -> Vec<String> {
    parts.iter().map(ToString::to_string).collect()
}

/// Ejection, so that those that are not ready count.
fn counting() -> String {
    istio(
        "DestinationRule",
        "a",
        "{host: a, trafficPolicy: {outlierDetection: {}}, subsets: [{name: v1, labels: {version: v1}}]}",
    )
}

#[test]
fn pods_are_ready_or_count_or_are_gone() {
    let deleted = |pod: String| pod.replace("metadata: {", "metadata: {deletionTimestamp: x, ");
    let unready = |pod: String| pod.replace("True", "False");
    let pods = pod("p1", "10.1.0.1", "app=a,version=v1")
        + &unready(pod("p2", "10.1.0.2", "app=a,version=v1"))
        + &deleted(pod("p3", "10.1.0.3", "app=a,version=v1"))
        + &deleted(unready(pod("p4", "10.1.0.4", "app=a,version=v1")))
        + &pod(
            "p5",
            "10.1.0.5",
            "app=a,version=v1,istio.io/draining='true'",
        )
        + &pod("p6", "10.1.0.6", "app=a,version=v2,istio.io/draining=''")
        + &unready(pod("p7", "10.1.0.7", "app=a,version=v2"));
    let text = service("a", "10.0.0.1", &["http:80"]) + &pods + &counting();
    let snapshot = sound_world(&text);
    let whole = (strings(&["1", "6"]), strings(&["2", "7"]));
    assert_eq!(parts(cluster(&snapshot, None)), whole);
    let subset = (strings(&["1"]), strings(&["2"]));
    assert_eq!(parts(cluster(&snapshot, Some("v1"))), subset);
    let published = text.replace(
        "  clusterIP:",
        "  publishNotReadyAddresses: true\n  clusterIP:",
    );
    let all = (strings(&["1", "2", "3", "4", "6", "7"]), strings(&[]));
    assert_eq!(parts(cluster(&sound_world(&published), None)), all);
    // Whatever it is to clients, a pod goes on serving who comes.
    assert!(
        snapshot
            .pods
            .values()
            .all(|pod| pod.inbound.contains_key(&80))
    );
}

#[test]
fn slices_say_who_is_ready() {
    let slice = "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: a\n  \
         labels: {kubernetes.io/service-name: a}\naddressType: IPv6\nports: [{name: http, port: 80}]\nendpoints:
- {addresses: ['fd00::1']}
- {addresses: ['fd00::2'], conditions: {ready: true, terminating: false}}
- {addresses: ['fd00::3'], conditions: {ready: false, terminating: false}}
- {addresses: ['fd00::4'], conditions: {ready: false}}
- {addresses: ['fd00::5'], conditions: {ready: false, terminating: true}}
- {addresses: ['fd00::6'], conditions: {ready: true, terminating: true}}
- {addresses: ['fd00::7', 'fd00::8']}
- {addresses: ['fd00::1']}
- {addresses: []}
";
    let text = service("a", "'fd01::1'", &["http:80"]) + slice + &counting();
    let found = parts(cluster(&sound_world(&text), None));
    assert_eq!(found, (strings(&["1", "2", "7"]), strings(&["3"])));
    let published = text.replace(
        "  clusterIP:",
        "  publishNotReadyAddresses: true\n  clusterIP:",
    );
    let found = parts(cluster(&sound_world(&published), None));
    assert_eq!(found, (strings(&["1", "2", "6", "7"]), strings(&["3"])));
}

#[test]
fn those_that_are_not_ready_count_only_where_shares_do() {
    let cases = [
        ("trafficPolicy: {loadBalancer: {}}", "", 0),
        ("trafficPolicy: {outlierDetection: {}}", "", 1),
        (
            "trafficPolicy: {outlierDetection: {minHealthPercent: 1}}",
            "",
            0,
        ),
        (
            "trafficPolicy: {loadBalancer: {localityLbSetting: {distribute: [{from: r, to: {r: 100}}]}}}",
            "",
            1,
        ),
        (
            "trafficPolicy: {loadBalancer: {}}",
            "trafficDistribution: PreferClose",
            1,
        ),
        (
            "trafficPolicy: {outlierDetection: {minHealthPercent: 1}}",
            "trafficDistribution: PreferClose",
            1,
        ),
        (
            "trafficPolicy: {outlierDetection: {}, loadBalancer: {simple: PASSTHROUGH}}",
            "",
            0,
        ),
    ];
    for (policy, field, expected) in cases {
        let text = service("a", "10.0.0.1", &["http:80"])
            .replace("  clusterIP:", &format!("  {field}\n  clusterIP:"))
            + &pod("p1", "10.1.0.1", "app=a").replace("True", "False")
            + &istio("DestinationRule", "a", &format!("{{host: a, {policy}}}"));
        let snapshot = sound_world(&text);
        let cluster = cluster(&snapshot, None);
        assert_eq!(
            cluster.endpoints.unready().len(),
            expected,
            "{policy} {field}"
        );
    }
}

#[test]
fn a_node_local_service_says_so() {
    let text = service("a", "10.0.0.1", &["http:80"]) + &pod("p1", "10.1.0.1", "app=a");
    let local = |policy: &str| {
        let text = text.replace(
            "  clusterIP:",
            &format!("  internalTrafficPolicy: {policy}\n  clusterIP:"),
        );
        cluster(&sound_world(&text), None).policy.node_local
    };
    assert!(local("Local"));
    assert!(!local("Cluster"));
}

#[test]
fn a_distribution_that_nobody_knows_is_reported() {
    let text = service("a", "10.0.0.1", &["http:80"]).replace(
        "  clusterIP:",
        "  trafficDistribution: Nearby\n  clusterIP:",
    );
    let (_, rejected) = world(&text);
    let shown: Vec<_> = rejected
        .iter()
        .map(|complaint| (complaint.code, &*complaint.message))
        .collect();
    let message = "\"Nearby\" is not known here and has no effect: all endpoints are equal";
    assert_eq!(shown, [(Some(Code::Mesh0001), message)]);
}
