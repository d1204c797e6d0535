//! Every way in which there is no answer, and what the client is told.

use std::time::{Duration, Instant};

use socket2::SockRef;

use super::fakes::*;
use crate::model::Protocol;
use crate::proxy::record::Flag;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
const GRPC: &str = "POST /a.B/C HTTP/1.1\r\nHost: web\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";

fn local(status: &str, text: &str, server: &str) -> String {
    let length = text.len();
    let headers = match text {
        "" => format!("server: {server}\r\ncontent-length: 0"),
        _ => format!("content-length: {length}\r\ncontent-type: text/plain\r\nserver: {server}"),
    };
    format!("HTTP/1.1 {status}\r\n{headers}\r\ndate: -\r\n\r\n{text}")
}

/// A route that takes nothing of what these tests ask for.
fn elsewhere() -> crate::model::Route {
    with(forward_to(None), |when, _| {
        when.uri = Some(crate::model::PathMatch::Exact("/elsewhere".into()));
    })
}

#[track_caller]
fn check(plan: Plan, request: &str, expected: &str, flag: Flag) {
    let mesh = plan.start();
    assert_eq!(timeless(&mesh.ask(request)), expected);
    mesh.expect_flag(flag);
}

#[test]
fn no_route() {
    let mut plan = Plan::outbound(Protocol::Http, &[refusing()]);
    plan.routes = vec![elsewhere()];
    check(
        plan,
        GET,
        &local("404 Not Found", "", "envoy"),
        Flag::NoRoute,
    );
    let gateway = Plan::gateway(&[refusing()]);
    let other = "GET / HTTP/1.1\r\nHost: other\r\n\r\n";
    check(
        gateway,
        other,
        &local("404 Not Found", "", "istio-envoy"),
        Flag::NoRoute,
    );
}

#[test]
fn no_cluster() {
    let mut plan = Plan::outbound(Protocol::Http, &[refusing()]);
    plan.routes = vec![forward_to(Some("v9"))];
    check(
        plan,
        GET,
        &local("503 Service Unavailable", "", "envoy"),
        Flag::NoCluster,
    );
}

#[test]
fn no_endpoint() {
    let plan = Plan::outbound(Protocol::Http, &[]);
    let expected = local("503 Service Unavailable", "no healthy upstream", "envoy");
    check(plan, GET, &expected, Flag::NoEndpoint);
}

#[test]
fn refused() {
    let expected = local(
        "503 Service Unavailable",
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: remote connection failure",
        "envoy",
    );
    let plan = Plan::outbound(Protocol::Http, &[refusing()]);
    check(plan, GET, &expected, Flag::RetriesExhausted);
    let plan = Plan::inbound(Protocol::Http, refusing());
    check(
        plan,
        GET,
        &expected.replace("server: envoy", "server: istio-envoy"),
        Flag::RetriesExhausted,
    );
    let mut plan = Plan::outbound(Protocol::Http, &[refusing()]);
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.retry.attempts = 0;
    })];
    let once = expected
        .replace("retried and the latest reset reason", "reset reason")
        .replace("content-length: 121", "content-length: 98");
    check(plan, GET, &once, Flag::ConnectFailure);
}

#[test]
fn tries_another_server_where_one_refuses() {
    let server = Server::saying("ok");
    let mesh = Plan::outbound(Protocol::Http, &[refusing(), server.address]).start();
    let mut client = mesh.client();
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nbody");
        let answer = client.response();
        assert!(answer.ends_with("ok"), "{answer}");
    }
    let heard = server.heard();
    assert!(
        heard
            .iter()
            .all(|request| request.ends_with("\r\n\r\nbody"))
    );
    let second = heard
        .iter()
        .filter(|r| r.contains("x-envoy-attempt-count: 2\r\n"))
        .count();
    assert!(second > 0);
    assert_eq!(mesh.stats().retries, second as u64);
}

