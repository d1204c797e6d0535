//! What the levels of a policy make of one another, cluster by cluster.

use std::time::Duration;

use super::*;
use crate::config::Severity;
use crate::config::compile::services::DISTRIBUTION;
use crate::config::fixture::{istio, pod, service, world};
use crate::model::{
    Balancer, ClientTls, Cluster, ClusterKey, Credential, Discovery, HashKey, LocalityShare, PodId,
    Ring, Snapshot, Verification,
};

/// A Service `default/a` with ports 80 and 81, a pod behind it, a client in `other`, and these rules.
fn with(rules: &str) -> Snapshot {
    with_service(rules, |service| service)
}

/// The same, with the Service's manifest changed.
fn with_service(rules: &str, change: impl Fn(String) -> String) -> Snapshot {
    let text = change(service("a", "10.0.0.1", &["http:80:8080", "more:81:8081"]))
        + &pod("a-1", "10.1.0.1", "app=a,version=v1")
        + &pod("other/client", "10.1.1.1", "app=client")
        + rules;
    let (snapshot, rejected) = world(&text);
    let mut errors = rejected
        .iter()
        .filter(|complaint| complaint.severity == Severity::Error);
    assert_eq!(errors.next().map(ToString::to_string), None, "{rules}");
    snapshot
}

fn rule(spec: &str) -> String {
    istio("DestinationRule", "a", spec)
}

fn key(port: u16, subset: &str) -> ClusterKey {
    ClusterKey {
        host: "a.default.svc.cluster.local".into(),
        port,
        subset: (!subset.is_empty()).then(|| subset.into()),
    }
}

fn cluster(snapshot: &Snapshot, port: u16, subset: &str) -> Arc<Cluster> {
    let cluster = snapshot.cluster(&key(port, subset), "other");
    Arc::clone(cluster.expect("the cluster"))
}

/// A policy in few words: what is there that a cluster without a rule has not.
fn words(policy: &TrafficPolicy) -> String {
    let mut words = Vec::new();
    match &policy.balancer {
        Balancer::LeastRequest { .. } => {}
        Balancer::RoundRobin { .. } => words.push("turns".to_owned()),
        Balancer::Random => words.push("random".to_owned()),
        Balancer::Hash { .. } => words.push("hash".to_owned()),
    }
    let pool = &policy.pool;
    words.extend(pool.max_connections.map(|limit| format!("pool {limit}")));
    if pool.connect_timeout != Duration::from_secs(10) {
        words.push(format!("connect {}", pool.connect_timeout.as_secs()));
    }
    words.extend(
        pool.retry_budget
            .map(|(percent, _)| format!("budget {percent}")),
    );
    let outliers = policy.outliers.as_ref();
    words.extend(
        outliers.map(|outliers| format!("outliers {}", outliers.consecutive_5xx.unwrap_or(0))),
    );
    let tls = policy.tls.as_ref();
    words.extend(tls.map(|tls| format!("tls {}", tls.server_name.as_deref().unwrap_or("auto"))));
    words.extend(policy.proxy_protocol.map(|version| format!("{version:?}")));
    words.join(", ")
}

