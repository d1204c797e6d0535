//! Decisions by tables: what is asked for, and where it goes.

use super::*;
use crate::config::fixture::{istio, pod, service, sound_world, world};
use crate::model::{Discovery, PodId};
use crate::route::fixture::get;

mod listeners;

/// Draws from a seeded generator.
pub(super) struct Seeded(pub(super) fastrand::Rng);

impl Pick for Seeded {
    fn pick(&mut self, below: u64) -> u64 {
        self.0.u64(..below)
    }
}

/// Draws what it is told, in order.
pub(super) struct Told(pub(super) Vec<u64>);

impl Pick for Told {
    fn pick(&mut self, below: u64) -> u64 {
        let drawn = self.0.remove(0);
        assert!(drawn < below, "{drawn} was to be below {below}");
        drawn
    }
}

fn client(snapshot: &Snapshot, namespace: &str, name: &str) -> Arc<Pod> {
    let id = PodId {
        namespace: namespace.into(),
        name: name.into(),
    };
    Arc::clone(&snapshot.pods[&id])
}

fn told(decision: &Decision) -> String {
    match decision {
        Decision::Routed(Routed {
            act: Act::Forward(forwarding),
            ..
        }) => {
            let path = forwarding.path.as_deref();
            let path = path.map_or_else(String::new, |path| format!(" {path}"));
            let authority = forwarding.authority.as_deref();
            let authority = authority.map_or_else(String::new, |host| format!(" @{host}"));
            format!("{}{path}{authority}", forwarding.cluster.key)
        }
        Decision::Passthrough => "passthrough".to_owned(),
        Decision::Reply(Reply::NoRoute) => "404 NR".to_owned(),
        Decision::Routed(Routed {
            act: Act::NoCluster(key),
            ..
        }) => format!("503 NC {key}"),
        other => panic!("{other:?} is no answer that these tests know"),
    }
}

fn ask(snapshot: &Snapshot, scope: &HttpScope, client: &Client<'_>, url: &str) -> String {
    let (authority, path) = url.split_once('/').unwrap_or((url, ""));
    let path = format!("/{path}");
    let request = get(authority, &path);
    told(&decide(
        snapshot,
        scope,
        client,
        &request,
        &mut Seeded(fastrand::Rng::with_seed(1)),
    ))
}

/// Asks as pod `default/client` on port 80 of the mesh.
fn check(world: &str, cases: &[(&str, &str)]) {
    let snapshot = sound_world(&format!(
        "{world}{}",
        pod("client", "10.9.9.9", "app=client")
    ));
    check_in(&snapshot, cases);
}

fn check_in(snapshot: &Snapshot, cases: &[(&str, &str)]) {
    let pod = client(snapshot, "default", "client");
    for (url, expected) in cases {
        let found = ask(
            snapshot,
            &HttpScope::Mesh { port: 80 },
            &Client::Pod(&pod),
            url,
        );
        assert_eq!(found, *expected, "{url}");
    }
}

const A: &str = "outbound|80||a.default.svc.cluster.local";
const B: &str = "outbound|80||b.default.svc.cluster.local";

fn two_services() -> String {
    service("a", "10.0.0.1", &["http:80:8080"])
        + &service("b", "10.0.0.2", &["http:80:8080"])
        + &service("other/c", "10.0.0.3", &["http:80:8080"])
}

#[test]
fn a_service_has_all_its_names_whatever_the_port_in_the_host() {
    let c = "outbound|80||c.other.svc.cluster.local";
    check(
        &two_services(),
        &[
            ("a", A),
            ("A", A),
            ("a:80", A),
            ("a:12345", A),
            ("a.default", A),
            ("a.default.svc", A),
            ("a.default.svc.cluster.local", A),
            ("a.default.svc.cluster.local.", A),
            ("a.default.svc.cluster.local.:80", A),
            ("A.Default.SVC.cluster.local", A),
            ("10.0.0.1", A),
            ("10.0.0.1:80", A),
            ("a.default.svc.cluster", "passthrough"),
            ("a.default.", "passthrough"),
            ("c", "passthrough"),
            ("c.other", c),
            ("c.other.svc:80", c),
            ("x", "passthrough"),
            ("x.com", "passthrough"),
            ("", "passthrough"),
        ],
    );
}

