//! What is read from a VirtualService, and every complaint about one.

use std::path::Path as FilePath;

use super::*;
use crate::config::CompileOptions;
use crate::config::Severity;
use crate::config::document::{Outcome, read_text};
use crate::config::fixture::istio;
use crate::config::object::Body;

mod answers;
mod conditions;
mod options;
mod streams;

const ROUTE: &str = "route: [{destination: {host: a}}]";

/// The VirtualService `ns/vs` of this `spec`, and the complaints: `E field: message`, `W` for warnings.
fn read(spec: &str) -> (Option<VirtualService>, Vec<String>) {
    let file = FilePath::new("x.yaml").into();
    let text = istio("VirtualService", "ns/vs", spec);
    let mut documents = read_text(&text, &file, &CompileOptions::default());
    let document = documents.remove(0);
    let said = document.rejected.into_iter().map(|complaint| {
        let level = match complaint.severity {
            Severity::Error => "E",
            Severity::Warning => "W",
            Severity::Info => "I",
        };
        let field = complaint.field.replace("spec.", "");
        format!("{level} {field}: {}", complaint.message)
    });
    let said = said.collect();
    match document.outcome {
        Outcome::Good(object) => match std::sync::Arc::into_inner(object).map(|object| object.body)
        {
            Some(Body::VirtualService(service)) => (Some(service), said),
            other => panic!("{other:?}"),
        },
        Outcome::Broken(_) | Outcome::Ignored(_) => (None, said),
    }
}

/// Each spec, in which ROUTE stands for a route to `a`, with what is said of it. Where nothing but warnings are said, it is in force.
fn check(cases: &[(&str, &[&str])]) {
    for (spec, expected) in cases {
        let spec = spec.replace("ROUTE", ROUTE);
        let (service, said) = read(&spec);
        assert_eq!(said, *expected, "{spec}");
        let refused = said.iter().any(|line| line.starts_with('E'));
        assert_eq!(service.is_none(), refused, "{spec}");
    }
}

/// As `check`, for an `http` rule that sends to `a` and has these fields too.
fn check_rule(cases: &[(&str, &[&str])]) {
    for (fields, expected) in cases {
        let spec =
            format!("{{hosts: [a], http: [{{route: [{{destination: {{host: a}}}}], {fields}}}]}}");
        let expected: Vec<String> = expected
            .iter()
            .map(|line| line.replacen(' ', " http[0].", 1))
            .collect();
        let expected: Vec<&str> = expected.iter().map(String::as_str).collect();
        check(&[(&spec, &expected)]);
    }
}

/// The only rule of a VirtualService that is right, sends to `a`, and has these fields too.
fn rule(fields: &str) -> Rule {
    let spec =
        format!("{{hosts: [a], http: [{{route: [{{destination: {{host: a}}}}], {fields}}}]}}");
    let (service, said) = read(&spec);
    let mut rules = service
        .unwrap_or_else(|| panic!("{fields}: {said:?}"))
        .rules;
    rules.remove(0)
}

