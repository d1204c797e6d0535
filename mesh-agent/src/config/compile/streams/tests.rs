//! Stream tables, told as one line per route.

use std::path::Path;

use super::*;
use crate::config::compile::located::LocatedPods;
use crate::config::compile::routes::bindings;
use crate::config::document::{Outcome, read_text};
use crate::config::fixture::{istio, pod, service, world};
use crate::config::{CompileOptions, Inputs, Severity};
use crate::model::Snapshot;

/// `labels ns @audience | sni | subnets > subset:weight, ...` for each route; what stands in behind `else`.
fn told(table: &StreamTable) -> Vec<String> {
    let mut lines: Vec<String> = table.routes.iter().map(told_route).collect();
    if let Some(next) = &table.next {
        lines.push("else".to_owned());
        lines.extend(told(next));
    }
    lines
}

fn told_route(route: &StreamRoute) -> String {
    let mut line = String::new();
    let StreamMatch {
        server_names,
        subnets,
        client,
    } = &route.when;
    for (key, value) in &client.labels {
        line += &format!("{key}={value} ");
    }
    if let Some(namespace) = &client.namespace {
        line += &format!("from {namespace} ");
    }
    if let Some(names) = &client.exported_to {
        line += &format!("@{} ", names.join(","));
    }
    if !server_names.is_empty() {
        line += &format!("{} ", server_names.join(","));
    }
    for subnet in subnets {
        line += &format!("{subnet} ");
    }
    let destinations = route.destinations.iter().map(|destination| {
        let ClusterKey { host, port, subset } = &destination.cluster;
        let name = host.split('.').next().unwrap_or_default();
        let subset = subset
            .as_ref()
            .map_or_else(String::new, |subset| format!("/{subset}"));
        match destination.weight {
            0 => format!("{name}:{port}{subset}"),
            weight => format!("{name}:{port}{subset} x{weight}"),
        }
    });
    line + "> " + &destinations.collect::<Vec<_>>().join(", ")
}

fn sound(text: &str) -> Snapshot {
    let (snapshot, rejected) = world(text);
    let errors: Vec<String> = rejected
        .iter()
        .filter(|complaint| complaint.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert_eq!(errors, Vec::<String>::new());
    snapshot
}

/// What port `port` of Service `default/db` has, with these `tcp` and `tls` rules for it.
fn check(port: u16, services: &str, expected: &[&str]) {
    let text = service(
        "db",
        "10.0.0.1",
        &["tcp:5432", "tls:443", "http:80", "odd:9000"],
    ) + &service("b", "10.0.0.2", &["tcp:1", "more:2"])
        + &service("one", "10.0.0.3", &["tcp:7"])
        + services
        + &pod("p", "10.1.0.1", "app=db");
    let snapshot = sound(&text);
    let table = snapshot
        .common
        .streams
        .get("db.default.svc.cluster.local")
        .and_then(|ports| ports.get(&port));
    assert_eq!(
        table.map(|table| told(table)).unwrap_or_default(),
        expected,
        "{services}"
    );
}

fn vs(name: &str, spec: &str) -> String {
    istio("VirtualService", name, spec)
}

#[test]
fn a_tcp_rule_without_subnets_is_the_last_and_the_service_stands_behind_the_others() {
    let cases: &[(&str, &[&str])] = &[
        ("{hosts: [db], tcp: [{route: [{destination: {host: b}}]}]}", &["> b:5432"]),
        (
            "{hosts: [db], tcp: [{route: [{destination: {host: b, subset: v1}, weight: 9}, {destination: {host: one}, weight: 1}, {destination: {host: db}}]}]}",
            &["> b:5432/v1 x9, one:7 x1"],
        ),
        (
            "{hosts: [db], tcp: [{match: [{port: 1}, {port: 5432}], route: [{destination: {host: one, port: {number: 9}}, weight: 37}]}]}",
            &["> one:9 x37"],
        ),
        ("{hosts: [db], tcp: [{match: [{port: 1}], route: [{destination: {host: b}}]}]}", &[]),
        (
            "{hosts: [db], tcp: [
                {match: [{destinationSubnets: [10.0.0.0/8, fd00::/8, 10.2.3.4]}], route: [{destination: {host: one}}]},
                {match: [{destinationSubnets: [10.1.0.0/16]}], route: [{destination: {host: b}}]}]}",
            &[
                "10.2.3.4/32 > one:7",
                "10.1.0.0/16 > b:5432",
                "10.0.0.0/8 fd00::/8 > one:7",
                "> db:5432",
            ],
        ),
        (
            "{hosts: [db], tcp: [
                {match: [{destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: one}}]},
                {match: [{sourceLabels: {app: x}}], route: [{destination: {host: b}}]},
                {match: [{destinationSubnets: [10.1.0.0/16], sourceNamespace: ns}], route: [{destination: {host: b}}]}]}",
            &[
                "app=x 10.0.0.0/8 > one:7",
                "app=x > b:5432",
                "from ns 10.1.0.0/16 > b:5432",
                "10.0.0.0/8 > one:7",
                "> db:5432",
            ],
        ),
        (
            "{hosts: [db], gateways: [mesh, gw], tcp: [{match: [{gateways: [gw]}], route: [{destination: {host: b}}]},
                {match: [{gateways: [mesh], sourceLabels: {app: x}}], route: [{destination: {host: one}}]}]}",
            &["app=x > one:7", "> db:5432"],
        ),
        ("{hosts: [db], gateways: [gw], tcp: [{route: [{destination: {host: b}}]}]}", &[]),
        ("{hosts: [db], http: [{route: [{destination: {host: b}}]}]}", &[]),
        (
            "{hosts: [db], tls: [{match: [{sniHosts: [db]}], route: [{destination: {host: b}}]}]}",
            &[],
        ),
    ];
    for (spec, expected) in cases {
        check(5432, &vs("x", spec), expected);
    }
}