/// Rules, each with what the ports 80 and 81 have of it, as a whole and in the subset `v1`.
#[test]
fn blocks_replace_one_another_whole() {
    let top = "loadBalancer: {simple: RANDOM}, connectionPool: {tcp: {maxConnections: 1}}, outlierDetection: \
               {consecutive5xxErrors: 1}, tls: {mode: SIMPLE, sni: top, caCertificates: /ca}, proxyProtocol: {}, \
               retryBudget: {percent: 1}";
    let all = "random, pool 1, budget 1, outliers 1, tls top, V1";
    let cases = [
        ("nothing is said", String::new(), String::new(), ["", "", "", ""]),
        (
            "a subset has what the rule has",
            top.to_owned(),
            String::new(),
            [all, all, all, all],
        ),
        (
            "settings for a port inherit nothing",
            format!("{top}, portLevelSettings: [{{port: {{number: 81}}, connectionPool: {{tcp: {{maxConnections: 81}}}}}}]"),
            String::new(),
            [all, "pool 81", all, "pool 81"],
        ),
        (
            "a subset's block replaces a block",
            top.to_owned(),
            "loadBalancer: {simple: ROUND_ROBIN}, connectionPool: {tcp: {connectTimeout: 2s}}".to_owned(),
            [
                all,
                all,
                "turns, connect 2, budget 1, outliers 1, tls top, V1",
                "turns, connect 2, budget 1, outliers 1, tls top, V1",
            ],
        ),
        (
            "a subset's tls turns off the rule's",
            top.to_owned(),
            "tls: {mode: DISABLE}".to_owned(),
            [
                all,
                all,
                "random, pool 1, budget 1, outliers 1, V1",
                "random, pool 1, budget 1, outliers 1, V1",
            ],
        ),
        (
            "a subset lies over the settings for the port",
            format!("{top}, portLevelSettings: [{{port: {{number: 81}}, connectionPool: {{tcp: {{maxConnections: 81}}}}}}]"),
            "loadBalancer: {simple: ROUND_ROBIN}, proxyProtocol: {version: V2}".to_owned(),
            [
                all,
                "pool 81",
                "turns, pool 1, budget 1, outliers 1, tls top, V2",
                "turns, pool 81, V2",
            ],
        ),
        (
            "a subset's settings for a port replace all four, and what stands beside them stays",
            top.to_owned(),
            "loadBalancer: {simple: ROUND_ROBIN}, proxyProtocol: {version: V2}, portLevelSettings: [{port: {number: 81}, \
             outlierDetection: {consecutive5xxErrors: 81}}]"
                .to_owned(),
            [
                all,
                all,
                "turns, pool 1, budget 1, outliers 1, tls top, V2",
                "budget 1, outliers 81, V1",
            ],
        ),
        (
            "a subset's policy is its own alone",
            String::new(),
            "connectionPool: {tcp: {maxConnections: 2}}, retryBudget: {percent: 2}, portLevelSettings: [{port: {number: 81}, \
             loadBalancer: {simple: RANDOM}}]"
                .to_owned(),
            ["", "", "pool 2, budget 2", "random"],
        ),
        (
            "settings for a port are of that port alone",
            "portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: RANDOM}}]".to_owned(),
            "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: ROUND_ROBIN}}]".to_owned(),
            ["", "random", "turns", "random"],
        ),
    ];
    for (name, top, subset, expected) in cases {
        let policy = |written: &str| match written {
            "" => String::new(),
            written => format!(", trafficPolicy: {{{written}}}"),
        };
        let (top, subset) = (policy(&top), policy(&subset));
        let snapshot = with(&rule(&format!(
            "{{host: a{top}, subsets: [{{name: v1{subset}}}]}}"
        )));
        let found = [(80, ""), (81, ""), (80, "v1"), (81, "v1")]
            .map(|(port, subset)| words(&cluster(&snapshot, port, subset).policy));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn passthrough_leaves_no_choice() {
    let (o, l) = (Discovery::Original, Discovery::Listed);
    let passes = "trafficPolicy: {loadBalancer: {simple: PASSTHROUGH}}";
    let turns = "trafficPolicy: {loadBalancer: {simple: ROUND_ROBIN}}";
    let at_81 = "trafficPolicy: {portLevelSettings: [{port: {number: 81}, loadBalancer: {simple: PASSTHROUGH}}]}";
    let cases = [
        (
            format!("{{host: a, {turns}, subsets: [{{name: v1}}]}}"),
            [&l, &l, &l, &l],
        ),
        (
            format!("{{host: a, {passes}, subsets: [{{name: v1, {turns}}}]}}"),
            [&o, &o, &o, &o],
        ),
        (
            format!("{{host: a, subsets: [{{name: v1, {passes}}}]}}"),
            [&l, &l, &o, &o],
        ),
        (
            format!("{{host: a, {at_81}, subsets: [{{name: v1}}]}}"),
            [&l, &o, &l, &o],
        ),
        (
            format!("{{host: a, subsets: [{{name: v1, {at_81}}}]}}"),
            [&l, &l, &l, &o],
        ),
    ];
    for (spec, expected) in cases {
        let snapshot = with(&rule(&spec));
        for ((port, subset), expected) in [(80, ""), (81, ""), (80, "v1"), (81, "v1")]
            .into_iter()
            .zip(expected)
        {
            let cluster = cluster(&snapshot, port, subset);
            assert_eq!(cluster.discovery, *expected, "{spec}: {port} {subset}");
            assert_eq!(
                cluster.endpoints.is_empty(),
                cluster.discovery == o,
                "{spec}"
            );
        }
    }
    let headless = |service: String| service.replace("10.0.0.1", "None");
    let snapshot = with_service(
        &rule("{host: a, subsets: [{name: v1, labels: {version: v2}}]}"),
        headless,
    );
    let whole = cluster(&snapshot, 80, "");
    assert_eq!(
        (&whole.discovery, whole.endpoints.len()),
        (&Discovery::Headless, 1)
    );
    let subset = cluster(&snapshot, 80, "v1");
    assert_eq!(
        (&subset.discovery, subset.endpoints.len()),
        (&Discovery::Headless, 0)
    );
    let snapshot = with_service(&rule(&format!("{{host: a, {passes}}}")), headless);
    assert_eq!(cluster(&snapshot, 80, "").discovery, o);
}

#[test]
fn what_is_equal_is_made_once() {
    let settings = "{port: {number: 81}, loadBalancer: {simple: RANDOM}}";
    let snapshot = with(&rule(&format!(
        "{{host: '*.local', trafficPolicy: {{connectionPool: {{tcp: {{maxConnections: 1}}}}, portLevelSettings: [{settings}]}}}}"
    )));
    let other = with(
        &(service("b", "10.0.0.2", &["http:80", "x:82"])
            + &rule(
                "{host: '*.local', trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}}",
            )),
    );
    let policies: Vec<_> = other
        .clusters
        .values()
        .map(|cluster| &cluster.policy)
        .collect();
    assert_eq!(policies.len(), 4);
    assert!(
        policies
            .iter()
            .all(|policy| Arc::ptr_eq(policy, policies[0]))
    );
    let (at_80, at_81) = (
        cluster(&snapshot, 80, "").policy.clone(),
        cluster(&snapshot, 81, "").policy.clone(),
    );
    assert!(!Arc::ptr_eq(&at_80, &at_81));
}

#[test]
fn places_matter_where_endpoints_are_ejected_or_the_service_says_so() {
    let regions = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(from, to)| (Arc::from(*from), Arc::from(*to)));
        LocalityPolicy::Failover(Failover::Regions(pairs.collect()))
    };
    let tier = LocalityPolicy::Failover(Failover::Labels(vec![("tier".into(), None)]));
    let shares = LocalityPolicy::Distribute(vec![LocalityShare {
        from: "r".into(),
        to: vec![("r".into(), 100)],
    }]);
    let eject = "outlierDetection: {}, ";
    let setting = |written: &str| format!("loadBalancer: {{localityLbSetting: {{{written}}}}}");
    let cases = [
        ("loadBalancer: {}".to_owned(), "", LocalityPolicy::Off),
        (eject.to_owned(), "", regions(&[])),
        (setting(""), "", LocalityPolicy::Off),
        (
            setting("failover: [{from: a, to: b}]"),
            "",
            LocalityPolicy::Off,
        ),
        (
            format!("{eject}{}", setting("failover: [{from: a, to: b}]")),
            "",
            regions(&[("a", "b")]),
        ),
        (
            format!("{eject}{}", setting("enabled: true")),
            "",
            regions(&[]),
        ),
        (
            format!("{eject}{}", setting("enabled: false")),
            "",
            LocalityPolicy::Off,
        ),
        (
            format!("{eject}{}", setting("failoverPriority: [tier]")),
            "",
            tier,
        ),
        (
            setting("distribute: [{from: r, to: {r: 100}}]"),
            "",
            shares.clone(),
        ),
        (
            format!("{eject}loadBalancer: {{zoneAwareLbSetting: {{enabled: false}}}}"),
            "",
            LocalityPolicy::Off,
        ),
        (
            "loadBalancer: {}".to_owned(),
            "trafficDistribution: PreferClose",
            by_labels(&[REGION, ZONE]),
        ),
        (
            "loadBalancer: {}".to_owned(),
            "trafficDistribution: PreferSameZone",
            by_labels(&[REGION, ZONE]),
        ),
        (
            eject.to_owned(),
            "trafficDistribution: PreferSameNode",
            by_labels(&[REGION, ZONE, SUBZONE, HOSTNAME]),
        ),
        (
            setting("enabled: false"),
            "trafficDistribution: PreferClose",
            LocalityPolicy::Off,
        ),
        (
            setting("distribute: [{from: r, to: {r: 100}}]"),
            "trafficDistribution: PreferClose",
            shares,
        ),
        // A rule's failover is the rule's, and waits for ejection.
        (
            setting("failover: [{from: a, to: b}]"),
            "trafficDistribution: PreferClose",
            LocalityPolicy::Off,
        ),
    ];
    for (policy, distribution, expected) in cases {
        let rule = rule(&format!("{{host: a, trafficPolicy: {{{policy}}}}}"));
        let snapshot = with_service(&rule, |service| {
            service.replace("  clusterIP:", &format!("  {distribution}\n  clusterIP:"))
        });
        let found = &cluster(&snapshot, 80, "").policy.locality;
        assert_eq!(*found, expected, "{policy} {distribution}");
    }
}

