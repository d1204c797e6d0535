//! Delegation, told by the routes that come of it.

use std::path::Path as FilePath;

use super::*;
use crate::config::compile::routes::tests::told_host;
use crate::config::document::{Outcome, read_text};
use crate::config::fixture::{istio, service};
use crate::config::{CompileOptions, compile};

/// The routes of Service `default/a`, with these rules of its VirtualService and these delegates, and what is told.
fn ask(root: &str, delegates: &str) -> (Vec<String>, Vec<String>) {
    let text = service("a", "10.0.0.1", &["http:80"])
        + &service("shop/b", "10.0.0.2", &["http:81"])
        + &istio(
            "VirtualService",
            "root",
            &format!("{{hosts: [a], http: [{root}]}}"),
        )
        + delegates;
    let file = FilePath::new("test.yaml").into();
    let options = CompileOptions::default();
    let documents = read_text(&text, &file, &options).into_iter();
    let inputs: Inputs = documents
        .map(|document| match document.outcome {
            Outcome::Good(object) => object,
            other => panic!("{other:?} {:?}", document.rejected),
        })
        .collect();
    let (snapshot, rejected) = compile(&inputs, &options);
    assert_eq!(rejected, []);
    let host = &snapshot.common.mesh[&80].exact["a.default.svc.cluster.local"];
    let mut told = Vec::new();
    resolve(&inputs, &mut |object, problem| {
        let Problem {
            path,
            message,
            code,
            ..
        } = problem;
        let code = code.map_or("", Code::id);
        told.push(format!("{code} {} {path}: {message}", object.id.name));
    });
    (told_host(host), told)
}

/// The delegate `default/d` with these rules.
fn delegate(http: &str) -> String {
    istio("VirtualService", "d", &format!("{{http: [{http}]}}"))
}

/// One rule of the root that delegates, and has these fields too.
fn root(fields: &str) -> String {
    format!("{{delegate: {{name: d}}, {fields}}}")
}

fn check(fields: &str, rule: &str, expected: &[&str]) {
    let (routes, said) = ask(&root(fields), &delegate(rule));
    assert_eq!(routes, expected, "{fields} with {rule}");
    assert_eq!(said, Vec::<String>::new(), "{fields} with {rule}");
}

const ROUTE: &str = "route: [{destination: {host: a}}]";
const DEFAULT: &str = "default |  > 80||a";

#[test]
fn the_rules_of_a_delegate_stand_in_for_the_one_that_names_it() {
    let other = istio(
        "VirtualService",
        "shop/d",
        "{http: [{name: x, match: [{uri: {prefix: /d/x}}], route: [{destination: {host: b}}]}, {route: [{destination: {host: b}}]}]}",
    );
    let (routes, said) = ask(
        "{match: [{uri: {exact: /a}}], redirect: {uri: /}},
         {name: r, match: [{name: m, uri: {prefix: /d}}], delegate: {name: d, namespace: shop}},
         {route: [{destination: {host: a}}]}",
        &other,
    );
    assert_eq!(said, Vec::<String>::new());
    assert_eq!(
        routes,
        [
            " | =/a > 301 /",
            "r-x.m | /d/x* > 81||b.shop.svc.cluster.local",
            "r.m | /d* > 81||b.shop.svc.cluster.local",
            " |  > 80||a",
        ]
    );
}

#[test]
fn every_block_of_the_delegate_goes_with_every_one_of_the_root_that_it_fits_into() {
    check(
        "match: [{uri: {prefix: /a}, headers: {x: {exact: '1'}}}, {uri: {prefix: /a}, port: 80}, {uri: {prefix: /b}}]",
        &format!(
            "{{match: [{{uri: {{prefix: /a/b}}, headers: {{z: {{}}}}}}, {{uri: {{exact: /b/c}}}}], {ROUTE}}}"
        ),
        &[
            " | /a/b* Header(\"x\")=1 Header(\"z\") > 80||a",
            " | /a/b* Header(\"z\") > 80||a",
            " | =/b/c > 80||a",
        ],
    );
    check(
        "match: [{uri: {prefix: /a}}, {port: 80}]",
        &format!("{{{ROUTE}}}"),
        &[" | /a* > 80||a", " |  > 80||a"],
    );
    check(
        "",
        &format!("{{match: [{{uri: {{exact: /x}}, ignoreUriCase: true}}], {ROUTE}}}"),
        &[" | ~=/x > 80||a"],
    );
    check(
        "match: [{name: m, scheme: {exact: https}, method: {prefix: G}, authority: {prefix: a}, sourceLabels: {a: b}, sourceNamespace: ns, withoutHeaders: {w: {}}, queryParams: {p: {}}}]",
        &format!(
            "{{match: [{{name: k, method: {{exact: GET}}, sourceLabels: {{c: d}}, sourceNamespace: ns, withoutHeaders: {{u: {{}}}}, queryParams: {{q: {{}}}}}}], {ROUTE}}}"
        ),
        &[
            ".m-k | a=b c=d from ns scheme=https method=GET authority=a* !Header(\"u\") !Header(\"w\") ?p ?q > 80||a",
            "else",
            DEFAULT,
        ],
    );
    check(
        "match: [{gateways: [mesh, g]}]",
        &format!("{{match: [{{gateways: [mesh], uri: {{exact: /}}}}], {ROUTE}}}"),
        &[" | =/ > 80||a"],
    );
}