#[test]
fn a_service_has_its_ipv6_address_in_brackets() {
    let a6 = service("a", "\"fd00::1\"", &["http:80:8080"]);
    check(
        &a6,
        &[
            ("[fd00::1]", A),
            ("[fd00::1]:80", A),
            ("[fd00::2]", "passthrough"),
            ("fd00::1", "passthrough"),
        ],
    );
}

#[test]
fn the_bare_name_is_the_service_next_door() {
    let text = two_services()
        + &service("other/a", "10.0.0.4", &["http:80:8080"])
        + &pod("other/client", "10.9.9.8", "app=client");
    let snapshot = sound_world(&text);
    let pod = client(&snapshot, "other", "client");
    for (host, expected) in [
        ("a", "outbound|80||a.other.svc.cluster.local"),
        ("a.default", A),
        ("b", "passthrough"),
    ] {
        let found = ask(
            &snapshot,
            &HttpScope::Mesh { port: 80 },
            &Client::Pod(&pod),
            host,
        );
        assert_eq!(found, expected, "{host}");
    }
}

#[test]
fn the_pods_of_a_headless_service_have_names_below_its_own() {
    let text = service("a", "None", &["http:80:8080"]) + &pod("a-0", "10.1.0.1", "app=a");
    check(
        &text,
        &[
            ("a", A),
            ("a-0.a", A),
            ("a-0.a.default", A),
            ("a-0.a.default.svc", A),
            ("a-0.a.default.svc.cluster.local", A),
            ("10.1.0.1", "passthrough"),
        ],
    );
}

#[test]
fn the_first_rule_that_matches_wins_and_no_match_is_a_404() {
    let rules = istio(
        "VirtualService",
        "a",
        "
  hosts: [a]
  http:
  - match: [{uri: {exact: /exact}}, {uri: {prefix: /p}}]
    route: [{destination: {host: b}}]
  - match: [{uri: {regex: '/r[0-9]+'}}]
    route: [{destination: {host: c.other.svc.cluster.local}}]
  - match: [{uri: {exact: /Case}, ignoreUriCase: true}, {uri: {prefix: /Deep/}, ignoreUriCase: true}]
    route: [{destination: {host: b}}]
  - match: [{uri: {prefix: /pp}}, {uri: {prefix: /a}}]
    route: [{destination: {host: a}}]",
    );
    let (snapshot, rejected) =
        world(&(two_services() + &rules + &pod("client", "10.9.9.9", "app=client")));
    assert_eq!(rejected.len(), 1, "/pp is never reached: {rejected:?}");
    let c = "outbound|80||c.other.svc.cluster.local";
    check_in(
        &snapshot,
        &[
            ("a/exact", B),
            ("a/exact/", "404 NR"),
            ("a/p", B),
            ("a/pfoo", B),
            ("a/P", "404 NR"),
            ("a/r12", c),
            ("a/r12/x", "404 NR"),
            ("a/xr12", "404 NR"),
            ("a/cASE", B),
            ("a/case/", "404 NR"),
            ("a/deep/x", B),
            ("a/deep", "404 NR"),
            ("a/a", A),
            ("a/", "404 NR"),
            ("b/", B),
        ],
    );
}

