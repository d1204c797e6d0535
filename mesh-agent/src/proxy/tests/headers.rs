//! The table of `istio-routing.md` 3.1, hop by hop, on the wire.

use super::fakes::*;
use crate::model::{AppAddress, Protocol};

const PLAIN: &str = "HTTP/1.1 200 OK\r\nServer: nginx\r\nContent-Length: 2\r\nKeep-Alive: timeout=5\r\nConnection: keep-alive\r\nX-Envoy-Upstream-Service-Time: 777\r\nX-Envoy-Decorator-Operation: theirs\r\n\r\nok";

/// A message with its headers in alphabetical order: the order of different headers means nothing.
fn sorted(message: &str) -> String {
    let message = timeless(message);
    let (head, body) = message.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = head.split("\r\n").collect();
    lines[1..].sort_unstable();
    format!("{}\r\n\r\n{body}", lines.join("\r\n"))
}

#[test]
fn outbound() {
    let server = Server::answering(PLAIN);
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let answer = mesh.ask(
        "GET /p HTTP/1.1\r\nHost: web\r\nUser-Agent: t\r\nConnection: keep-alive, X-Gone\r\nX-Gone: 1\r\nKeep-Alive: 5\r\nProxy-Connection: x\r\nTE: gzip\r\nX-Envoy-Max-Retries: 9\r\nX-Envoy-Internal: true\r\nX-Forwarded-Client-Cert: me\r\n\r\n",
    );
    assert_eq!(
        sorted(&server.heard()[0]),
        sorted(
            "GET /p HTTP/1.1\r\nhost: web\r\nuser-agent: t\r\nx-forwarded-proto: http\r\nx-request-id: -\r\nx-envoy-decorator-operation: web.default.svc.cluster.local:80/*\r\nx-envoy-attempt-count: 1\r\n\r\n"
        )
    );
    assert_eq!(
        sorted(&answer),
        sorted(
            "HTTP/1.1 200 OK\r\nserver: envoy\r\ncontent-length: 2\r\nx-envoy-upstream-service-time: -\r\ndate: -\r\n\r\nok"
        )
    );
    assert!(!answer.contains("777"));
    mesh.ask("GET / HTTP/1.1\r\nHost: web\r\nX-Request-Id: mine\r\nX-Forwarded-Proto: https\r\nX-Forwarded-For: 203.0.113.9\r\n\r\n");
    let heard = server.heard().pop().unwrap();
    for kept in [
        "x-request-id: mine\r\n",
        "x-forwarded-proto: https\r\n",
        "x-forwarded-for: 203.0.113.9\r\n",
    ] {
        assert!(heard.contains(kept), "{heard}");
    }
    assert!(!heard.contains("x-envoy-internal"), "{heard}");
}

#[test]
fn nobody_is_internal() {
    let server = Server::answering(PLAIN);
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    mesh.ask("GET / HTTP/1.1\r\nHost: web\r\nX-Forwarded-For: 10.0.0.9\r\nX-Envoy-Max-Retries: 9\r\n\r\n");
    let heard = server.heard().pop().unwrap();
    let named = headers_of(
        &heard,
        &["x-envoy-internal", "x-envoy-max", "x-forwarded-for"],
    );
    assert_eq!(named, ["x-forwarded-for: 10.0.0.9"]);
}

#[test]
fn inbound() {
    let app = Server::answering(
        "HTTP/1.1 200 OK\r\nserver: nginx\r\ncontent-length: 2\r\ndate: yesterday\r\n\r\nok",
    );
    let mesh = Plan::inbound(Protocol::Http, app.address).start();
    let answer = mesh.ask("GET /p HTTP/1.1\r\nHost: anything\r\nX-Envoy-Peer-Metadata: x\r\nX-Envoy-Peer-Metadata-Id: y\r\nX-Envoy-Attempt-Count: 1\r\nX-Envoy-Expected-Rq-Timeout-Ms: 5\r\n\r\n");
    assert_eq!(
        sorted(&app.heard()[0]),
        sorted(
            "GET /p HTTP/1.1\r\nhost: anything\r\nx-envoy-attempt-count: 1\r\nx-forwarded-proto: http\r\nx-request-id: -\r\n\r\n"
        )
    );
    let port = mesh.address.port();
    assert_eq!(
        sorted(&answer),
        sorted(&format!(
            "HTTP/1.1 200 OK\r\nserver: istio-envoy\r\ncontent-length: 2\r\ndate: -\r\nx-envoy-upstream-service-time: -\r\nx-envoy-decorator-operation: {HOST}:{port}/*\r\n\r\nok"
        ))
    );
    assert!(answer.contains("date: yesterday"), "{answer}");
    let answer =
        mesh.ask("GET /p HTTP/1.1\r\nHost: anything\r\nX-Envoy-Decorator-Operation: x\r\n\r\n");
    assert!(!answer.contains("decorator"), "{answer}");
    assert!(!app.heard()[1].contains("decorator"));
}

#[test]
fn gateway() {
    let server = Server::answering(PLAIN);
    let mesh = Plan::gateway(&[server.address]).start();
    let answer = mesh.ask("GET / HTTP/1.1\r\nHost: web\r\nX-Forwarded-Proto: https\r\n\r\n");
    assert_eq!(
        sorted(&server.heard()[0]),
        sorted(
            "GET / HTTP/1.1\r\nhost: web\r\nx-forwarded-proto: http\r\nx-forwarded-for: 127.0.0.1\r\nx-envoy-external-address: 127.0.0.1\r\nx-request-id: -\r\nx-envoy-decorator-operation: web.default.svc.cluster.local:80/*\r\nx-envoy-attempt-count: 1\r\n\r\n"
        )
    );
    assert_eq!(
        sorted(&answer),
        sorted(
            "HTTP/1.1 200 OK\r\nserver: istio-envoy\r\ncontent-length: 2\r\nx-envoy-upstream-service-time: -\r\ndate: -\r\n\r\nok"
        )
    );
    mesh.ask("GET / HTTP/1.1\r\nHost: web\r\nX-Forwarded-For: 203.0.113.9\r\nX-Request-Id: forged\r\nX-Envoy-Original-Path: /forged\r\nX-Envoy-Max-Retries: 9\r\n\r\n");
    let heard = server.heard().pop().unwrap();
    assert!(
        heard.contains("x-forwarded-for: 203.0.113.9,127.0.0.1\r\n"),
        "{heard}"
    );
    assert!(
        heard.contains("x-envoy-external-address: 127.0.0.1\r\n"),
        "{heard}"
    );
    assert!(
        !heard.contains("forged") && !heard.contains("max-retries"),
        "{heard}"
    );
}

#[test]
fn route_timeouts_are_told() {
    let server = Server::answering(PLAIN);
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.timeout = Some(std::time::Duration::from_millis(1500));
    })];
    plan.start().ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    let heard = server.heard().pop().unwrap();
    assert!(
        heard.contains("x-envoy-expected-rq-timeout-ms: 1500\r\n"),
        "{heard}"
    );
}

#[test]
fn an_app_may_listen_elsewhere() {
    for protocol in [Protocol::Http, Protocol::Tcp] {
        let app = Server::answering(PLAIN);
        let nobody = "127.0.0.1:1".parse().unwrap();
        let mut plan = Plan::inbound(protocol, nobody);
        plan.app = AppAddress::Loopback(app.address.port());
        let answer = plan.start().ask("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        assert!(answer.starts_with("HTTP/1.1 200"), "{protocol:?}: {answer}");
    }
}
