//! `connectionPool`: how much is under way, and what becomes of what would be too much.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use super::fakes::Plan;
use super::fakes::*;
use crate::model::*;
use crate::proxy::record::Flag;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

/// A server that answers no request before it is let.
struct Slow {
    server: Server,
    let_go: Arc<(Mutex<bool>, Condvar)>,
    asked: Arc<AtomicUsize>,
}

impl Slow {
    fn start() -> Self {
        let let_go = Arc::<(Mutex<bool>, Condvar)>::default();
        let asked = Arc::<AtomicUsize>::default();
        let (gate, count) = (Arc::clone(&let_go), Arc::clone(&asked));
        let server = Server::start(move |client| {
            while client.request().is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                let (gone, told) = &*gate;
                drop(
                    told.wait_while(gone.lock().unwrap(), |gone| !*gone)
                        .unwrap(),
                );
                client.send(OK);
            }
        });
        Self {
            server,
            let_go,
            asked,
        }
    }

    #[track_caller]
    fn expect_asked(&self, count: usize) {
        eventually(|| self.asked.load(Ordering::SeqCst) == count);
    }

    fn let_go(&self) {
        *self.let_go.0.lock().unwrap() = true;
        self.let_go.1.notify_all();
    }
}

fn limited(server: &Server, pool: ConnectionPool) -> Plan {
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.policy.pool = pool;
    plan
}

#[track_caller]
fn expect_overflow(answer: &str) {
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("x-envoy-overloaded: true\r\n"), "{answer}");
    let body = "upstream connect error or disconnect/reset before headers. reset reason: overflow";
    assert!(answer.ends_with(&format!("\r\n\r\n{body}")), "{answer}");
}

#[test]
fn too_many_requests_at_a_time() {
    let slow = Slow::start();
    let pool = ConnectionPool {
        max_requests: Some(2),
        ..ConnectionPool::default()
    };
    let mesh = limited(&slow.server, pool).start();
    let mut first = [mesh.client(), mesh.client()];
    first.iter_mut().for_each(|client| client.send(GET));
    slow.expect_asked(2);
    expect_overflow(&mesh.ask(GET));
    mesh.expect_flag(Flag::Overflow);
    slow.let_go();
    for client in &mut first {
        assert!(client.response().ends_with("ok"));
    }
    assert!(mesh.ask(GET).ends_with("ok"));
}

#[test]
fn all_workers_share_the_limit() {
    let slow = Slow::start();
    let pool = ConnectionPool {
        max_requests: Some(5),
        ..ConnectionPool::default()
    };
    let mut plan = limited(&slow.server, pool);
    plan.workers = 4;
    let mesh = plan.start();
    let mut clients: Vec<_> = (0..40).map(|_| mesh.client()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    eventually(|| mesh.stats().outbound.requests[5] == 35);
    slow.expect_asked(5);
    slow.let_go();
    let answers: Vec<_> = clients.iter_mut().map(Client::response).collect();
    let good = answers.iter().filter(|answer| answer.ends_with("ok"));
    assert_eq!(good.count(), 5);
}

#[test]
fn requests_wait_for_a_connection() {
    let slow = Slow::start();
    let pool = ConnectionPool {
        max_connections: Some(1),
        max_pending_requests: Some(2),
        ..ConnectionPool::default()
    };
    let mesh = limited(&slow.server, pool).start();
    let mut clients: Vec<_> = (0..4).map(|_| mesh.client()).collect();
    clients[0].send(GET);
    slow.expect_asked(1);
    // Two of them may wait; the third, whichever that is, is one too many.
    clients[1..].iter_mut().for_each(|client| client.send(GET));
    eventually(|| mesh.stats().outbound.requests[5] == 1);
    slow.let_go();
    let answers: Vec<_> = clients.iter_mut().map(Client::response).collect();
    let good = answers.iter().filter(|answer| answer.ends_with("ok"));
    assert_eq!(good.count(), 3);
    let bad = answers.iter().find(|answer| !answer.ends_with("ok"));
    expect_overflow(bad.unwrap());
    assert_eq!(slow.server.accepted(), 1);
}

#[test]
fn who_gives_up_waiting_lets_others_pass() {
    let slow = Slow::start();
    let pool = ConnectionPool {
        max_connections: Some(1),
        ..ConnectionPool::default()
    };
    let mesh = limited(&slow.server, pool).start();
    let mut clients: Vec<_> = (0..10).map(|_| mesh.client()).collect();
    clients[0].send(GET);
    slow.expect_asked(1);
    clients[1..].iter_mut().for_each(|client| client.send(GET));
    // Every other one leaves while it waits.
    let mut left: Vec<_> = clients.into_iter().step_by(2).collect();
    slow.let_go();
    for client in &mut left {
        assert!(client.response().ends_with("ok"));
    }
    assert_eq!(slow.server.accepted(), 1);
}

#[test]
fn a_connection_that_ends_makes_room() {
    let server = Server::start(|client| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok");
    });
    let pool = ConnectionPool {
        max_connections: Some(1),
        ..ConnectionPool::default()
    };
    let mesh = limited(&server, pool).start();
    let mut clients: Vec<_> = (0..10).map(|_| mesh.client()).collect();
    clients.iter_mut().for_each(|client| client.send(GET));
    for client in &mut clients {
        assert!(client.response().ends_with("ok"));
    }
    assert_eq!(server.accepted(), 10);
}