#[test]
fn a_service_may_have_its_preference_in_an_annotation() {
    let annotated = |value: &str, field: &str| {
        let snapshot = with_service("", |service| {
            let annotation = format!("{{annotations: {{{DISTRIBUTION}: {value}}}, ");
            let text = service.replacen("metadata: {", &format!("metadata: {annotation}"), 1);
            text.replace("  clusterIP:", &format!("  {field}\n  clusterIP:"))
        });
        cluster(&snapshot, 80, "").policy.locality.clone()
    };
    let zone = by_labels(&[REGION, ZONE]);
    let node = by_labels(&[REGION, ZONE, SUBZONE, HOSTNAME]);
    assert_eq!(annotated("preferclose", ""), zone);
    assert_eq!(annotated("PreferSameNode", ""), node);
    assert_eq!(
        annotated("PreferSameNode", "trafficDistribution: PreferClose"),
        zone
    );
    assert_eq!(annotated("Nowhere", ""), LocalityPolicy::Off);
}

#[test]
fn where_the_service_ranks_endpoints_nobody_unready_is_picked() {
    let rule = rule("{host: a, trafficPolicy: {outlierDetection: {minHealthPercent: 50}}}");
    let least = |distribution: &str| {
        let snapshot = with_service(&rule, |service| {
            service.replace("  clusterIP:", &format!("  {distribution}\n  clusterIP:"))
        });
        let policy = cluster(&snapshot, 80, "").policy.clone();
        policy
            .outliers
            .as_ref()
            .map(|outliers| outliers.min_health_percent)
    };
    assert_eq!(least(""), Some(50));
    assert_eq!(least("trafficDistribution: PreferClose"), Some(0));
}