#[test]
fn sections_hosts_and_gateways_are_checked() {
    check(&[
        // 1
        (
            "{hosts: [a]}",
            &["E spec: a VirtualService needs http, tls or tcp"],
        ),
        ("{hosts: [a], http: [{ROUTE}]}", &[]),
        // 2
        ("{http: [{ROUTE}]}", &[]),
        (
            "{hosts: ['a*.com'], http: [{ROUTE}]}",
            &["E hosts[0]: \"a*.com\" is no host"],
        ),
        (
            "{hosts: ['*.*.com'], http: [{ROUTE}]}",
            &["E hosts[0]: \"*.*.com\" is no host"],
        ),
        (
            "{hosts: ['a b'], http: [{ROUTE}]}",
            &["E hosts[0]: \"a b\" is no host"],
        ),
        (
            "{hosts: ['*.com', 10.0.0.1, 'fd00::1', A.org], http: [{ROUTE}]}",
            &[],
        ),
        // 3
        (
            "{hosts: ['*'], http: [{ROUTE}]}",
            &["E hosts[0]: the host \"*\" cannot be used in the mesh"],
        ),
        (
            "{hosts: ['*'], gateways: [g, mesh], http: [{ROUTE}]}",
            &["E hosts[0]: the host \"*\" cannot be used in the mesh"],
        ),
        ("{hosts: ['*'], gateways: [g], http: [{ROUTE}]}", &[]),
        // 4
        (
            "{hosts: ['*.foo.com', a.foo.com], http: [{ROUTE}]}",
            &["E hosts[1]: \"a.foo.com\" overlaps with \"*.foo.com\""],
        ),
        (
            "{hosts: [a, A], http: [{ROUTE}]}",
            &["E hosts[1]: \"a.ns.svc.cluster.local\" overlaps with \"a.ns.svc.cluster.local\""],
        ),
        (
            "{hosts: ['*.foo.com', foo.com, a.bar.com], http: [{ROUTE}]}",
            &[],
        ),
        // 25
        (
            "{hosts: [a], gateways: [g.n.svc.cluster.local], http: [{ROUTE}]}",
            &["W gateways[0]: \"g.n.svc.cluster.local\" is the old way to name a gateway"],
        ),
        (
            "{hosts: [a], gateways: [a/b/c], http: [{ROUTE}]}",
            &["E gateways[0]: \"a/b/c\" is no name of a gateway"],
        ),
        (
            "{hosts: [a], gateways: [g, n/g, ./h, mesh], http: [{ROUTE}]}",
            &[],
        ),
        // 26
        (
            "{hosts: [a], exportTo: [x, x], http: [{ROUTE}]}",
            &["E exportTo[1]: \"x\" stands here twice"],
        ),
        (
            "{hosts: [a], exportTo: ['*', x], http: [{ROUTE}]}",
            &["E exportTo: \"*\" and \"~\" cannot stand beside others"],
        ),
        (
            "{hosts: [a], exportTo: ['~', x], http: [{ROUTE}]}",
            &["E exportTo: \"*\" and \"~\" cannot stand beside others"],
        ),
        (
            "{hosts: [a], exportTo: [ns, '.'], http: [{ROUTE}]}",
            &["E exportTo[1]: \".\" and \"ns\" are the same namespace"],
        ),
        ("{hosts: [a], exportTo: ['.', x], http: [{ROUTE}]}", &[]),
        ("{hosts: [a], exportTo: ['~'], http: [{ROUTE}]}", &[]),
    ]);
}

#[test]
fn a_rule_does_one_thing() {
    check(&[
        // 5
        (
            "{hosts: [a], http: [{name: x}]}",
            &["E http[0]: this rule does nothing"],
        ),
        (
            "{hosts: [a], http: [{redirect: {uri: /}, directResponse: {status: 200}}]}",
            &["E http[0]: redirect and directResponse cannot stand in one rule"],
        ),
        (
            "{hosts: [a], http: [{directResponse: {status: 200}, route: [{destination: {host: a}}]}]}",
            &["E http[0]: route and directResponse cannot stand in one rule"],
        ),
        ("{hosts: [a], http: [{redirect: {uri: /}}]}", &[]),
        ("{hosts: [a], http: [{directResponse: {status: 200}}]}", &[]),
        // 6
        (
            "{hosts: [a], http: [{redirect: {uri: /}, rewrite: {uri: /}}]}",
            &["E http[0]: fault and rewrite cannot stand beside redirect or directResponse"],
        ),
        (
            "{hosts: [a], http: [{directResponse: {status: 200}, fault: {abort: {httpStatus: 500}}}]}",
            &["E http[0]: fault and rewrite cannot stand beside redirect or directResponse"],
        ),
        // 8
        (
            "{hosts: [a], http: [{delegate: {name: d}, route: [{destination: {host: a}}]}]}",
            &["E http[0]: route and delegate cannot stand in one rule"],
        ),
        (
            "{hosts: [a], http: [{delegate: {name: d}, redirect: {uri: /}}]}",
            &["E http[0]: redirect and delegate cannot stand in one rule"],
        ),
        (
            "{hosts: [a], http: [{delegate: {}}]}",
            &["E http[0].delegate.name: a delegate needs a name"],
        ),
        (
            "{hosts: [a], http: [{delegate: {name: d, namespace: ns2}, directResponse: {status: 200}, rewrite: {uri: /}, fault: {delay: {fixedDelay: 1s}}}]}",
            &[],
        ),
        (
            "{http: [{delegate: {name: d}}]}",
            &[
                "E http[0].delegate: a VirtualService without hosts is a delegate, which cannot delegate in its turn",
            ],
        ),
        (
            "{gateways: [g], http: [{redirect: {uri: /}}], tcp: [{route: [{destination: {host: a}}]}]}",
            &[
                "E gateways: a VirtualService without hosts is a delegate, which has no gateways",
                "E tcp: a VirtualService without hosts is a delegate, which has no tcp",
            ],
        ),
    ]);
    check_rule(&[
        // 7
        (
            "mirror: {host: b}, mirrors: [{destination: {host: c}}]",
            &["E mirrors: mirror and mirrors cannot stand in one rule"],
        ),
        ("mirror: {host: b}, mirrorPercentage: {value: 1.5}", &[]),
        (
            "mirrors: [{destination: {host: c, port: {number: 80}}, percentage: {value: 100}}]",
            &[],
        ),
        (
            "mirrors: [{percentage: {value: 101}}]",
            &[
                "E mirrors[0].percentage.value: 101 is no percentage",
                "E mirrors[0].destination: a mirror needs a destination",
            ],
        ),
        (
            "mirror: {host: '*'}",
            &["E mirror.host: \"*\" is no host of a destination"],
        ),
        (
            "mirror: {host: b}, mirrorPercentage: {value: -1}",
            &["E mirrorPercentage.value: -1 is no percentage"],
        ),
        // 22
        (
            "mirror: {host: b}, mirrorPercent: 101",
            &[
                "W mirrorPercent: mirrorPercent is deprecated",
                "E mirrorPercent: 101 is no percentage",
            ],
        ),
        (
            "mirrorPercentage: {value: 1}",
            &["W mirrorPercentage: mirrorPercentage without mirror has no effect"],
        ),
    ]);
}

