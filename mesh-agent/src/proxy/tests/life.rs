//! How serving ends, and what a connection costs.

use std::io::ErrorKind;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::fakes::*;
use crate::model::Protocol;
use crate::proxy::{connection, http};

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

fn drain(mesh: &mut Mesh, deadline: Duration) -> Duration {
    let handle = mesh.handle.take().unwrap();
    let begin = Instant::now();
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
        .block_on(handle.drain(deadline));
    begin.elapsed()
}

#[test]
fn draining_answers_what_runs_and_says_farewell() {
    let server = Server::start(|client| {
        while client.request().is_some() {
            std::thread::sleep(Duration::from_millis(300));
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let mut mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut running = mesh.client();
    running.send(GET);
    let mut idle = mesh.client();
    idle.send(GET);
    assert!(idle.response().ends_with("ok"));
    running.response();
    running.send(GET);
    std::thread::sleep(Duration::from_millis(50));
    let took = drain(&mut mesh, Duration::from_secs(10));
    assert!(took < Duration::from_secs(3), "{took:?}");
    let answer = running.response();
    assert!(
        answer.ends_with("ok") && answer.contains("connection: close\r\n"),
        "{answer}"
    );
    assert_eq!(running.rest().unwrap(), "");
    assert_eq!(idle.rest().unwrap(), "");
}

#[test]
fn draining_takes_what_waits_in_the_queue() {
    let server = Server::saying("ok");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let queued: Vec<Client> = (0..50).map(|_| Client::connect(address)).collect();
    let mut mesh = Plan::outbound(Protocol::Http, &[server.address]).start_on(listener);
    let asking = std::thread::spawn(move || {
        for mut client in queued {
            client.send(GET);
            let answer = client.response();
            assert!(answer.ends_with("ok"), "{answer}");
        }
    });
    drain(&mut mesh, Duration::from_secs(10));
    asking.join().unwrap();
    assert_eq!(mesh.stats().outbound.accepted, 50);
    assert!(
        std::net::TcpStream::connect(address).is_err(),
        "nobody listens any more"
    );
}

#[test]
fn draining_leaves_relays_alone_until_the_deadline() {
    let server = Server::start(|client| {
        while let Some(line) = client.until("\n") {
            client.send(line);
        }
    });
    let mut mesh = Plan::outbound(Protocol::Tcp, &[server.address]).start();
    let mut client = mesh.client();
    client.send("one\n");
    client.until("one\n").unwrap();
    let talking = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(200));
        client.send("two\n");
        client.until("two\n").unwrap();
        client.rest()
    });
    let took = drain(&mut mesh, Duration::from_millis(600));
    assert!(
        took >= Duration::from_millis(600) && took < Duration::from_secs(2),
        "{took:?}"
    );
    assert_eq!(talking.join().unwrap(), Err(ErrorKind::ConnectionReset));
}

#[test]
fn draining_does_not_wait_for_the_silent() {
    let silent = Server::start(|client| {
        client.rest().ok();
    });
    for mut plan in [
        Plan::outbound(Protocol::Http, &[silent.address]),
        Plan::inbound(Protocol::Http, silent.address),
        Plan::gateway(&[silent.address]),
    ] {
        plan.original = Some(silent.address);
        let mut mesh = plan.start();
        let mut client = mesh.client();
        std::thread::sleep(Duration::from_millis(300));
        let took = drain(&mut mesh, Duration::from_secs(10));
        assert!(took < Duration::from_secs(3), "{took:?}");
        assert_eq!(client.rest().unwrap(), "");
    }
}

/// Longer than a connection of HTTP/1.1 is kept as it is.
const REST: Duration = Duration::from_millis(500);