#[test]
fn a_rewrite_replaces_the_text_that_matched() {
    let rules = istio(
        "VirtualService",
        "a",
        "
  hosts: [a]
  http:
  - match: [{uri: {prefix: /v1}}]
    rewrite: {uri: /}
    route: [{destination: {host: b}}]
  - match: [{uri: {prefix: /v2/}}]
    rewrite: {uri: /, authority: new.example.com}
    route: [{destination: {host: b}}]
  - match: [{uri: {exact: /exact}}]
    rewrite: {uri: /whole}
    route: [{destination: {host: b}}]
  - match: [{uri: {regex: '/r/.*'}}]
    rewrite: {uri: /whole}
    route: [{destination: {host: b}}]
  - match: [{uri: {prefix: /Any}, ignoreUriCase: true}]
    rewrite: {uri: /x}
    route: [{destination: {host: b}}]
  - rewrite: {uri: /foo}
    route: [{destination: {host: b}}]",
    );
    check(
        &(two_services() + &rules),
        &[
            ("a/v1", &format!("{B} /")),
            ("a/v1/foo", &format!("{B} //foo")),
            ("a/v1foo", &format!("{B} /foo")),
            ("a/v2/foo", &format!("{B} /foo @new.example.com")),
            ("a/exact", &format!("{B} /whole")),
            ("a/r/b/c", &format!("{B} /whole")),
            ("a/aNy/c", &format!("{B} /x/c")),
            ("a/bar", &format!("{B} /foobar")),
            ("a/", &format!("{B} /foo")),
        ],
    );
}

#[test]
fn a_rule_may_be_for_some_clients_only() {
    let rules = istio(
        "VirtualService",
        "a",
        "
  hosts: [a]
  http:
  - match: [{sourceLabels: {app: client}, uri: {prefix: /labels}}]
    route: [{destination: {host: b}}]
  - match: [{sourceNamespace: other}]
    route: [{destination: {host: c.other.svc.cluster.local}}]",
    );
    let text = two_services()
        + &rules
        + &pod("client", "10.9.9.9", "app=client")
        + &pod("stranger", "10.9.9.7", "app=stranger")
        + &pod("other/stranger", "10.9.9.8", "app=stranger");
    let snapshot = sound_world(&text);
    let cases = [
        ("default", "client", "a/labels", B),
        // A rule of the VirtualService concerns this client, so nothing stands in for it.
        ("default", "client", "a/", "404 NR"),
        // None does here: the VirtualService counts as absent.
        ("default", "stranger", "a/labels", A),
        (
            "other",
            "stranger",
            "a.default/",
            "outbound|80||c.other.svc.cluster.local",
        ),
    ];
    for (namespace, name, url, expected) in cases {
        let pod = client(&snapshot, namespace, name);
        let found = ask(
            &snapshot,
            &HttpScope::Mesh { port: 80 },
            &Client::Pod(&pod),
            url,
        );
        assert_eq!(found, expected, "{namespace}/{name} {url}");
    }
}

#[test]
fn gateways_in_a_match_stand_in_for_what_it_says_of_the_client() {
    let rules = istio(
        "VirtualService",
        "a",
        "
  hosts: [a]
  gateways: [mesh, gw]
  http:
  - match: [{gateways: [gw], uri: {prefix: /}}]
    route: [{destination: {host: a, subset: gone}}]
  - match: [{gateways: [mesh], sourceNamespace: nowhere, uri: {prefix: /x}}]
    route: [{destination: {host: b}}]",
    );
    let (snapshot, _) =
        world(&(two_services() + &rules + &pod("client", "10.9.9.9", "app=client")));
    check_in(&snapshot, &[("a/x", B), ("a/", "404 NR")]);
}

#[test]
fn match_port_is_the_port_of_the_table() {
    let text = service("a", "10.0.0.1", &["http:80:8080", "http-b:8080:8080"])
        + &istio(
            "VirtualService",
            "a",
            "
  hosts: [a]
  http:
  - match: [{port: 8080}]
    route: [{destination: {host: a, subset: v1}}]",
        )
        + &istio("DestinationRule", "a", "{host: a, subsets: [{name: v1}]}")
        + &pod("client", "10.9.9.9", "app=client");
    let snapshot = sound_world(&text);
    let pod = client(&snapshot, "default", "client");
    for (port, expected) in [
        (80, A),
        (8080, "outbound|8080|v1|a.default.svc.cluster.local"),
    ] {
        let found = ask(
            &snapshot,
            &HttpScope::Mesh { port },
            &Client::Pod(&pod),
            "a",
        );
        assert_eq!(found, expected, "{port}");
    }
}