#[test]
fn nobody_answers_the_connect() {
    let mut plan = Plan::outbound(Protocol::Http, &[full_queue()]);
    plan.policy.pool.connect_timeout = Duration::from_millis(100);
    let expected = local(
        "503 Service Unavailable",
        "upstream connect error or disconnect/reset before headers. retried and the latest reset reason: connection timeout",
        "envoy",
    );
    check(plan, GET, &expected, Flag::RetriesExhausted);
}

/// A listener that completes no further handshake.
fn full_queue() -> std::net::SocketAddr {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    for _ in 0..2 {
        let filler =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        let _ = filler.connect(&address.into());
        std::mem::forget(filler);
    }
    std::mem::forget(socket);
    address
}

#[test]
fn closed_before_an_answer() {
    let server = Server::start(|client| {
        client.request();
    });
    let expected = local(
        "503 Service Unavailable",
        "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
        "envoy",
    );
    let plan = Plan::outbound(Protocol::Http, &[server.address]);
    check(plan, GET, &expected, Flag::UpstreamClosed);
    assert_eq!(
        server.accepted(),
        1,
        "a request that a server has seen is not sent again"
    );

    let reset = Server::start(|client| {
        client.request();
        SockRef::from(&client.stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    });
    let plan = Plan::outbound(Protocol::Http, &[reset.address]);
    check(plan, GET, &expected, Flag::UpstreamClosed);

    let half_a_head = Server::start(|client| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\nconte");
    });
    let plan = Plan::outbound(Protocol::Http, &[half_a_head.address]);
    check(plan, GET, &expected, Flag::UpstreamClosed);
}

#[test]
fn not_http() {
    let server = Server::answering("220 smtp.example ready\r\n\r\n");
    let expected = local(
        "502 Bad Gateway",
        "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
        "envoy",
    );
    let plan = Plan::outbound(Protocol::Http, &[server.address]);
    check(plan, GET, &expected, Flag::UpstreamProtocol);
}

#[test]
fn timeout_before_the_answer() {
    let server = Server::start(|client| {
        client.request();
        std::thread::sleep(Duration::from_secs(2));
    });
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.timeout = Some(Duration::from_millis(100));
    })];
    let begin = Instant::now();
    let expected = local("504 Gateway Timeout", "upstream request timeout", "envoy");
    check(plan, GET, &expected, Flag::Timeout);
    assert!(begin.elapsed() < Duration::from_secs(1));
}

#[test]
fn timeout_counts_from_the_end_of_the_request() {
    let server = Server::start(|client| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.timeout = Some(Duration::from_millis(150));
    })];
    let mesh = plan.start();
    let mut client = mesh.client();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\n\r\nab");
    std::thread::sleep(Duration::from_millis(300));
    client.send("cd");
    assert!(client.response().ends_with("ok"));
}

#[test]
fn timeout_within_the_answer_breaks_it_off() {
    let server = Server::start(|client| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n");
        std::thread::sleep(Duration::from_secs(2));
    });
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.timeout = Some(Duration::from_millis(100));
    })];
    let mesh = plan.start();
    let mut client = mesh.client();
    client.send(GET);
    client.until("2\r\nab\r\n").unwrap();
    assert_ne!(client.rest().as_deref(), Ok("0\r\n\r\n"));
    mesh.expect_flag(Flag::Timeout);
}

#[test]
fn a_truncated_answer_never_looks_whole() {
    for start in [
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nab",
    ] {
        let server = Server::start(move |client| {
            client.request();
            client.send(start);
            // Long enough for the beginning to be on its way.
            std::thread::sleep(Duration::from_millis(50));
        });
        let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
        let mut client = mesh.client();
        client.send(GET);
        let head = client.until("\r\n\r\n").unwrap();
        let rest = client.rest().unwrap_or_default();
        assert!(head.starts_with("HTTP/1.1 200 "));
        assert!(rest.contains("ab"), "what came is handed on: {rest:?}");
        assert!(!rest.contains("0\r\n\r\n"), "{rest:?}");
        mesh.expect_flag(Flag::UpstreamClosed);
    }
}

