//! What the mesh's configuration says where no other object says anything.

use std::sync::Arc;
use std::time::Duration;

use super::entries::{goes, pod_of};
use super::*;
use crate::model::{
    Cluster, ConnectionPool, Failover, Keepalive, LocalityPolicy, Protocol, Retry, RouteAction,
    Unknown,
};

fn configured(mesh: &str) -> String {
    let indented: String = mesh.lines().map(|line| format!("    {line}\n")).collect();
    format!(
        "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{indented}"
    )
}

fn services() -> String {
    service(
        "a",
        "10.0.0.1",
        &["http:80:8080", "grpc:81:8080", "web:82:8080"],
    ) + &service("other/b", "10.0.0.2", &["http:80:8080"])
        + &pod("a-1", "10.1.0.1", "app=a")
        + &pod("client", "10.1.0.2", "app=client")
        + &pod("other/client", "10.1.0.3", "app=client")
}

fn rule(spec: &str) -> String {
    istio("DestinationRule", "a", spec)
}

fn cluster(snapshot: &Snapshot, port: u16) -> Arc<Cluster> {
    let key = ClusterKey {
        host: "a.default.svc.cluster.local".into(),
        port,
        subset: None,
    };
    Arc::clone(snapshot.cluster(&key, "default").expect("a cluster"))
}

#[test]
fn a_pool_is_the_mesh_s_where_nobody_has_one() {
    let mesh = configured(
        "connectTimeout: 3s
tcpKeepalive: {time: 20s, probes: 3}
defaultTrafficPolicy:
  connectionPool: {tcp: {maxConnections: 7}}
  outlierDetection: {consecutive5xxErrors: 9}",
    );
    let keepalive = Some(Keepalive {
        probes: Some(3),
        time: Some(Duration::from_secs(20)),
        interval: None,
    });
    let seconds = Duration::from_secs;
    let of_mesh = ConnectionPool {
        max_connections: Some(7),
        connect_timeout: seconds(3),
        keepalive,
        ..ConnectionPool::default()
    };
    let cases = [
        (String::new(), of_mesh.clone(), Some(9)),
        (
            rule("{host: a, trafficPolicy: {loadBalancer: {simple: RANDOM}}}"),
            of_mesh.clone(),
            Some(9),
        ),
        (
            rule("{host: a, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 1s}}}}"),
            ConnectionPool {
                max_connections: None,
                connect_timeout: seconds(1),
                ..of_mesh.clone()
            },
            Some(9),
        ),
        (
            rule(
                "{host: a, trafficPolicy: {outlierDetection: {}, connectionPool: {tcp: {tcpKeepalive: {interval: 5s, probes: 1}}}}}",
            ),
            ConnectionPool {
                max_connections: None,
                keepalive: Some(Keepalive {
                    probes: Some(1),
                    time: Some(seconds(20)),
                    interval: Some(seconds(5)),
                }),
                ..of_mesh.clone()
            },
            Some(5),
        ),
        (
            rule(
                "{host: a, trafficPolicy: {outlierDetection: {}, portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}}",
            ),
            of_mesh.clone(),
            Some(9),
        ),
    ];
    for (rules, pool, errors) in cases {
        let snapshot = sound_world(&(services() + &mesh + &rules));
        let policy = &cluster(&snapshot, 80).policy;
        assert_eq!(policy.pool, pool, "{rules}");
        let outliers = policy.outliers.as_ref();
        let found = outliers.and_then(|outliers| outliers.consecutive_5xx);
        assert_eq!(found, errors, "{rules}");
    }
    let snapshot = sound_world(&services());
    assert_eq!(
        cluster(&snapshot, 80).policy.pool,
        ConnectionPool::default()
    );
}

#[test]
fn what_is_declared_as_http_is_upgraded_and_nothing_else() {
    let upgraded = configured("h2UpgradePolicy: UPGRADE");
    let pool = |http: &str| {
        rule(&format!(
            "{{host: a, trafficPolicy: {{connectionPool: {{http: {http}}}}}}}"
        ))
    };
    let cases = [
        (&upgraded, String::new(), Protocol::Http2),
        (
            &upgraded,
            pool("{h2UpgradePolicy: DEFAULT}"),
            Protocol::Http2,
        ),
        (&upgraded, pool("{maxRetries: 1}"), Protocol::Http2),
        (
            &upgraded,
            pool("{h2UpgradePolicy: DO_NOT_UPGRADE}"),
            Protocol::Http,
        ),
        (&upgraded, pool("{useClientProtocol: true}"), Protocol::Http),
        (
            &configured("h2UpgradePolicy: DO_NOT_UPGRADE"),
            String::new(),
            Protocol::Http,
        ),
        (&String::new(), String::new(), Protocol::Http),
    ];
    for (mesh, rules, expected) in cases {
        let snapshot = sound_world(&(services() + mesh + &rules));
        assert_eq!(cluster(&snapshot, 80).protocol, expected, "{mesh}{rules}");
        assert_eq!(cluster(&snapshot, 81).protocol, Protocol::Http2);
        assert_eq!(cluster(&snapshot, 82).protocol, Protocol::Auto);
    }
}

