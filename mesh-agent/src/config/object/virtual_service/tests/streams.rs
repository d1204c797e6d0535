//! Rules for connections that are not HTTP.

use super::*;

#[test]
fn stream_rules_are_checked() {
    let cases: &[(&str, &[&str])] = &[
        // 23
        (
            "tls: [{ROUTE}]",
            &["E tls[0].match: a tls rule needs a match with sniHosts"],
        ),
        (
            "tls: [{match: [{port: 443}], ROUTE}]",
            &["E tls[0].match[0].sniHosts: a tls match needs sniHosts"],
        ),
        (
            "tls: [{match: [{sniHosts: [x.org]}], ROUTE}]",
            &[
                "E tls[0].match[0].sniHosts[0]: \"x.org\" is not among the hosts of this VirtualService",
            ],
        ),
        (
            "tls: [{match: [{sniHosts: ['*.com']}], ROUTE}]",
            &[
                "E tls[0].match[0].sniHosts[0]: \"*.com\" is not among the hosts of this VirtualService",
            ],
        ),
        (
            "tls: [{match: [{sniHosts: ['a*']}], ROUTE}]",
            &["E tls[0].match[0].sniHosts[0]: \"a*\" is no host"],
        ),
        (
            "tls: [{match: [{sniHosts: [10.0.0.1]}], ROUTE}]",
            &[
                "W tls[0].match[0].sniHosts[0]: clients do not ask for an address such as \"10.0.0.1\"",
            ],
        ),
        (
            "tls: [{match: [{sniHosts: [a, A.ns.svc.cluster.local, '*.x.com', '*.y.x.com', z.x.com]}], ROUTE}]",
            &[],
        ),
        // The rest.
        (
            "tcp: [{}]",
            &["E tcp[0].route: this rule sends nothing anywhere"],
        ),
        (
            "tls: [{match: [{sniHosts: [a]}]}]",
            &["E tls[0].route: this rule sends nothing anywhere"],
        ),
        (
            "tcp: [{match: [{destinationSubnets: [x, 10.0.0.0/33]}], ROUTE}]",
            &[
                "E tcp[0].match[0].destinationSubnets[0]: \"x\" is no range of addresses",
                "E tcp[0].match[0].destinationSubnets[1]: \"10.0.0.0/33\" is no range of addresses",
            ],
        ),
        (
            "tcp: [{match: [{port: 65536, sourceNamespace: '-', gateways: ['']}], ROUTE}]",
            &[
                "E tcp[0].match[0].port: 65536 is no port number",
                "E tcp[0].match[0].sourceNamespace: \"-\" is no namespace",
                "E tcp[0].match[0].gateways[0]: \"\" is no name of a gateway",
            ],
        ),
        (
            "tcp: [{match: [{sourceSubnet: 10.0.0.0/8}], ROUTE}]",
            &["W tcp[0].match[0].sourceSubnet: Istio takes sourceSubnet and does nothing with it"],
        ),
        (
            "tcp: [{route: [{destination: {host: a}}, {destination: {host: b}}]}]",
            &["E tcp[0].route: the weights of all destinations are 0"],
        ),
        (
            "tcp: [{route: [{destination: {host: a}, weight: -1}]}]",
            &["E tcp[0].route[0].weight: the weight -1 is negative"],
        ),
        (
            "tcp: [{match: [{destinationSubnets: [10.0.0.1, 'fd00::/8']}, {port: 0}], ROUTE}]",
            &[],
        ),
    ];
    for (fields, expected) in cases {
        let spec = format!("{{hosts: [a, '*.x.com'], {}}}", fields);
        check(&[(&spec, expected)]);
    }
}

#[test]
fn stream_rules_that_nothing_reaches_are_warned_of() {
    let cases: &[(&str, &[&str], &[&str])] = &[
        (
            "tcp",
            &["{}", "{port: 1}"],
            &["W tcp[1]: no connection gets here: tcp[0] takes all that this would match"],
        ),
        (
            "tcp",
            &[
                "{sourceLabels: {a: b}}",
                "{destinationSubnets: [10.0.0.0/8]}",
            ],
            &[],
        ),
        (
            "tcp",
            &["{}", "{destinationSubnets: [10.0.0.0/8]}"],
            &["W tcp[1]: no connection gets here: tcp[0] takes all that this would match"],
        ),
        (
            "tcp",
            &[
                "{destinationSubnets: [10.0.0.0/8]}",
                "{destinationSubnets: [10.1.0.0/16]}",
            ],
            &[],
        ),
        (
            "tcp",
            &[
                "{destinationSubnets: [10.0.0.0/8]}",
                "{destinationSubnets: [10.0.0.0/8]}",
            ],
            &["W tcp[1]: no connection gets here: tcp[0] takes all that this would match"],
        ),
        (
            "tls",
            &["{sniHosts: ['*.x.com']}", "{sniHosts: [a.x.com]}"],
            &[],
        ),
        (
            "tls",
            &[
                "{sniHosts: [a.x.com, b.x.com]}",
                "{sniHosts: [b.x.com], port: 1}",
            ],
            &["W tls[1]: no connection gets here: tls[0] takes all that this would match"],
        ),
        (
            "tls",
            &[
                "{sniHosts: [a.x.com]}",
                "{sniHosts: [a.x.com], destinationSubnets: [10.0.0.0/8]}",
            ],
            &[],
        ),
        (
            "tls",
            &[
                "{sniHosts: [a.x.com], gateways: [g]}",
                "{sniHosts: [a.x.com]}",
            ],
            &[],
        ),
    ];
    for (section, matches, expected) in cases {
        let rules: Vec<String> = matches
            .iter()
            .map(|block| format!("{{match: [{block}], {ROUTE}}}"))
            .collect();
        let (_, said) = read(&format!(
            "{{hosts: ['*.x.com'], {section}: [{}]}}",
            rules.join(", ")
        ));
        assert_eq!(said, *expected, "{matches:?}");
    }
}
