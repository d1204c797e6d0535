//! Who sees what: `exportTo` of Services, and Sidecars.

use super::entries::{goes, pod_of};
use super::*;
use crate::config::OutboundTrafficPolicy;
use crate::model::{AppAddress, Protocol, Unknown};

fn check(text: &str, cases: &[(&str, &str, u16, &str, &str)]) {
    let (snapshot, rejected) = world(text);
    assert_eq!(rejected, []);
    for (namespace, pod, port, authority, expected) in cases {
        let pod = pod_of(&snapshot, namespace, pod);
        assert_eq!(
            goes(&snapshot, pod, *port, authority),
            *expected,
            "{authority}:{port} for {}",
            pod.id
        );
    }
}

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.other.svc.cluster.local";

fn services() -> String {
    service("a", "10.0.0.1", &["http:80:8080", "http-web:81:8080"])
        + &service("other/b", "10.0.0.2", &["http:80:8080", "http-web:81:8080"])
        + &pod("client", "10.1.0.1", "app=client")
        + &pod("second", "10.1.0.2", "app=second")
        + &pod("other/client", "10.1.0.3", "app=client")
        + &pod("third/client", "10.1.0.4", "app=client")
}

#[test]
fn a_service_can_be_for_some_namespaces() {
    let text = services().replace(
        "{name: b, namespace: other}",
        "{name: b, namespace: other, annotations: {networking.istio.io/exportTo: './*'}}",
    );
    let private = text.replace("./*", ".");
    check(
        &private,
        &[
            ("other", "client", 80, "b", B),
            ("default", "client", 80, "b.other", "passthrough"),
            ("default", "client", 80, "a", A),
            ("other", "client", 80, "a.default", A),
        ],
    );
    let named = text.replace("./*", "third, .");
    check(
        &named,
        &[
            ("other", "client", 80, "b", B),
            ("third", "client", 80, "b.other", B),
            ("default", "client", 80, "b.other", "passthrough"),
        ],
    );
    let (snapshot, _) = world(&private);
    let address = [10, 0, 0, 2].into();
    assert!(!snapshot.common.addresses.contains_key(&address));
    let own = snapshot.outlook(pod_of(&snapshot, "other", "client"));
    assert!(own.addresses.contains_key(&address));
}

#[test]
fn a_sidecar_says_what_its_pods_know() {
    let text = services()
        + &istio("Sidecar", "all", "{egress: [{hosts: ['./*']}]}")
        + &istio(
            "Sidecar",
            "one",
            "{workloadSelector: {labels: {app: second}}, egress: [{hosts: ['other/*']}]}",
        )
        + &istio(
            "Sidecar",
            "istio-system/default",
            "{egress: [{hosts: ['~/*']}], outboundTrafficPolicy: {mode: REGISTRY_ONLY}}",
        );
    check(
        &text,
        &[
            ("default", "client", 80, "a", A),
            ("default", "client", 80, "b.other", "passthrough"),
            ("default", "second", 80, "a", "passthrough"),
            ("default", "second", 80, "b.other", B),
            ("third", "client", 80, "a.default", "Reply(Refused)"),
        ],
    );
    let (snapshot, _) = world(&text);
    let unknown = |namespace, name| {
        let pod = pod_of(&snapshot, namespace, name);
        snapshot.outlook(pod).unknown.clone()
    };
    assert_eq!(unknown("default", "client"), Unknown::Allow);
    assert_eq!(unknown("third", "client"), Unknown::Refuse);
}

#[test]
fn an_entry_for_a_port_is_the_only_one_there() {
    let text = services()
        + &istio(
            "Sidecar",
            "ports",
            "{egress: [{port: {number: 81, protocol: HTTP, name: x}, hosts: ['other/*']}, {hosts: ['*/a.default.svc.cluster.local']}]}",
        );
    check(
        &text,
        &[
            ("default", "client", 80, "a", A),
            ("default", "client", 80, "b.other", "passthrough"),
            ("default", "client", 81, "a", "passthrough"),
            (
                "default",
                "client",
                81,
                "b.other",
                "outbound|81||b.other.svc.cluster.local",
            ),
        ],
    );
}

