//! Every rule, with what breaks it and what does not.

use std::path::Path as FilePath;
use std::sync::Arc;

use super::*;
use crate::config::document::{Outcome, read_text};
use crate::config::fixture::{istio, pod, service};
use crate::config::problem::{Code, Severity};

mod workloads;

/// What is said of these objects, which must be right in themselves.
fn findings(text: &str) -> Vec<Rejected> {
    let file: Arc<FilePath> = FilePath::new("x.yaml").into();
    let options = CompileOptions::default();
    let mut inputs = Inputs::default();
    for document in read_text(text, &file, &options) {
        let mut rejected = document.rejected.iter();
        let broken = rejected.find(|told| told.severity == Severity::Error);
        assert_eq!(broken, None);
        match document.outcome {
            Outcome::Good(object) => {
                inputs.insert(object);
            }
            Outcome::Broken(_) | Outcome::Ignored(_) => {}
        }
    }
    let mut findings = analyze(&inputs, &options);
    Rejected::sort(&mut findings);
    findings
}

/// Checks what is said, in the order of the text, as `CODE Kind ns/name field: message`; `default` and `.default.svc.cluster.local`
/// are left out.
fn check(name: &str, text: &str, expected: &[&str]) {
    let shown: Vec<String> = findings(text)
        .iter()
        .map(|finding| {
            let code = finding.code.expect("every rule has a code");
            if code != Code::Mesh0001 {
                assert_eq!(finding.severity, code.level(), "{name}");
            }
            assert!(
                finding.line > 0 && finding.end_column > finding.column,
                "{name}: {finding:?}"
            );
            format!(
                "{code} {} {}: {}",
                finding.object, finding.field, finding.message
            )
            .replace("default/", "")
            .replace(".default.svc.cluster.local", "")
        })
        .collect();
    assert_eq!(shown, expected, "{name}");
}

/// A VirtualService of the mesh for `a` with one route.
fn route(name: &str, destination: &str) -> String {
    let spec = format!("{{hosts: [a], http: [{{route: [{{destination: {destination}}}]}}]}}");
    istio("VirtualService", name, &spec)
}

fn a() -> String {
    service("a", "10.0.0.1", &["http:80:8080"])
}

fn gateway(name: &str, selector: &str, hosts: &str) -> String {
    let spec = format!(
        "{{selector: {{{selector}}}, servers: [{{port: {{number: 80, name: http, protocol: HTTP}}, hosts: [{hosts}]}}]}}"
    );
    istio("Gateway", name, &spec)
}

#[test]
fn a_destination_must_be_there() {
    let two = service("a", "10.0.0.1", &["http:80:8080", "http-b:81:8081"]);
    let other = service("other/b", "10.0.0.2", &["http:80:8080"]);
    let udp = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{port: 80, name: http}, {port: 53, name: dns, protocol: UDP}]}\n";
    let cases: &[(&str, String, &[&str])] = &[
        (
            "there",
            a() + &route("v", "{host: a, port: {number: 80}}"),
            &[],
        ),
        ("with the only port", a() + &route("v", "{host: a}"), &[]),
        (
            "with the only port of TCP",
            udp.to_owned() + &route("v", "{host: a}"),
            &[],
        ),
        (
            "in another namespace",
            a() + &other + &route("v", "{host: b.other.svc.cluster.local}"),
            &[],
        ),
        (
            "not there",
            a() + &route("v", "{host: gone}"),
            &[
                "IST0101 VirtualService v spec.http[0].route[0].destination.host: no Service is called gone, so this share is answered with 503",
            ],
        ),
        (
            "without the port",
            a() + &route("v", "{host: a, port: {number: 81}}"),
            &[
                "IST0101 VirtualService v spec.http[0].route[0].destination.port.number: a has no port 81, so this share is answered with 503",
            ],
        ),
        (
            "a port of UDP",
            udp.to_owned() + &route("v", "{host: a, port: {number: 53}}"),
            &[
                "IST0101 VirtualService v spec.http[0].route[0].destination.port.number: a has no port 53, so this share is answered with 503",
            ],
        ),
        (
            "one of two ports",
            two + &route("v", "{host: a}"),
            &[
                "IST0112 VirtualService v spec.http[0].route[0].destination.host: a has the ports 80 and 81, and this route does not say which",
            ],
        ),
        (
            "the subset of nobody",
            a() + &route("v", "{host: a, subset: v1}"),
            &[
                "IST0101 VirtualService v spec.http[0].route[0].destination.subset: no DestinationRule for a has a subset v1",
            ],
        ),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
}