#[test]
fn a_client_that_leaves_takes_its_request_along() {
    let server = Server::start(|client| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n");
        // Until the proxy has enough of it.
        while std::io::Write::write_all(&mut client.stream, b"4\r\nmore\r\n").is_ok() {
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send(GET);
    client.until("more").unwrap();
    drop(client);
    mesh.expect_flag(Flag::ClientClosed);
}

#[test]
fn grpc_gets_its_own_form() {
    let grpc = |status: u32, message: &str, server: &str| {
        let message = match message {
            "" => String::new(),
            text => format!("grpc-message: {text}\r\n"),
        };
        format!(
            "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: {status}\r\n{message}server: {server}\r\ncontent-length: 0\r\ndate: -\r\n\r\n"
        )
    };
    let plan = Plan::outbound(Protocol::Http, &[]);
    check(
        plan,
        GRPC,
        &grpc(14, "no healthy upstream", "envoy"),
        Flag::NoEndpoint,
    );
    let mut plan = Plan::outbound(Protocol::Http, &[]);
    plan.routes = vec![elsewhere()];
    check(plan, GRPC, &grpc(12, "", "envoy"), Flag::NoRoute);
}

/// What a client is told of a request that does not reach anybody, over and over again on the same world.
#[track_caller]
fn check_refused(mesh: &Mesh, request: &str, status: &str, text: &str) {
    let typed = match text {
        "" => "content-length: 0\r\n".to_owned(),
        text => format!(
            "content-length: {}\r\ncontent-type: text/plain\r\n",
            text.len()
        ),
    };
    let mut client = mesh.client();
    client.send(request);
    let answer = client.rest();
    let answer = timeless(&answer.unwrap_or_else(|e| panic!("{request:.60?}: {e}")));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let mut found: Vec<&str> = head.split("\r\n").collect();
    let expected =
        format!("HTTP/1.1 {status}\r\nconnection: close\r\n{typed}date: -\r\nserver: istio-envoy");
    found[1..].sort_unstable();
    assert_eq!(found.join("\r\n"), expected, "{request:?}");
    assert_eq!(body, text, "{request:?}");
}

#[test]
fn refuses_what_is_not_fit_to_be_sent_on() {
    let server = Server::saying("ok");
    // On a pod's port what does not look like HTTP would be relayed.
    let mesh = Plan::gateway(&[server.address]).start();
    let many: String = (0..101).map(|i| format!("h{i}: x\r\n")).collect();
    let (long, huge) = ("x".repeat(61_500), "x".repeat(70_000));
    let host = "Host: web\r\n";
    let large = "431 Request Header Fields Too Large";
    for (request, status) in [
        (format!("GET / HTTP/1.0\r\n{host}"), "426 Upgrade Required"),
        (
            format!("GET / HTTP/1.0\r\n{host}Connection: keep-alive\r\n"),
            "426 Upgrade Required",
        ),
        (format!("GET / HTTP/2.0\r\n{host}"), "426 Upgrade Required"),
        ("GET /\r\n".to_owned(), "426 Upgrade Required"),
        (format!("GET / HTTP/1.1x\r\n{host}"), "400 Bad Request"),
        ("HELO there\r\n".to_owned(), "400 Bad Request"),
        (
            format!("GET / HTTP/1.1\r\n{host}no colon\r\n"),
            "400 Bad Request",
        ),
        (format!("GET web:80 HTTP/1.1\r\n{host}"), "400 Bad Request"),
        (format!("GET * HTTP/1.1\r\n{host}"), "400 Bad Request"),
        (format!("GET path HTTP/1.1\r\n{host}"), "400 Bad Request"),
        (format!("GET /\u{e9} HTTP/1.1\r\n{host}"), "400 Bad Request"),
        (
            format!("GET ftp://web/ HTTP/1.1\r\n{host}"),
            "400 Bad Request",
        ),
        (
            format!("GET https://web/ HTTP/1.1\r\n{host}"),
            "403 Forbidden",
        ),
        (format!("CONNECT /x HTTP/1.1\r\n{host}"), "400 Bad Request"),
        (
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"),
            "400 Bad Request",
        ),
        (
            format!(
                "\r\nPOST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nContent-Length: 5\r\n"
            ),
            "400 Bad Request",
        ),
        (
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 0\r\nContent-Length: 0\r\n"),
            "400 Bad Request",
        ),
        (
            format!("POST / HTTP/1.1\r\n{host}Content-Length: 1, 1\r\n"),
            "400 Bad Request",
        ),
        (
            format!(
                "POST / HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n"
            ),
            "501 Not Implemented",
        ),
        (
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: gzip, chunked\r\n"),
            "501 Not Implemented",
        ),
        (
            format!("POST / HTTP/1.1\r\n{host}Transfer-Encoding: identity\r\n"),
            "501 Not Implemented",
        ),
        (format!("GET / HTTP/1.1\r\n{host}{host}"), "400 Bad Request"),
        (
            "GET / HTTP/1.1\r\nHost: a/b\r\n".to_owned(),
            "400 Bad Request",
        ),
        (format!("GET / HTTP/1.1\r\n{host}h: {long}\r\n"), large),
        (format!("GET / HTTP/1.1\r\n{host}h: {huge}\r\n"), large),
        (format!("GET / HTTP/1.1\r\n{host}{many}"), large),
        (format!("GET /{huge} HTTP/1.1\r\n{host}"), large),
    ] {
        let (_, text) = status.split_once(' ').unwrap();
        check_refused(&mesh, &format!("{request}\r\n"), status, text);
    }
    let bad = "400 Bad Request";
    check_refused(&mesh, "GET / HTTP/1.1\r\n\r\n", bad, "");
    check_refused(&mesh, "GET /%00 HTTP/1.1\r\nHost: web\r\n\r\n", bad, "");
    let connect = "CONNECT web:80 HTTP/1.1\r\nHost: web\r\n\r\n";
    check_refused(&mesh, connect, "404 Not Found", "");
    for protocol in ["chat", "websocket, chat", "chat, h2c"] {
        let upgrade = format!(
            "GET / HTTP/1.1\r\nHost: web\r\nConnection: upgrade\r\nUpgrade: {protocol}\r\n\r\n"
        );
        check_refused(&mesh, &upgrade, "403 Forbidden", "");
    }
    let answer = mesh.ask("OPTIONS * HTTP/1.1\r\nHost: web\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    assert_eq!(server.accepted(), 0);
}

#[test]
fn refuses_what_follows_a_request() {
    let server = Server::saying("ok");
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
    assert!(client.response().ends_with("ok"));
    client.send("NONSENSE\r\n\r\n");
    let answer = client.rest().unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 400 Bad Request\r\n"),
        "{answer}"
    );
    assert!(answer.contains("server: envoy\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\nBad Request"), "{answer}");
    assert_eq!(mesh.stats().outbound.requests[2], 1);
}

#[test]
fn servers_must_say_in_one_way_how_long_an_answer_is() {
    let check = |answer: &'static str, fits: bool| {
        let server = Server::answering(answer);
        let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
        let answer = mesh.ask("GET / HTTP/1.1\r\nHost: web\r\n\r\n");
        let status = if fits { " 20" } else { " 502 " };
        assert!(answer[8..].starts_with(status), "{answer}");
        if !fits {
            mesh.expect_flag(Flag::UpstreamProtocol);
        }
    };
    check("HTTP/1.1 204 No Content\r\n\r\n", true);
    check("HTTP/1.1 204 No Content\r\ncontent-length: 0\r\n\r\n", true);
    check(
        "HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nok",
        false,
    );
    check(
        "HTTP/1.1 204 No Content\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        false,
    );
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        false,
    );
    check(
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        false,
    );
    check("HTTP/1.1 200 OK\r\ncontent-length: 2, 2\r\n\r\nok", false);
    check(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nold: a\r\n b\r\n\r\nok",
        true,
    );
}