#[test]
fn a_rule_that_does_not_fit_is_left_out_and_named() {
    let cases = [
        ("uri: {exact: /a}", "uri: {exact: /b}", Some("uri")),
        ("uri: {exact: /a}", "uri: {exact: /a}", None),
        ("uri: {exact: /a}", "uri: {prefix: /a}", Some("uri")),
        ("uri: {prefix: /a}", "uri: {prefix: /}", Some("uri")),
        ("uri: {prefix: /a}", "uri: {regex: /a}", Some("uri")),
        ("uri: {regex: /a}", "uri: {exact: /a}", Some("uri")),
        ("uri: {regex: /a}", "port: 80", None),
        ("port: 80", "uri: {regex: /a}", None),
        (
            "method: {exact: GET}",
            "method: {exact: PUT}",
            Some("method"),
        ),
        (
            "scheme: {exact: http}",
            "scheme: {prefix: http}",
            Some("scheme"),
        ),
        (
            "authority: {prefix: a}",
            "authority: {exact: b}",
            Some("authority"),
        ),
        (
            "headers: {x: {exact: a}}",
            "headers: {x: {exact: b}}",
            Some("headers"),
        ),
        ("headers: {x: {}}", "headers: {x: {}}", Some("headers")),
        (
            "headers: {x: {exact: a}}",
            "withoutHeaders: {x: {exact: b}}",
            None,
        ),
        (
            "withoutHeaders: {x: {exact: a}}",
            "withoutHeaders: {x: {exact: b}}",
            Some("withoutHeaders"),
        ),
        (
            "queryParams: {x: {prefix: a}}",
            "queryParams: {x: {exact: b}}",
            Some("queryParams"),
        ),
        (
            "queryParams: {x: {prefix: a}}",
            "queryParams: {x: {exact: ab}}",
            None,
        ),
        (
            "ignoreUriCase: true",
            "uri: {exact: /a}",
            Some("ignoreUriCase"),
        ),
        ("port: 80", "port: 81", Some("port")),
        (
            "sourceNamespace: ns",
            "uri: {exact: /a}",
            Some("sourceNamespace"),
        ),
        ("uri: {exact: /a}", "sourceNamespace: ns", None),
        (
            "sourceLabels: {a: b}",
            "sourceLabels: {a: c}",
            Some("sourceLabels"),
        ),
        ("sourceLabels: {a: b}", "sourceLabels: {b: c}", None),
        ("gateways: [mesh]", "gateways: [mesh, g]", Some("gateways")),
        ("gateways: [mesh]", "uri: {exact: /a}", None),
    ];
    for (ours, theirs, field) in cases {
        let (_, said) = ask(
            &root(&format!("match: [{{{ours}}}]")),
            &delegate(&format!("{{match: [{{{theirs}}}], {ROUTE}}}")),
        );
        let expected = field.map(|field| {
            format!(
                "MESH0007 root spec.http[0].delegate: http[0] of VirtualService default/d does not fit into this rule: {field} \
                 is at odds with it, so it is not used here"
            )
        });
        assert_eq!(said, Vec::from_iter(expected), "{ours} with {theirs}");
    }
    // One block that fits nowhere costs its rule, not the others.
    let (routes, said) = ask(
        &root("match: [{uri: {prefix: /a}}]"),
        &delegate(&format!(
            "{{match: [{{uri: {{exact: /a/x}}}}, {{uri: {{exact: /b}}}}], {ROUTE}}}, {{match: [{{uri: {{exact: /a/y}}}}], {ROUTE}}}"
        )),
    );
    assert_eq!(routes, [" | =/a/y > 80||a"]);
    assert_eq!(said.len(), 1);
}

