//! ServiceEntries, WorkloadEntries and ExternalName Services in the world, and what is wrong with bad ones.

use super::*;
use crate::model::{Discovery, Pod};
use crate::route::fixture::get;
use crate::route::{Act, Client, Decision, HttpScope, Pick, Routed, decide};

struct First;

impl Pick for First {
    fn pick(&mut self, _below: u64) -> u64 {
        0
    }
}

pub(super) fn pod_of<'s>(snapshot: &'s Snapshot, namespace: &str, name: &str) -> &'s Pod {
    let id = PodId {
        namespace: namespace.into(),
        name: name.into(),
    };
    &snapshot.pods[&id]
}

/// Where a pod's GET for a host on a port goes.
pub(super) fn goes(snapshot: &Snapshot, pod: &Pod, port: u16, authority: &str) -> String {
    let scope = HttpScope::Mesh { port };
    let request = get(authority, "/");
    match decide(snapshot, &scope, &Client::Pod(pod), &request, &mut First) {
        Decision::Routed(Routed {
            act: Act::Forward(forwarding),
            ..
        }) => forwarding.cluster.key.to_string(),
        Decision::Routed(Routed {
            act: Act::NoCluster(key),
            ..
        }) => format!("no {key}"),
        Decision::Passthrough => "passthrough".to_owned(),
        other => format!("{other:?}"),
    }
}

fn entry(name: &str, spec: &str) -> String {
    istio("ServiceEntry", name, spec)
}

fn discovery(snapshot: &Snapshot, host: &str, port: u16) -> Discovery {
    let key = ClusterKey {
        host: host.into(),
        port,
        subset: None,
    };
    snapshot.clusters[&key].discovery.clone()
}

#[test]
fn a_service_entry_is_found_by_host_and_by_address() {
    let text = entry(
        "static",
        "{hosts: [A.example.com], addresses: [10.9.0.1, 10.8.0.0/16], resolution: STATIC,
          ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}, {number: 9000, name: tcp, protocol: TCP}],
          endpoints: [{address: 10.7.0.1}, {address: 'fd00::7', ports: {http: 8888}, locality: r/z/s, weight: 3}]}",
    ) + &pod("client", "10.1.0.1", "app=client");
    let snapshot = sound_world(&text);
    let client = pod_of(&snapshot, "default", "client");
    assert_eq!(
        endpoints(&snapshot, "outbound|80||a.example.com"),
        ["10.7.0.1:8080", "[fd00::7]:8888"]
    );
    assert_eq!(
        endpoints(&snapshot, "outbound|9000||a.example.com"),
        ["10.7.0.1:9000", "[fd00::7]:9000"]
    );
    let key = ClusterKey {
        host: "a.example.com".into(),
        port: 80,
        subset: None,
    };
    let second = &snapshot.clusters[&key].endpoints[1];
    let place = second.locality.as_ref().map(ToString::to_string);
    assert_eq!((second.weight, place.as_deref()), (3, Some("r/z/s")));
    assert_eq!(
        goes(&snapshot, client, 80, "a.example.com:80"),
        "outbound|80||a.example.com"
    );
    let owner = &snapshot.common.addresses[&[10, 9, 0, 1].into()];
    assert_eq!(&*owner.host, "a.example.com");
    let (net, owner) = &snapshot.common.ranges[0];
    assert_eq!(
        (net.to_string().as_str(), &*owner.host),
        ("10.8.0.0/16", "a.example.com")
    );
    assert!(snapshot.common.whole_ports.is_empty());
}