#[test]
fn the_way_to_the_app_has_the_pool_that_the_pod_itself_would_use() {
    let limit = |limit: u32| format!("connectionPool: {{tcp: {{maxConnections: {limit}}}}}");
    let rule = |name: &str, policy: &str, more: &str| {
        let spec =
            format!("{{host: a.default.svc.cluster.local, trafficPolicy: {{{policy}}}{more}}}");
        istio("DestinationRule", name, &spec)
    };
    let as_client = "connectionPool: {http: {useClientProtocol: true}}";
    let upgraded = "connectionPool: {http: {h2UpgradePolicy: UPGRADE}}";
    let at_81 = format!(
        "{}, portLevelSettings: [{{port: {{number: 81}}, {}}}]",
        limit(1),
        limit(2)
    );
    let declared = UpstreamHttp::AsDeclared;
    let cases = [
        (String::new(), [(None, declared), (None, declared)]),
        (
            rule("a", &at_81, ""),
            [(Some(1), declared), (Some(2), declared)],
        ),
        (
            rule("a", &limit(1), ", exportTo: [.]"),
            [(Some(1), declared), (Some(1), declared)],
        ),
        (
            rule("a", &limit(1), ", exportTo: [other]"),
            [(None, declared), (None, declared)],
        ),
        (
            rule("other/a", &limit(1), ""),
            [(None, declared), (None, declared)],
        ),
        (
            rule("istio-system/a", &limit(1), ""),
            [(Some(1), declared), (Some(1), declared)],
        ),
        (
            rule("a", &limit(1), ", workloadSelector: {}"),
            [(None, declared), (None, declared)],
        ),
        (
            rule("a", as_client, ""),
            [
                (None, UpstreamHttp::AsClient),
                (None, UpstreamHttp::AsClient),
            ],
        ),
        (
            rule("a", upgraded, ""),
            [(None, declared), (None, declared)],
        ),
    ];
    let id = PodId {
        namespace: "default".into(),
        name: "a-1".into(),
    };
    for (rules, expected) in cases {
        let snapshot = with(&rules);
        let inbound = &snapshot.pods[&id].inbound;
        let found = [8080, 8081].map(|port| {
            let port = &inbound[&port];
            (port.pool.max_connections, port.http)
        });
        assert_eq!(found, expected, "{rules}");
    }
}