#[test]
fn connections_that_have_rested_serve_as_before() {
    let server = Server::start(|client| {
        while let Some(request) = client.request() {
            let body = request.split_once("\r\n\r\n").unwrap().1.len();
            let head = "HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n";
            client.send(format!("{head}{body}"));
        }
    });
    let post = "POST / HTTP/1.1\r\nHost: web\r\ncontent-length: 3\r\n\r\nabc";
    for (name, pieces) in [
        ("whole requests", &[&[GET][..], &[GET], &[post], &[GET]][..]),
        (
            "with the beginning of the next one",
            &[&[GET, "GET / HT"], &["TP/1.1\r\nHost: web\r\n\r\n"]],
        ),
        ("two at once", &[&[GET, GET], &[], &[GET]]),
        (
            "a body that comes late",
            &[
                &["POST / HTTP/1.1\r\nHost: web\r\ncontent-length: 3\r\n\r\na"],
                &["bc", GET],
            ],
        ),
    ] {
        let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
        plan.settings.header_timeout = Duration::from_secs(5);
        let mesh = plan.start();
        let mut client = mesh.client();
        for part in pieces {
            for piece in *part {
                client.send(piece);
            }
            std::thread::sleep(REST);
        }
        let sent = pieces.concat().concat();
        for _ in 0..sent.matches("HTTP/1.1").count() {
            let answer = client.response();
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n"),
                "{name}: {answer}"
            );
        }
        assert_eq!(mesh.stats().outbound.accepted, 1, "{name}");
    }
}

#[test]
fn connections_that_rest_end_like_others() {
    let server = Server::saying("ok");
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.settings.idle_timeout = Duration::from_millis(2500);
    let mut mesh = plan.start();
    let mut tired = mesh.client();
    tired.send(GET);
    assert!(tired.response().ends_with("ok"));
    let begin = Instant::now();
    assert_eq!(tired.rest().unwrap(), "");
    let took = begin.elapsed();
    assert!(
        took >= Duration::from_millis(2300),
        "before its time: {took:?}"
    );
    let mut drained = mesh.client();
    drained.send(GET);
    assert!(drained.response().ends_with("ok"));
    let mut leaving = mesh.client();
    leaving.send(GET);
    assert!(leaving.response().ends_with("ok"));
    std::thread::sleep(REST);
    let closed = mesh.stats().outbound.closed;
    drop(leaving);
    eventually(|| mesh.stats().outbound.closed == closed + 1);
    let deadline = Duration::from_secs(60);
    assert!(drain(&mut mesh, deadline) < deadline);
    assert_eq!(drained.rest().unwrap(), "");
}

#[test]
fn stopping_is_at_once() {
    let server = Server::start(|client| {
        client.rest().ok();
    });
    let mut mesh = Plan::outbound(Protocol::Tcp, &[server.address]).start();
    let mut client = mesh.client();
    client.send("x");
    eventually(|| mesh.stats().upstream_connections == 1);
    mesh.handle.take().unwrap().stop();
    assert_eq!(client.rest(), Err(ErrorKind::ConnectionReset));
    eventually(|| mesh.stats().outbound.closed == 1);
}

#[test]
fn ipv6_too() {
    let Ok(listener) = TcpListener::bind("[::1]:0") else {
        println!("skipped: this machine has no IPv6");
        return;
    };
    let server = Server::saying("six");
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start_on(listener);
    assert!(mesh.ask(GET).ends_with("six"));
}

#[test]
fn a_connection_costs_little_memory() {
    // What a future holds, a hundred thousand idle connections hold as many times.
    fn size<A, B, C, F: Future>(_: fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }
    let sizes = [
        ("outbound", size(connection::outbound)),
        ("inbound", size(connection::inbound)),
        ("gateway", size(connection::gateway)),
    ];
    for (name, size) in sizes {
        assert!(size <= 2560, "{name}: {size} bytes: {sizes:?}");
    }
    // One of these for each request under way, and one kept for each connection of HTTP/1.1.
    let request = size(http::answer);
    assert!(request <= 4096, "a request: {request} bytes");
}