#[test]
fn the_port_of_a_destination_is_the_only_one_or_the_one_asked() {
    let text = two_services()
        + &service("one", "10.0.0.5", &["http:9080:8080"])
        + &service("two", "10.0.0.6", &["http:9080:8080", "http-b:9081:8080"])
        + &istio(
            "VirtualService",
            "a",
            "
  hosts: [a]
  http:
  - match: [{uri: {prefix: /one}}]
    route: [{destination: {host: one}}]
  - match: [{uri: {prefix: /two/9081}}]
    route: [{destination: {host: two, port: {number: 9081}}}]
  - match: [{uri: {prefix: /two}}]
    route: [{destination: {host: two}}]
  - match: [{uri: {prefix: /gone}}]
    route: [{destination: {host: gone}}]
  - match: [{uri: {prefix: /subset}}]
    route: [{destination: {host: b, subset: gone}}]",
        )
        + &pod("client", "10.9.9.9", "app=client");
    let snapshot = sound_world(&text);
    check_in(
        &snapshot,
        &[
            ("a/one", "outbound|9080||one.default.svc.cluster.local"),
            ("a/two/9081", "outbound|9081||two.default.svc.cluster.local"),
            ("a/two", "503 NC outbound|80||two.default.svc.cluster.local"),
            (
                "a/gone",
                "503 NC outbound|80||gone.default.svc.cluster.local",
            ),
            (
                "a/subset",
                "503 NC outbound|80|gone|b.default.svc.cluster.local",
            ),
        ],
    );
}

#[test]
fn the_most_specific_host_wins_whatever_its_age() {
    let to_b = "http: [{route: [{destination: {host: b.default.svc.cluster.local}}]}]";
    let to_c = "http: [{route: [{destination: {host: c.other.svc.cluster.local}}]}]";
    let text = two_services()
        + &istio(
            "VirtualService",
            "w1",
            &format!("{{hosts: ['*.default.svc.cluster.local'], {to_c}}}"),
        )
        + &istio("VirtualService", "w2", &format!("{{hosts: [a], {to_b}}}"))
        + &istio(
            "VirtualService",
            "w3",
            &format!("{{hosts: ['*.foo.com'], {to_b}}}"),
        )
        + &istio(
            "VirtualService",
            "w4",
            &format!("{{hosts: ['*.bar.foo.com'], {to_c}}}"),
        )
        + &istio(
            "VirtualService",
            "w5",
            &format!("{{hosts: ['x.bar.foo.com', reviews.prod], {to_b}}}"),
        );
    let c = "outbound|80||c.other.svc.cluster.local";
    check(
        &text,
        &[
            ("a", B),
            ("b", c),
            ("b.default", c),
            ("c.other", c),
            ("z.default.svc.cluster.local", "passthrough"),
            ("a.foo.com", B),
            ("a.b.foo.com", B),
            ("foo.com", "passthrough"),
            ("y.bar.foo.com", c),
            ("x.bar.foo.com", B),
            ("X.Bar.Foo.com:99", B),
            ("reviews.prod", B),
            ("reviews.prod.svc.cluster.local", "passthrough"),
        ],
    );
}

#[test]
fn a_host_that_is_no_service_exists_on_port_80_alone() {
    let text = service("a", "10.0.0.1", &["http:80:8080", "http-b:8080:8080"])
        + &istio(
            "VirtualService",
            "x",
            "{hosts: [x.com], http: [{route: [{destination: {host: a, port: {number: 8080}}}]}]}",
        )
        + &istio(
            "VirtualService",
            "gone",
            "{hosts: [gone], http: [{route: [{destination: {host: a, port: {number: 8080}}}]}]}",
        )
        + &pod("client", "10.9.9.9", "app=client");
    let snapshot = sound_world(&text);
    let pod = client(&snapshot, "default", "client");
    let a = "outbound|8080||a.default.svc.cluster.local";
    for (port, host, expected) in [
        (80, "x.com", a),
        (8080, "x.com", "passthrough"),
        (80, "gone.default.svc.cluster.local", a),
        (80, "gone", "passthrough"),
        (8080, "gone", "passthrough"),
    ] {
        let found = ask(
            &snapshot,
            &HttpScope::Mesh { port },
            &Client::Pod(&pod),
            host,
        );
        assert_eq!(found, expected, "{host} on {port}");
    }
}

