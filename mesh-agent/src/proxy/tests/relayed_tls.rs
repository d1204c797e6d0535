//! Connections that are relayed by the name that is asked for, or out of TLS that a gateway has opened.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::fakes::Plan;
use super::fakes::*;
use super::secure::*;
use crate::certificate::fixture::self_signed;
use crate::model::*;
use crate::proxy::record::Flag;

const GET: &str = "GET / HTTP/1.1\r\nhost: web\r\n\r\n";

/// A server that says back what it hears, and then what it has heard in all, once its client has ended.
fn echo() -> Server {
    Server::start(|client| {
        let mut all = 0;
        loop {
            let mut bytes = [0; 4096];
            match client.stream.read(&mut bytes) {
                Ok(0) => break,
                Ok(n) => {
                    all += n;
                    client.send(&bytes[..n]);
                }
                Err(_) => return,
            }
        }
        client.send(format!(" {all} in all"));
    })
}

/// A gateway whose servers pass TLS on, or open it and relay what is in it.
fn gateway(
    endpoints: &[SocketAddr],
    tls: Option<ServerTls>,
    streams: impl Fn() -> Vec<StreamRoute> + 'static,
) -> Plan {
    let mut plan = Plan::gateway(endpoints);
    plan.listener = Some(Box::new(move || {
        let table = StreamTable {
            routes: streams(),
            next: None,
        };
        let server = SecureServer {
            name: "one".into(),
            hosts: vec!["a.example".into(), "b.example".into(), "*.w.example".into()],
            tls: match &tls {
                Some(tls) => Termination::Here(Arc::new(tls.clone()), Inside::Tcp(table)),
                None => Termination::Beyond(table),
            },
        };
        GatewayListener::Secure(vec![server].into())
    }));
    plan.settings.handshake_timeout = Duration::from_millis(400);
    plan
}

#[test]
fn a_gateway_passes_tls_on_by_name() {
    let (a, w) = (self_signed(&["a.example"]), self_signed(&["w.example"]));
    let one = TlsServer::saying(&a, &Serving::default(), "one");
    let two = TlsServer::saying(&w, &Serving::default(), "two");
    let mut plan = gateway(&[], None, || {
        vec![
            stream_to(&["a.example"], Some("v1")),
            stream_to(&["*.w.example"], Some("v2")),
        ]
    });
    plan.subsets = vec![("v1", vec![one.address]), ("v2", vec![two.address])];
    let mesh = plan.start();
    for (name, certificate, body) in [
        ("a.example", &a, "one"),
        ("x.w.example", &w, "two"),
        ("A.Example", &a, "one"),
    ] {
        let mut client = Asking::of(name).connect(mesh.address).unwrap();
        assert_eq!(shown(&client), certificate.der);
        assert!(ask(&mut client, GET).unwrap().ends_with(body));
    }
    assert_eq!(one.heard()[0].name.as_deref(), Some("a.example"));
    // One that the server has and no route, and one that nobody has.
    for name in ["b.example", "c.example"] {
        let error = Asking::of(name)
            .connect(mesh.address)
            .map(drop)
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{name}");
    }
    mesh.expect_flag(Flag::NoEndpoint);
}

#[test]
fn what_is_in_tls_is_relayed_with_both_its_ends() {
    let server = echo();
    let tls = simple(&self_signed(&["a.example"]));
    let mesh = gateway(&[server.address], Some(tls), || vec![stream_to(&[], None)]).start();
    let mut client = Asking::of("a.example").connect(mesh.address).unwrap();
    client.write_all(b"hello").unwrap();
    let mut bytes = [0; 5];
    client.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"hello");
    // The client has said all; the server has not.
    client.conn.send_close_notify();
    client.flush().unwrap();
    let mut rest = String::new();
    client.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, " 5 in all");
    eventually(|| mesh.stats().gateway.relayed == 1);
    assert_eq!(mesh.stats().flags, []);
    assert_eq!(
        (mesh.stats().gateway.received, mesh.stats().gateway.sent),
        (5, 14)
    );
}

#[test]
fn much_of_it_both_ways_comes_through() {
    let server = echo();
    let tls = simple(&self_signed(&["a.example"]));
    let mesh = gateway(&[server.address], Some(tls), || vec![stream_to(&[], None)]).start();
    let mut client = Asking::of("a.example").connect(mesh.address).unwrap();
    let chunk: Vec<u8> = (0..=255).cycle().take(100_000).collect();
    for round in 0..20 {
        client.write_all(&chunk).unwrap();
        // The answers are not read at once, so that what was taken for them has to be kept.
        if round == 10 {
            std::thread::sleep(Duration::from_millis(50));
        }
        let mut back = vec![0; chunk.len()];
        client.read_exact(&mut back).unwrap();
        assert!(back == chunk, "round {round}");
    }
}

