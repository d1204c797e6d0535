//! Which DestinationRule a client gets: the order of namespaces, of hosts, what is exported, what is merged.

use crate::config::fixture::{istio, pod, service, world};
use crate::model::{ClusterKey, Snapshot};

/// The Service that all rules are about.
const HOST: &str = "a.default.svc.cluster.local";

/// A world's name, its rules, and the limits that clients of some namespaces get.
type Case<'a> = (&'a str, &'a [String], &'a [(&'a str, u32)]);

/// A rule that limits connections to a number, by which the tests tell it from others.
fn limited(name: &str, host: &str, more: &str, limit: u32) -> String {
    let spec = format!(
        "{{host: \"{host}\", trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {limit}}}}}}}{more}}}"
    );
    istio("DestinationRule", name, &spec)
}

/// The world of a Service `default/a`, which two pods serve, and of these rules.
fn with(rules: &[String]) -> Snapshot {
    let text = service("a", "10.0.0.1", &["http:80:8080"])
        + &pod("a-1", "10.1.0.1", "app=a,version=v1")
        + &pod("a-2", "10.1.0.2", "app=a,version=v2")
        + &pod("other/plain", "10.1.1.1", "app=plain")
        + &pod("other/picked", "10.1.1.2", "app=picked,tier=x")
        + &rules.concat();
    let (snapshot, rejected) = world(&text);
    let broken: Vec<String> = rejected
        .iter()
        .filter(|complaint| complaint.severity == crate::config::Severity::Error)
        .map(ToString::to_string)
        .collect();
    assert_eq!(broken, Vec::<String>::new());
    snapshot
}

fn key(subset: &str) -> ClusterKey {
    ClusterKey {
        host: HOST.into(),
        port: 80,
        subset: (!subset.is_empty()).then(|| subset.into()),
    }
}

/// The limit of the rule that clients of a namespace get; 0 where they get none.
fn limit(snapshot: &Snapshot, client: &str) -> u32 {
    let cluster = snapshot
        .cluster(&key(""), client)
        .expect("the Service's cluster");
    cluster.policy.pool.max_connections.unwrap_or(0)
}

/// The subsets that clients of a namespace know, among some.
fn subsets(snapshot: &Snapshot, client: &str) -> Vec<&'static str> {
    let known = |name: &&str| snapshot.cluster(&key(name), client).is_some();
    ["v1", "v2", "v3"].into_iter().filter(known).collect()
}

#[test]
fn the_clients_namespace_comes_before_the_services_and_that_before_the_root() {
    let rule = limited;
    let cases: &[Case<'_>] = &[
        ("no rule", &[], &[("default", 0), ("other", 0)]),
        (
            "the owner's is for everyone",
            &[rule("a", "a", "", 1)],
            &[("default", 1), ("other", 1), ("istio-system", 1)],
        ),
        (
            "a client's own hides the owner's",
            &[rule("a", "a", "", 1), rule("other/a", HOST, "", 2)],
            &[("default", 1), ("other", 2), ("third", 1)],
        ),
        (
            "even a wildcard",
            &[rule("a", "a", "", 1), rule("other/a", "*.local", "", 2)],
            &[("default", 1), ("other", 2), ("third", 1)],
        ),
        (
            "a short name is of the rule's namespace",
            &[rule("a", "a", "", 1), rule("other/a", "a", "", 2)],
            &[("default", 1), ("other", 1)],
        ),
        (
            "a third namespace's is for its own clients",
            &[rule("third/a", HOST, "", 3)],
            &[("default", 0), ("other", 0), ("third", 3)],
        ),
        (
            "the root's is for those who have none",
            &[rule("istio-system/a", "*.local", "", 4)],
            &[("default", 4), ("other", 4), ("istio-system", 4)],
        ),
        (
            "and gives way, for its own clients too",
            &[
                rule("a", "a", "", 1),
                rule("istio-system/a", "*.local", "", 4),
            ],
            &[("default", 1), ("other", 1), ("istio-system", 1)],
        ),
        (
            "unless it is private",
            &[
                rule("a", "a", "", 1),
                rule("istio-system/a", "*.local", ", exportTo: [.]", 4),
            ],
            &[("default", 1), ("other", 1), ("istio-system", 4)],
        ),
        (
            "in a namespace the most specific host wins",
            &[
                rule("x", "*.cluster.local", "", 1),
                rule("w", "*.default.svc.cluster.local", "", 2),
                rule("z", "*", "", 3),
            ],
            &[("default", 2), ("other", 2)],
        ),
        (
            "an exact one above all",
            &[
                rule("w", "*.default.svc.cluster.local", "", 2),
                rule("x", "a", "", 1),
            ],
            &[("default", 1), ("other", 1)],
        ),
    ];
    for (name, rules, expected) in cases {
        let snapshot = with(rules);
        for (client, number) in *expected {
            assert_eq!(limit(&snapshot, client), *number, "{name}: {client}");
        }
    }
}

#[test]
fn a_rule_is_seen_where_it_is_exported_to() {
    let rule = limited;
    let root = || rule("istio-system/a", "*.local", "", 9);
    let cases: &[Case<'_>] = &[
        (
            "private",
            &[rule("a", "a", ", exportTo: [.]", 1)],
            &[("default", 1), ("other", 0)],
        ),
        (
            "named",
            &[rule("a", "a", ", exportTo: [other]", 1)],
            &[("default", 0), ("other", 1), ("third", 0)],
        ),
        (
            "named with the own one",
            &[rule("a", "a", ", exportTo: [., other]", 1)],
            &[("default", 1), ("other", 1), ("third", 0)],
        ),
        (
            "the own one by name",
            &[rule("a", "a", ", exportTo: [default]", 1)],
            &[("default", 1), ("other", 0)],
        ),
        (
            "nobody",
            &[rule("a", "a", ", exportTo: ['~']", 1)],
            &[("default", 0), ("other", 0)],
        ),
        (
            "by the root to some",
            &[rule("istio-system/a", "*.local", ", exportTo: [other]", 1)],
            &[("default", 0), ("other", 1)],
        ),
        (
            "what is not seen leaves the place to the root",
            &[rule("a", "a", ", exportTo: [other]", 1), root()],
            &[("other", 1), ("third", 9), ("default", 9)],
        ),
        (
            "and not to a wider host beside it, except where it is not even looked for",
            &[
                rule("a", "a", ", exportTo: [other]", 1),
                rule("b", "*.default.svc.cluster.local", "", 2),
            ],
            &[("other", 1), ("third", 0), ("default", 2)],
        ),
    ];
    for (name, rules, expected) in cases {
        let snapshot = with(rules);
        for (client, number) in *expected {
            assert_eq!(limit(&snapshot, client), *number, "{name}: {client}");
        }
    }
}

#[test]
fn rules_for_one_host_are_one_rule() {
    let rule = |name: &str, host: &str, subset: &str, more: &str| {
        let spec = format!("{{host: \"{host}\", subsets: [{subset}]{more}}}");
        istio("DestinationRule", name, &spec)
    };
    let (v1, v2) = ("{name: v1, labels: {version: v1}}", "{name: v2}");
    let again = "{name: v1, labels: {version: v2}}, {name: v3}";
    let policy = |limit: u32| {
        format!(", trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: {limit}}}}}}}")
    };
    type Expected<'a> = &'a [(&'a str, u32, &'a [&'a str])];
    let cases: &[(&str, &[String], Expected<'_>)] = &[
        (
            "subsets are added, and the oldest policy stays whole",
            &[
                rule("x", "a", v1, &policy(1)),
                rule("w", HOST, v2, &policy(2)),
                rule("z", "a", again, ""),
            ],
            &[
                ("default", 1, &["v1", "v2", "v3"]),
                ("other", 1, &["v1", "v2", "v3"]),
            ],
        ),
        (
            "the oldest that has one",
            &[
                rule("x", "a", v1, ""),
                rule("w", "a", v2, &policy(2)),
                rule("z", "a", v2, &policy(3)),
            ],
            &[("default", 2, &["v1", "v2"])],
        ),
        (
            "the order of namespaces does not matter",
            &[
                rule("x", "a", v1, ", exportTo: [other, third]"),
                rule("w", "a", v2, ", exportTo: [third, other]"),
            ],
            &[("other", 0, &["v1", "v2"]), ("third", 0, &["v1", "v2"])],
        ),
        (
            "another audience is another rule, and the youngest is taken",
            &[
                rule("x", "a", v1, &format!("{}, exportTo: [.]", policy(1))),
                rule("w", "a", v2, &policy(2)),
            ],
            &[("default", 2, &["v2"]), ("other", 2, &["v2"])],
        ),
        (
            "a wildcard is another host",
            &[
                rule("x", "*.default.svc.cluster.local", v1, &policy(1)),
                rule("w", "a", v2, ""),
            ],
            &[("default", 0, &["v2"])],
        ),
        (
            "another namespace's is another rule",
            &[rule("x", "a", v1, ""), rule("other/x", HOST, v2, "")],
            &[("default", 0, &["v1"]), ("other", 0, &["v2"])],
        ),
    ];
    for (name, rules, expected) in cases {
        let snapshot = with(rules);
        for (client, number, known) in *expected {
            assert_eq!(limit(&snapshot, client), *number, "{name}: {client}");
            assert_eq!(subsets(&snapshot, client), *known, "{name}: {client}");
        }
    }
    // Of two subsets of one name the oldest's labels count.
    let snapshot = with(&[rule("x", "a", v1, ""), rule("z", "a", again, "")]);
    let cluster = snapshot.cluster(&key("v1"), "default").expect("the subset");
    assert_eq!(cluster.endpoints.len(), 1);
    assert_eq!(cluster.endpoints[0].address.to_string(), "10.1.0.1:8080");
}

#[test]
fn a_rule_for_some_clients_is_stronger_than_one_for_all() {
    let rule = limited;
    let some = |labels: &str| format!(", workloadSelector: {{matchLabels: {{{labels}}}}}");
    let cases: &[Case<'_>] = &[
        (
            "whom it selects",
            &[
                rule("other/a", HOST, &some("app: picked"), 1),
                rule("a", "a", "", 2),
            ],
            &[("picked", 1), ("plain", 0)],
        ),
        (
            "the namespace's own for all is for the rest",
            &[
                rule("other/b", HOST, "", 3),
                rule("other/a", HOST, &some("app: picked"), 1),
            ],
            &[("picked", 1), ("plain", 3)],
        ),
        (
            "the oldest that fits",
            &[
                rule("other/a", HOST, &some("tier: w"), 1),
                rule("other/b", HOST, &some("tier: x"), 2),
                rule("other/c", HOST, &some("app: picked"), 3),
            ],
            &[("picked", 2), ("plain", 0)],
        ),
        (
            "no labels are everyone's",
            &[rule("other/a", HOST, ", workloadSelector: {}", 1)],
            &[("picked", 1), ("plain", 1)],
        ),
        (
            "those of another namespace are none of its business",
            &[rule("a", "a", &some("app: picked"), 1)],
            &[("picked", 0), ("plain", 0)],
        ),
        (
            "a more specific host hides it",
            &[
                rule("other/a", "*.local", &some("app: picked"), 1),
                rule("other/b", HOST, "", 2),
            ],
            &[("picked", 2), ("plain", 2)],
        ),
        (
            "two for the same pods are one",
            &[
                rule("other/a", HOST, &some("app: picked"), 1),
                rule(
                    "other/b",
                    HOST,
                    &(some("app: picked") + ", subsets: [{name: v1}]"),
                    2,
                ),
            ],
            &[("picked", 1), ("plain", 0)],
        ),
    ];
    for (name, rules, expected) in cases {
        let snapshot = with(rules);
        for (client, number) in *expected {
            let pod = snapshot.pods.values().find(|pod| &*pod.id.name == *client);
            let pod = pod.expect("the client");
            for cluster in [
                snapshot.cluster_for_pod(&key(""), pod),
                snapshot.cluster_for_gateway(&key(""), pod),
            ] {
                let pool = &cluster.expect("the Service's cluster").policy.pool;
                assert_eq!(
                    pool.max_connections.unwrap_or(0),
                    *number,
                    "{name}: {client}"
                );
            }
        }
    }
}

#[test]
fn pods_that_the_same_rules_select_share_what_they_see() {
    let text = service("a", "10.0.0.1", &["http:80:8080"])
        + &pod("p-1", "10.1.0.1", "app=p,version=v1")
        + &pod("p-2", "10.1.0.2", "app=p,version=v2")
        + &pod("q", "10.1.0.3", "app=q")
        + &istio(
            "DestinationRule",
            "a",
            "{host: a, workloadSelector: {matchLabels: {app: p}}, subsets: [{name: v1}]}",
        );
    let (snapshot, _) = world(&text);
    assert_eq!(snapshot.selected.len(), 1);
    let view = |name: &str| {
        let pod = snapshot.pods.values().find(|pod| &*pod.id.name == name);
        pod.expect("the pod").view
    };
    assert_eq!(
        [view("p-1"), view("p-2"), view("q")],
        [Some(0), Some(0), None]
    );
    assert!(snapshot.cluster(&key("v1"), "default").is_none());
}

#[test]
fn where_nothing_differs_there_is_no_view() {
    let rules = [
        limited("a", "a", "", 1),
        limited("istio-system/a", "*.local", "", 4),
        limited("other/b", "b", "", 5),
    ];
    let snapshot = with(&rules);
    assert!(snapshot.views.is_empty() && snapshot.gateway_views.is_empty());
}