#[test]
fn each_server_may_have_one_connection() {
    let servers = [
        Server::saying("ok"),
        Server::saying("ok"),
        Server::saying("ok"),
    ];
    let addresses = servers.each_ref().map(|server| server.address);
    let mut plan = Plan::outbound(Protocol::Http, &addresses);
    plan.policy.pool.max_connections = Some(1);
    plan.policy.balancer = Balancer::RoundRobin { warmup: None };
    let mesh = plan.start();
    for _ in 0..9 {
        assert!(mesh.ask(GET).ends_with("ok"));
    }
    assert_eq!(servers.each_ref().map(Server::accepted), [1, 1, 1]);
    assert_eq!(
        servers.each_ref().map(|server| server.heard().len()),
        [3, 3, 3]
    );
}

#[test]
fn connections_serve_only_so_many_requests() {
    for (most, connections) in [(1, 6), (2, 3), (3, 2)] {
        let server = Server::saying("ok");
        let pool = ConnectionPool {
            max_requests_per_connection: Some(most),
            ..ConnectionPool::default()
        };
        let mesh = limited(&server, pool).start();
        let mut client = mesh.client();
        for _ in 0..6 {
            client.send(GET);
            assert!(client.response().ends_with("ok"));
        }
        assert_eq!(server.accepted(), connections, "{most}");
    }
}

#[test]
fn connections_are_kept_only_so_long() {
    let check = |pool: ConnectionPool, connections| {
        let server = Server::saying("ok");
        let mesh = limited(&server, pool).start();
        for _ in 0..2 {
            assert!(mesh.ask(GET).ends_with("ok"));
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(server.accepted(), connections);
    };
    check(ConnectionPool::default(), 1);
    let short = Duration::from_millis(10);
    let idle = ConnectionPool {
        http_idle_timeout: short,
        ..ConnectionPool::default()
    };
    check(idle, 2);
    let old = ConnectionPool {
        max_connection_duration: Some(short),
        ..ConnectionPool::default()
    };
    check(old, 2);
    let for_ever = ConnectionPool {
        http_idle_timeout: Duration::ZERO,
        ..ConnectionPool::default()
    };
    check(for_ever, 1);
}

#[test]
fn retries_are_limited() {
    let busy = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
    let check = |pool: ConnectionPool, tries| {
        let server = Server::answering(busy);
        let mut plan = limited(&server, pool);
        plan.routes = vec![with(forward_to(None), |_, forward| {
            forward.retry.on.server_error_5xx = true;
            forward.retry.backoff = Some(Duration::from_micros(10));
        })];
        let mesh = plan.start();
        assert!(mesh.ask(GET).ends_with("busy"));
        assert_eq!(server.heard().len(), tries);
        mesh
    };
    let none = ConnectionPool {
        max_retries: Some(0),
        ..ConnectionPool::default()
    };
    check(none.clone(), 1).expect_flag(Flag::Overflow);
    // A budget comes before the number.
    let budget = ConnectionPool {
        retry_budget: Some((20.0, 1)),
        ..none
    };
    check(budget, 3).expect_flag(Flag::RetriesExhausted);
}

#[test]
fn relayed_connections_are_limited() {
    let server = Server::start(|client| {
        client.send("hello");
        client.rest().ok();
    });
    let mut plan = Plan::outbound(Protocol::Tcp, &[server.address]);
    plan.policy.pool.max_connections = Some(1);
    let mesh = plan.start();
    let mut first = mesh.client();
    assert_eq!(first.exactly(5), "hello");
    assert!(mesh.client().rest().is_err());
    mesh.expect_flag(Flag::Overflow);
    drop(first);
    eventually(|| mesh.stats().outbound.closed == 2);
    assert_eq!(mesh.client().exactly(5), "hello");
}

#[test]
fn an_application_is_as_limited_as_its_owner_says() {
    let slow = Slow::start();
    let mut plan = Plan::inbound(Protocol::Http, slow.server.address);
    plan.policy.pool.max_requests = Some(1);
    let mesh = plan.start();
    let mut first = mesh.client();
    first.send(GET);
    slow.expect_asked(1);
    expect_overflow(&mesh.ask(GET));
    slow.let_go();
    assert!(first.response().ends_with("ok"));
}

#[test]
fn a_new_limit_holds_at_once() {
    let slow = Slow::start();
    let pool = |most| ConnectionPool {
        max_requests: Some(most),
        ..ConnectionPool::default()
    };
    let mesh = limited(&slow.server, pool(1)).start();
    let mut first = mesh.client();
    first.send(GET);
    slow.expect_asked(1);
    expect_overflow(&mesh.ask(GET));
    mesh.replace(&limited(&slow.server, pool(2)));
    let mut second = mesh.client();
    second.send(GET);
    slow.expect_asked(2);
    expect_overflow(&mesh.ask(GET));
    slow.let_go();
    assert!(first.response().ends_with("ok"));
    assert!(second.response().ends_with("ok"));
}

#[test]
fn http2_is_spoken_where_the_policy_says_so() {
    let preface = || {
        Server::start(|client| {
            let first = client.until("\r\n\r\n").unwrap_or_default();
            client.heard(first.split(' ').next().unwrap());
            client.send(OK);
        })
    };
    for (http, protocol, expected) in [
        (UpstreamHttp::AsDeclared, Protocol::Http, "GET"),
        (UpstreamHttp::AsDeclared, Protocol::Http2, "PRI"),
        (UpstreamHttp::Http2, Protocol::Http, "PRI"),
        (UpstreamHttp::AsClient, Protocol::Http2, "GET"),
    ] {
        let server = preface();
        let mut plan = Plan::outbound(protocol, &[server.address]);
        plan.policy.http = http;
        let mesh = plan.start();
        let mut client = mesh.client();
        client.send(GET);
        eventually(|| server.heard().len() == 1);
        assert_eq!(server.heard(), [expected], "{http:?} {protocol:?}");
    }
}