#[test]
fn the_oldest_virtual_service_has_a_host_of_the_mesh() {
    let dated = |name: &str, date: &str, to: &str| {
        istio("VirtualService", name, &format!("{{hosts: [a.default.svc.cluster.local], http: [{{route: [{{destination: {{host: {to}.default.svc.cluster.local}}}}]}}]}}"))
            .replace("metadata: {", &format!("metadata: {{creationTimestamp: \"{date}\", "))
    };
    let young = dated("young", "2024-02-01T00:00:00Z", "a");
    let old = dated("other/old", "2024-01-01T00:00:00Z", "b");
    let undated = istio(
        "VirtualService",
        "undated",
        "{hosts: [a], http: [{route: [{destination: {host: a}}]}]}",
    );
    for text in [young.clone() + &old, old.clone() + &young, undated + &old] {
        let snapshot =
            sound_world(&(two_services() + &text + &pod("client", "10.9.9.9", "app=client")));
        check_in(&snapshot, &[("a", B)]);
    }
}

#[test]
fn export_to_says_whose_clients_a_virtual_service_concerns() {
    let vs = |name: &str, export: &str, to: &str| {
        istio(
            "VirtualService",
            name,
            &format!(
                "{{hosts: [a.default.svc.cluster.local], exportTo: [{export}], \
                 http: [{{route: [{{destination: {{host: {to}}}}}]}}]}}"
            ),
        )
    };
    let text = two_services()
        + &vs("public", "'*'", "a.default.svc.cluster.local")
        + &vs("other/private", ".", "b.default.svc.cluster.local")
        + &vs("named", "third", "c.other.svc.cluster.local")
        + &vs("hidden", "'~'", "c.other.svc.cluster.local")
        + &pod("client", "10.9.9.9", "app=client")
        + &pod("other/client", "10.9.9.8", "app=client")
        + &pod("third/client", "10.9.9.7", "app=client");
    let snapshot = sound_world(&text);
    for (namespace, expected) in [
        ("default", A),
        ("other", B),
        ("third", "outbound|80||c.other.svc.cluster.local"),
    ] {
        let pod = client(&snapshot, namespace, "client");
        let found = ask(
            &snapshot,
            &HttpScope::Mesh { port: 80 },
            &Client::Pod(&pod),
            "a.default",
        );
        assert_eq!(found, expected, "{namespace}");
    }
}

#[test]
fn the_first_namespace_with_a_destination_rule_decides_on_subsets() {
    let rule = |name: &str, subset: &str, more: &str| {
        istio(
            "DestinationRule",
            name,
            &format!(
                "{{host: '*.default.svc.cluster.local', subsets: [{{name: {subset}}}]{more}}}"
            ),
        )
    };
    let vs = |subset: &str| {
        istio(
            "VirtualService",
            subset,
            &format!(
                "{{hosts: [{subset}.com], http: [{{route: [{{destination: {{host: a.default.svc.cluster.local, subset: {subset}}}}}]}}]}}"
            ),
        )
    };
    let text = two_services()
        + &rule("owner", "public", "")
        + &istio(
            "DestinationRule",
            "private",
            "{host: a, subsets: [{name: private}], exportTo: [.]}",
        )
        + &rule("consumer/own", "consumer", "")
        + &rule("istio-system/root", "root", "")
        + &vs("public")
        + &vs("private")
        + &vs("consumer")
        + &vs("root")
        + &pod("client", "10.9.9.9", "app=client")
        + &pod("consumer/client", "10.9.9.8", "app=client")
        + &pod("third/client", "10.9.9.7", "app=client");
    let (snapshot, _) = world(&text);
    let cases = [
        ("default", ["NC", "a", "NC", "NC"]),
        ("consumer", ["NC", "NC", "a", "NC"]),
        ("third", ["a", "NC", "NC", "NC"]),
    ];
    for (namespace, expected) in cases {
        let pod = client(&snapshot, namespace, "client");
        let found = ["public", "private", "consumer", "root"].map(|subset| {
            let host = format!("{subset}.com");
            let found = ask(
                &snapshot,
                &HttpScope::Mesh { port: 80 },
                &Client::Pod(&pod),
                &host,
            );
            if found.starts_with("503 NC") {
                "NC"
            } else {
                "a"
            }
        });
        assert_eq!(found, expected, "{namespace}");
    }
}

