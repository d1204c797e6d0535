//! What is tried again, how often, and with what.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;

use super::fakes::Plan;
use super::fakes::*;
use crate::model::*;
use crate::proxy::record::Flag;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

/// A server that answers its first requests so, over all connections, and 200 afterwards. An empty answer closes the
/// connection.
fn failing(count: usize, answer: &'static str) -> Server {
    let asked = AtomicUsize::new(0);
    Server::start(move |client| {
        while client.request().is_some() {
            let good = asked.fetch_add(1, Ordering::SeqCst) >= count;
            match (good, answer) {
                (true, _) => client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"),
                (false, "") => return,
                (false, answer) => client.send(answer),
            }
        }
    })
}

const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

fn retrying(attempts: u32, on: RetryOn) -> Route {
    with(forward_to(None), |_, forward| {
        forward.retry.attempts = attempts;
        forward.retry.on = on;
        forward.retry.backoff = Some(Duration::from_micros(10));
    })
}

const NONE: RetryOn = RetryOn {
    connect_failure: false,
    refused_stream: false,
    grpc_unavailable: false,
    grpc_cancelled: false,
    ..RetryOn::DEFAULT
};
const ON_5XX: RetryOn = RetryOn {
    server_error_5xx: true,
    ..NONE
};
const ON_RESET: RetryOn = RetryOn {
    reset: true,
    ..NONE
};

fn one(server: &Server, route: Route) -> Mesh {
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![route];
    plan.start()
}

/// How often a server that fails `count` times is asked, and with what outcome.
#[track_caller]
fn check(
    (count, answer): (usize, &'static str),
    route: Route,
    request: &str,
    expected: (&str, usize),
    flags: &[Flag],
) {
    let server = failing(count, answer);
    let mesh = one(&server, route);
    let response = mesh.ask(request);
    let (status, asked) = expected;
    assert!(response.contains(status), "{response}");
    let heard = server.heard();
    assert_eq!(heard.len(), asked, "{heard:?}");
    for (number, request) in (1..).zip(&heard) {
        let count = format!("x-envoy-attempt-count: {number}\r\n");
        assert!(request.contains(&count), "{request}");
    }
    for flag in flags {
        mesh.expect_flag(*flag);
    }
    eventually(|| mesh.stats().outbound.requests.iter().sum::<u64>() == 1);
    assert_eq!(mesh.stats().flags.len(), flags.len(), "{:?}", mesh.stats());
    assert_eq!(mesh.stats().retries, asked as u64 - 1);
}

#[test]
fn answers_are_tried_again() {
    let ok = "\r\n\r\nok";
    check((0, BUSY), retrying(3, ON_5XX), GET, (ok, 1), &[]);
    check((2, BUSY), retrying(3, ON_5XX), GET, (ok, 3), &[]);
    // The last answer is shown as it came.
    let exhausted = [Flag::RetriesExhausted];
    check(
        (9, BUSY),
        retrying(2, ON_5XX),
        GET,
        ("\r\n\r\nbusy", 3),
        &exhausted,
    );
    // By default a 503 is an answer like others.
    check((9, BUSY), forward_to(None), GET, ("\r\n\r\nbusy", 1), &[]);
    check(
        (9, BUSY),
        retrying(0, ON_5XX),
        GET,
        ("\r\n\r\nbusy", 1),
        &[],
    );
    let by_status = with(retrying(1, NONE), |_, forward| {
        forward.retry.statuses = vec![StatusCode::SERVICE_UNAVAILABLE];
    });
    check((1, BUSY), by_status, GET, (ok, 2), &[]);
}

#[test]
fn ends_are_tried_again() {
    let ok = "\r\n\r\nok";
    check((1, ""), retrying(1, ON_RESET), GET, (ok, 2), &[]);
    check((1, ""), retrying(1, ON_5XX), GET, (ok, 2), &[]);
    check(
        (9, ""),
        retrying(1, ON_RESET),
        GET,
        (
            "retried and the latest reset reason: connection termination",
            2,
        ),
        &[Flag::UpstreamClosed, Flag::RetriesExhausted],
    );
    let before = RetryOn {
        reset_before_request: true,
        ..NONE
    };
    check(
        (1, ""),
        retrying(1, before),
        GET,
        (" reset reason: connection termination", 1),
        &[Flag::UpstreamClosed],
    );
}

#[test]
fn grpc_failures_among_the_headers_are_tried_again() {
    let unavailable = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 14\r\ncontent-length: 0\r\n\r\n";
    let grpc = "POST /a.B/C HTTP/1.1\r\nHost: web\r\nContent-Type: application/grpc\r\nContent-Length: 5\r\n\r\nhello";
    check(
        (2, unavailable),
        forward_to(None),
        grpc,
        ("\r\n\r\nok", 3),
        &[],
    );
    let internal = "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 13\r\ncontent-length: 0\r\n\r\n";
    check(
        (1, internal),
        forward_to(None),
        grpc,
        ("grpc-status: 13", 1),
        &[],
    );
}

#[test]
fn bodies_are_sent_again_whole() {
    for chunked in [false, true] {
        let asked = AtomicUsize::new(0);
        let server = Server::start(move |client| {
            while let Some(head) = client.until("\r\n\r\n") {
                let body = match head.contains("chunked") {
                    true => client.until("0\r\n\r\n").unwrap(),
                    false => client.exactly(11),
                };
                let status = match asked.fetch_add(1, Ordering::SeqCst) {
                    0 => "500 No",
                    _ => "200 OK",
                };
                let length = body.len();
                client.send(format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {length}\r\n\r\n{body}"
                ));
            }
        });
        let mesh = one(&server, retrying(1, ON_5XX));
        let mut client = mesh.client();
        client.send("POST / HTTP/1.1\r\nHost: web\r\n");
        let (framing, body) = match chunked {
            true => (
                "transfer-encoding: chunked",
                "6\r\nhello \r\n5\r\nworld\r\n0\r\n\r\n",
            ),
            false => ("content-length: 11", "hello world"),
        };
        client.send(format!("{framing}\r\n\r\n{body}"));
        let response = client.response();
        assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
        assert!(response.ends_with(body), "{response}");
        assert_eq!(mesh.stats().retries, 1);
    }
}

