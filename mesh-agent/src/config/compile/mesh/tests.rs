//! Virtual hosts of the mesh: whose rules they have, and under which names.

use crate::config::compile::routes::tests::{sound, told_host};
use crate::config::fixture::{istio, service};

/// A VirtualService with these fields that sends everything, or what this match says, to `to`.
fn vs(name: &str, fields: &str, block: &str, to: &str) -> String {
    let blocks = match block {
        "" => String::new(),
        _ => format!("match: [{block}], "),
    };
    let rule = format!("{{{blocks}route: [{{destination: {{host: {to}.x}}}}]}}");
    istio(
        "VirtualService",
        name,
        &format!("{{{fields}, http: [{rule}]}}"),
    )
}

/// What Service `default/a` has on port 80, with these VirtualServices.
fn check(services: &[String], expected: &[&str]) {
    let text = service("a", "10.0.0.1", &["http:80", "more:8080"]) + &services.concat();
    let (snapshot, _) = sound(&text);
    let host = &snapshot.common.mesh[&80].exact["a.default.svc.cluster.local"];
    let found: Vec<String> = told_host(host)
        .iter()
        .map(|line| line.replace("80||", ""))
        .collect();
    assert_eq!(found, expected, "{}", services.concat());
}

#[test]
fn the_closest_virtual_service_that_a_client_sees_has_a_service() {
    let own = "default |  > a";
    let wild = "hosts: ['*.default.svc.cluster.local']";
    let wider = "hosts: ['*.cluster.local']";
    check(&[], &[own]);
    // Exact before wildcards, and longer ones before shorter ones, whatever their order.
    check(
        &[
            vs("a1", wider, "", "wider"),
            vs("a2", wild, "", "wild"),
            vs("a3", "hosts: [a]", "", "exact"),
        ],
        &[" |  > exact.x"],
    );
    check(
        &[vs("a1", wider, "", "wider"), vs("a2", wild, "", "wild")],
        &[" |  > wild.x"],
    );
    // The older of two, unless none of its rules is for here.
    check(
        &[
            vs("a1", "hosts: [a]", "", "old"),
            vs("a2", "hosts: [a]", "", "young"),
        ],
        &[" |  > old.x"],
    );
    check(
        &[
            vs("a1", "hosts: [a]", "{port: 8080}", "old"),
            vs("a2", "hosts: [a]", "", "young"),
        ],
        &[" |  > young.x"],
    );
    check(
        &[
            vs("a1", "hosts: [a]", "{sourceLabels: {b: c}}", "old"),
            vs("a2", "hosts: [a]", "", "young"),
        ],
        &[" | b=c > old.x", "else", " |  > young.x"],
    );
    // Without rules for here, the closest still keeps the others out.
    check(
        &[
            vs("a1", "hosts: [a]", "{port: 8080}", "exact"),
            vs("a2", wild, "", "wild"),
        ],
        &[own],
    );
    check(
        &[
            vs("a1", wild, "{port: 8080}", "wild"),
            vs("a2", wild, "", "young"),
            vs("a3", wider, "", "wider"),
        ],
        &[own],
    );
    check(
        &[
            vs("a1", "hosts: [a]", "{sourceNamespace: shop}", "exact"),
            vs("a2", wild, "", "wild"),
        ],
        &[" | from shop > exact.x", "else", own],
    );
    // For those that do not see it, another is the closest.
    check(
        &[
            vs(
                "a1",
                "hosts: [a], exportTo: ['.']",
                "{sourceLabels: {b: c}}",
                "exact",
            ),
            vs(
                "a2",
                "hosts: [a], exportTo: [shop]",
                "{port: 8080}",
                "named",
            ),
            vs("a3", wild, "", "wild"),
        ],
        &[
            " | b=c @default > exact.x",
            "else",
            "default | @default,shop > a",
            "else",
            " |  > wild.x",
        ],
    );
    check(
        &[
            vs(
                "a1",
                &format!("{wild}, exportTo: [shop]"),
                "{sourceLabels: {b: c}}",
                "wild",
            ),
            vs("a2", wider, "{sourceLabels: {b: d}}", "wider"),
        ],
        &[
            " | b=c @shop > wild.x",
            "else",
            "default | @shop > a",
            "else",
            " | b=d > wider.x",
            "else",
            own,
        ],
    );
}

#[test]
fn a_host_that_is_no_service_has_the_name_that_was_written() {
    let text = service("a", "10.0.0.1", &["http:80", "more:8080"])
        + &service("b", "10.0.0.2", &["http:8080"])
        + &vs(
            "x",
            "hosts: [x.com, gone, 'fd00::1', 10.9.9.9, '*.y.com']",
            "",
            "x",
        )
        + &vs("with-b", "hosts: [b, z.com]", "", "z")
        + &vs("wild", "hosts: ['*.cluster.local', w.com]", "", "w");
    let (snapshot, _) = sound(&text);
    let names = |port: u16| {
        let table = &snapshot.common.mesh[&port];
        let exact = table.exact.keys().map(|name| name.to_string());
        let suffixes = table
            .suffixes
            .iter()
            .map(|(suffix, _)| format!("*{suffix}"));
        let mut names: Vec<String> = exact
            .chain(suffixes)
            .filter(|name| !name.starts_with("a.default") && !name.starts_with("b.default"))
            .collect();
        names.sort();
        names
    };
    let addresses = ["10.0.0.1", "10.0.0.2"];
    // A VirtualService one of whose hosts is a Service here brings its others along.
    assert_eq!(
        names(80),
        [
            "*.y.com",
            addresses[0],
            "10.9.9.9",
            "[fd00::1]",
            "gone.default.svc.cluster.local",
            "w.com",
            "x.com",
            "z.com",
        ]
    );
    assert_eq!(names(8080), [addresses[0], addresses[1], "w.com", "z.com"]);
}