#[test]
fn shares_follow_the_weights() {
    let rules = istio(
        "VirtualService",
        "a",
        "
  hosts: [a]
  http:
  - match: [{uri: {prefix: /shares}}]
    route:
    - {destination: {host: a}, weight: 1}
    - {destination: {host: b}, weight: 3}
    - {destination: {host: c.other.svc.cluster.local}, weight: 0}
  - match: [{uri: {prefix: /one}}]
    route: [{destination: {host: b}, weight: 37}]
  - route: [{destination: {host: b}, weight: 0}]",
    );
    let snapshot =
        sound_world(&(two_services() + &rules + &pod("client", "10.9.9.9", "app=client")));
    check_in(&snapshot, &[("a/one", B), ("a/", B)]);
    let pod = client(&snapshot, "default", "client");
    let request = get("a", "/shares");
    let mut drawn = Vec::new();
    for number in 0..4 {
        let decision = decide(
            &snapshot,
            &HttpScope::Mesh { port: 80 },
            &Client::Pod(&pod),
            &request,
            &mut Told(vec![number]),
        );
        drawn.push(told(&decision));
    }
    assert_eq!(drawn, [A, B, B, B]);
}

#[test]
fn a_port_without_a_protocol_has_a_table_of_its_own() {
    let text = service("a", "10.0.0.1", &[":80:8080"])
        + &service("b", "10.0.0.2", &["http:80:8080"])
        + &istio(
            "VirtualService",
            "a",
            "{hosts: [a], http: [{match: [{uri: {prefix: /b}}], route: [{destination: {host: b}}]}]}",
        )
        + &pod("client", "10.9.9.9", "app=client");
    let snapshot = sound_world(&text);
    let pod = client(&snapshot, "default", "client");
    let scope = HttpScope::Service {
        host: "a.default.svc.cluster.local".into(),
        port: 80,
    };
    for (url, expected) in [("whatever.com/b", B), ("b/b", B), ("a/", "404 NR")] {
        assert_eq!(
            ask(&snapshot, &scope, &Client::Pod(&pod), url),
            expected,
            "{url}"
        );
    }
    // Where others declare HTTP on the port, it is in their table too.
    check_in(&snapshot, &[("a/b", B), ("b/", B)]);
    let gone = HttpScope::Service {
        host: "gone.default.svc.cluster.local".into(),
        port: 80,
    };
    assert_eq!(
        ask(&snapshot, &gone, &Client::Pod(&pod), "a"),
        "passthrough"
    );
}