#[test]
fn an_answer_in_the_middle_of_the_body_is_tried_again() {
    // The first server answers before it has the body, which its connection's task is still about to send.
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |client| {
        let head = client.until("\r\n\r\n").unwrap();
        assert!(head.contains("content-length: 10\r\n"), "{head}");
        if asked.fetch_add(1, Ordering::SeqCst) == 0 {
            assert_eq!(client.exactly(5), "first");
            client.send("HTTP/1.1 500 No\r\ncontent-length: 0\r\n\r\n");
            client.rest().ok();
            return;
        }
        let body = client.exactly(10);
        client.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n{body}"
        ));
    });
    let mesh = one(&server, retrying(1, ON_5XX));
    let mut client = mesh.client();
    client.send("POST / HTTP/1.1\r\nHost: web\r\ncontent-length: 10\r\n\r\nfirst");
    eventually(|| mesh.stats().retries == 1);
    client.send("other");
    let response = client.response();
    assert!(response.ends_with("\r\n\r\nfirstother"), "{response}");
}

#[test]
fn large_bodies_are_sent_once() {
    let check = |size: usize, tries: usize| {
        let server = Server::start(move |client| {
            client.until("\r\n\r\n");
            assert_eq!(client.exactly(size).len(), size);
            client.send(BUSY);
        });
        let mesh = one(&server, retrying(1, ON_5XX));
        let mut client = mesh.client();
        client.send(format!(
            "POST / HTTP/1.1\r\nHost: web\r\ncontent-length: {size}\r\n\r\n{}",
            "x".repeat(size)
        ));
        assert!(client.response().ends_with("busy"));
        assert_eq!(server.accepted(), tries, "{size}");
    };
    check(900 * 1024, 2);
    check(1100 * 1024, 1);
}

#[test]
fn a_try_that_takes_too_long_is_tried_again() {
    // It never answers the first request.
    let asked = AtomicUsize::new(0);
    let server = Server::start(move |client| {
        client.request();
        if asked.fetch_add(1, Ordering::SeqCst) == 0 {
            client.rest().ok();
        } else {
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        }
    });
    let limited = |on| {
        with(retrying(1, on), |_, forward| {
            forward.retry.per_try_timeout = Some(Duration::from_millis(100));
        })
    };
    let answer = one(&server, limited(ON_5XX)).ask(GET);
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    let heard = &server.heard()[0];
    assert!(
        heard.contains("x-envoy-expected-rq-timeout-ms: 100\r\n"),
        "{heard}"
    );
    // The default list does not know this case.
    let silent = Server::start(|client| {
        client.rest().ok();
    });
    let mesh = one(&silent, limited(RetryOn::DEFAULT));
    let answer = mesh.ask(GET);
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    assert!(
        answer.ends_with("\r\n\r\nupstream request timeout"),
        "{answer}"
    );
    mesh.expect_flag(Flag::Timeout);
    assert_eq!(silent.accepted(), 1);
}

#[test]
fn other_endpoints_come_first() {
    let (good, bad) = (Server::saying("good"), Server::answering(BUSY));
    let mut plan = Plan::outbound(Protocol::Http, &[bad.address, good.address]);
    plan.routes = vec![retrying(1, ON_5XX)];
    let mesh = plan.start();
    for _ in 0..20 {
        assert!(mesh.ask(GET).ends_with("good"));
    }
    assert!(!bad.heard().is_empty());
    let mut plan = Plan::outbound(Protocol::Http, &[bad.address, good.address]);
    plan.routes = vec![with(retrying(1, ON_5XX), |_, forward| {
        forward.retry.avoid_previous = false;
    })];
    let mesh = plan.start();
    let busy = (0..200).filter(|_| mesh.ask(GET).ends_with("busy")).count();
    // One of four, unless a coin comes down on one side two hundred times.
    assert!(busy > 0, "the same endpoint may be drawn twice");
}

#[test]
fn applications_get_only_what_they_have_not_seen_again() {
    let app = failing(1, "");
    let mesh = Plan::inbound(Protocol::Http, app.address).start();
    assert!(mesh.ask(GET).starts_with("HTTP/1.1 503 "));
    assert_eq!(app.heard().len(), 1);
    let mesh = Plan::inbound(Protocol::Http, refusing()).start();
    assert!(
        mesh.ask(GET)
            .contains("retried and the latest reset reason")
    );
    assert_eq!(mesh.stats().retries, 2);
    let mesh = Plan::inbound(Protocol::Http2, refusing()).start();
    let grpc = "POST /a.B/C HTTP/1.1\r\nHost: web\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    assert!(mesh.ask(grpc).contains("grpc-status: 14"));
    assert_eq!(mesh.stats().retries, 0);
}

#[test]
fn websockets_end_with_the_timeout() {
    let server = Server::start(|client| {
        client.request();
        client.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\r\nhi");
        client.rest().ok();
    });
    let route = with(forward_to(None), |_, forward| {
        forward.timeout = Some(Duration::from_millis(300));
    });
    let mesh = one(&server, route);
    let mut client = mesh.client();
    client.send("GET / HTTP/1.1\r\nhost: web\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    client.until("\r\n\r\nhi").unwrap();
    assert!(client.rest().is_err(), "it is broken off, not ended");
    mesh.expect_flag(Flag::Timeout);
}
