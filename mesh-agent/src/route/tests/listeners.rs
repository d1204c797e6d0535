//! Which listener takes a connection: addresses, ranges of them, and whole ports.

use super::*;
use crate::model::{Service, ServicePort, StreamTable, Unknown};

fn entry(host: &str, ports: &[(u16, Protocol)]) -> Arc<Service> {
    let ports = ports.iter().map(|(number, protocol)| ServicePort {
        number: *number,
        name: "".into(),
        protocol: *protocol,
    });
    Arc::new(Service {
        host: host.into(),
        namespace: "default".into(),
        name: host.into(),
        addresses: Vec::new(),
        ports: ports.collect(),
    })
}

fn told(outbound: Outbound) -> String {
    let scope = |scope: HttpScope| match scope {
        HttpScope::Mesh { port } => format!("http {port}"),
        HttpScope::Service { host, port } => format!("http {host}:{port}"),
        HttpScope::Gateway { port, .. } => format!("gateway {port}"),
    };
    let stream = |scope: StreamScope| match scope {
        StreamScope::Service { host, port } => format!("tcp {host}:{port}"),
        StreamScope::Port(port) => format!("tcp *:{port}"),
        StreamScope::Gateway { port, .. } => format!("gateway {port}"),
        StreamScope::Unknown => "unknown".to_owned(),
    };
    match outbound {
        Outbound::Http(found) => scope(found),
        Outbound::Stream(found) => stream(found),
        Outbound::Detect {
            scope: found,
            otherwise,
        } => format!("{} or {}", scope(found), stream(otherwise)),
    }
}

#[test]
fn ranges_and_whole_ports() {
    let mut snapshot = sound_world(&pod("client", "10.9.9.9", "app=client"));
    let outlook = &mut snapshot.common;
    let wide = entry("wide", &[(443, Protocol::Tls), (80, Protocol::Http)]);
    let narrow = entry(
        "narrow",
        &[
            (443, Protocol::Tcp),
            (9000, Protocol::Auto),
            (53, Protocol::Udp),
        ],
    );
    let range = |text: &str| text.parse().expect("a range");
    outlook.ranges = [
        (range("10.1.2.0/24"), Arc::clone(&narrow)),
        (range("fd00::/64"), narrow),
        (range("10.0.0.0/8"), wide),
    ]
    .into();
    let one = entry("one", &[(443, Protocol::Tcp)]);
    outlook.addresses.insert([10, 1, 2, 3].into(), one);
    outlook.mesh.insert(80, Arc::default());
    outlook.mesh.insert(9443, Arc::default());
    let whole = [443, 3306, 9443].map(|port| (port, StreamTable::default()));
    outlook.whole_ports = Arc::new(whole.into_iter().collect());
    let pod = client(&snapshot, "default", "client");
    for (destination, expected) in [
        // An address before a range, a narrow one before a wide one, and both before the whole port.
        ("10.1.2.3:443", "tcp one:443"),
        ("10.1.2.4:443", "tcp narrow:443"),
        ("10.1.3.4:443", "tcp wide:443"),
        ("11.1.3.4:443", "tcp *:443"),
        ("[fd00::1]:443", "tcp narrow:443"),
        ("[fd00:0:0:1::1]:443", "tcp *:443"),
        ("[::ffff:10.1.2.4]:443", "tcp narrow:443"),
        ("10.1.2.4:9000", "http narrow:9000 or tcp narrow:9000"),
        // What has the address need not have the port.
        ("10.1.2.3:9000", "unknown"),
        ("10.1.2.4:3306", "tcp *:3306"),
        ("10.1.2.4:53", "unknown"),
        // On an HTTP port the Host decides, whatever the address.
        ("10.1.3.4:80", "http 80"),
        ("11.1.3.4:80", "http 80"),
        // Both may have a port that no address has.
        ("11.1.3.4:9443", "http 9443 or tcp *:9443"),
        ("11.1.3.4:22", "unknown"),
    ] {
        let destination: SocketAddr = destination.parse().expect("an address");
        let found = told(outbound(&snapshot, &Client::Pod(&pod), destination));
        assert_eq!(found, expected, "{destination}");
    }
}

#[test]
fn what_becomes_of_requests_that_nobody_knows() {
    let mut snapshot = sound_world(&(two_services() + &pod("client", "10.9.9.9", "app=client")));
    let pod = client(&snapshot, "default", "client");
    let ask = |snapshot: &Snapshot| {
        let request = fixture::get("unknown.example.com", "/");
        let scope = HttpScope::Mesh { port: 80 };
        decide(
            snapshot,
            &scope,
            &Client::Pod(&pod),
            &request,
            &mut Told(vec![]),
        )
    };
    assert_eq!(ask(&snapshot), Decision::Passthrough);
    snapshot.common.unknown = Unknown::Refuse;
    assert_eq!(ask(&snapshot), Decision::Reply(Reply::Refused));
    let key = |host: &str| ClusterKey {
        host: format!("{host}.default.svc.cluster.local").into(),
        port: 80,
        subset: None,
    };
    for host in ["b", "gone"] {
        let forward = fixture::forward(&[(key(host), 0)]);
        let route = fixture::route(crate::model::RouteAction::Forward(forward));
        snapshot.common.unknown = Unknown::Through(Arc::new(route));
        let Decision::Routed(routed) = ask(&snapshot) else {
            panic!("no route through {host}");
        };
        let found = match routed.act {
            Act::Forward(forwarding) => forwarding.cluster.key.clone(),
            Act::NoCluster(key) => {
                assert_eq!(host, "gone");
                key
            }
            act => panic!("{act:?}"),
        };
        assert_eq!(found, key(host));
    }
    // A table that is there but has not the Host is no other case.
    snapshot.common.unknown = Unknown::Refuse;
    let known = fixture::get("a", "/");
    let scope = HttpScope::Mesh { port: 80 };
    let decided = decide(
        &snapshot,
        &scope,
        &Client::Pod(&pod),
        &known,
        &mut Told(vec![]),
    );
    assert!(matches!(decided, Decision::Routed(_)), "{decided:?}");
}

#[test]
fn a_gateway_sends_the_insecure_to_https() {
    let text = two_services()
        + &pod("gw-1", "10.1.0.1", "app=gw")
        + &istio(
            "Gateway",
            "gw",
            "
  selector: {app: gw}
  servers:
  - port: {number: 80, name: http, protocol: HTTP}
    hosts: ['*.com']
    tls: {httpsRedirect: true}",
        );
    let snapshot = sound_world(&text);
    let pod = client(&snapshot, "default", "gw-1");
    let scope = HttpScope::Gateway {
        port: 80,
        server: None,
    };
    for (scheme, expected) in [
        ("http", Reply::Https("https://A.com:80/x?k=v".to_owned())),
        ("https", Reply::NoRoute),
    ] {
        let request = Request {
            scheme,
            query: Some("k=v"),
            ..fixture::get("A.com:80", "/x")
        };
        let client = Client::Gateway(&pod);
        let decided = decide(&snapshot, &scope, &client, &request, &mut Told(vec![]));
        assert_eq!(decided, Decision::Reply(expected), "{scheme}");
    }
}
