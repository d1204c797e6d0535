//! Connections that are not HTTP, or not known to be.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::fakes::*;
use crate::model::{Protocol, Tunnel};
use crate::proxy::record::Flag;

fn reset(client: &Client) {
    SockRef::from(&client.stream)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
}

fn banner() -> Server {
    Server::start(|client| {
        client.send("220 ready\r\n");
        while let Some(line) = client.until("\r\n") {
            client.send(format!("250 {line}"));
        }
    })
}

#[test]
fn servers_that_speak_first_get_through() {
    let server = banner();
    for plan in [
        Plan::outbound(Protocol::Auto, &[server.address]),
        Plan::outbound(Protocol::Tcp, &[server.address]),
        Plan::inbound(Protocol::Auto, server.address),
        Plan::inbound(Protocol::Tcp, server.address),
        Plan {
            known: false,
            original: Some(server.address),
            ..Plan::outbound(Protocol::Http, &[])
        },
        // Even on a port declared as HTTP.
        Plan {
            original: Some(server.address),
            ..Plan::outbound(Protocol::Http, &[])
        },
    ] {
        let mesh = plan.start();
        for _ in 0..2 {
            let mut client = mesh.client();
            assert_eq!(client.until("\r\n").unwrap(), "220 ready\r\n");
            client.send("HELO x\r\n");
            assert_eq!(client.until("\r\n").unwrap(), "250 HELO x\r\n");
        }
    }
}

/// A proxy that answers like this, with what its destination says right behind, and then echoes lines.
fn proxy(answer: &'static str) -> Server {
    Server::start(move |client| {
        let asked = client.until("\r\n\r\n").unwrap_or_default();
        client.heard(&asked);
        client.send(answer);
        while let Some(line) = client.until("\r\n") {
            client.send(line);
        }
    })
}

#[test]
fn a_proxy_is_asked_for_the_destination_first() {
    let through = |server: &Server, protocol| {
        let mut plan = Plan::outbound(protocol, &[server.address]);
        plan.policy.tunnel = Some(Tunnel {
            target: "example.com:443".into(),
        });
        plan.policy.pool.connect_timeout = Duration::from_millis(500);
        plan.start()
    };
    for answer in [
        "HTTP/1.1 200 OK\r\n\r\nhello\r\n",
        "HTTP/1.0 200\r\nx: y\r\n\r\nhello\r\n",
    ] {
        let server = proxy(answer);
        let mesh = through(&server, Protocol::Tcp);
        let mut client = mesh.client();
        assert_eq!(client.until("\r\n").unwrap(), "hello\r\n");
        client.send("and on\r\n");
        assert_eq!(client.until("\r\n").unwrap(), "and on\r\n");
        assert_eq!(
            server.heard(),
            ["CONNECT example.com:443 HTTP/1.1\r\nhost: example.com:443\r\n\r\n"]
        );
    }
    for answer in [
        "HTTP/1.1 403 No\r\n\r\n",
        "HTTP/1.1 2000 OK\r\n\r\n",
        "SSH-2.0 200 \r\n\r\n",
        // Never an end: it is waited for no longer than for a connection.
        "HTTP/1.1 200 OK\r\n",
    ] {
        let mesh = through(&proxy(answer), Protocol::Tcp);
        assert!(mesh.client().rest().is_err(), "{answer}");
        mesh.expect_flag(Flag::ConnectFailure);
    }
    // What is HTTP is not tunnelled.
    let server = Server::saying("ok");
    let answer = through(&server, Protocol::Http).ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    assert!(answer.ends_with("ok"), "{answer}");
}

#[test]
fn waits_for_a_silent_client_once() {
    let server = banner();
    let mesh = Plan::outbound(Protocol::Auto, &[server.address]).start();
    let time = || {
        let begin = Instant::now();
        mesh.client().until("\r\n").unwrap();
        begin.elapsed()
    };
    let first = time();
    assert!(
        first >= Duration::from_millis(95) && first < Duration::from_millis(300),
        "{first:?}"
    );
    let second = time();
    assert!(second < Duration::from_millis(50), "{second:?}");
}

#[test]
fn waiting_is_no_way_round_the_routes() {
    let server = Server::saying("ok");
    let mesh = Plan::outbound(Protocol::Auto, &[server.address]).start();
    let mut client = mesh.client();
    std::thread::sleep(Duration::from_millis(250));
    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    let answer = client.response();
    assert!(answer.contains("server: envoy"), "{answer}");
    assert_eq!(mesh.stats().outbound.relayed, 0);
}

#[test]
fn idle_clients_of_http_ports_are_waited_for() {
    let server = Server::saying("ok");
    let silent = Server::start(|client| {
        client.rest().ok();
    });
    for original in [refusing(), silent.address] {
        let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
        plan.original = Some(original);
        let mesh = plan.start();
        let mut client = mesh.client();
        // Longer than the silence, and longer than a request's head may take.
        std::thread::sleep(Duration::from_millis(800));
        for _ in 0..2 {
            client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
            assert!(client.response().ends_with("ok"));
            std::thread::sleep(Duration::from_millis(800));
        }
    }
}

