//! Worlds compiled from manifests, and what is said of those that do not fit.

use std::net::SocketAddr;

use crate::config::UnknownFields;
use crate::config::fixture::{istio, pod, service, sound_world, world, world_with};
use crate::config::{CompileOptions, Severity};
use crate::model::{
    CapturePolicy, ClusterKey, Discovery, FailPolicy, NetnsPlace, PodId, Snapshot, SourceMode,
};

fn endpoints(snapshot: &Snapshot, cluster: &str) -> Vec<String> {
    let mut parts = cluster.split('|').skip(1);
    let (port, subset, host) = (parts.next(), parts.next(), parts.next());
    let key = ClusterKey {
        host: host.expect("a host").into(),
        port: port.and_then(|port| port.parse().ok()).expect("a port"),
        subset: subset.filter(|subset| !subset.is_empty()).map(Into::into),
    };
    let Some(cluster) = snapshot.clusters.get(&key) else {
        return vec!["no such cluster".to_owned()];
    };
    let addresses = cluster
        .endpoints
        .iter()
        .map(|endpoint| endpoint.address.to_string());
    addresses.collect()
}

const ALL: &str = "outbound|80||a.default.svc.cluster.local";

#[test]
fn a_service_is_served_by_the_ready_pods_that_it_selects() {
    let text = service(
        "a",
        "10.0.0.1",
        &["http:80:8080", "named:81:web", "same:82"],
    ) + &pod("a-1", "10.1.0.1", "app=a,version=v1")
        + &pod("a-2", "10.1.0.2", "app=a,version=v2")
        + &pod("not-ready", "10.1.0.3", "app=a").replace("True", "False")
        + &pod("ended", "10.1.0.4", "app=a").replace("status: {", "status: {phase: Succeeded, ")
        + &pod("leaving", "10.1.0.5", "app=a")
            .replace("metadata: {", "metadata: {deletionTimestamp: x, ")
        + &pod("other/a-1", "10.1.0.6", "app=a")
        + &pod("b-1", "10.1.0.7", "app=b")
        + &pod("nameless", "10.1.0.8", "app=a").replace("name: web, ", "")
        + &pod("silent", "10.1.0.9", "app=a")
            .replace(", conditions: [{type: Ready, status: \"True\"}]", "")
        + &istio(
            "DestinationRule",
            "a",
            "{host: a, subsets: [{name: v1, labels: {version: v1}}, {name: none, labels: {version: v9}}, {name: all}]}",
        );
    let snapshot = sound_world(&text);
    let cases: &[(&str, &[&str])] = &[
        (
            ALL,
            &[
                "10.1.0.1:8080",
                "10.1.0.2:8080",
                "10.1.0.8:8080",
                "10.1.0.9:8080",
            ],
        ),
        (
            "|81||a.default.svc.cluster.local",
            &["10.1.0.1:8080", "10.1.0.2:8080", "10.1.0.9:8080"],
        ),
        (
            "|82||a.default.svc.cluster.local",
            &["10.1.0.1:82", "10.1.0.2:82", "10.1.0.8:82", "10.1.0.9:82"],
        ),
        ("|80|v1|a.default.svc.cluster.local", &["10.1.0.1:8080"]),
        ("|80|none|a.default.svc.cluster.local", &[]),
        (
            "|80|all|a.default.svc.cluster.local",
            &[
                "10.1.0.1:8080",
                "10.1.0.2:8080",
                "10.1.0.8:8080",
                "10.1.0.9:8080",
            ],
        ),
        ("|80|v2|a.default.svc.cluster.local", &["no such cluster"]),
    ];
    for (cluster, expected) in cases {
        assert_eq!(endpoints(&snapshot, cluster), *expected, "{cluster}");
    }
    assert!(
        !snapshot.pods_by_address.contains_key(&[10, 1, 0, 4].into()),
        "a Pod that has ended has no address"
    );
}