#[test]
fn a_delegate_inherits_what_it_does_not_say_itself() {
    let all = "rewrite: {uri: /r}, timeout: 9s, retries: {attempts: 7}, fault: {abort: {httpStatus: 500}}, mirror: {host: m}, mirrorPercentage: {value: 50}, \
               corsPolicy: {}, headers: {request: {set: {x: root}}}";
    let copy = |name: &str, share: u32| {
        format!("copy outbound|80||{name}.default.svc.cluster.local {share}")
    };
    let cases = [
        (
            String::new(),
            format!("80||a x=root uri /r within 9s retry 7 of None abort Http(500) 0 {} cors", copy("m", 500_000)),
        ),
        (
            "rewrite: {authority: h}, timeout: 1s, retries: {attempts: 1}, fault: {delay: {fixedDelay: 1s}}, mirror: {host: k}, mirrorPercentage: {value: 1}, \
             headers: {response: {set: {z: own}}}"
                .to_owned(),
            format!("80||a r:z=own host h within 1s retry 1 of None delay 1s 0 {} cors", copy("k", 10_000)),
        ),
        (
            "mirrors: [{destination: {host: k}}]".to_owned(),
            format!(
                "80||a x=root uri /r within 9s retry 7 of None abort Http(500) 0 {} {} cors",
                copy("m", 500_000),
                copy("k", 1_000_000)
            ),
        ),
    ];
    for (fields, expected) in cases {
        let (routes, _) = ask(&root(all), &delegate(&format!("{{{ROUTE}, {fields}}}")));
        assert_eq!(routes, [format!(" |  > {expected}")], "{fields}");
    }
}

#[test]
fn a_root_may_answer_for_its_delegate() {
    check(
        "directResponse: {status: 418}",
        &format!("{{{ROUTE}}}"),
        &[" |  > 418 b\"\""],
    );
    check(
        "directResponse: {status: 418}",
        "{redirect: {uri: /x}}",
        &[" |  > 301 /x"],
    );
    check(
        "directResponse: {status: 418}",
        "{directResponse: {status: 200}}",
        &[" |  > 200 b\"\""],
    );
    let (routes, said) = ask(
        &root("fault: {abort: {httpStatus: 500}}"),
        &delegate("{redirect: {uri: /x}}"),
    );
    assert_eq!(routes, [" |  > 301 /x"]);
    assert_eq!(
        said,
        [
            "MESH0007 root spec.http[0].delegate: http[0] of VirtualService default/d answers by itself, so fault does not \
             apply to it"
        ]
    );
}

#[test]
fn a_rule_whose_delegate_cannot_be_had_is_gone_and_the_others_stay() {
    let cases = [
        (String::new(), Some("is not there")),
        (
            istio(
                "VirtualService",
                "d",
                &format!("{{hosts: [x.com], http: [{{{ROUTE}}}]}}"),
            ),
            Some("has hosts and is no delegate"),
        ),
        (
            istio(
                "VirtualService",
                "d",
                &format!("{{exportTo: [other], http: [{{{ROUTE}}}]}}"),
            ),
            Some("is not exported to this namespace"),
        ),
        (
            istio(
                "VirtualService",
                "d",
                &format!("{{exportTo: ['.'], http: [{{{ROUTE}}}]}}"),
            ),
            None,
        ),
        (
            istio(
                "VirtualService",
                "d",
                &format!("{{exportTo: [default], http: [{{{ROUTE}}}]}}"),
            ),
            None,
        ),
    ];
    for (delegate, reason) in cases {
        let rules = "{match: [{uri: {exact: /d}}], delegate: {name: d}}, {match: [{uri: {exact: /a}}], route: [{destination: {host: a}}]}";
        let (routes, said) = ask(rules, &delegate);
        let expected = reason.map(|reason| {
            format!("IST0101 root spec.http[0].delegate: VirtualService default/d {reason}, so this rule does nothing")
        });
        assert_eq!(said, Vec::from_iter(expected), "{delegate}");
        let last = " | =/a > 80||a";
        match reason {
            Some(_) => assert_eq!(routes, [last], "{delegate}"),
            None => assert_eq!(routes, [" | =/d > 80||a", last], "{delegate}"),
        }
    }
    // Without any rule left, the Service is as if nobody had written one.
    let (routes, _) = ask(&root(""), "");
    assert_eq!(routes, [DEFAULT]);
}

#[test]
fn delegation_does_not_fill_the_memory() {
    let blocks = |prefix: &str, count: usize| {
        let blocks = (0..count).map(|number| format!("{{headers: {{{prefix}{number}: {{}}}}}}"));
        format!("match: [{}]", blocks.collect::<Vec<_>>().join(", "))
    };
    let theirs = format!(
        "{{{}, {ROUTE}}}, {{{}, {ROUTE}}}, {{{ROUTE}}}",
        blocks("a", 19),
        blocks("b", 2)
    );
    let (routes, said) = ask(&root(&blocks("r", 1_000)), &delegate(&theirs));
    assert_eq!(routes.len(), 20_000);
    assert_eq!(
        said,
        [
            "MESH0007 root spec.http[0].delegate: with http[1] of VirtualService default/d, delegation makes more than 20000 \
             match blocks of this VirtualService, so it is not used here"
        ]
    );
}
