//! HTTP/1.1 on both sides.

use std::io::Write;
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::fakes::*;
use crate::model::{PathMatch, PathRewrite, Protocol};
use crate::proxy::record::Flag;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";

#[test]
fn keeps_connections_on_both_sides() {
    let server = Server::saying("hello");
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    for _ in 0..5 {
        client.send(GET);
        assert!(client.response().ends_with("\r\n\r\nhello"));
    }
    assert!(mesh.ask(GET).ends_with("hello"));
    assert_eq!(server.accepted(), 1);
    drop(client);
    eventually(|| mesh.stats().outbound.closed == 2);
    let stats = mesh.stats();
    assert_eq!(stats.outbound.accepted, 2);
    assert_eq!(stats.outbound.requests, [0, 0, 6, 0, 0, 0]);
    assert_eq!(stats.outbound.sent, 30);
    assert_eq!(stats.upstream_connections, 1);
    assert!(stats.flags.is_empty(), "{:?}", stats.flags);
}

#[test]
fn answers_pipelined_requests_in_order() {
    let server = Server::start(|client| {
        while let Some(request) = client.request() {
            let path = request.split(' ').nth(1).unwrap().to_owned();
            std::thread::sleep(Duration::from_millis(if path == "/a" { 50 } else { 0 }));
            client.send(format!(
                "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{path}"
            ));
        }
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send("GET /a HTTP/1.1\r\nhost: web\r\n\r\nGET /b HTTP/1.1\r\nhost: web\r\n\r\nGET /c HTTP/1.1\r\nhost: web\r\n\r\n");
    for path in ["/a", "/b", "/c"] {
        assert!(client.response().ends_with(path));
    }
}

#[test]
fn streams_without_buffering() {
    let server = Server::start(|client| {
        client.until("\r\n\r\n");
        client.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n");
        // The rest is sent only once the first chunk has made the round.
        client.until("go");
        client.send("4\r\nlast\r\n0\r\n\r\n");
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n");
    assert!(client.until("5\r\nfirst\r\n").is_some());
    client.send("2\r\ngo\r\n0\r\n\r\n");
    assert_eq!(client.until("0\r\n\r\n").unwrap(), "4\r\nlast\r\n0\r\n\r\n");
}

#[test]
fn carries_trailers_both_ways() {
    let server = Server::start(|client| {
        let head = client.until("\r\n\r\n").unwrap();
        assert!(head.contains("te: trailers"), "{head}");
        assert_eq!(
            client.until("x-sum: 1\r\n\r\n").unwrap(),
            "2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n"
        );
        client.send("HTTP/1.1 200 OK\r\ntrailer: x-out\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-out: 2\r\n\r\n");
        client.rest().ok();
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send("POST / HTTP/1.1\r\nhost: web\r\nte: trailers\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n");
    let response = client.until("x-out: 2\r\n\r\n").unwrap();
    assert!(
        response.ends_with("2\r\nok\r\n0\r\nx-out: 2\r\n\r\n"),
        "{response}"
    );
}

#[test]
fn who_has_the_trailers_has_everything() {
    let server = Server::start(|client| {
        while client.request().is_some() {
            client.send("HTTP/1.1 200 OK\r\ntrailer: x-out\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-out: 2\r\n\r\n");
        }
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    for asked in ["te: trailers\r\n", ""] {
        let mut client = mesh.client();
        for _ in 0..3 {
            client.send(format!("GET / HTTP/1.1\r\nhost: web\r\n{asked}\r\n"));
            let end = match asked.is_empty() {
                true => "0\r\n\r\n",
                false => "x-out: 2\r\n\r\n",
            };
            assert!(client.until(end).is_some());
        }
    }
    eventually(|| mesh.stats().outbound.requests[2] == 6);
    assert_eq!(mesh.stats().flags, []);
    assert_eq!(server.accepted(), 1, "the connection serves again");
}

#[test]
fn leaves_continue_to_the_server() {
    let server = Server::start(|client| {
        while let Some(head) = client.until("\r\n\r\n") {
            assert!(head.contains("expect: 100-continue"), "{head}");
            if head.starts_with("PUT /no") {
                client.send("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n");
                continue;
            }
            std::thread::sleep(Duration::from_millis(100));
            client.send("HTTP/1.1 100 Continue\r\n\r\n");
            assert_eq!(client.exactly(4), "body");
            client.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
        }
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    let begin = Instant::now();
    client.send("PUT / HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
    assert_eq!(
        client.until("\r\n\r\n").unwrap(),
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    assert!(
        begin.elapsed() >= Duration::from_millis(100),
        "the server had not said so yet"
    );
    assert!(
        begin.elapsed() < Duration::from_millis(900),
        "the server had said so long ago"
    );
    client.send("body");
    assert!(client.response().starts_with("HTTP/1.1 200 OK\r\n"));

    let refused = mesh
        .ask("PUT /no HTTP/1.1\r\nhost: web\r\ncontent-length: 4\r\nexpect: 100-continue\r\n\r\n");
    assert!(refused.starts_with("HTTP/1.1 417 "), "{refused}");
}

#[test]
fn hands_on_what_is_said_ahead() {
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\nKeep-Alive: 5\r\n\r\n";
    let ok = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
    let server = Server::start(move |client| {
        while client.request().is_some() {
            client.send("HTTP/1.1 100 Continue\r\n\r\n");
            client.send(hints);
            // The response waits until the hints have made the round.
            client.until("seen").unwrap();
            client.send("HTTP/1.1 102 Processing\r\n\r\n");
            client.send(ok);
        }
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    for _ in 0..3 {
        client.send("POST / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n");
        assert_eq!(
            client.until("\r\n\r\n").unwrap(),
            "HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n"
        );
        client.send("4\r\nseen\r\n0\r\n\r\n");
        assert_eq!(
            client.until("\r\n\r\n").unwrap(),
            "HTTP/1.1 102 Processing\r\n\r\n"
        );
        assert!(client.response().ends_with("ok"));
    }
}

#[test]
fn what_is_said_ahead_does_not_overtake_the_response_before() {
    let server = Server::start(|client| {
        while let Some(request) = client.request() {
            if request.starts_with("GET /large") {
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 3000000\r\n\r\n");
                client.send("x".repeat(3_000_000));
            } else {
                client.send("HTTP/1.1 103 Early Hints\r\n\r\n");
                client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
            }
        }
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send("GET /large HTTP/1.1\r\nhost: web\r\n\r\nGET /small HTTP/1.1\r\nhost: web\r\n\r\n");
    // The second one waits behind bytes that nobody reads yet.
    eventually(|| server.heard().len() == 2 || mesh.stats().outbound.sent > 0);
    std::thread::sleep(Duration::from_millis(50));
    let head = client.until("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert_eq!(client.exactly(3_000_000), "x".repeat(3_000_000));
    let mut next = client.until("\r\n\r\n").unwrap();
    if next.starts_with("HTTP/1.1 103 ") {
        next = client.until("\r\n\r\n").unwrap();
    }
    assert!(next.starts_with("HTTP/1.1 200 OK\r\n"), "{next}");
    assert_eq!(client.exactly(2), "ok");
}

#[test]
fn a_server_may_not_talk_for_ever() {
    let server = Server::start(|client| {
        client.request();
        for _ in 0..20_000 {
            client.send("HTTP/1.1 103 Early Hints\r\nlink: </a.css>; rel=preload\r\n\r\n");
        }
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send(GET);
    let mut ahead = 0;
    while let Some(head) = client.until("\r\n\r\n")
        && head.starts_with("HTTP/1.1 103 ")
    {
        ahead += head.len();
    }
    assert_eq!(client.exactly(2), "ok");
    assert!((1..=16 * 1024).contains(&ahead), "{ahead}");
}

#[test]
fn trailers_say_nothing_that_heads_decide() {
    let server = Server::start(|client| {
        client.until("\r\n\r\n").unwrap();
        let body = client.until("x-sum: 1\r\n\r\n").unwrap();
        assert!(!body.contains("authorization"), "{body}");
        client.send("HTTP/1.1 200 OK\r\ntrailer: x-out, set-cookie\r\ntransfer-encoding: chunked\r\n\r\n0\r\nset-cookie: a=b\r\nx-out: 2\r\n\r\n");
        client.rest().ok();
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send("POST / HTTP/1.1\r\nhost: web\r\nte: trailers\r\ntrailer: x-sum, authorization\r\ntransfer-encoding: chunked\r\n\r\n0\r\nauthorization: me\r\nx-sum: 1\r\n\r\n");
    let response = client.until("x-out: 2\r\n\r\n").unwrap();
    assert!(!response.contains("set-cookie: a=b"), "{response}");
}

#[test]
fn tunnels_what_is_upgraded() {
    let server = Server::start(|client| {
        let head = client.request().unwrap();
        assert!(
            head.contains("connection: keep-alive, Upgrade\r\n"),
            "{head}"
        );
        assert!(head.contains("upgrade: websocket\r\n"), "{head}");
        client.send("HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\nhello");
        while let line = client.exactly(4)
            && !line.is_empty()
        {
            client.send(line.to_uppercase());
        }
        client.send("bye");
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send("GET /chat HTTP/1.1\r\nhost: web\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\r\n");
    let head = client.until("\r\n\r\n").unwrap();
    assert!(
        head.starts_with("HTTP/1.1 101 Switching Protocols\r\n"),
        "{head}"
    );
    assert!(
        head.contains("connection: Upgrade\r\n") && head.contains("upgrade: websocket\r\n"),
        "{head}"
    );
    assert_eq!(client.exactly(5), "hello");
    for _ in 0..3 {
        client.send("ping");
        assert_eq!(client.exactly(4), "PING");
    }
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.rest().unwrap(), "bye");
    eventually(|| mesh.stats().outbound.relayed == 1);
}

#[test]
fn answers_a_client_that_closed_its_half() {
    let server = Server::start(|client| {
        client.request();
        std::thread::sleep(Duration::from_millis(50));
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send(GET);
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(client.rest().unwrap().ends_with("\r\n\r\nok"));
}

#[test]
fn keeps_lengths_of_answers_without_body() {
    let server = Server::start(|client| {
        while let Some(request) = client.request() {
            client.send(match request.split(' ').nth(1).unwrap() {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\netag: x\r\ncontent-length: 7\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n",
            });
        }
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    for _ in 0..2 {
        client.send("HEAD / HTTP/1.1\r\nhost: web\r\n\r\n");
        let head = client.until("\r\n\r\n").unwrap();
        assert!(head.contains("content-length: 7\r\n"), "{head}");
        client.send("GET /204 HTTP/1.1\r\nhost: web\r\n\r\n");
        let head = client.until("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 204 ") && !head.contains("content-length"),
            "{head}"
        );
        client.send("GET /304 HTTP/1.1\r\nhost: web\r\n\r\n");
        let head = client.until("\r\n\r\n").unwrap();
        assert!(
            head.starts_with("HTTP/1.1 304 ") && head.contains("etag: x"),
            "{head}"
        );
    }
    assert_eq!(server.accepted(), 1);
}

#[test]
fn splits_by_weight_and_rewrites() {
    let one = Server::saying("one");
    let two = Server::saying("two");
    let mut plan = Plan::outbound(Protocol::Http, &[one.address, two.address]);
    plan.subsets = vec![("v1", vec![one.address]), ("v2", vec![two.address])];
    plan.routes = vec![
        with(forward_to(Some("v2")), |when, forward| {
            when.uri = Some(PathMatch::Prefix("/v2".into()));
            forward.rewrite_path = Some(PathRewrite::Matched("/".into()));
            forward.rewrite_authority = Some("other.example".into());
        }),
        split(&[(Some("v1"), 90), (Some("v2"), 10)]),
    ];
    let mesh = plan.start();
    let mut client = mesh.client();
    let mut twos = 0;
    for _ in 0..1000 {
        client.send(GET);
        twos += usize::from(client.response().ends_with("two"));
    }
    // Five standard deviations.
    assert!(
        (52..=148).contains(&twos),
        "{twos} of 1000, 10 % were asked for"
    );
    client.send("GET /v2/deep?q=1 HTTP/1.1\r\nhost: web\r\n\r\n");
    assert!(client.response().ends_with("two"));
    let heard = two.heard().pop().unwrap();
    assert!(heard.starts_with("GET //deep?q=1 HTTP/1.1\r\n"), "{heard}");
    assert!(heard.contains("host: other.example\r\n"), "{heard}");
    assert!(
        heard.contains("x-envoy-original-path: /v2/deep?q=1\r\n"),
        "{heard}"
    );
    assert!(heard.contains("x-envoy-original-host: web\r\n"), "{heard}");
}

#[test]
fn routes_by_the_newest_world() {
    let one = Server::saying("one");
    let two = Server::saying("two");
    let mesh = Plan::outbound(Protocol::Http, &[one.address]).start();
    let mut client = mesh.client();
    client.send(GET);
    assert!(client.response().ends_with("one"));
    mesh.replace(&Plan::outbound(Protocol::Http, &[two.address]));
    client.send(GET);
    assert!(client.response().ends_with("two"));
}

#[test]
fn passes_unknown_hosts_to_where_they_were_headed() {
    let server = Server::saying("mesh");
    let elsewhere = Server::saying("elsewhere");
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.original = Some(elsewhere.address);
    let mesh = plan.start();
    let answer = mesh.ask("GET /a HTTP/1.1\r\nHost: unknown.example\r\n\r\n");
    assert!(answer.ends_with("elsewhere"), "{answer}");
    assert!(answer.contains("server: envoy"), "{answer}");
    let heard = elsewhere.heard().pop().unwrap();
    assert!(!heard.contains("x-envoy-attempt-count"), "{heard}");
    assert!(heard.contains("host: unknown.example\r\n"), "{heard}");
}

#[test]
fn takes_the_host_of_an_absolute_target() {
    let server = Server::saying("ok");
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    mesh.ask("GET http://web/x?y HTTP/1.1\r\nHost: other\r\n\r\n");
    let heard = server.heard().pop().unwrap();
    assert!(
        heard.starts_with("GET /x?y HTTP/1.1\r\n") && heard.contains("host: web\r\n"),
        "{heard}"
    );
}

#[test]
fn routes_plain_paths() {
    let server = Server::saying("ok");
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    mesh.ask("GET /a/../%61dmin\\x?a=/../ HTTP/1.1\r\nHost: web\r\n\r\n");
    let heard = server.heard().pop().unwrap();
    assert!(
        heard.starts_with("GET /admin/x?a=/../ HTTP/1.1\r\n"),
        "{heard}"
    );
}

#[test]
fn replaces_a_kept_connection_that_the_server_closed() {
    let server = Server::start(|client| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        // Reads the next request and leaves without an answer, as a server does that was just closing.
        client.request();
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send(GET);
    assert!(client.response().ends_with("ok"));
    client.send(GET);
    let again = client.response();
    assert!(again.starts_with("HTTP/1.1 200 "), "{again}");
    assert_eq!(server.accepted(), 2);
    // A POST may have done its work before the server left: it is not sent twice.
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 0\r\n\r\n");
    let once = client.response();
    assert!(once.starts_with("HTTP/1.1 503 "), "{once}");
    assert_eq!(server.accepted(), 2);
    mesh.expect_flag(Flag::UpstreamClosed);
}

#[test]
fn a_route_without_retries_sends_once() {
    let server = Server::start(|client| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
        client.request();
    });
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.retry.attempts = 0;
    })];
    let mesh = plan.start();
    let mut client = mesh.client();
    client.send(GET);
    assert!(client.response().ends_with("ok"));
    client.send(GET);
    let answer = client.response();
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert_eq!(server.accepted(), 1);
    mesh.expect_flag(Flag::UpstreamClosed);
}

#[test]
fn an_answer_ahead_of_the_requests_end_is_the_last() {
    let server = Server::start(|client| {
        client.until("\r\n\r\n");
        client.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\n\r\n");
        client.rest().unwrap_or_default();
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 5\r\n\r\nab");
    let head = client.until("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 413 "), "{head}");
    assert!(head.contains("connection: close\r\n"), "{head}");
    assert!(!head.contains("x-envoy-upstream-service-time"), "{head}");
}

#[test]
fn a_body_of_unknown_length_needs_no_method() {
    let server = Server::start(|client| {
        let head = client.until("\r\n\r\n").unwrap();
        assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
        assert_eq!(client.exactly(15), "5\r\nhello\r\n0\r\n\r\n");
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    client.send(
        "GET / HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    let answer = client.response();
    assert!(answer.ends_with("ok"), "{answer}");
    assert!(!answer.contains("connection: close"), "{answer}");
}

#[test]
fn posts_over_a_fresh_connection_when_the_kept_one_has_ended() {
    let server = Server::start(|client| {
        client.request();
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok");
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 1\r\n\r\nx");
        let answer = client.response();
        assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
        std::thread::sleep(Duration::from_millis(2));
    }
    assert_eq!(server.accepted(), 20);
}

#[test]
fn uploads_and_downloads_large_bodies() {
    let server = Server::start(|client| {
        let head = client.until("\r\n\r\n").unwrap();
        assert!(head.contains("content-length: 10000000\r\n"), "{head}");
        let body = client.exactly(10_000_000);
        client.send("HTTP/1.1 200 OK\r\ncontent-length: 10000000\r\n\r\n");
        client.send(body);
    });
    let mesh = Plan::outbound(Protocol::Http, &[server.address]).start();
    let mut client = mesh.client();
    let body = "0123456789".repeat(1_000_000);
    client.send("PUT / HTTP/1.1\r\nhost: web\r\ncontent-length: 10000000\r\n\r\n");
    let mut writer = client.stream.try_clone().unwrap();
    let sent = body.clone();
    let upload = std::thread::spawn(move || writer.write_all(sent.as_bytes()).unwrap());
    let answer = client.response();
    upload.join().unwrap();
    assert!(answer.ends_with(&body));
    eventually(|| mesh.stats().outbound.received == 10_000_000);
}