#[test]
fn a_service_of_two_families_is_served_in_its_first() {
    let text = service("a", "\"fd00::1\"", &["http:80:8080"])
        + &pod("a-1", "10.1.0.1", "app=a").replace(
            "podIP:",
            "podIPs: [{ip: 10.1.0.1}, {ip: \"fd01::1\"}], podIP:",
        );
    let snapshot = sound_world(&text);
    assert_eq!(endpoints(&snapshot, ALL), ["[fd01::1]:8080"]);
    assert!(
        snapshot
            .pods_by_address
            .contains_key(&"fd01::1".parse().expect("an address"))
    );
}

#[test]
fn endpoint_slices_replace_the_selector() {
    let slice = |name: &str, family: &str, endpoints: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: {name}\n  \
             labels: {{kubernetes.io/service-name: a}}\naddressType: {family}\n\
             ports: [{{name: http, port: 9090, protocol: TCP}}, {{name: other, port: 1}}]\nendpoints: {endpoints}\n"
        )
    };
    let text = service("a", "10.0.0.1", &["http:80:8080", "missing:81:8080"])
        + &pod("a-1", "10.1.0.1", "app=a,version=v1")
        + &pod("a-2", "10.1.0.2", "app=a,version=v1")
        + &slice(
            "six",
            "IPv6",
            "[{addresses: ['fd01::1'], targetRef: {kind: Pod, name: a-1}}]",
        )
        + &slice(
            "four",
            "IPv4",
            "
- {addresses: [10.1.0.1], targetRef: {kind: Pod, name: a-1}}
- {addresses: [10.1.0.2], conditions: {ready: true}}
- {addresses: [10.1.0.3], conditions: {ready: false}}
- {addresses: [10.1.0.4], conditions: {ready: true, terminating: true}}
- {addresses: [10.2.0.1]}",
        )
        + &istio(
            "DestinationRule",
            "a",
            "{host: a, subsets: [{name: v1, labels: {version: v1}}]}",
        );
    let snapshot = sound_world(&text);
    assert_eq!(
        endpoints(&snapshot, ALL),
        ["10.1.0.1:9090", "10.1.0.2:9090", "10.2.0.1:9090"]
    );
    assert_eq!(
        endpoints(&snapshot, "|80|v1|a.default.svc.cluster.local"),
        ["10.1.0.1:9090", "10.1.0.2:9090"]
    );
    assert_eq!(
        endpoints(&snapshot, "|81||a.default.svc.cluster.local"),
        Vec::<String>::new()
    );
    let id = PodId {
        namespace: "default".into(),
        name: "a-1".into(),
    };
    assert!(snapshot.pods[&id].inbound.contains_key(&9090));
}

#[test]
fn a_service_without_selector_or_slices_has_no_endpoint() {
    let text = service("a", "10.0.0.1", &["http:80:8080"]).replace("  selector: {app: a}\n", "")
        + &pod("p", "10.1.0.1", "app=a");
    assert_eq!(endpoints(&sound_world(&text), ALL), Vec::<String>::new());
}

#[test]
fn headless_services_own_the_addresses_of_their_pods() {
    let text = service("a", "None", &["http:80:8080"]) + &pod("a-1", "10.1.0.1", "app=a");
    let snapshot = sound_world(&text);
    assert_eq!(&*snapshot.common.addresses[&[10, 1, 0, 1].into()].name, "a");
    let (_, cluster) = snapshot.clusters.iter().next().expect("a cluster");
    assert_eq!(cluster.discovery, Discovery::Headless);
    assert_eq!(
        cluster.endpoints[0].address,
        SocketAddr::from(([10, 1, 0, 1], 8080))
    );
}

