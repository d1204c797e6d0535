//! Routes, told as one line each.

use crate::config::fixture::{istio, pod, service, world};
use crate::config::{Rejected, Severity};
use crate::model::{
    Destination, Forward, HeaderEdits, HeaderMatch, Mirror, PathMatch, PathRewrite, Piece,
    Redirect, RedirectPath, RedirectPort, Route, RouteAction, RouteMatch, Snapshot, Template,
    TextMatch, VirtualHost,
};

/// `name | conditions > action`.
pub(in crate::config::compile) fn told(route: &Route) -> String {
    let RouteMatch {
        uri,
        scheme,
        method,
        authority,
        headers,
        query,
        client,
    } = &route.when;
    let mut words = Vec::new();
    for (key, value) in &client.labels {
        words.push(format!("{key}={value}"));
    }
    words.extend(client.namespace.iter().map(|name| format!("from {name}")));
    words.extend(
        client
            .exported_to
            .iter()
            .map(|names| format!("@{}", names.join(","))),
    );
    words.extend(uri.iter().map(told_path));
    for (name, text) in [
        ("scheme", scheme),
        ("method", method),
        ("authority", authority),
    ] {
        words.extend(text.iter().map(|text| format!("{name}{}", told_text(text))));
    }
    for HeaderMatch {
        subject,
        value,
        inverted,
    } in headers
    {
        let not = if *inverted { "!" } else { "" };
        words.push(format!("{not}{subject:?}{}", told_text(value)));
    }
    words.extend(
        query
            .iter()
            .map(|query| format!("?{}{}", query.name, told_text(&query.value))),
    );
    let cors = if route.cors.is_some() { " cors" } else { "" };
    let action = match &route.action {
        RouteAction::Forward(forward) => told_forward(forward),
        RouteAction::Redirect(redirect) => told_redirect(redirect),
        RouteAction::Respond(response) => format!(
            "{} {:?}{}",
            response.status.as_u16(),
            response.body,
            told_edits(" ", &response.response_headers)
        ),
    };
    format!("{} | {} > {action}{cors}", route.name, words.join(" "))
}

fn told_path(path: &PathMatch) -> String {
    match path {
        PathMatch::Exact(text) => format!("={text}"),
        PathMatch::Prefix(text) => format!("{text}*"),
        PathMatch::ExactIgnoreCase(text) => format!("~={text}"),
        PathMatch::PrefixIgnoreCase(text) => format!("~{text}*"),
        PathMatch::Regex(regex) => format!("{regex}"),
    }
}

fn told_text(text: &TextMatch) -> String {
    match text {
        TextMatch::Exact(text) => format!("={text}"),
        TextMatch::Prefix(text) => format!("={text}*"),
        TextMatch::Regex(regex) => format!("={regex}"),
        TextMatch::Present => String::new(),
    }
}

fn told_forward(forward: &Forward) -> String {
    let destinations: Vec<String> = forward.destinations.iter().map(told_destination).collect();
    let mut told = destinations.join(" + ");
    match &forward.rewrite_path {
        Some(PathRewrite::Matched(text)) => told += &format!(" uri {text}"),
        Some(PathRewrite::Regex(regex, with)) => told += &format!(" s/{regex}/{with}/"),
        None => {}
    }
    if let Some(host) = &forward.rewrite_authority {
        told += &format!(" host {host}");
    }
    if let Some(limit) = forward.timeout {
        told += &format!(" within {limit:?}");
    }
    if forward.retry != Default::default() {
        told += &format!(
            " retry {} of {:?}",
            forward.retry.attempts, forward.retry.per_try_timeout
        );
    }
    if let Some(delay) = forward.fault.delay {
        told += &format!(" delay {:?} {}", delay.duration, delay.share.0);
    }
    if let Some((abort, share)) = forward.fault.abort {
        told += &format!(" abort {abort:?} {}", share.0);
    }
    for Mirror { cluster, share } in &forward.mirrors {
        told += &format!(" copy {cluster} {}", share.0);
    }
    told
}

fn told_destination(destination: &Destination) -> String {
    let cluster = destination.cluster.to_string();
    let cluster = cluster
        .replace("outbound|", "")
        .replace(".default.svc.cluster.local", "");
    let weight = match destination.weight {
        0 => String::new(),
        weight => format!(" x{weight}"),
    };
    format!(
        "{cluster}{weight}{}{}",
        told_edits(" ", &destination.request_headers),
        told_edits(" r:", &destination.response_headers)
    )
}

