//! Where connections go that are not HTTP, by tables.

use std::net::SocketAddr;

use super::*;
use crate::config::fixture::{pod, service, sound_world};
use crate::model::{ClientMatch, Destination, HeaderEdits, Labels};
use crate::route::fixture;
use crate::route::tests::Told;

fn key(host: &str) -> ClusterKey {
    ClusterKey {
        host: format!("{host}.default.svc.cluster.local").into(),
        port: 9000,
        subset: None,
    }
}

fn destination(host: &str, weight: u32) -> Destination {
    Destination {
        cluster: key(host),
        names_port: true,
        weight,
        request_headers: HeaderEdits::default(),
        response_headers: HeaderEdits::default(),
    }
}

fn route(when: StreamMatch, shares: &[(&str, u32)]) -> StreamRoute {
    StreamRoute {
        origin: Some(("default/rules".into(), "tcp[0]".into())),
        when,
        destinations: shares
            .iter()
            .map(|(host, weight)| destination(host, *weight))
            .collect(),
        total_weight: shares.iter().map(|(_, weight)| u64::from(*weight)).sum(),
    }
}

fn when(names: &[&str], subnets: &[&str], labels: &[(&str, &str)]) -> StreamMatch {
    StreamMatch {
        server_names: names.iter().map(|name| (*name).into()).collect(),
        subnets: subnets
            .iter()
            .map(|subnet| subnet.parse().expect("a subnet"))
            .collect(),
        client: ClientMatch {
            labels: labels
                .iter()
                .map(|(key, value)| ((*key).into(), (*value).into()))
                .collect::<Labels>(),
            ..ClientMatch::default()
        },
    }
}

fn table(routes: Vec<StreamRoute>) -> StreamTable {
    StreamTable { routes, next: None }
}

fn world() -> Snapshot {
    sound_world(
        &(service("a", "10.0.0.1", &["tcp:9000:9000"])
            + &service("b", "10.0.0.2", &["tcp:9000:9000"])
            + &pod("client", "10.9.9.9", "app=client")),
    )
}

/// Asks for the connection of `default/client` to Service `a`.
fn ask(
    snapshot: &Snapshot,
    scope: &StreamScope,
    to: &str,
    server_name: Option<&str>,
    draws: &[u64],
) -> String {
    let client = snapshot
        .pods
        .values()
        .find(|pod| &*pod.id.name == "client")
        .expect("the client");
    let to: SocketAddr = to.parse().expect("an address");
    let flow = Flow {
        destination: to,
        server_name,
    };
    let mut told = Told(draws.to_vec());
    let decided = stream(snapshot, &Client::Pod(client), scope, &flow, &mut told);
    assert!(told.0.is_empty(), "draws that nobody asked for");
    match decided {
        StreamDecision::Forward(Relaying { cluster, conduct }) => {
            let [host, whose] = [cluster, conduct].map(|cluster| {
                let host = cluster.key.host.split('.').next();
                host.unwrap_or_default().to_owned()
            });
            match host == whose {
                true => host,
                false => format!("{host} as {whose} says"),
            }
        }
        StreamDecision::Passthrough => "passthrough".to_owned(),
        StreamDecision::Refuse => "refuse".to_owned(),
    }
}

fn service_a() -> StreamScope {
    StreamScope::Service {
        host: key("a").host,
        port: 9000,
    }
}

fn with(mut snapshot: Snapshot, table: StreamTable) -> Snapshot {
    let ports = [(9000, Arc::new(table))].into();
    snapshot.common.streams.insert(key("a").host, ports);
    snapshot
}

#[test]
fn a_service_without_routes_has_its_cluster() {
    let snapshot = world();
    assert_eq!(
        ask(&snapshot, &service_a(), "10.0.0.1:9000", None, &[]),
        "a"
    );
    let gone = StreamScope::Service {
        host: key("gone").host,
        port: 9000,
    };
    assert_eq!(
        ask(&snapshot, &gone, "10.0.0.3:9000", None, &[]),
        "passthrough"
    );
    // Routes for others are none.
    let stranger = when(&[], &[], &[("app", "other")]);
    let snapshot = with(snapshot, table(vec![route(stranger, &[("b", 1)])]));
    assert_eq!(
        ask(&snapshot, &service_a(), "10.0.0.1:9000", None, &[]),
        "a"
    );
}

#[test]
fn the_first_route_that_matches_wins() {
    let routes = vec![
        route(
            when(&[], &["10.0.0.0/30"], &[("app", "other")]),
            &[("gone", 1)],
        ),
        route(when(&["x.com"], &["10.0.0.0/30"], &[]), &[("a", 1)]),
        route(when(&[], &["10.0.0.0/30", "fd00::/64"], &[]), &[("b", 1)]),
        route(when(&["x.com", "*.y.com"], &[], &[]), &[("a", 1)]),
        route(when(&["z.com"], &[], &[]), &[("gone", 1)]),
    ];
    let snapshot = with(world(), table(routes));
    for (to, name, expected) in [
        ("10.0.0.1:9000", None, "b"),
        ("10.0.0.1:9000", Some("x.com"), "a"),
        ("10.0.0.1:9000", Some("q.com"), "b"),
        ("[fd00::9]:9000", None, "b"),
        ("[::ffff:10.0.0.1]:9000", None, "b"),
        ("10.0.0.4:9000", Some("x.com"), "a"),
        ("10.0.0.4:9000", Some("a.b.y.com"), "a"),
        ("10.0.0.4:9000", Some("y.com"), "passthrough"),
        ("10.0.0.4:9000", None, "passthrough"),
        ("10.0.0.4:9000", Some("z.com"), "refuse"),
    ] {
        let found = ask(&snapshot, &service_a(), to, name, &[]);
        assert_eq!(found, expected, "{to} {name:?}");
    }
}