#[test]
fn a_pod_with_a_network_namespace_is_local() {
    let annotated = |name: &str, address: &str, annotations: &str| {
        pod(name, address, "app=a").replace(
            "metadata: {",
            &format!("metadata: {{annotations: {{{annotations}}}, "),
        )
    };
    let text = pod("remote", "10.1.0.1", "app=a")
        + &annotated("plain", "10.1.0.1", "mesh-agent.io/netns: /run/netns/plain")
        + &annotated(
            "out",
            "10.1.0.3",
            "mesh-agent.io/netns: /run/netns/out, mesh-agent.io/enrol: 'false'",
        )
        + &annotated(
            "tuned",
            "10.1.0.4",
            "mesh-agent.io/netns: /run/netns/tuned, mesh-agent.io/source: preserve, mesh-agent.io/on-agent-loss: open, \
             traffic.sidecar.istio.io/excludeInboundPorts: '22'",
        )
        + &pod("labelled", "10.1.0.5", "mesh-agent.io/enrol='false'").replace(
            "metadata: {",
            "metadata: {annotations: {mesh-agent.io/netns: /run/netns/labelled}, ",
        );
    let snapshot = sound_world(&text);
    let local = |name: &str| {
        let id = PodId {
            namespace: "default".into(),
            name: name.into(),
        };
        snapshot.pods[&id].local.clone()
    };
    assert_eq!(local("remote"), None);
    let plain = local("plain").expect("it is local");
    assert_eq!(
        (plain.netns, plain.enrol),
        (NetnsPlace::Path("/run/netns/plain".into()), true)
    );
    assert_eq!(plain.capture, CapturePolicy::default());
    assert!(local("out").is_some_and(|pod| !pod.enrol));
    assert!(local("labelled").is_some_and(|pod| !pod.enrol));
    let tuned = local("tuned").expect("it is local").capture;
    assert_eq!(
        tuned,
        CapturePolicy {
            source: SourceMode::Preserve,
            on_agent_loss: FailPolicy::Open,
            exclude_inbound_ports: vec![15090, 15021, 15020, 22],
            ..CapturePolicy::default()
        }
    );
    // The local Pod has the address that two claim.
    assert_eq!(
        &*snapshot.pods_by_address[&[10, 1, 0, 1].into()].id.name,
        "plain"
    );
}

#[test]
fn a_wrong_annotation_is_reported_with_its_place_and_the_pod_stays() {
    let text = "apiVersion: v1
kind: Pod
metadata:
  name: p
  annotations:
    mesh-agent.io/netns: /run/netns/p
    traffic.sidecar.istio.io/includeOutboundPorts: \"80,x\"
status: {podIP: 10.1.0.1}
";
    let (snapshot, rejected) = world(text);
    assert_eq!(
        rejected.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "test.yaml:7:52: Pod default/p: metadata.annotations[\"traffic.sidecar.istio.io/includeOutboundPorts\"]: \
          \"x\" is no port; the default holds until this is corrected"
        ]
    );
    let pod = snapshot.pods.values().next().expect("the Pod");
    assert_eq!(
        pod.local.as_ref().map(|local| &local.capture),
        Some(&CapturePolicy::default())
    );
}

#[test]
fn an_unknown_field_may_be_let_pass() {
    let text = service("a", "10.0.0.1", &["http:80:8080"])
        + &istio(
            "VirtualService",
            "vs",
            "{hosts: [a], http: [{route: [{destination: {host: a}, wieght: 1}]}]}",
        );
    let options = CompileOptions {
        unknown_fields: UnknownFields::Warn,
        ..CompileOptions::default()
    };
    let (_, rejected) = world_with(&text, &options);
    assert_eq!(rejected.len(), 1);
    assert_eq!(rejected[0].severity, Severity::Warning);
    assert_eq!(rejected[0].field, "spec.http[0].route[0].wieght");
    assert_eq!(rejected[0].remedy, "did you mean weight?");
}

#[test]
fn the_domain_of_the_cluster_can_be_another() {
    let options = CompileOptions {
        cluster_domain: "example.org".into(),
        ..CompileOptions::default()
    };
    let (snapshot, _) = world_with(&service("a", "10.0.0.1", &["http:80:8080"]), &options);
    assert!(
        snapshot.common.mesh[&80]
            .exact
            .contains_key("a.default.svc.example.org")
    );
    assert!(
        snapshot.common.mesh[&80]
            .exact
            .contains_key("a.default.svc")
    );
}

mod entries;
mod sights;