fn told_edits(before: &str, edits: &HeaderEdits) -> String {
    let mut told = String::new();
    for name in &edits.remove {
        told += &format!("{before}-{name}");
    }
    for edit in &edits.edits {
        let sign = if edit.append { "+" } else { "=" };
        told += &format!("{before}{}{sign}{}", edit.name, told_template(&edit.value));
    }
    if let Some(host) = &edits.authority {
        told += &format!("{before}host={}", told_template(host));
    }
    told
}

fn told_template(template: &Template) -> String {
    match template {
        Template::Fixed(value) => value.to_str().unwrap_or("?").to_owned(),
        Template::Pieces(pieces) => pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.to_string(),
                Piece::Variable(variable) => format!("<{variable:?}>"),
            })
            .collect(),
    }
}

fn told_redirect(redirect: &Redirect) -> String {
    let mut told = redirect.status.as_u16().to_string();
    if let Some(scheme) = &redirect.scheme {
        told += &format!(" {scheme}");
    }
    if let Some(authority) = &redirect.authority {
        told += &format!(" //{authority}");
    }
    match redirect.port {
        RedirectPort::Kept => {}
        RedirectPort::Number(port) => told += &format!(" :{port}"),
    }
    match &redirect.path {
        RedirectPath::Kept => {}
        RedirectPath::Whole(path) => told += &format!(" {path}"),
        RedirectPath::Prefix(path) => told += &format!(" {path}*"),
    }
    told + &told_edits(" ", &redirect.response_headers)
}

/// The routes of a virtual host; what stands in behind `else`.
pub(in crate::config::compile) fn told_host(host: &VirtualHost) -> Vec<String> {
    let mut lines: Vec<String> = host.routes.iter().map(|route| told(route)).collect();
    if let Some(next) = &host.next {
        lines.push("else".to_owned());
        lines.extend(told_host(next));
    }
    lines
}