#[test]
fn the_listener_is_chosen_by_port_and_for_what_is_not_http_by_address() {
    let text = service("web", "10.0.0.1", &["http:80:8080"])
        + &service("web6", "\"fd00::1\"", &["http2:80:8080"])
        + &service(
            "db",
            "10.0.0.2",
            &[
                "tcp:80:5432",
                "tls:443:8443",
                "udp:53:53",
                "tcp-dns:53:53",
                "udp:54:54",
            ],
        )
        + &service("any", "10.0.0.3", &["web:80:8080", ":9000:9000"])
        + &service(
            "peers",
            "None",
            &["tcp:7000:7000", "http:80:8080", "x:7001:7001"],
        )
        + &pod("peer", "10.1.0.1", "app=peers");
    let snapshot = sound_world(&(text + &pod("client", "10.9.9.9", "app=client")));
    let pod = client(&snapshot, "default", "client");
    let cases = [
        ("10.0.0.1:80", "http 80"),
        ("[fd00::1]:80", "http 80"),
        ("10.0.0.1:8080", "passthrough"),
        ("8.8.8.8:80", "http 80"),
        ("[2001:db8::1]:80", "http 80"),
        ("8.8.8.8:443", "passthrough"),
        (
            "10.0.0.2:80",
            "tcp outbound|80||db.default.svc.cluster.local",
        ),
        (
            "10.0.0.2:443",
            "tcp outbound|443||db.default.svc.cluster.local",
        ),
        (
            "10.0.0.2:53",
            "tcp outbound|53||db.default.svc.cluster.local",
        ),
        ("10.0.0.2:54", "passthrough"),
        ("10.0.0.3:80", "detect any.default.svc.cluster.local:80"),
        ("10.0.0.3:9000", "detect any.default.svc.cluster.local:9000"),
        ("8.8.8.8:9000", "passthrough"),
        ("10.1.0.1:7000", "passthrough"),
        (
            "10.1.0.1:7001",
            "detect peers.default.svc.cluster.local:7001",
        ),
        ("10.1.0.1:80", "http 80"),
    ];
    for (destination, expected) in cases {
        let destination: SocketAddr = destination.parse().expect("an address");
        let found = match outbound(&snapshot, &Client::Pod(&pod), destination) {
            Outbound::Http(HttpScope::Mesh { port }) => format!("http {port}"),
            Outbound::Http(scope) => panic!("{scope:?} is no scope of a connection"),
            Outbound::Detect {
                scope: HttpScope::Service { host, port },
                otherwise,
            } => {
                let other = StreamScope::Service {
                    host: Arc::clone(&host),
                    port,
                };
                assert_eq!(otherwise, other);
                format!("detect {host}:{port}")
            }
            Outbound::Detect { scope, .. } => panic!("{scope:?} is no private scope"),
            Outbound::Stream(scope) => {
                let flow = Flow {
                    destination,
                    server_name: None,
                };
                let client = Client::Pod(&pod);
                match stream(&snapshot, &client, &scope, &flow, &mut Told(vec![])) {
                    StreamDecision::Forward(Relaying { cluster, .. }) => match cluster.discovery {
                        Discovery::Headless => "passthrough".to_owned(),
                        _ => format!("tcp {}", cluster.key),
                    },
                    StreamDecision::Passthrough => "passthrough".to_owned(),
                    StreamDecision::Refuse => "refused".to_owned(),
                }
            }
        };
        assert_eq!(found, expected, "{destination}");
    }
}

#[test]
fn a_pod_serves_what_the_oldest_service_in_front_of_it_says() {
    let text = service(
        "a",
        "10.0.0.1",
        &["http:80:8080", "grpc:81:8081", ":82:8082", "tcp:83:8083"],
    ) + &service("b", "10.0.0.2", &["tcp:80:8080"]).replace("{app: b}", "{app: a}")
        + &pod("a-1", "10.1.0.1", "app=a");
    let snapshot = sound_world(&text);
    let pod = client(&snapshot, "default", "a-1");
    for (port, expected) in [
        (8080, Inbound::Http(Protocol::Http)),
        (8081, Inbound::Http(Protocol::Http2)),
        (8082, Inbound::Http(Protocol::Auto)),
        (8083, Inbound::Tcp),
        (9999, Inbound::Tcp),
    ] {
        assert_eq!(inbound(&pod, port), expected, "{port}");
    }
}

const GATEWAY: &str = "{selector: {app: gw}, servers: [{hosts: ['*.foo.com', 'other/bar.com', 'x.org'], port: {number: 80, name: http, protocol: HTTP}}]}";

fn at_gateway(text: &str, labels: &str, cases: &[(&str, &str)]) {
    let gateway = pod("istio-system/gateway", "10.8.8.8", labels);
    let (snapshot, _) = world(&format!("{text}{gateway}"));
    let gateway = client(&snapshot, "istio-system", "gateway");
    let gateway = Client::Gateway(&gateway);
    let scope = HttpScope::Gateway {
        port: 80,
        server: None,
    };
    for (url, expected) in cases {
        let found = ask(&snapshot, &scope, &gateway, url);
        assert_eq!(found, *expected, "{url}");
    }
}