#[test]
fn a_secret_is_for_gateways_and_for_whom_a_rule_selects() {
    let gateway = istio(
        "Gateway",
        "gw/gw",
        "{selector: {app: gw}, servers: [{hosts: ['*'], port: {number: 80, name: http, protocol: HTTP}}]}",
    );
    let policy = "{tls: {mode: MUTUAL, credentialName: cert, subjectAltNames: [x]}}";
    let pods =
        pod("gw/gw", "10.1.2.1", "app=gw") + &pod("gw/else", "10.1.2.2", "app=else") + &gateway;
    let for_all = rule(&format!(
        "{{host: a, subsets: [{{name: v1}}], trafficPolicy: {policy}}}"
    ));
    let snapshot = with(&(pods.clone() + &for_all));
    let tls = |namespace: &str| {
        let why: Arc<str> = format!("there is no Secret {namespace}/cert").into();
        ClientTls {
            certificate: Some(Credential::Missing(Arc::clone(&why))),
            verification: Some(Verification {
                roots: Some(Credential::Missing(why)),
                names: vec!["x".into()],
                hashes: Vec::new(),
                keys: Vec::new(),
            }),
            server_name: None,
            bears_host: false,
        }
    };
    let seen = |snapshot: &Snapshot, namespace: &str, name: &str| {
        let id = PodId {
            namespace: namespace.into(),
            name: name.into(),
        };
        let pod = &snapshot.pods[&id];
        ["", "v1"].map(|subset| {
            let key = key(80, subset);
            let of = |cluster: Option<&Arc<Cluster>>| {
                let tls = cluster?.policy.tls.clone()?;
                Some(ClientTls::clone(&tls))
            };
            let found = (
                snapshot.cluster_for_pod(&key, pod),
                snapshot.cluster_for_gateway(&key, pod),
            );
            (of(found.0), of(found.1))
        })
    };
    let of_gw = (None, Some(tls("gw")));
    assert_eq!(seen(&snapshot, "gw", "gw"), [of_gw.clone(), of_gw.clone()]);
    // Whether it is one is for the proxy to say: every pod of the namespace might be.
    assert_eq!(seen(&snapshot, "gw", "else"), [of_gw.clone(), of_gw]);
    assert_eq!(
        seen(&snapshot, "other", "client"),
        [(None, None), (None, None)]
    );

    let for_some = istio(
        "DestinationRule",
        "other/a",
        &format!(
            "{{host: a.default.svc.cluster.local, workloadSelector: {{matchLabels: {{app: client}}}}, trafficPolicy: {policy}}}"
        ),
    );
    let snapshot = with(&for_some);
    let both = (Some(tls("other")), Some(tls("other")));
    assert_eq!(seen(&snapshot, "other", "client")[0], both);
    assert_eq!(seen(&snapshot, "default", "a-1")[0], (None, None));
}