#[test]
fn a_host_that_nobody_has_may_be_one_that_somebody_has() {
    let remedy = |host: &str| {
        let text = service("b", "10.0.0.1", &["http:80"])
            + &service("other/b", "10.0.0.2", &["http:80"])
            + &service("other/c", "10.0.0.3", &["http:80"])
            + &route("v", &format!("{{host: {host}}}"));
        findings(&text)[0].remedy.clone()
    };
    // A name with a dot is not completed.
    assert_eq!(remedy("b.other"), "did you mean b.other.svc.cluster.local?");
    assert_eq!(remedy("c"), "did you mean c.other.svc.cluster.local?");
    assert_eq!(remedy("d"), "check the name, or add the Service");
    assert_eq!(
        remedy("www.example.com"),
        "check the name, or add the Service"
    );
}

#[test]
fn a_subset_is_looked_for_where_the_clients_look() {
    let rule = |name: &str, more: &str, subset: &str| {
        istio(
            "DestinationRule",
            name,
            &format!("{{{more}, subsets: [{{name: {subset}}}]}}"),
        )
    };
    let v1 = route("v", "{host: a, subset: v1}");
    let host = "host: a.default.svc.cluster.local";
    let missing: &[&str] = &[
        "IST0101 VirtualService v spec.http[0].route[0].destination.subset: no DestinationRule for a has a subset v1",
    ];
    let cases: &[(&str, String, &[&str])] = &[
        (
            "of the Service's namespace",
            rule("r", "host: a", "v1"),
            &[],
        ),
        (
            "of the root namespace",
            rule("istio-system/r", host, "v1"),
            &[],
        ),
        (
            "by a wildcard",
            rule("r", "host: '*.default.svc.cluster.local'", "v1"),
            &[],
        ),
        (
            "of two rules for one host",
            rule("r", "host: a", "v2") + &rule("s", "host: a", "v1"),
            &[],
        ),
        ("another one", rule("r", "host: a", "v2"), missing),
        ("of a third namespace", rule("third/r", host, "v1"), missing),
        (
            "for the namespace's own eyes",
            rule("r", "exportTo: ['.'], host: a", "v1"),
            &[],
        ),
        (
            "for the eyes of others",
            rule("r", "exportTo: [third], host: a", "v1"),
            missing,
        ),
        (
            "of a less specific rule",
            rule("r", "host: '*.default.svc.cluster.local'", "v1") + &rule("s", "host: a", "v2"),
            missing,
        ),
    ];
    for (name, rules, expected) in cases {
        check(name, &(a() + &v1 + rules), expected);
    }
    let text = a() + &v1 + &rule("r", "host: a", "v2");
    let related = findings(&text)[0].related.clone().expect("the rule");
    assert_eq!(
        related.message,
        "DestinationRule default/r has the subset v2"
    );
}

#[test]
fn a_gateway_does_not_share_the_subsets_of_the_mesh() {
    let rule = istio("DestinationRule", "r", "{host: a, subsets: [{name: v1}]}");
    let outside = |destination: &str| {
        let spec = format!(
            "{{hosts: [x.com], gateways: [gw], http: [{{route: [{{destination: {destination}}}]}}]}}"
        );
        istio("VirtualService", "outside", &spec)
    };
    let base = a() + &rule + &gateway("gw", "", "x.com");
    let inside = route("inside", "{host: a, subset: v1}");
    check(
        "whole",
        &(base.clone() + &inside + &outside("{host: a}")),
        &[
            "IST0140 VirtualService outside spec.http[0].route[0].destination.host: what comes in through a gateway goes to all of a: \
           the subsets of VirtualService inside are for the mesh alone",
        ],
    );
    check(
        "split",
        &(base.clone() + &inside + &outside("{host: a, subset: v1}")),
        &[],
    );
    check(
        "unsplit",
        &(base.clone() + &route("inside", "{host: a}") + &outside("{host: a}")),
        &[],
    );
    check("alone", &(base + &outside("{host: a}")), &[]);
}