#[test]
fn slow_heads_are_cut_off() {
    let server = Server::saying("ok");
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    for begin in ["GET / HT", "GET / HTTP/1.1\r\nHost: we"] {
        let mut client = mesh.client();
        client.send(begin);
        let started = Instant::now();
        let _ = client.rest();
        let took = started.elapsed();
        assert!(
            took > Duration::from_millis(500) && took < Duration::from_secs(2),
            "{begin}: {took:?}"
        );
    }
    let mut client = mesh.client();
    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    client.response();
    client.send("GET / HTTP/1.1\r\nHo");
    let started = Instant::now();
    let _ = client.rest();
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[test]
fn tells_by_the_first_bytes() {
    let echo = Server::start(|client| {
        let mut bytes = [0; 64];
        while let Ok(n @ 1..) = client.stream.read(&mut bytes) {
            client.send(&bytes[..n]);
        }
    });
    let mesh = Plan::outbound(Protocol::Auto, &[echo.address]).start();
    for bytes in [
        &b"\x16\x03\x01\x00\x05hello"[..],
        b"PING\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        // Could become a request; nobody waits for its end for ever.
        b"HELLO",
    ] {
        let mut client = mesh.client();
        client.send(bytes);
        assert_eq!(client.exactly(bytes.len()).as_bytes(), bytes);
    }
    // The same on a port that was declared as HTTP, to where the client meant to go.
    let mut plan = Plan::outbound(Protocol::Http, &[]);
    plan.original = Some(echo.address);
    let mesh = plan.start();
    let mut client = mesh.client();
    client.send("\x16\x03\x01");
    assert_eq!(client.exactly(3), "\x16\x03\x01");
    let answer = Plan::inbound(Protocol::Http, echo.address)
        .start()
        .ask("\x16\x03\x01\x02\x00\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 400 "), "{answer}");
}

#[test]
fn half_closes_either_way() {
    const SIZE: usize = 10 * 1024 * 1024;
    // Reads to the end, then answers as much.
    let after_the_end = Server::start(|client| {
        let heard = client.rest().unwrap();
        client.send(heard);
    });
    // Says its part and its end, then listens.
    let before_the_end = Server::start(|client| {
        client.send(vec![b's'; SIZE]);
        client.stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(client.rest().unwrap().len(), SIZE);
    });
    for protocol in [Protocol::Tcp, Protocol::Auto] {
        let mesh = Plan::outbound(protocol, &[after_the_end.address]).start();
        let mut client = mesh.client();
        let mut writer = client.stream.try_clone().unwrap();
        let writing = std::thread::spawn(move || {
            writer.write_all(&vec![b'c'; SIZE]).unwrap();
            writer.shutdown(Shutdown::Write).unwrap();
        });
        assert_eq!(client.rest().unwrap().len(), SIZE);
        writing.join().unwrap();
        eventually(|| mesh.stats().outbound.relayed == 1);
        let stats = mesh.stats();
        assert_eq!(
            (stats.outbound.received, stats.outbound.sent),
            (SIZE as u64, SIZE as u64)
        );
        assert!(stats.flags.is_empty(), "{:?}", stats.flags);
    }
    let mesh = Plan::outbound(Protocol::Tcp, &[before_the_end.address]).start();
    let mut client = mesh.client();
    assert_eq!(client.rest().unwrap().len(), SIZE);
    client.send(vec![b'c'; SIZE]);
    client.stream.shutdown(Shutdown::Write).unwrap();
    eventually(|| mesh.stats().outbound.received == SIZE as u64);
    assert!(mesh.stats().flags.is_empty());
}

#[test]
fn a_reset_stays_a_reset() {
    let (sender, ended) = std::sync::mpsc::channel();
    let server = Server::start(move |client| {
        client.send("hi");
        sender.send(client.rest()).unwrap();
    });
    let mesh = Plan::outbound(Protocol::Tcp, &[server.address]).start();
    let mut client = mesh.client();
    assert_eq!(client.exactly(2), "hi");
    reset(&client);
    drop(client);
    let seen = ended.recv_timeout(Duration::from_secs(5)).unwrap();
    assert_eq!(seen, Err(ErrorKind::ConnectionReset));
    mesh.expect_flag(Flag::ClientClosed);

    let server = Server::start(|client| {
        client.send("hi");
        client.until("x");
        reset(client);
    });
    let mesh = Plan::outbound(Protocol::Tcp, &[server.address]).start();
    let mut client = mesh.client();
    assert_eq!(client.exactly(2), "hi");
    client.send("x");
    assert_eq!(client.rest(), Err(ErrorKind::ConnectionReset));
    mesh.expect_flag(Flag::UpstreamClosed);
}

#[test]
fn a_refusal_is_a_reset() {
    for plan in [
        Plan::outbound(Protocol::Tcp, &[refusing()]),
        Plan::outbound(Protocol::Tcp, &[]),
        Plan::outbound(Protocol::Auto, &[refusing()]),
        Plan::inbound(Protocol::Tcp, refusing()),
        Plan::inbound(Protocol::Auto, refusing()),
    ] {
        let mesh = plan.start();
        assert_eq!(mesh.client().rest(), Err(ErrorKind::ConnectionReset));
    }
}

#[test]
fn calls_of_a_pod_to_itself_pass_its_inbound_side() {
    let app = Server::saying("me");
    let own = std::net::SocketAddr::new(POD, 8080);
    for (protocol, inbound) in [(Protocol::Http, 1), (Protocol::Auto, 1)] {
        let mut plan = Plan::outbound(protocol, &[own]);
        plan.moved.insert(own, app.address);
        let mesh = plan.start();
        let mut client = mesh.client();
        for _ in 0..3 {
            client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
            let answer = client.response();
            assert!(
                answer.ends_with("me") && answer.contains("server: envoy\r\n"),
                "{answer}"
            );
        }
        let stats = mesh.stats();
        assert_eq!(stats.inbound.accepted, inbound);
        assert_eq!(stats.inbound.requests[2], 3);
        assert_eq!(stats.upstream_connections, 1);
    }
    let echo = banner();
    let mut plan = Plan::outbound(Protocol::Tcp, &[own]);
    plan.moved.insert(own, echo.address);
    // The pod's own port is of the same protocol as the Service's here.
    let mesh = plan.start();
    assert_eq!(mesh.client().until("\r\n").unwrap(), "220 ready\r\n");
}