#[test]
fn the_narrowest_subnet_decides_which_names_there_are() {
    let routes = vec![
        route(
            when(&["z.com"], &["10.0.0.1/32"], &[("app", "other")]),
            &[("gone", 1)],
        ),
        route(when(&["x.com"], &["10.0.0.0/30"], &[]), &[("a", 1)]),
        route(when(&["*.com"], &["10.0.0.0/30"], &[]), &[("gone", 1)]),
        route(when(&["y.org"], &["10.0.0.0/24"], &[]), &[("b", 1)]),
        route(when(&["z.org"], &[], &[]), &[("b", 1)]),
    ];
    let snapshot = with(world(), table(routes));
    for (to, name, expected) in [
        ("10.0.0.1:9000", "x.com", "a"),
        ("10.0.0.1:9000", "y.com", "refuse"),
        ("10.0.0.1:9000", "y.org", "passthrough"),
        ("10.0.0.1:9000", "z.org", "passthrough"),
        ("10.0.0.4:9000", "y.org", "b"),
        ("10.0.0.4:9000", "z.org", "passthrough"),
        ("10.0.1.1:9000", "z.org", "b"),
    ] {
        let found = ask(&snapshot, &service_a(), to, Some(name), &[]);
        assert_eq!(found, expected, "{to} {name}");
    }
}

#[test]
fn a_stand_in_is_asked_where_nothing_concerns_the_client() {
    let for_others = route(when(&[], &[], &[("app", "other")]), &[("gone", 1)]);
    let for_all = route(when(&["x.com"], &[], &[]), &[("b", 1)]);
    let table = StreamTable {
        routes: vec![for_others],
        next: Some(Arc::new(table(vec![for_all]))),
    };
    let snapshot = with(world(), table);
    let ask = |name| ask(&snapshot, &service_a(), "10.0.0.1:9000", Some(name), &[]);
    assert_eq!(ask("x.com"), "b");
    assert_eq!(ask("y.com"), "passthrough");
}

#[test]
fn shares_of_connections() {
    let shares = [("a", 1), ("b", 3)];
    let snapshot = with(world(), table(vec![route(StreamMatch::default(), &shares)]));
    // Whichever takes it, how long it may last is the first one's affair.
    for (drawn, expected) in [(0, "a"), (1, "b as a says"), (3, "b as a says")] {
        let found = ask(&snapshot, &service_a(), "10.0.0.1:9000", None, &[drawn]);
        assert_eq!(found, expected);
    }
    let alone = with(
        world(),
        table(vec![route(StreamMatch::default(), &[("b", 0)])]),
    );
    assert_eq!(ask(&alone, &service_a(), "10.0.0.1:9000", None, &[]), "b");
}

#[test]
fn what_nobody_knows() {
    let mut snapshot = world();
    let unknown = StreamScope::Unknown;
    let to = "192.0.2.1:9000";
    assert_eq!(ask(&snapshot, &unknown, to, None, &[]), "passthrough");
    snapshot.common.unknown = Unknown::Refuse;
    assert_eq!(ask(&snapshot, &unknown, to, None, &[]), "refuse");
    for (host, expected) in [("b", "b"), ("gone", "refuse")] {
        let forward = fixture::forward(&[(key(host), 0)]);
        let route = fixture::route(RouteAction::Forward(forward));
        snapshot.common.unknown = Unknown::Through(Arc::new(route));
        assert_eq!(ask(&snapshot, &unknown, to, None, &[]), expected);
    }
}

#[test]
fn a_whole_port() {
    let mut snapshot = world();
    let named = route(when(&["b.com"], &[], &[]), &[("b", 1)]);
    snapshot.common.whole_ports = Arc::new([(443, table(vec![named]))].into());
    let scope = StreamScope::Port(443);
    for (name, expected) in [
        (Some("b.com"), "b"),
        (Some("c.com"), "passthrough"),
        (None, "passthrough"),
    ] {
        let found = ask(&snapshot, &scope, "192.0.2.1:443", name, &[]);
        assert_eq!(found, expected, "{name:?}");
    }
    assert_eq!(
        ask(
            &snapshot,
            &StreamScope::Port(444),
            "192.0.2.1:444",
            None,
            &[]
        ),
        "passthrough"
    );
}

#[test]
fn server_names() {
    for (pattern, name, expected) in [
        ("a.com", "a.com", true),
        ("a.com", "b.a.com", false),
        ("*.a.com", "b.a.com", true),
        ("*.a.com", "c.b.a.com", true),
        ("*.a.com", "a.com", false),
        ("*.a.com", ".a.com", false),
        ("*", "a", true),
    ] {
        assert_eq!(names(pattern, name), expected, "{pattern} {name}");
    }
}