#[test]
fn a_gateway_serves_the_hosts_that_server_and_rules_share() {
    let vs = |name: &str, host: &str, to: &str| {
        istio(
            "VirtualService",
            name,
            &format!(
                "{{hosts: ['{host}'], gateways: [default/gw], http: [{{route: [{{destination: {{host: {to}.default.svc.cluster.local}}}}]}}]}}"
            ),
        )
    };
    let text = two_services()
        + &istio("Gateway", "gw", GATEWAY)
        + &vs("narrow", "a.foo.com", "a")
        + &vs("other/bar", "bar.com", "b")
        + &vs("bar", "*.com", "a")
        + &vs("any", "*", "b")
        + &vs("foreign", "elsewhere.net", "a")
        + &istio(
            "VirtualService",
            "mesh",
            "{hosts: [m.foo.com], http: [{route: [{destination: {host: a}}]}]}",
        );
    at_gateway(
        &text,
        "app=gw,more=x",
        &[
            ("a.foo.com", A),
            ("A.foo.com:8080", A),
            // `*.com` and `*.foo.com` share the latter.
            ("b.foo.com", A),
            ("foo.com", "404 NR"),
            ("bar.com", B),
            ("x.org", B),
            ("elsewhere.net", "404 NR"),
            ("a", "404 NR"),
            ("a.foo.com.", "404 NR"),
        ],
    );
    at_gateway(
        &text,
        "app=other",
        &[("a.foo.com", "404 NR"), ("x.org", "404 NR")],
    );
}

#[test]
fn virtual_services_for_one_host_are_joined_at_a_gateway() {
    let text = two_services()
        + &istio("Gateway", "gw", GATEWAY)
        + &istio("Gateway", "gw2", GATEWAY)
        + &istio(
            "VirtualService",
            "oldest",
            "
  hosts: [a.foo.com]
  gateways: [gw]
  http:
  - match: [{uri: {prefix: /a}}]
    route: [{destination: {host: a}}]
  - route: [{destination: {host: a}}]",
        )
        + &istio(
            "VirtualService",
            "younger",
            "
  hosts: [a.foo.com]
  gateways: [./gw2]
  http:
  - match: [{uri: {prefix: /ab}}, {uri: {prefix: /b}}]
    route: [{destination: {host: b}}]",
        );
    at_gateway(
        &text,
        "app=gw",
        &[("a.foo.com/b", B), ("a.foo.com/abc", A), ("a.foo.com/x", A)],
    );
}

#[test]
fn rules_of_a_gateway_may_be_for_one_port_or_gateway() {
    let text = two_services()
        + &istio("Gateway", "gw", GATEWAY)
        + &istio(
            "VirtualService",
            "vs",
            "
  hosts: [a.foo.com, '*.foo.com']
  gateways: [gw, mesh]
  http:
  - match: [{port: 443}]
    route: [{destination: {host: a}}]
  - match: [{gateways: [mesh]}]
    route: [{destination: {host: a}}]
  - match: [{gateways: [gw], sourceLabels: {no: such}, uri: {prefix: /x}}]
    route: [{destination: {host: b}}]",
        )
        .replace("a.foo.com, ", "");
    at_gateway(
        &text,
        "app=gw",
        &[("a.foo.com/x", B), ("a.foo.com/", "404 NR")],
    );
}

#[test]
fn a_gateway_asks_its_own_namespace_for_subsets() {
    let text = two_services()
        + &istio("Gateway", "gw", GATEWAY)
        + &istio(
            "VirtualService",
            "vs",
            "{hosts: [a.foo.com], gateways: [gw], http: [{route: [{destination: {host: a, subset: v1}}]}]}",
        )
        + &istio("DestinationRule", "a", "{host: a, subsets: [{name: v1}]}");
    let hidden = text.clone()
        + &istio(
            "DestinationRule",
            "gateways/a",
            "{host: a.default.svc.cluster.local, subsets: [{name: v2}]}",
        );
    let v1 = "outbound|80|v1|a.default.svc.cluster.local";
    at_gateway(&hidden, "app=gw", &[("a.foo.com", v1)]);
    let hidden = hidden.replace("namespace: gateways", "namespace: istio-system");
    at_gateway(&hidden, "app=gw", &[("a.foo.com", v1)]);
    let private = text.replace("host: a, subsets", "host: a, exportTo: [.], subsets");
    at_gateway(
        &private,
        "app=gw",
        &[("a.foo.com", &format!("503 NC {v1}"))],
    );
}