#[test]
fn names_are_looked_up_and_dialled_destinations_are_not() {
    let http = "ports: [{number: 80, name: http, protocol: HTTP}]";
    let text = entry("own", &format!("{{hosts: [own.com], resolution: DNS, {http}}}"))
        + &entry(
            "listed",
            &format!(
                "{{hosts: [listed.com], resolution: DNS, {http},
                  endpoints: [{{address: B.com, ports: {{http: 81}}, labels: {{v: one}}}}, {{address: 10.0.0.1}}]}}"
            ),
        )
        + &entry(
            "turn",
            &format!("{{hosts: [turn.com], resolution: DNS_ROUND_ROBIN, {http}}}"),
        )
        + &entry("any", &format!("{{hosts: ['*.any.com'], {http}}}"))
        + &istio(
            "DestinationRule",
            "listed",
            "{host: listed.com, subsets: [{name: one, labels: {v: one}}]}",
        )
        + &pod("client", "10.1.0.1", "app=client");
    let snapshot = sound_world(&text);
    let names = |host: &str| match discovery(&snapshot, host, 80) {
        Discovery::Dns {
            names,
            every_address,
        } => {
            let names: Vec<_> = names
                .iter()
                .map(|name| format!("{}:{}", name.name, name.port))
                .collect();
            format!("{} {every_address}", names.join(" "))
        }
        other => format!("{other:?}"),
    };
    assert_eq!(names("own.com"), "own.com:80 true");
    assert_eq!(names("listed.com"), "b.com:81 10.0.0.1:80 true");
    assert_eq!(names("turn.com"), "turn.com:80 false");
    assert_eq!(names("*.any.com"), "Original");
    let subset = ClusterKey {
        host: "listed.com".into(),
        port: 80,
        subset: Some("one".into()),
    };
    match &snapshot.clusters[&subset].discovery {
        Discovery::Dns { names, .. } => assert_eq!(names.len(), 1),
        other => panic!("{other:?}"),
    }
    let client = pod_of(&snapshot, "default", "client");
    assert_eq!(
        goes(&snapshot, client, 80, "x.any.com"),
        "outbound|80||*.any.com"
    );
    assert_eq!(goes(&snapshot, client, 80, "any.com"), "passthrough");
}

#[test]
fn ports_without_an_address_are_told_apart_by_server_name() {
    let tls = "ports: [{number: 443, name: tls, protocol: TLS}], resolution: NONE";
    let text = entry("wild", &format!("{{hosts: ['*.a.com'], {tls}}}"))
        + &entry("one", &format!("{{hosts: [x.a.com], {tls}}}"))
        + &entry(
            "tcp",
            "{hosts: [tcp.com], ports: [{number: 443, name: tcp, protocol: TCP}], resolution: DNS}",
        );
    let (snapshot, rejected) = world(&text);
    let rejected: Vec<_> = rejected
        .iter()
        .map(|found| found.message.as_str())
        .collect();
    assert_eq!(
        rejected,
        ["without addresses, everything that is sent to port 443 goes here"]
    );
    let routes: Vec<_> = snapshot.common.whole_ports[&443]
        .routes
        .iter()
        .map(|route| {
            let names = route.when.server_names.join(",");
            format!("{names} {}", route.destinations[0].cluster.host)
        })
        .collect();
    assert_eq!(routes, ["x.a.com x.a.com", "*.a.com *.a.com", " tcp.com"]);
}

#[test]
fn workloads_are_selected_like_pods() {
    let text = entry(
        "sel",
        "{hosts: [sel.com], resolution: STATIC, workloadSelector: {labels: {app: a}},
          ports: [{number: 80, name: http, protocol: HTTP, targetPort: 8080}]}",
    ) + &istio(
        "WorkloadEntry",
        "vm",
        "{address: 10.2.0.1, labels: {app: a}, ports: {http: 9090}}",
    ) + &istio(
        "WorkloadEntry",
        "other/vm",
        "{address: 10.2.0.2, labels: {app: a}}",
    ) + &istio(
        "WorkloadEntry",
        "b",
        "{address: 10.2.0.3, labels: {app: b}}",
    ) + &pod("a-1", "10.1.0.1", "app=a")
        + &service("a", "10.0.0.1", &["http:80:8080"]);
    let snapshot = sound_world(&text);
    assert_eq!(
        endpoints(&snapshot, "outbound|80||sel.com"),
        ["10.2.0.1:9090", "10.1.0.1:8080"]
    );
    assert_eq!(
        endpoints(&snapshot, ALL),
        ["10.1.0.1:8080", "10.2.0.1:9090"]
    );
}

#[test]
fn an_external_name_means_what_it_stands_for() {
    let external = |name: &str, target: &str| {
        format!(
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{type: ExternalName, externalName: {target}}}\n"
        )
    };
    let text = service("a", "10.0.0.1", &["http:80:8080"])
        + &service("b", "10.0.0.2", &["http:80:8080"])
        + &external("alias", "a.default.svc.cluster.local")
        + &external("again", "alias.default.svc.cluster.local")
        + &external("ring", "ring.default.svc.cluster.local")
        + &external("far", "example.com")
        + &istio(
            "VirtualService",
            "to-alias",
            "{hosts: [b], http: [{route: [{destination: {host: alias}}]}]}",
        )
        + &istio(
            "VirtualService",
            "of-alias",
            "{hosts: [again], http: [{route: [{destination: {host: b}}]}]}",
        )
        + &pod("client", "10.1.0.1", "app=client");
    let (snapshot, _) = world(&text);
    let client = pod_of(&snapshot, "default", "client");
    let b = "outbound|80||b.default.svc.cluster.local";
    for (authority, expected) in [
        ("alias", ALL),
        ("alias.default.svc.cluster.local", ALL),
        ("b", ALL),
        // A VirtualService of an alias is for its whole name alone.
        ("again.default.svc.cluster.local", b),
        ("again", ALL),
        ("ring", "passthrough"),
        ("far", "passthrough"),
    ] {
        assert_eq!(
            goes(&snapshot, client, 80, authority),
            expected,
            "{authority}"
        );
    }
}