#[test]
fn a_rule_s_locality_setting_stands_for_the_mesh_s() {
    let mesh = configured("localityLbSetting: {failover: [{from: a, to: b}]}");
    let off = configured("localityLbSetting: {enabled: false}");
    let regions = |pairs: &[(&str, &str)]| {
        let pairs = pairs
            .iter()
            .map(|(from, to)| ((*from).into(), (*to).into()));
        LocalityPolicy::Failover(Failover::Regions(pairs.collect()))
    };
    let ejects = rule("{host: a, trafficPolicy: {outlierDetection: {}}}");
    let own = rule(
        "{host: a, trafficPolicy: {outlierDetection: {}, loadBalancer: {localityLbSetting: {failover: [{from: c, to: d}]}}}}",
    );
    let cases = [
        (&mesh, String::new(), LocalityPolicy::Off),
        (&mesh, ejects.clone(), regions(&[("a", "b")])),
        (&mesh, own.clone(), regions(&[("c", "d")])),
        (&off, ejects.clone(), LocalityPolicy::Off),
        (&off, own, regions(&[("c", "d")])),
        (&String::new(), ejects, regions(&[])),
    ];
    for (mesh, rules, expected) in cases {
        let snapshot = sound_world(&(services() + mesh + &rules));
        let found = &cluster(&snapshot, 80).policy.locality;
        assert_eq!(*found, expected, "{mesh}{rules}");
    }
}

#[test]
fn routes_that_say_nothing_of_retries_have_the_mesh_s() {
    let mesh = configured("defaultHttpRetryPolicy: {attempts: 7}");
    let retry = |rules: &str| {
        let snapshot = sound_world(&(services() + &mesh + rules));
        let host = &snapshot.common.mesh[&80].exact["a.default.svc.cluster.local"];
        match &host.routes[0].action {
            RouteAction::Forward(forward) => forward.retry.clone(),
            RouteAction::Redirect(_) | RouteAction::Respond(_) => Retry::default(),
        }
    };
    let http = |retries: &str| {
        istio(
            "VirtualService",
            "a",
            &format!("{{hosts: [a], http: [{{{retries} route: [{{destination: {{host: a}}}}]}}]}}"),
        )
    };
    let seven = Retry {
        attempts: 7,
        ..Retry::default()
    };
    assert_eq!(retry(""), seven);
    assert_eq!(retry(&http("")), seven);
    assert_eq!(retry(&http("retries: {attempts: 0},")).attempts, 0);
    assert_eq!(
        retry(&http("retries: {attempts: 3},")),
        Retry {
            attempts: 3,
            ..Retry::default()
        }
    );
}

#[test]
fn objects_that_say_nothing_of_it_are_for_whom_the_mesh_says() {
    let virtual_service = |export: &str| {
        istio(
            "VirtualService",
            "a",
            &format!(
                "{{hosts: [a], {export} http: [{{route: [{{destination: {{host: nowhere.com}}}}]}}]}}"
            ),
        )
    };
    let at = |text: &str, namespace: &str| {
        let (snapshot, _) = world(text);
        let client = pod_of(&snapshot, namespace, "client");
        goes(&snapshot, client, 80, "a.default.svc.cluster.local")
    };
    let (own, others) = ("default", "other");
    let mesh = configured("defaultVirtualServiceExportTo: ['.']");
    let text = services() + &mesh + &virtual_service("");
    assert_eq!(at(&text, own), "no outbound|80||nowhere.com");
    assert_eq!(at(&text, others), ALL);
    let text = services() + &mesh + &virtual_service("exportTo: ['*'],");
    assert_eq!(at(&text, others), "no outbound|80||nowhere.com");

    let mesh = configured("defaultServiceExportTo: ['.']");
    let text = services() + &mesh;
    assert_eq!(at(&text, own), ALL);
    assert_eq!(at(&text, others), "passthrough");

    let policy = |text: &str, namespace: &str| {
        let (snapshot, _) = world(text);
        let key = ClusterKey {
            host: "a.default.svc.cluster.local".into(),
            port: 80,
            subset: None,
        };
        let cluster = snapshot.cluster(&key, namespace).expect("a cluster");
        cluster.policy.pool.max_connections
    };
    let limited = rule("{host: a, trafficPolicy: {connectionPool: {tcp: {maxConnections: 1}}}}");
    let mesh = configured("defaultDestinationRuleExportTo: ['.']");
    assert_eq!(policy(&(services() + &limited), others), Some(1));
    assert_eq!(policy(&(services() + &limited + &mesh), own), Some(1));
    assert_eq!(policy(&(services() + &limited + &mesh), others), None);
}

#[test]
fn what_nobody_knows_is_the_mesh_s_affair() {
    let refuse = configured("outboundTrafficPolicy: {mode: REGISTRY_ONLY}");
    let snapshot = sound_world(&(services() + &refuse));
    assert_eq!(snapshot.common.unknown, Unknown::Refuse);
    assert_eq!(sound_world(&services()).common.unknown, Unknown::Allow);
}