#[test]
fn in_the_mesh_a_host_has_one_owner() {
    let virtual_service = |name: &str, more: &str| {
        let spec = format!(
            "{{{more}, http: [{{route: [{{destination: {{host: a.default.svc.cluster.local}}}}]}}]}}"
        );
        istio("VirtualService", name, &spec)
    };
    let gw = gateway("gw", "", "'*'");
    let second: &[&str] = &[
        "IST0109 VirtualService w spec.hosts[0]: in the mesh, a belongs to the older VirtualService v",
    ];
    let cases: &[(&str, String, &[&str])] = &[
        ("one", virtual_service("v", "hosts: [a]"), &[]),
        (
            "two",
            virtual_service("v", "hosts: [a]") + &virtual_service("w", "hosts: [a]"),
            second,
        ),
        (
            "two spellings",
            virtual_service("v", "hosts: [a]")
                + &virtual_service("w", "hosts: [a.default.svc.cluster.local]"),
            second,
        ),
        (
            "two hosts",
            virtual_service("v", "hosts: [a]") + &virtual_service("w", "hosts: [b]"),
            &[],
        ),
        (
            "a wildcard",
            virtual_service("v", "hosts: [a]")
                + &virtual_service("w", "hosts: ['*.cluster.local']"),
            &[],
        ),
        (
            "a gateway",
            virtual_service("v", "hosts: [a]")
                + &virtual_service("w", "gateways: [gw], hosts: [a]"),
            &[],
        ),
        (
            "both",
            virtual_service("v", "hosts: [a]")
                + &virtual_service("w", "gateways: [gw, mesh], hosts: [a]"),
            second,
        ),
        (
            "fewer clients",
            virtual_service("v", "hosts: [a]")
                + &virtual_service("w", "exportTo: ['.'], hosts: [a]"),
            &[],
        ),
        (
            "the same few clients",
            virtual_service("v", "exportTo: ['.'], hosts: [a]")
                + &virtual_service("w", "exportTo: [other, default], hosts: [a]"),
            second,
        ),
        (
            "others' clients",
            virtual_service("v", "exportTo: [x], hosts: [a]")
                + &virtual_service("w", "exportTo: [z], hosts: [a]"),
            &[],
        ),
    ];
    for (name, text, expected) in cases {
        check(name, &(a() + &gw + text), expected);
    }
}

#[test]
fn a_gateway_that_is_named_must_be_there_and_serve_a_host() {
    let bound = |more: &str| {
        let spec = format!("{{{more}, http: [{{route: [{{destination: {{host: a}}}}]}}]}}");
        a() + &istio("VirtualService", "v", &spec)
    };
    let missing: &[&str] =
        &["IST0101 VirtualService v spec.gateways[1]: there is no Gateway other/gw"];
    let unserved: &[&str] =
        &["IST0132 VirtualService v spec.hosts: Gateway gw serves none of these hosts"];
    let cases: &[(&str, String, &str, &[&str])] = &[
        (
            "there",
            bound("hosts: [x.com], gateways: [gw, mesh]"),
            "x.com",
            &[],
        ),
        (
            "gone",
            bound("hosts: [x.com], gateways: [gw, other/gw]"),
            "x.com",
            missing,
        ),
        (
            "another host",
            bound("hosts: [x.com], gateways: [gw]"),
            "y.com",
            unserved,
        ),
        (
            "one of two",
            bound("hosts: [y.com, x.com], gateways: [gw]"),
            "x.com",
            &[],
        ),
        ("all", bound("hosts: [x.com], gateways: [gw]"), "'*'", &[]),
        (
            "a wildcard",
            bound("hosts: ['*.x.com'], gateways: [gw]"),
            "a.x.com",
            &[],
        ),
        (
            "for this namespace",
            bound("hosts: [x.com], gateways: [gw]"),
            "./x.com",
            &[],
        ),
        (
            "for another namespace",
            bound("hosts: [x.com], gateways: [gw]"),
            "other/x.com",
            unserved,
        ),
    ];
    for (name, text, hosts, expected) in cases {
        check(name, &(gateway("gw", "", hosts) + text), expected);
    }
    let text = gateway("gw", "", "y.com, other/x.com") + &bound("hosts: [x.com], gateways: [gw]");
    let related = findings(&text)[0].related.clone().expect("the Gateway");
    assert_eq!(related.message, "it serves other/x.com and y.com");
}

