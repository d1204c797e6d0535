//! Outlier detection, and endpoints that are chosen by more than chance.

use super::fakes::Plan;
use super::fakes::*;
use crate::model::*;
use crate::proxy::record::Flag;

const GET: &str = "GET / HTTP/1.1\r\nHost: web\r\n\r\n";
const BUSY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";

fn detecting(
    endpoints: &[std::net::SocketAddr],
    change: impl FnOnce(&mut OutlierDetection),
) -> Plan {
    let mut rules = OutlierDetection {
        consecutive_5xx: Some(1),
        max_ejection_percent: 100,
        ..OutlierDetection::default()
    };
    change(&mut rules);
    let mut plan = Plan::outbound(Protocol::Http, endpoints);
    plan.policy.outliers = Some(rules);
    plan
}

/// How many of 50 requests come to the bad one of two servers.
fn bad_ones(plan: Plan) -> usize {
    let mesh = plan.start();
    (0..50).filter(|_| !mesh.ask(GET).ends_with("good")).count()
}

#[test]
fn bad_endpoints_are_left_alone() {
    let (good, bad) = (Server::saying("good"), Server::answering(BUSY));
    let both = [good.address, bad.address];
    assert!(bad_ones(Plan::outbound(Protocol::Http, &both)) > 5);
    assert_eq!(bad_ones(detecting(&both, |_| {})), 1);
    assert_eq!(
        bad_ones(detecting(&both, |rules| rules.consecutive_5xx = Some(4))),
        4
    );
    // One of two is more than 49 %.
    assert!(bad_ones(detecting(&both, |rules| rules.max_ejection_percent = 49)) > 5);
    let gateway = |rules: &mut OutlierDetection| {
        rules.consecutive_5xx = None;
        rules.consecutive_gateway = Some(2);
    };
    assert_eq!(bad_ones(detecting(&both, gateway)), 2);
}

#[test]
fn servers_that_do_not_answer_are_bad_as_well() {
    let good = Server::saying("good");
    let closing = Server::start(|client| {
        client.request();
    });
    for bad in [refusing(), closing.address] {
        let mut plan = detecting(&[good.address, bad], |_| {});
        plan.routes = vec![with(forward_to(None), |_, forward| {
            forward.retry.attempts = 0;
        })];
        assert_eq!(bad_ones(plan), 1);
    }
}

#[test]
fn all_workers_know() {
    let (good, bad) = (Server::saying("good"), Server::answering(BUSY));
    let mut plan = detecting(&[good.address, bad.address], |_| {});
    plan.workers = 4;
    assert_eq!(bad_ones(plan), 1);
}

#[test]
fn nobody_is_left() {
    let bad = Server::answering(BUSY);
    let mesh = detecting(&[bad.address], |_| {}).start();
    assert!(mesh.ask(GET).ends_with("busy"));
    let answer = mesh.ask(GET);
    assert!(answer.ends_with("\r\n\r\nno healthy upstream"), "{answer}");
    mesh.expect_flag(Flag::NoEndpoint);
    assert_eq!(bad.heard().len(), 1);
    // Another list of endpoints is another chance for those that were not in it.
    let other = Server::saying("good");
    mesh.replace(&detecting(&[bad.address, other.address], |_| {}));
    for _ in 0..10 {
        assert!(mesh.ask(GET).ends_with("good"));
    }
}

#[test]
fn relayed_connections_count_too() {
    let good = Server::start(|client| client.send("good"));
    let mut plan = detecting(&[good.address, refusing()], |_| {});
    plan.protocol = Protocol::Tcp;
    plan.cluster_protocol = Protocol::Tcp;
    let mesh = plan.start();
    let bad = (0..50).filter(|_| mesh.client().rest().as_deref() != Ok("good"));
    assert_eq!(bad.count(), 1);
}

#[test]
fn grpc_says_it_among_the_headers() {
    let good = Server::saying("good");
    let bad = Server::answering(
        "HTTP/1.1 200 OK\r\ncontent-type: application/grpc\r\ngrpc-status: 13\r\ncontent-length: 0\r\n\r\n",
    );
    let mesh = detecting(&[good.address, bad.address], |_| {}).start();
    let grpc = "POST /a.B/C HTTP/1.1\r\nHost: web\r\nContent-Type: application/grpc\r\nContent-Length: 0\r\n\r\n";
    let bad = (0..50).filter(|_| !mesh.ask(grpc).ends_with("good"));
    assert_eq!(bad.count(), 1);
}

