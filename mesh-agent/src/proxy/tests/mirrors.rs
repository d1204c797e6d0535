//! Copies of requests.

use std::time::Duration;

use super::fakes::Plan;
use super::fakes::*;
use crate::model::*;

const GET: &str = "GET /a?b HTTP/1.1\r\nHost: web\r\n\r\n";

fn mirroring(server: &Server, mirrors: &[(&'static str, &Server, Share)]) -> Plan {
    let mut plan = Plan::outbound(Protocol::Http, &[server.address]);
    plan.subsets = mirrors
        .iter()
        .map(|(subset, mirror, _)| (*subset, vec![mirror.address]))
        .collect();
    plan.routes = vec![with(forward_to(None), |_, forward| {
        forward.mirrors = mirrors
            .iter()
            .map(|(subset, _, share)| Mirror {
                cluster: ClusterKey {
                    host: HOST.into(),
                    port: 80,
                    subset: Some((*subset).into()),
                },
                share: *share,
            })
            .collect();
    })];
    plan
}

#[test]
fn mirrors_get_what_the_server_gets() {
    let server = Server::saying("ok");
    let mirror = Server::saying("discarded");
    let mut plan = mirroring(&server, &[("v2", &mirror, Share::ALL)]);
    plan.routes = vec![with(plan.routes.remove(0), |_, forward| {
        forward.rewrite_path = Some(PathRewrite::Matched("/new".into()));
        forward.rewrite_authority = Some("there.example".into());
    })];
    let mesh = plan.start();
    let answer = mesh.ask("POST /a?b HTTP/1.1\r\nHost: web\r\nContent-Length: 5\r\n\r\nhello");
    assert!(answer.ends_with("\r\n\r\nok"), "{answer}");
    eventually(|| mirror.heard().len() == 1);
    let original = server.heard().remove(0);
    let copy = mirror.heard().remove(0);
    assert!(copy.starts_with("POST /newa?b HTTP/1.1\r\n"), "{copy}");
    assert!(copy.ends_with("\r\n\r\nhello"), "{copy}");
    let names = ["host", "x-envoy-original", "x-request-id", "content-length"];
    assert_eq!(headers_of(&copy, &names), headers_of(&original, &names));
    assert_eq!(
        headers_of(&copy, &["x-forwarded-for", "x-envoy-internal"]),
        [
            "x-envoy-internal: true".to_owned(),
            format!("x-forwarded-for: {POD}")
        ]
    );
    // The mirror's connection is kept like any other.
    mesh.ask(GET);
    eventually(|| mirror.heard().len() == 2);
    assert_eq!(mirror.accepted(), 1);
}

#[test]
fn several_mirrors_are_drawn_one_by_one() {
    let server = Server::saying("ok");
    let mirrors = [
        Server::saying("1"),
        Server::saying("2"),
        Server::saying("3"),
    ];
    let [always, half, never] = &mirrors;
    let mesh = mirroring(
        &server,
        &[
            ("v1", always, Share::ALL),
            ("v2", half, Share::percent(50.0)),
            ("v3", never, Share(0)),
        ],
    )
    .start();
    let mut client = mesh.client();
    for _ in 0..400 {
        client.send(GET);
        client.response();
        // All of them at once would be too many.
        eventually(|| always.heard().len() >= server.heard().len().saturating_sub(10));
    }
    eventually(|| always.heard().len() == 400);
    let half = half.heard().len();
    assert!((150..=250).contains(&half), "{half} of 400");
    assert_eq!(never.accepted(), 0);
}

#[test]
fn a_mirror_that_fails_or_sleeps_is_not_noticed() {
    let server = Server::saying("ok");
    let silent = Server::start(|client| {
        client.rest().ok();
    });
    let mut plan = mirroring(&server, &[("v1", &silent, Share::ALL)]);
    plan.subsets.push(("v2", vec![refusing()]));
    plan.routes = vec![with(plan.routes.remove(0), |_, forward| {
        let mut nobody = forward.mirrors[0].clone();
        nobody.cluster.subset = Some("v2".into());
        forward.mirrors.push(nobody.clone());
        nobody.cluster.subset = Some("unknown".into());
        forward.mirrors.push(nobody);
    })];
    let mesh = plan.start();
    let mut client = mesh.client();
    for _ in 0..300 {
        client.send(GET);
        assert!(client.response().ends_with("\r\n\r\nok"));
    }
    eventually(|| mesh.stats().outbound.requests[2] == 300);
    assert!(mesh.stats().flags.is_empty(), "{:?}", mesh.stats());
    // Who does not answer does not get any number of them.
    assert!(silent.accepted() <= 128, "{}", silent.accepted());
}

#[test]
fn what_nobody_can_take_is_not_copied() {
    let mirror = Server::saying("discarded");
    let nobody = Plan {
        endpoints: Vec::new(),
        ..mirroring(&mirror, &[("v2", &mirror, Share::ALL)])
    };
    let mesh = nobody.start();
    for _ in 0..3 {
        assert!(mesh.ask(GET).ends_with("no healthy upstream"));
    }
    // A server that refuses is one that could have.
    let refuses = Plan {
        endpoints: vec![refusing()],
        ..mirroring(&mirror, &[("v2", &mirror, Share::ALL)])
    };
    let mesh = refuses.start();
    assert!(mesh.ask(GET).starts_with("HTTP/1.1 503 "));
    eventually(|| !mirror.heard().is_empty());
    assert_eq!(mirror.heard().len(), 1);
}

#[test]
fn a_mirror_that_does_not_read_loses_its_copy_alone() {
    let size = 32 * 1024 * 1024;
    let server = Server::start(move |client| {
        client.until("\r\n\r\n");
        let got = client.exactly(size).len();
        client.send(format!(
            "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n{got:8}"
        ));
    });
    let stuck = Server::start(|client| {
        client.until("\r\n\r\n");
        std::thread::sleep(Duration::from_secs(60));
    });
    let mesh = mirroring(&server, &[("v2", &stuck, Share::ALL)]).start();
    let mut client = mesh.client();
    client.send(format!(
        "POST / HTTP/1.1\r\nHost: web\r\nContent-Length: {size}\r\n\r\n"
    ));
    for _ in 0..size / 65536 {
        client.send([b'x'; 65536]);
    }
    assert!(client.response().ends_with(&format!("{size:8}")));
}

#[test]
fn mirrors_speak_their_own_protocol() {
    let server = Server::saying("ok");
    // The preface of HTTP/2 is all that is looked for.
    let mirror = Server::start(|client| {
        let preface = client.until("SM\r\n\r\n").unwrap_or_default();
        client.heard(&preface);
    });
    let mut plan = mirroring(&server, &[("v2", &mirror, Share::ALL)]);
    plan.subset_protocol = Some(Protocol::Http2);
    plan.start().ask(GET);
    eventually(|| mirror.heard().len() == 1);
    assert!(mirror.heard()[0].starts_with("PRI * HTTP/2.0"));
}