#[test]
fn gateways_for_the_same_pods_do_not_share_hosts() {
    let conflict = |message: &str| format!("IST0145 Gateway h spec.servers[0].hosts[0]: {message}");
    let cases: &[(&str, &str, &str, Option<&str>)] = &[
        ("others", "x.com", "y.com", None),
        (
            "the same",
            "x.com",
            "x.com",
            Some("the older Gateway g serves x.com on this port too"),
        ),
        (
            "all",
            "'*'",
            "x.com",
            Some("the older Gateway g serves * on this port, which overlaps with x.com"),
        ),
        (
            "below all",
            "x.com",
            "'*'",
            Some("the older Gateway g serves x.com on this port, which overlaps with *"),
        ),
        (
            "below",
            "a.b.x.com",
            "'*.x.com'",
            Some("the older Gateway g serves a.b.x.com on this port, which overlaps with *.x.com"),
        ),
        ("beside", "x.com", "'*.x.com'", None),
        (
            "wildcards",
            "'*.x.com'",
            "'*.a.x.com'",
            Some("the older Gateway g serves *.x.com on this port, which overlaps with *.a.x.com"),
        ),
        ("namespaces", "one/x.com", "two/x.com", None),
        (
            "a namespace and all",
            "one/x.com",
            "'*/x.com'",
            Some("the older Gateway g serves x.com on this port too"),
        ),
        (
            "all and a namespace",
            "'*/x.com'",
            "one/x.com",
            Some("the older Gateway g serves x.com on this port too"),
        ),
    ];
    for (name, first, second, expected) in cases {
        let text = gateway("g", "app: x", first) + &gateway("h", "app: x", second);
        let expected = expected.map(conflict);
        check(
            name,
            &text,
            &expected.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    check(
        "pods",
        &(gateway("g", "app: x", "x.com") + &gateway("h", "app: z", "x.com")),
        &[],
    );
    let port = gateway("h", "app: x", "x.com").replace("number: 80", "number: 8080");
    check("ports", &(gateway("g", "app: x", "x.com") + &port), &[]);
    check("itself", &gateway("g", "app: x", "'*', x.com"), &[]);
    let third = gateway("g", "", "x.com") + &gateway("h", "", "x.com") + &gateway("i", "", "x.com");
    let shown: Vec<String> = findings(&third)
        .iter()
        .map(|finding| finding.object.clone())
        .collect();
    assert_eq!(shown, ["Gateway default/h", "Gateway default/i"]);
}

#[test]
fn a_gateway_has_pods_and_its_ports_a_service() {
    let pods = pod("system/gw", "10.1.0.1", "app=gw,tier=edge");
    let front = |port: &str| service("system/gw", "10.0.0.9", &[port]);
    let gw = gateway("g", "app: gw, tier: edge", "x.com");
    let cases: &[(&str, String, &[&str])] = &[
        ("served", pods.clone() + &front("http:80:8080") + &gw, &[]),
        ("all pods", pods.clone() + &gateway("g", "", "x.com"), &[]),
        ("no pods at all", front("http:81") + &gw, &[]),
        (
            "others' pods",
            pod("system/gw", "10.1.0.1", "app=gw") + &gw,
            &[
                "IST0101 Gateway g spec.selector: no Pod is labelled app=gw and tier=edge, so nobody serves this",
            ],
        ),
        (
            "another port",
            pods.clone() + &front("http:81:8080") + &gw,
            &[
                "IST0162 Gateway g spec.servers[0].port.number: no Service in front of the gateway's Pods has port 80",
            ],
        ),
        (
            "a Service of another namespace",
            pods + &service("gw", "10.0.0.9", &["http:80"]) + &gw,
            &[
                "IST0162 Gateway g spec.servers[0].port.number: no Service is in front of the gateway's Pods, so nobody gets to port 80 by one",
            ],
        ),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
}

#[test]
fn gateways_of_the_same_pods_should_not_share_a_certificate() {
    let gateway = |name: &str, selector: &str, tls: &str| {
        let port = "port: {number: 443, name: a, protocol: HTTPS}";
        let spec = format!(
            "{{selector: {{{selector}}}, servers: [{{{port}, hosts: [{name}.com], tls: {{mode: SIMPLE, {tls}}}}}]}}"
        );
        istio("Gateway", name, &spec)
    };
    let check = |of_a: (&str, &str), of_b: (&str, &str), expected: &[&str]| {
        let text = gateway("a", of_a.0, of_a.1) + &gateway("b", of_b.0, of_b.1);
        check(&text, &text, expected);
    };
    let said = |one: &str, field: &str, other: &str| {
        format!(
            "IST0138 Gateway {one} spec.servers[0].tls.{field}: Gateway {other} shows the same certificate"
        )
    };
    let (c, d) = ("credentialName: c", "credentialName: d");
    let (a, b) = (
        said("a", "credentialName", "b"),
        said("b", "credentialName", "a"),
    );
    check(("app: gw", c), ("app: gw", c), &[&a, &b]);
    check(("app: gw", c), ("app: gw", d), &[]);
    check(("app: gw", c), ("app: other", c), &[]);
    check(("app: gw", c), ("app: gw, tier: edge", c), &[&a]);
    let files = "serverCertificate: /c, privateKey: /k";
    let (a, b) = (
        said("a", "serverCertificate", "b"),
        said("b", "serverCertificate", "a"),
    );
    check(("app: gw", files), ("app: gw", files), &[&a, &b]);
    check(
        ("app: gw", files),
        ("app: gw", &files.replace("/k", "/l")),
        &[],
    );
}

#[test]
fn a_destination_rule_has_a_service_and_its_subsets_pods() {
    let rule = |spec: &str| istio("DestinationRule", "r", &format!("{{{spec}}}"));
    let v1 = rule("host: a, subsets: [{name: v1, labels: {version: v1}}]");
    let nobody: &[&str] = &["IST0174 DestinationRule r spec.host: no Service is called gone"];
    let slice = |pods: &str| {
        format!(
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{name: s, labels: {{kubernetes.io/service-name: a}}}}\n\
             ports: [{{name: http, port: 8080}}]\nendpoints: {pods}\n"
        )
    };
    let cases: &[(&str, String, &[&str])] = &[
        ("a Service", a() + &rule("host: a"), &[]),
        (
            "a wildcard",
            a() + &rule("host: '*.svc.cluster.local'"),
            &[],
        ),
        ("all", a() + &rule("host: '*'"), &[]),
        ("nobody", a() + &rule("host: gone"), nobody),
        (
            "nobody by a wildcard",
            a() + &rule("host: '*.example.com'"),
            &["IST0174 DestinationRule r spec.host: no Service is called *.example.com"],
        ),
        (
            "a Pod",
            a() + &pod("p", "10.1.0.1", "app=a,version=v1") + &v1,
            &[],
        ),
        ("no Pods anywhere", a() + &v1, &[]),
        (
            "another's Pod",
            a() + &pod("p", "10.1.0.1", "app=a,version=v2")
                + &pod("q", "10.1.0.2", "app=b,version=v1")
                + &v1,
            &[
                "IST0173 DestinationRule r spec.subsets[0].labels: none of the Pods behind a is labelled version=v1, so subset v1 has none",
            ],
        ),
        (
            "no Pod of the Service",
            a() + &pod("q", "10.1.0.2", "app=b") + &v1,
            &[
                "IST0173 DestinationRule r spec.subsets[0].labels: no Pod is behind a, so subset v1 has none either",
            ],
        ),
        (
            "a Pod by a slice",
            a() + &pod("p", "10.1.0.1", "version=v1")
                + &slice("[{addresses: [10.1.0.1], targetRef: {kind: Pod, name: p}}]")
                + &v1,
            &[],
        ),
        (
            "no Pod by a slice",
            a() + &pod("p", "10.1.0.1", "app=a,version=v1")
                + &pod("q", "10.1.0.2", "app=a")
                + &slice("[{addresses: [10.1.0.2], targetRef: {kind: Pod, name: q}}]")
                + &v1,
            &[
                "IST0173 DestinationRule r spec.subsets[0].labels: none of the Pods behind a is labelled version=v1, so subset v1 has none",
            ],
        ),
        (
            "who knows by a slice",
            a() + &pod("q", "10.1.0.2", "app=a") + &slice("[{addresses: [10.1.0.9]}]") + &v1,
            &[],
        ),
        (
            "Pods that nobody can tell",
            a().replace("  selector: {app: a}\n", "") + &pod("q", "10.1.0.2", "app=a") + &v1,
            &[],
        ),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
}

#[test]
fn the_name_of_a_port_says_what_is_spoken() {
    let cases: &[(&str, &[&str])] = &[
        ("http:80", &[]),
        ("grpc-web:80", &[]),
        ("x:3306", &[]),
        (
            "web:80",
            &[
                "IST0118 Service a spec.ports[0].name: \"web\" does not say what is spoken on port 80",
            ],
        ),
        (
            ":80",
            &["IST0118 Service a spec.ports[0].name: \"\" does not say what is spoken on port 80"],
        ),
    ];
    for (port, expected) in cases {
        let text = service("a", "10.0.0.1", &[port]);
        let expected: Vec<String> = expected
            .iter()
            .map(|text| {
                text.replace(
                    "\"\" does not say what is spoken on port 80",
                    "port 80 has no name that says what is spoken there",
                )
            })
            .collect();
        check(
            port,
            &text,
            &expected.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
    check(
        "kubernetes' own",
        &service("kube-system/a", "10.0.0.1", &["web:80"]),
        &[],
    );
    let declared =
        service("a", "10.0.0.1", &["web:80"]).replace("port: 80", "appProtocol: http, port: 80");
    check("appProtocol", &declared, &[]);
}

#[test]
fn services_agree_on_the_ports_of_their_pods() {
    let behind =
        |name: &str, port: &str| service(name, "10.0.0.1", &[port]).replace("{app: b}", "{app: a}");
    let pods = pod("p", "10.1.0.1", "app=a") + &pod("q", "10.1.0.2", "app=a");
    let cases: &[(&str, String, &[&str])] = &[
        (
            "alike",
            behind("a", "http:80:8080") + &behind("b", "http:80:8080"),
            &[],
        ),
        (
            "other ports",
            behind("a", "http:80:8080") + &behind("b", "tcp:81:8081"),
            &[],
        ),
        (
            "by name",
            behind("a", "http:80:web") + &behind("b", "http:80:8080"),
            &[],
        ),
        (
            "another protocol",
            behind("a", "http:80:8080") + &behind("b", "tcp:80:web"),
            &[
                "IST0116 Service b spec.ports[0].name: port 8080 of the Pods is TCP by this Service and HTTP by the older Service a, which holds",
            ],
        ),
        (
            "another port",
            behind("a", "http:80:8080") + &behind("b", "http:8080:8080"),
            &[
                "IST0137 Service b spec.ports[0].port: port 8080 of the Pods is port 8080 of this Service and port 80 of the older Service a",
            ],
        ),
    ];
    for (name, text, expected) in cases {
        check(name, &(text.clone() + &pods), expected);
        check(name, text, &[]);
    }
}

#[test]
fn a_pod_is_not_of_two_minds() {
    let with = |annotations: &str| {
        pod("p", "10.1.0.1", "app=a").replace(
            "metadata: {",
            &format!("metadata: {{annotations: {{{annotations}}}, "),
        )
    };
    let netns = "mesh-agent.io/netns: /run/netns/p";
    let cases: &[(&str, String, &[&str])] = &[
        ("silent", with(netns), &[]),
        (
            "twice yes",
            with(&format!(
                "{netns}, sidecar.istio.io/inject: 'true', mesh-agent.io/enrol: 'true'"
            )),
            &[],
        ),
        (
            "twice no",
            with(&format!(
                "{netns}, sidecar.istio.io/inject: 'false', mesh-agent.io/enrol: 'false'"
            )),
            &[],
        ),
        ("elsewhere", with("sidecar.istio.io/inject: 'false'"), &[]),
        (
            "yes and no",
            with(&format!(
                "{netns}, sidecar.istio.io/inject: 'true', mesh-agent.io/enrol: 'false'"
            )),
            &[
                "IST0103 Pod p metadata.annotations[\"sidecar.istio.io/inject\"]: this Pod asks for a proxy, and mesh-agent.io/enrol keeps it out of the mesh",
            ],
        ),
        (
            "no, and taken in",
            with(netns).replace("app: a", "sidecar.istio.io/inject: 'false'"),
            &[
                "MESH0001 Pod p metadata.labels[\"sidecar.istio.io/inject\"]: this Pod is in the mesh all the same: sidecar.istio.io/inject is not looked at",
            ],
        ),
    ];
    for (name, text, expected) in cases {
        check(name, text, expected);
    }
}

#[test]
fn nobody_runs_as_the_proxy() {
    let pod = |spec: &str| {
        format!(
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{{spec}}}\nstatus: {{podIP: 10.1.0.1}}\n"
        )
    };
    let message =
        "user 1337 is the proxy's: where iptables steers, its connections pass by the mesh";
    let cases: &[(&str, &[&str])] = &[
        (
            "securityContext: {runAsUser: 1000}, containers: [{name: a, securityContext: {runAsUser: 1338}}]",
            &[],
        ),
        (
            "containers: [{name: istio-proxy, securityContext: {runAsUser: 1337}}]",
            &[],
        ),
        (
            "securityContext: {runAsUser: 1337}",
            &["spec.securityContext.runAsUser"],
        ),
        (
            "containers: [{name: a}, {name: b, securityContext: {runAsUser: 1337}}], initContainers: [{name: c, securityContext: {runAsUser: 1337}}]",
            &[
                "spec.containers[1].securityContext.runAsUser",
                "spec.initContainers[0].securityContext.runAsUser",
            ],
        ),
    ];
    for (spec, expected) in cases {
        let expected: Vec<String> = expected
            .iter()
            .map(|field| format!("IST0144 Pod p {field}: {message}"))
            .collect();
        check(
            spec,
            &pod(spec),
            &expected.iter().map(String::as_str).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn annotations_are_looked_at_on_services_and_pods_and_the_name_is_underlined() {
    let text = "apiVersion: v1
kind: Service
metadata:
  name: a
  annotations:
    sidecar.istio.io/inject: 'true'
    example.com/x: z
spec: {ports: [{port: 80, name: http}]}
";
    let found = findings(text);
    assert_eq!(found.len(), 1);
    let place = (found[0].line, found[0].column, found[0].end_column);
    assert_eq!((found[0].code, place), (Some(Code::Ist0107), (6, 5, 28)));
}

#[test]
fn an_object_can_ask_not_to_be_told() {
    let web = service("a", "10.0.0.1", &["web:80"]);
    let asking = |codes: &str| {
        let annotations =
            format!("metadata: {{annotations: {{galley.istio.io/analyze-suppress: '{codes}'}}, ");
        findings(&web.replace("metadata: {", &annotations)).len()
    };
    assert_eq!(asking("IST0101"), 1);
    assert_eq!(asking("IST0101, IST0118"), 0);
    assert_eq!(asking("*"), 0);
}

#[test]
fn what_is_found_does_not_depend_on_the_order_of_files() {
    let parts = [
        service("a", "10.0.0.1", &["web:80:8080"]),
        service("b", "10.0.0.2", &["http:81:8080"]).replace("{app: b}", "{app: a}"),
        pod("p", "10.1.0.1", "app=a"),
        route("v", "{host: gone}"),
        route("w", "{host: b, subset: x}"),
        gateway("g", "app: a", "x.com"),
        gateway("h", "app: a", "'*'"),
        istio(
            "DestinationRule",
            "r",
            "{host: b, subsets: [{name: v1, labels: {version: v1}}]}",
        ),
    ];
    let dated: Vec<String> = parts
        .iter()
        .enumerate()
        .map(|(day, part)| {
            part.replacen(
                "metadata: {",
                &format!(
                    "metadata: {{creationTimestamp: '2024-01-0{}T00:00:00Z', ",
                    day + 1
                ),
                1,
            )
        })
        .collect();
    let shown = |parts: &[String]| {
        let mut shown: Vec<String> = findings(&parts.concat())
            .iter()
            .map(|finding| {
                format!(
                    "{:?} {} {} {}",
                    finding.code, finding.object, finding.field, finding.message
                )
            })
            .collect();
        shown.sort();
        shown
    };
    let straight = shown(&dated);
    assert!(straight.len() >= 7, "{straight:#?}");
    let reversed: Vec<String> = dated.iter().rev().cloned().collect();
    assert_eq!(shown(&reversed), straight);
}

#[test]
fn a_list_of_many_is_cut() {
    assert_eq!(some(0..0), "none");
    assert_eq!(some(0..1), "0");
    assert_eq!(some(0..3), "0, 1 and 2");
    assert_eq!(some(0..9), "0, 1, 2, 3, 4 and 4 more");
}