#[test]
fn a_port_of_no_protocol_takes_tcp_and_one_of_http_nothing() {
    let rule = vs(
        "x",
        "{hosts: [db], tcp: [{route: [{destination: {host: b}}]}]}",
    );
    check(9000, &rule, &["> b:9000"]);
    check(80, &rule, &[]);
    check(443, &rule, &[]);
}

#[test]
fn the_rules_of_all_virtual_services_count_in_their_order() {
    let route = |name: &str| {
        format!(
            "tcp: [{{match: [{{sourceNamespace: {name}}}], route: [{{destination: {{host: {name}}}}}]}}]"
        )
    };
    let text = vs(
        "a",
        &format!("{{hosts: ['*.cluster.local'], {}}}", route("a")),
    ) + &vs("b", &format!("{{hosts: [db], {}}}", route("b")))
        + &vs(
            "c",
            &format!("{{hosts: [db], exportTo: [other], {}}}", route("c")),
        )
        + &vs(
            "d",
            &format!("{{hosts: [db], exportTo: ['.'], {}}}", route("d")),
        )
        + &vs("e", &format!("{{hosts: [other], {}}}", route("e")))
        + &vs(
            "f",
            &format!("{{hosts: [db], exportTo: ['~'], {}}}", route("f")),
        );
    check(
        5432,
        &text,
        &[
            "from d @default > d:5432",
            "from c @other > c:5432",
            "from a > a:5432",
            "from b > b:5432",
            "> db:5432",
        ],
    );
}

#[test]
fn the_most_specific_server_name_wins_and_the_first_of_equals() {
    let cases: &[(&str, &[&str])] = &[
        (
            "{hosts: [db, '*.x.com'], tls: [
                {match: [{sniHosts: ['*.x.com', a.x.com]}], route: [{destination: {host: b}}]},
                {match: [{sniHosts: [A.x.com, '*.a.x.com'], port: 443}], route: [{destination: {host: one}}]},
                {match: [{sniHosts: [db], port: 1}], route: [{destination: {host: one}}]}]}",
            &[
                "a.x.com > b:443",
                "a.x.com > one:7",
                "*.a.x.com > one:7",
                "*.x.com > b:443",
            ],
        ),
        (
            "{hosts: [db], tls: [
                {match: [{sniHosts: [db]}], route: [{destination: {host: b}}]},
                {match: [{sniHosts: [db.default.svc.cluster.local], destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: one}}]}]}",
            &["db.default.svc.cluster.local 10.0.0.0/8 > one:7", "db > b:443"],
        ),
        (
            "{hosts: [db], tls: [{match: [{sniHosts: [db], sourceLabels: {app: x}, sourceNamespace: ns}], route: [{destination: {host: b}}]}]}",
            &["app=x from ns db > b:443", "else", "> db:443"],
        ),
        ("{hosts: [db], tcp: [{route: [{destination: {host: b}}]}]}", &[]),
    ];
    for (spec, expected) in cases {
        check(443, &vs("x", spec), expected);
    }
}