/// A world in which only warnings are said, and those.
pub(in crate::config::compile) fn sound(text: &str) -> (Snapshot, Vec<Rejected>) {
    let (snapshot, rejected) = world(text);
    let wrong: Vec<String> = rejected
        .iter()
        .filter(|complaint| complaint.severity == Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert_eq!(wrong, Vec::<String>::new());
    (snapshot, rejected)
}

/// What Service `default/a` has on a port of the mesh with these `http` rules.
fn mesh(port: u16, http: &str) -> Vec<String> {
    let text = service("a", "10.0.0.1", &["http:80", "http-alt:8080"])
        + &service("one", "10.0.0.2", &["http:9999"])
        + &service("many", "10.0.0.3", &["http:80", "more:81"])
        + &istio(
            "VirtualService",
            "a",
            &format!("{{hosts: [a], http: [{http}]}}"),
        )
        + &pod("p", "10.1.0.1", "app=a");
    let (snapshot, _) = sound(&text);
    told_host(&snapshot.common.mesh[&port].exact["a.default.svc.cluster.local"])
}

fn check(cases: &[(&str, &[&str])]) {
    for (http, expected) in cases {
        assert_eq!(mesh(80, http), *expected, "{http}");
    }
}

#[test]
fn each_match_block_is_a_route_until_one_takes_everything() {
    check(&[
        (
            "{name: r, match: [{name: m, uri: {exact: /a}}, {uri: {prefix: /b}, ignoreUriCase: true}], route: [{destination: {host: one}}]},
             {match: [{name: n2, uri: {regex: '/.+'}}], route: [{destination: {host: a}}]},
             {route: [{destination: {host: many}}]},
             {route: [{destination: {host: never}}]}",
            &[
                "r.m | =/a > 9999||one",
                "r | ~/b* > 9999||one",
                r".n2 | \A(?:/.+)\z > 80||a",
                " |  > 80||many",
            ],
        ),
        // The catch-all short cut.
        (
            "{match: [{uri: {prefix: /}}, {uri: {exact: /x}}], route: [{destination: {host: a}}]}, {route: [{destination: {host: one}}]}",
            &[" | /* > 80||a"],
        ),
        (
            "{match: [{uri: {regex: '.*'}}], route: [{destination: {host: a}}]}, {route: [{destination: {host: one}}]}",
            &[r" | \A(?:.*)\z > 80||a"],
        ),
        (
            "{match: [{uri: {prefix: /}, method: {exact: GET}}], route: [{destination: {host: a}}]}, {route: [{destination: {host: one}}]}",
            &[" | /* method=GET > 80||a", " |  > 9999||one"],
        ),
        (
            "{match: [{sourceLabels: {app: x}}], route: [{destination: {host: a}}]}, {route: [{destination: {host: one}}]}",
            &[" | app=x > 80||a", " |  > 9999||one"],
        ),
        // Static conditions.
        (
            "{match: [{port: 8080}, {gateways: [g]}, {gateways: [mesh, g], sourceLabels: {a: b}, sourceNamespace: x, uri: {exact: /a}}], route: [{destination: {host: a}}]},
             {match: [{port: 80, sourceNamespace: x}], route: [{destination: {host: a}}]}",
            &[" | =/a > 80||a", " | from x > 80||a"],
        ),
        // Every rule is filtered out: as if there were none.
        ("{match: [{port: 8080}], route: [{destination: {host: one}}]}", &["default |  > 80||a"]),
    ]);
    assert_eq!(
        mesh(
            8080,
            "{match: [{port: 8080}], route: [{destination: {host: many}}]}"
        ),
        [" |  > 8080||many"]
    );
}

#[test]
fn conditions_come_through() {
    check(&[(
        "{match: [{scheme: {exact: https}, method: {prefix: P}, authority: {regex: 'a.*'}, headers: {x-a: {exact: b}, ':path': {prefix: /}}, \
          withoutHeaders: {x-b: {}}, queryParams: {q: {exact: ''}, p: {}}}], route: [{destination: {host: a}}], corsPolicy: {}}",
        &[
            r#" | scheme=https method=P* authority=\A(?:a.*)\z Path=/* Header("x-a")=b !Header("x-b") ?p ?q= > 80||a cors"#,
        ],
    )]);
}

#[test]
fn destinations_get_their_ports_and_shares() {
    check(&[
        (
            "{route: [{destination: {host: one}, weight: 1}, {destination: {host: many, subset: v1}, weight: 3}, {destination: {host: many, port: {number: 81}}, weight: 0}]}",
            &[" |  > 9999||one x1 + 80|v1|many x3"],
        ),
        (
            "{route: [{destination: {host: gone}, weight: 37}]}",
            &[" |  > 80||gone x37"],
        ),
        (
            "{route: [{destination: {host: many, port: {number: 81}}}]}",
            &[" |  > 81||many"],
        ),
    ]);
}

#[test]
fn options_come_through() {
    check(&[
        (
            "{route: [{destination: {host: a}}], rewrite: {uri: /x, authority: h}, timeout: 5s, retries: {attempts: 3, perTryTimeout: 2s}, \
              fault: {delay: {fixedDelay: 1s, percentage: {value: 50}}, abort: {grpcStatus: NOT_FOUND}}}",
            &[
                " |  > 80||a uri /x host h within 5s retry 3 of Some(2s) delay 1s 500000 abort Grpc(5) 0",
            ],
        ),
        (
            "{route: [{destination: {host: a}}], rewrite: {uriRegexRewrite: {match: '^/(a)', rewrite: '/\\1$'}}, retries: {attempts: 0}}",
            &[" |  > 80||a s/^/(a)//${1}$$/ retry 0 of None"],
        ),
        // A try as long as the whole has no limit of its own.
        (
            "{route: [{destination: {host: a}}], timeout: 2s, retries: {attempts: 2, perTryTimeout: 2s}}",
            &[" |  > 80||a within 2s"],
        ),
        (
            "{route: [{destination: {host: a}}], mirror: {host: one}}",
            &[" |  > 80||a copy outbound|9999||one.default.svc.cluster.local 1000000"],
        ),
        (
            "{route: [{destination: {host: a}}], mirror: {host: one, subset: v1}, mirrorPercentage: {value: 0.1}, mirrorPercent: 5}",
            &[" |  > 80||a copy outbound|9999|v1|one.default.svc.cluster.local 1000"],
        ),
        (
            "{route: [{destination: {host: a}}], mirror: {host: one}, mirrorPercentage: {value: 0}, mirrorPercent: 5}",
            &[" |  > 80||a"],
        ),
        (
            "{route: [{destination: {host: a}}], mirror: {host: one}, mirrorPercent: 5}",
            &[" |  > 80||a copy outbound|9999||one.default.svc.cluster.local 50000"],
        ),
        (
            "{route: [{destination: {host: a}}], mirrors: [{destination: {host: one}}, {destination: {host: many}, percentage: {value: 0}}, {destination: {host: many}, percentage: {value: 25}}]}",
            &[
                " |  > 80||a copy outbound|9999||one.default.svc.cluster.local 1000000 copy outbound|80||many.default.svc.cluster.local 250000",
            ],
        ),
    ]);
}

#[test]
fn header_operations_stand_in_istios_order() {
    let rule = "headers: {request: {set: {b: rule, a: rule}, add: {c: rule}, remove: [d, e]}, response: {set: {f: rule}}}";
    let destination = "headers: {request: {set: {a: own, c: own, d: own}, add: {b: own}, remove: [g]}, response: {remove: [f]}}";
    check(&[
        // All are removed, then set, then added.
        (
            &format!("{{{rule}, route: [{{destination: {{host: a}}, {destination}}}]}}"),
            &[" |  > 80||a -d -e -g a=rule b=rule a=own c=own d=own c+rule b+own r:-f r:f=rule"],
        ),
        // The destination's come first, and what the rule removes is gone.
        (
            &format!(
                "{{{rule}, route: [{{destination: {{host: a}}, weight: 1, {destination}}}, {{destination: {{host: one}}, weight: 1}}]}}"
            ),
            &[
                " |  > 80||a x1 -g -d -e a=own c=own b+own a=rule b=rule c+rule r:-f r:f=rule \
                 + 9999||one x1 -d -e a=rule b=rule c+rule r:f=rule",
            ],
        ),
        // The rule decides on the Host, and takes it literally.
        (
            "{headers: {request: {set: {host: rule}}}, route: [{destination: {host: a}, headers: {request: {set: {host: own}}}}]}",
            &[" |  > 80||a host=rule"],
        ),
        (
            "{route: [{destination: {host: a}, weight: 1, headers: {request: {add: {':authority': 'own%'}}}}, {destination: {host: one}, weight: 1}]}",
            &[" |  > 80||a x1 host=own% + 9999||one x1"],
        ),
        (
            "{headers: {request: {set: {x: 'a%REQ(y):2%'}}}, route: [{destination: {host: a}}]}",
            &[
                " |  > 80||a x=a<RequestHeader(HeaderSource { name: \"y\", otherwise: None, limit: Some(2) })>",
            ],
        ),
        (
            "{headers: {response: {add: {x: z}, remove: [w]}}, directResponse: {status: 418, body: {string: tea}}}",
            &[" |  > 418 b\"tea\" -w x+z"],
        ),
        (
            "{headers: {request: {set: {q: z}}, response: {set: {x: z}}}, redirect: {uri: /b}}",
            &[" |  > 301 /b x=z"],
        ),
    ]);
}

#[test]
fn the_port_of_a_redirect_is_known_before_the_request() {
    let cases: &[(u16, &str, &str)] = &[
        (80, "{uri: /x, redirectCode: 302}", "302 /x"),
        (80, "{authority: h, scheme: https}", "301 https //h"),
        (80, "{port: 80}", "301"),
        (80, "{port: 443}", "301 :443"),
        (80, "{port: 443, scheme: https}", "301 https"),
        (80, "{port: 80, scheme: https}", "301 https :80"),
        (80, "{port: 8443, scheme: https}", "301 https :8443"),
        (
            80,
            "{derivePort: FROM_PROTOCOL_DEFAULT, scheme: https}",
            "301 https",
        ),
        (80, "{derivePort: FROM_REQUEST_PORT}", "301"),
        (
            80,
            "{derivePort: FROM_REQUEST_PORT, scheme: https}",
            "301 https :80",
        ),
        (8080, "{derivePort: FROM_REQUEST_PORT}", "301 :8080"),
        (
            8080,
            "{derivePort: FROM_REQUEST_PORT, scheme: https}",
            "301 https :8080",
        ),
        (80, "{prefixRewrite: /y, redirectCode: 308}", "308 /y*"),
    ];
    for (port, redirect, expected) in cases {
        let found = mesh(*port, &format!("{{redirect: {redirect}}}"));
        assert_eq!(found, [format!(" |  > {expected}")], "{redirect}");
    }
}

#[test]
fn a_route_knows_where_it_was_written() {
    let text = service("a", "10.0.0.1", &["http:80"])
        + &istio(
            "VirtualService",
            "shop/a",
            "{hosts: [a.default.svc.cluster.local], http: [{match: [{uri: {exact: /}}], redirect: {uri: /x}}, {redirect: {uri: /y}}]}",
        );
    let (snapshot, _) = sound(&text);
    let host = &snapshot.common.mesh[&80].exact["a.default.svc.cluster.local"];
    let origins: Vec<_> = host
        .routes
        .iter()
        .map(|route| route.origin.clone())
        .collect();
    assert_eq!(
        origins,
        [Some(("shop/a".into(), 0)), Some(("shop/a".into(), 1))]
    );
}