#[test]
fn rules_that_are_known_bring_their_destinations_along() {
    let text = services()
        + &istio("Sidecar", "own", "{egress: [{hosts: ['./*']}]}")
        + &istio(
            "VirtualService",
            "known",
            "{hosts: [a], http: [{route: [{destination: {host: b.other.svc.cluster.local}}]}]}",
        )
        + &istio(
            "VirtualService",
            "other/unknown",
            "{hosts: [x.com], http: [{route: [{destination: {host: b}}]}]}",
        );
    check(
        &text,
        &[
            ("default", "client", 80, "a", B),
            ("default", "client", 80, "b.other", B),
            ("default", "client", 80, "x.com", "passthrough"),
            ("other", "client", 80, "x.com", B),
        ],
    );
}

#[test]
fn the_rest_can_be_refused_or_sent_to_a_proxy() {
    let options = CompileOptions {
        outbound_traffic_policy: OutboundTrafficPolicy::RegistryOnly,
        ..CompileOptions::default()
    };
    let (snapshot, _) = world_with(&services(), &options);
    assert_eq!(snapshot.common.unknown, Unknown::Refuse);
    let text = services()
        + &istio(
            "Sidecar",
            "proxy",
            "{outboundTrafficPolicy: {mode: ALLOW_ANY, egressProxy: {host: b.other.svc.cluster.local, port: {number: 80}}}}",
        );
    check(
        &text,
        &[
            ("default", "client", 80, "example.com", B),
            ("default", "client", 80, "a", A),
            ("other", "client", 80, "example.com", "passthrough"),
        ],
    );
}

#[test]
fn a_sidecar_says_what_its_pods_serve() {
    let text = services()
        + &pod("a-1", "10.1.0.9", "app=a")
        + &istio(
            "Sidecar",
            "serve",
            "{workloadSelector: {labels: {app: a}}, ingress: [{port: {number: 8080, protocol: HTTP2, name: x}, defaultEndpoint: '127.0.0.1:9000'}, {port: {number: 7000, protocol: TCP, name: other}, defaultEndpoint: '0.0.0.0:7001'}, {port: {number: 6000, protocol: HTTP, name: z}}]}",
        );
    let (snapshot, rejected) = world(&text);
    assert_eq!(rejected, []);
    let served: Vec<_> = pod_of(&snapshot, "default", "a-1")
        .inbound
        .iter()
        .map(|(port, served)| (*port, served.protocol, served.app))
        .collect();
    assert_eq!(
        served,
        [
            (6000, Protocol::Http, AppAddress::Dialled),
            (7000, Protocol::Tcp, AppAddress::Pod(7001)),
            (8080, Protocol::Http2, AppAddress::Loopback(9000)),
        ]
    );
}

#[test]
fn what_is_wrong_with_a_sidecar_is_said() {
    let cases: &[(&str, &[&str])] = &[
        (
            "{egress: [{hosts: ['./*', '*/x.com', 'ns/*.y.com', '~/*']}]}",
            &[],
        ),
        (
            "{egress: [{hosts: [x]}]}",
            &["spec.egress[0].hosts[0]: \"x\" is not namespace/host"],
        ),
        (
            "{egress: [{hosts: ['./*', './*', './x.com']}]}",
            &[
                "spec.egress[0].hosts[1]: \"./*\" stands here twice",
                "spec.egress[0].hosts[2]: \"./*\", which stands here too, has \"./x.com\" already",
            ],
        ),
        (
            "{egress: [{hosts: ['./*']}, {hosts: ['*/*']}]}",
            &["spec.egress[1]: two entries are for every port"],
        ),
        (
            "{egress: [{}]}",
            &["spec.egress[0].hosts: an egress entry needs hosts"],
        ),
        (
            "{ingress: [{port: {number: 1, protocol: HTTP}, defaultEndpoint: '10.0.0.1:80'}, {port: {number: 1, protocol: X}}]}",
            &[
                "spec.ingress[0].defaultEndpoint: \"10.0.0.1:80\" is no endpoint",
                "spec.ingress[1].port.number: two entries are for port 1",
                "spec.ingress[1].port.protocol: \"X\" is no protocol",
            ],
        ),
        (
            "{outboundTrafficPolicy: {mode: MAYBE}}",
            &["spec.outboundTrafficPolicy.mode: \"MAYBE\" is no mode"],
        ),
    ];
    for (spec, expected) in cases {
        let (_, rejected) = world(&istio("Sidecar", "x", spec));
        let found: Vec<String> = rejected
            .iter()
            .map(|found| format!("{}: {}", found.field, found.message))
            .collect();
        assert_eq!(found, *expected, "{spec}");
    }
}