#[test]
fn a_tls_service_without_an_address_is_told_by_its_name() {
    let text = service("db", "10.0.0.1", &["tls:443"]).replace("  clusterIP: 10.0.0.1\n", "");
    let snapshot = sound(&text);
    let table = &snapshot.common.streams["db.default.svc.cluster.local"][&443];
    assert_eq!(told(table), ["db.default.svc.cluster.local > db:443"]);
    assert!(table.needs_server_name());
}

/// The table of a gateway's first server.
fn gateway(kind: StreamKind, server: &str, services: &str) -> Vec<String> {
    let text = istio("Gateway", "gw", &format!("{{servers: [{server}]}}")) + services;
    let options = CompileOptions::default();
    let file = Path::new("test.yaml").into();
    let documents = read_text(&text, &file, &options).into_iter();
    let inputs: Inputs = documents
        .map(|document| match document.outcome {
            Outcome::Good(object) => object,
            other => panic!("{other:?} {:?}", document.rejected),
        })
        .collect();
    let located = LocatedPods::gather(&inputs, &CompileOptions::default());
    let all = Services::gather(&inputs, &located, &options);
    let bindings = bindings(&inputs);
    let bindings: Vec<_> = bindings.iter().collect();
    let (_, gateway) = inputs.gateways()[0];
    let name = GatewayName::Gateway("default".into(), "gw".into());
    told(&gateway_streams(
        &bindings,
        &name,
        &gateway.servers[0],
        &all,
        kind,
    ))
}

#[test]
fn a_gateway_takes_the_first_tcp_rule_of_the_first_virtual_service() {
    // Which protocol the server speaks is decided before.
    let server = "{port: {number: 80, name: x, protocol: HTTP}, hosts: ['*.x.com', other/y.com]}";
    let rule = |more: &str, host: &str| {
        format!("tcp: [{{{more} route: [{{destination: {{host: {host}}}}}]}}]")
    };
    let cases: Vec<(String, Vec<&str>)> = vec![
        (
            vs(
                "a",
                &format!(
                    "{{hosts: [a.x.com], gateways: [gw], {}}}",
                    rule("match: [{port: 81}],", "a")
                ),
            ) + &vs(
                "b",
                &format!(
                    "{{hosts: ['*'], gateways: [gw], {}}}",
                    rule(
                        "match: [{port: 80, sourceLabels: {a: b}, destinationSubnets: [10.0.0.0/8], gateways: [gw]}],",
                        "b"
                    )
                ),
            ) + &vs(
                "c",
                &format!("{{hosts: [b.x.com], gateways: [gw], {}}}", rule("", "c")),
            ),
            vec!["> b:80"],
        ),
        (
            vs(
                "a",
                &format!("{{hosts: [y.com], gateways: [gw], {}}}", rule("", "a")),
            ),
            vec![],
        ),
        (
            vs("a", &format!("{{hosts: [a.x.com], {}}}", rule("", "a"))),
            vec![],
        ),
        (
            vs(
                "a",
                &format!(
                    "{{hosts: [a.x.com], gateways: [gw], exportTo: ['.'], {}}}",
                    rule("", "a")
                ),
            ) + &vs(
                "b",
                &format!(
                    "{{hosts: [a.x.com], gateways: [gw], {}}}",
                    rule("match: [{gateways: [mesh]}],", "b")
                ),
            ) + &vs(
                "c",
                &format!("{{hosts: [a.x.com], gateways: [gw], {}}}", rule("", "c")),
            ),
            vec!["@default > a:80", "> c:80"],
        ),
    ];
    for (services, expected) in cases {
        assert_eq!(
            gateway(StreamKind::Tcp, server, &services),
            expected,
            "{services}"
        );
    }
}

#[test]
fn a_gateway_passes_tls_on_by_server_name() {
    let server = "{port: {number: 443, name: x, protocol: HTTP}, hosts: ['*.x.com']}";
    let text = vs(
        "a",
        "{hosts: ['*.x.com'], gateways: [gw], tls: [
            {match: [{sniHosts: ['*.x.com'], sourceLabels: {a: b}}, {sniHosts: [a.x.com], port: 443}, {sniHosts: [z.x.com], port: 1}], route: [{destination: {host: a}}]},
            {match: [{sniHosts: [c.x.com, a.x.com]}], route: [{destination: {host: b}}]}]}",
    ) + &vs(
        "b",
        "{hosts: [d.x.com], gateways: [gw], tls: [{match: [{sniHosts: [d.x.com]}], route: [{destination: {host: b}}]}]}",
    );
    assert_eq!(
        gateway(StreamKind::Tls, server, &text),
        ["a.x.com > a:443", "d.x.com > b:443", "*.x.com > a:443"]
    );
}