#[test]
fn files_are_named_where_there_is_no_secret() {
    let tls = |written: &str| {
        let rule = rule(&format!("{{host: a, trafficPolicy: {{tls: {written}}}}}"));
        let tls = cluster(&with(&rule), 80, "").policy.tls.clone();
        tls.map(|tls| ClientTls::clone(&tls))
    };
    let verified = |roots| {
        Some(Verification {
            roots,
            names: Vec::new(),
            hashes: Vec::new(),
            keys: Vec::new(),
        })
    };
    let files = |names: &[&str]| names.iter().map(Into::into).collect();
    assert_eq!(tls("{}"), None);
    assert_eq!(
        tls("{mode: SIMPLE}"),
        Some(ClientTls {
            certificate: None,
            verification: verified(None),
            server_name: None,
            bears_host: true,
        })
    );
    assert_eq!(
        tls(
            "{mode: MUTUAL, clientCertificate: /c, privateKey: /k, caCertificates: /ca, caCrl: /crl, sni: x}"
        ),
        Some(ClientTls {
            certificate: Some(Credential::Files(files(&["/c", "/k"]))),
            verification: verified(Some(Credential::Files(files(&["/ca", "/crl"])))),
            server_name: Some("x".into()),
            bears_host: false,
        })
    );
    assert_eq!(
        tls("{mode: SIMPLE, insecureSkipVerify: true}").map(|tls| tls.verification),
        Some(None)
    );
}

/// Rules, each with what routes to port 80 hash where they name the port and where they do not, to all and to `v1`.
#[test]
fn routes_hash_what_the_levels_say() {
    let hash = |name: &str| format!("loadBalancer: {{consistentHash: {{httpHeaderName: {name}}}}}");
    let (top, at_port, own, own_port) = (hash("top"), hash("port"), hash("own"), hash("own-port"));
    let random = "loadBalancer: {simple: RANDOM}";
    let levels = |entry: &str| format!("portLevelSettings: [{{port: {{number: 80}}, {entry}}}]");
    let block = |policy: &str| match policy {
        "" => String::new(),
        policy => format!(", trafficPolicy: {{{policy}}}"),
    };
    let check = |policy: String, subset: String, wanted: [&str; 4]| {
        let (whole, own) = (block(&policy), block(&subset));
        let snapshot = with(&rule(&format!(
            "{{host: a{whole}, subsets: [{{name: v1{own}}}]}}"
        )));
        let words = |key: &Option<Arc<HashKey>>| match key.as_deref() {
            None => "-".to_owned(),
            Some(HashKey::Header(name)) => name.to_string(),
            Some(other) => format!("{other:?}"),
        };
        let found: Vec<String> = ["", "v1"]
            .iter()
            .flat_map(|subset| {
                let hash = &cluster(&snapshot, 80, subset).policy.hash;
                [words(&hash.at_port), words(&hash.at_any_port)]
            })
            .collect();
        assert_eq!(found, wanted, "{policy} and {subset}");
    };
    let none = String::new;
    check(none(), none(), ["-", "-", "-", "-"]);
    check(top.clone(), none(), ["top", "top", "top", "top"]);
    check(levels(&at_port), none(), ["port", "-", "port", "-"]);
    check(
        format!("{top}, {}", levels(&at_port)),
        none(),
        ["port", "top", "port", "top"],
    );
    // The cluster's own balancer is another matter.
    check(
        format!("{top}, {}", levels(random)),
        none(),
        ["top", "top", "top", "top"],
    );
    check(levels(&at_port), own.clone(), ["port", "-", "own", "own"]);
    check(
        top,
        format!("{own}, {}", levels(&own_port)),
        ["top", "top", "own-port", "own"],
    );
}

#[test]
fn a_hash_comes_through_with_its_ring() {
    let rule = rule(
        "{host: a, trafficPolicy: {loadBalancer: {consistentHash: {useSourceIp: true, maglev: {tableSize: 251}}}}}",
    );
    let policy = cluster(&with(&rule), 80, "").policy.clone();
    assert!(matches!(
        policy.balancer,
        Balancer::Hash {
            ring: Ring::Maglev { table_size: 251 },
            ..
        }
    ));
}