#[test]
fn destinations_and_weights_are_checked() {
    let with = |route: &str| format!("{{hosts: [a], http: [{{route: [{route}]}}]}}");
    let cases: &[(&str, &[&str])] = &[
        // 9
        (
            "{}",
            &["E http[0].route[0].destination: a route needs a destination"],
        ),
        (
            "{destination: {}}",
            &["E http[0].route[0].destination.host: a destination needs a host"],
        ),
        (
            "{destination: {host: '*'}}",
            &["E http[0].route[0].destination.host: \"*\" is no host of a destination"],
        ),
        (
            "{destination: {host: 10.0.0.1}}",
            &["E http[0].route[0].destination.host: \"10.0.0.1\" is no host of a destination"],
        ),
        ("{destination: {host: '*.x.com'}}", &[]),
        (
            "{destination: {host: b, port: {number: 0}}}",
            &["E http[0].route[0].destination.port.number: 0 is no port number"],
        ),
        (
            "{destination: {host: b, port: {}}}",
            &["E http[0].route[0].destination.port.number: a port number is missing"],
        ),
        (
            "{destination: {host: b, port: {number: 65536}}}",
            &["E http[0].route[0].destination.port.number: 65536 is no port number"],
        ),
        (
            "{destination: {host: b, subset: a.b}}",
            &["E http[0].route[0].destination.subset: \"a.b\" is no name of a subset"],
        ),
        (
            "{destination: {host: b, subset: v1, port: {number: 65535}}}",
            &[],
        ),
        // 10
        (
            "{destination: {host: b}, weight: -1}",
            &["E http[0].route[0].weight: the weight -1 is negative"],
        ),
        (
            "{destination: {host: b}, weight: 0}, {destination: {host: c}}",
            &["E http[0].route: the weights of all destinations are 0"],
        ),
        ("{destination: {host: b}, weight: 0}", &[]),
        (
            "{destination: {host: b}, weight: 1}, {destination: {host: c}, weight: 300}, {destination: {host: d}}",
            &[],
        ),
    ];
    for (route, expected) in cases {
        check(&[(&with(route), expected)]);
    }
    let (service, _) = read(&with(
        "{destination: {host: b}, weight: 0}, {destination: {host: C.x}, weight: 2}",
    ));
    let rules = service.map(|service| service.rules).unwrap_or_default();
    let Some(Rule {
        action: Action::Forward(shares),
        ..
    }) = rules.first()
    else {
        panic!("{rules:?}");
    };
    let hosts: Vec<_> = shares
        .iter()
        .map(|share| (&*share.target.host, share.weight))
        .collect();
    assert_eq!(hosts, [("c.x", 2)]);
}