#[test]
fn what_is_wrong_with_an_entry_is_said() {
    let port = "ports: [{number: 80, name: http, protocol: HTTP}]";
    let cases: &[(&str, &[&str])] = &[
        ("{hosts: [a.com], resolution: DNS, PORT}", &[]),
        (
            "{PORT}",
            &["spec.hosts: a ServiceEntry needs at least one host"],
        ),
        (
            "{hosts: ['*'], PORT}",
            &["spec.hosts[0]: the host \"*\" would be everything"],
        ),
        (
            "{hosts: [a_b], PORT}",
            &["spec.hosts[0]: \"a_b\" is no host"],
        ),
        (
            "{hosts: [a.com], resolution: STATIC, PORT, endpoints: [{address: 10.0.0.1}], workloadSelector: {labels: {a: b}}}",
            &["spec.workloadSelector: endpoints and workloadSelector exclude each other"],
        ),
        (
            "{hosts: [a.com], ports: [{number: 80, name: a, protocol: HTTP}, {number: 80, name: a, protocol: HTTP}]}",
            &[
                "spec.ports[1].number: two ports have the number 80",
                "spec.ports[1].name: two ports have the name \"a\"",
            ],
        ),
        (
            "{hosts: [a.com], resolution: STATIC, PORT, endpoints: [{address: 10.0.0.1, ports: {other: 1}}]}",
            &["spec.endpoints[0].ports.other: no port of this ServiceEntry is named \"other\""],
        ),
        (
            "{hosts: [a.com], resolution: DNS, addresses: [10.0.0.0/8], PORT}",
            &["spec.addresses[0]: a CIDR range cannot be combined with resolution DNS"],
        ),
        (
            "{hosts: [a.com], resolution: STATIC, PORT, endpoints: [{address: b.com}]}",
            &["spec.endpoints[0].address: with resolution STATIC an endpoint is an IP address"],
        ),
        (
            "{hosts: [a.com], PORT, endpoints: [{address: 10.0.0.1}]}",
            &["spec.endpoints: with resolution NONE there are no endpoints: clients dial them"],
        ),
        (
            "{hosts: [a.com], resolution: DNS_ROUND_ROBIN, PORT, endpoints: [{address: b.com}, {address: c.com}]}",
            &["spec.endpoints: resolution DNS_ROUND_ROBIN takes one endpoint at most"],
        ),
        (
            "{hosts: ['*.a.com'], resolution: DNS, PORT}",
            &["spec.hosts[0]: a wildcard has no address to look up"],
        ),
        (
            "{hosts: [a.com, b.com], resolution: STATIC, ports: [{number: 1, name: t, protocol: TCP}]}",
            &[
                "spec.ports[0]: several hosts cannot be told apart on port 1, which is no HTTP and no TLS",
            ],
        ),
        (
            "{hosts: [a.com], location: HERE, resolution: MAGIC, addresses: [x], ports: [{number: 0, name: a, protocol: HTTP}, {number: 1, protocol: 'NO'}]}",
            &[
                "spec.location: \"HERE\" is no location",
                "spec.resolution: \"MAGIC\" is no resolution",
                "spec.addresses[0]: \"x\" is neither an IP address nor a CIDR range",
                "spec.ports[0].number: 0 is no port number",
                "spec.ports[1].name: a port needs a name",
                "spec.ports[1].protocol: \"NO\" is no protocol",
            ],
        ),
    ];
    for (spec, expected) in cases {
        let (_, rejected) = world(&entry("x", &spec.replace("PORT", port)));
        let mut found: Vec<String> = rejected
            .iter()
            .map(|found| format!("{}: {}", found.field, found.message))
            .collect();
        let mut expected: Vec<String> = expected.iter().map(ToString::to_string).collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected, "{spec}");
    }
}