#[test]
fn an_end_that_nobody_has_said_is_a_reset() {
    let tls = simple(&self_signed(&["a.example"]));
    let ends = Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = Arc::clone(&ends);
    let server = Server::start(move |client| {
        let end = client.rest();
        seen.lock().unwrap().push(end);
    });
    let mesh = gateway(&[server.address], Some(tls), || vec![stream_to(&[], None)]).start();
    let mut client = Asking::of("a.example").connect(mesh.address).unwrap();
    client.write_all(b"half a sent").unwrap();
    client.flush().unwrap();
    client.sock.shutdown(Shutdown::Write).unwrap();
    eventually(|| !ends.lock().unwrap().is_empty());
    assert_eq!(ends.lock().unwrap()[0], Err(ErrorKind::ConnectionReset));
    mesh.expect_flag(Flag::ClientClosed);
}

#[test]
fn a_plain_port_relays_to_its_one_route() {
    let server = echo();
    let mut plan = Plan::gateway(&[server.address]);
    plan.listener = Some(Box::new(|| {
        GatewayListener::Tcp(StreamTable {
            routes: vec![stream_to(&[], None)],
            next: None,
        })
    }));
    let mesh = plan.start();
    let mut client = mesh.client();
    client.send("hello");
    assert_eq!(client.exactly(5), "hello");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest(), Ok(" 5 in all".to_owned()));
}

/// A pod whose TLS port has routes by name.
fn outbound(endpoints: &[SocketAddr], subsets: Vec<(&'static str, Vec<SocketAddr>)>) -> Plan {
    let mut plan = Plan::outbound(Protocol::Tls, endpoints);
    plan.subsets = subsets;
    plan.streams = vec![
        stream_to(&["a.example"], Some("v1")),
        stream_to(&["*.w.example"], Some("v2")),
    ];
    plan.settings.handshake_timeout = Duration::from_millis(400);
    plan
}

#[test]
fn a_pods_tls_goes_where_its_name_is_routed() {
    let (a, w) = (self_signed(&["a.example"]), self_signed(&["w.example"]));
    let one = TlsServer::saying(&a, &Serving::default(), "one");
    let two = TlsServer::saying(&w, &Serving::default(), "two");
    let elsewhere = TlsServer::saying(&a, &Serving::default(), "elsewhere");
    let subsets = || vec![("v1", vec![one.address]), ("v2", vec![two.address])];
    let mut plan = outbound(&[], subsets());
    plan.original = Some(elsewhere.address);
    let mesh = plan.start();
    for (name, body) in [
        ("a.example", "one"),
        ("x.w.example", "two"),
        // What no route is for goes where it was meant to go.
        ("other.example", "elsewhere"),
    ] {
        let response = Asking::of(name).ask(mesh.address, GET).unwrap();
        assert!(response.ends_with(body), "{name}: {response}");
    }
    let mut plan = outbound(&[], subsets());
    plan.unknown = Unknown::Refuse;
    let strict = plan.start();
    assert!(Asking::of("a.example").ask(strict.address, GET).is_ok());
    let error = Asking::of("other.example")
        .connect(strict.address)
        .map(drop)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
    strict.expect_flag(Flag::NoEndpoint);
}

#[test]
fn a_server_that_speaks_first_is_not_waited_on_for_ever() {
    let server = Server::start(|client| {
        client.send("220 ready\r\n");
        let _ = client.rest();
    });
    let mut plan = outbound(&[], Vec::new());
    plan.original = Some(server.address);
    let mesh = plan.start();
    let begin = Instant::now();
    assert_eq!(mesh.client().until("\r\n").unwrap(), "220 ready\r\n");
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_millis(350) && took < Duration::from_secs(2),
        "{took:?}"
    );
    // Without routes by name nobody waits at all.
    let mesh = Plan::outbound(Protocol::Tls, &[server.address]).start();
    let begin = Instant::now();
    assert_eq!(mesh.client().until("\r\n").unwrap(), "220 ready\r\n");
    assert!(begin.elapsed() < Duration::from_millis(200));
}

#[test]
fn limits_of_relayed_connections_are_the_clusters() {
    let server = echo();
    let mut plan = Plan::outbound(Protocol::Tcp, &[server.address]);
    plan.policy.pool.tcp_idle_timeout = Duration::from_millis(200);
    let mesh = plan.start();
    let mut client = mesh.client();
    client.send("x");
    assert_eq!(client.exactly(1), "x");
    assert_eq!(client.rest(), Err(ErrorKind::ConnectionReset));
    mesh.expect_flag(Flag::Idle);
    let mut plan = Plan::outbound(Protocol::Tcp, &[server.address]);
    plan.policy.pool.max_connection_duration = Some(Duration::from_millis(300));
    let mesh = plan.start();
    let mut client = mesh.client();
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_millis(250) {
        client.send("x");
        assert_eq!(client.exactly(1), "x");
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(client.rest(), Err(ErrorKind::ConnectionReset));
    mesh.expect_flag(Flag::Duration);
}