fn hashing(key: HashKey, endpoints: &[std::net::SocketAddr]) -> Mesh {
    let mut plan = Plan::outbound(Protocol::Http, endpoints);
    plan.policy.hash = RouteHash::always(key.clone());
    plan.policy.balancer = Balancer::Hash {
        key,
        ring: Ring::RingHash { minimum_size: 1024 },
    };
    plan.start()
}

#[test]
fn the_same_hash_is_the_same_endpoint() {
    let servers = ["0", "1", "2", "3"].map(Server::saying);
    let addresses = servers.each_ref().map(|server| server.address);
    let mesh = hashing(
        HashKey::Header(HeaderSubject::Header(http::HeaderName::from_static(
            "x-user",
        ))),
        &addresses,
    );
    let ask = |user: usize| {
        let answer = mesh.ask(&format!(
            "GET / HTTP/1.1\r\nHost: web\r\nX-User: {user}\r\n\r\n"
        ));
        answer.chars().next_back()
    };
    let homes: Vec<_> = (0..40).map(ask).collect();
    assert_eq!((0..40).map(ask).collect::<Vec<_>>(), homes);
    let all = |home| homes.contains(&Some(home));
    assert!(['0', '1', '2', '3'].into_iter().all(all), "{homes:?}");
}

#[test]
fn clients_are_given_their_cookie() {
    let servers = ["0", "1", "2", "3"].map(Server::saying);
    let addresses = servers.each_ref().map(|server| server.address);
    let cookie = |ttl| HashKey::Cookie {
        name: "home".into(),
        path: Some("/".into()),
        ttl,
        attributes: vec![("SameSite".into(), "Lax".into())],
    };
    let mesh = hashing(cookie(Some(std::time::Duration::from_secs(60))), &addresses);
    for _ in 0..8 {
        let first = mesh.ask(GET);
        let given = headers_of(&first, &["set-cookie"]).pop().unwrap();
        let (pair, attributes) = given["set-cookie: ".len()..].split_once("; ").unwrap();
        assert_eq!(attributes, "Max-Age=60; Path=/; SameSite=Lax; HttpOnly");
        for _ in 0..4 {
            let again = mesh.ask(&format!(
                "GET / HTTP/1.1\r\nHost: web\r\nCookie: {pair}\r\n\r\n"
            ));
            assert_eq!(headers_of(&again, &["set-cookie"]), [""; 0]);
            assert_eq!(again.chars().next_back(), first.chars().next_back());
        }
    }
    // Without a time to live none is made.
    let answer = hashing(cookie(None), &addresses).ask(GET);
    assert_eq!(headers_of(&answer, &["set-cookie"]), [""; 0]);
}

#[test]
fn turns_are_taken_by_each_cluster() {
    let servers = ["0", "1", "2"].map(Server::saying);
    let addresses = servers.each_ref().map(|server| server.address);
    let mut plan = Plan::outbound(Protocol::Http, &addresses);
    plan.policy.balancer = Balancer::RoundRobin { warmup: None };
    plan.subsets = vec![("v1", addresses.to_vec())];
    plan.routes = vec![
        with(forward_to(Some("v1")), |when, _| {
            when.uri = Some(PathMatch::Prefix("/v1".into()));
        }),
        forward_to(None),
    ];
    let mesh = plan.start();
    let ask = |path: &str| {
        mesh.ask(&format!("GET {path} HTTP/1.1\r\nHost: web\r\n\r\n"))
            .chars()
            .next_back()
    };
    let (mut one, mut other) = (Vec::new(), Vec::new());
    for _ in 0..6 {
        one.push(ask("/v1"));
        other.push(ask("/"));
    }
    for turns in [one, other] {
        assert_eq!(turns[..3], turns[3..]);
        let mut sorted = turns[..3].to_vec();
        sorted.sort();
        assert_eq!(sorted, [Some('0'), Some('1'), Some('2')]);
    }
}
