//! What routes do, and what chance has to say about it.

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::fixture::{pod, service, sound_world};
use crate::model::{
    Abort, ClusterKey, Delay, DirectResponse, HeaderEdits, PathMatch, PathRewrite, Redirect,
    RedirectPath, RedirectPort,
};
use crate::route::fixture;
use crate::route::tests::{Seeded, Told};

fn key(host: &str) -> ClusterKey {
    ClusterKey {
        host: format!("{host}.default.svc.cluster.local").into(),
        port: 80,
        subset: None,
    }
}

fn forward(shares: &[(&str, u32)]) -> Forward {
    let shares: Vec<_> = shares
        .iter()
        .map(|(host, weight)| (key(host), *weight))
        .collect();
    fixture::forward(&shares)
}

/// Follows a route as a client of Services `a` and `b`. Chance says this, and is asked for no more.
fn followed(route: Route, request: &Request<'_>, draws: &[u64]) -> Routed {
    let snapshot = sound_world(
        &(service("a", "10.0.0.1", &["http:80:8080"])
            + &service("b", "10.0.0.2", &["http:80:8080"])
            + &pod("client", "10.9.9.9", "app=client")),
    );
    let client = snapshot.pods.values().next().expect("the client");
    let mut told = Told(draws.to_vec());
    let routed = follow(
        &snapshot,
        &Arc::new(route),
        &Client::Pod(client),
        request,
        false,
        &mut told,
    );
    assert!(
        told.0.is_empty(),
        "draws that nobody asked for: {:?}",
        told.0
    );
    routed
}

fn short(key: &ClusterKey) -> &str {
    key.host.split('.').next().unwrap_or_default()
}

/// The host that a route goes to with these draws, what goes wrong, and who gets a copy.
fn told(forward: &Forward, draws: &[u64]) -> String {
    let route = fixture::route(RouteAction::Forward(forward.clone()));
    let routed = followed(route, &fixture::get("a", "/"), draws);
    let mut text = match &routed.act {
        Act::Forward(forwarding) => {
            let mirrors = forwarding.mirrors.iter();
            let mirrors: String = mirrors
                .map(|mirror| format!(" +{}", short(&mirror.key)))
                .collect();
            format!("{}{mirrors}", short(&forwarding.cluster.key))
        }
        Act::NoCluster(key) => format!("no {}", short(key)),
        act => panic!("{act:?}"),
    };
    if let Some(delay) = routed.delay {
        text += &format!(" delay {delay:?}");
    }
    match routed.abort {
        Some(Abort::Http(status)) => text += &format!(" abort {}", status.as_u16()),
        Some(Abort::Grpc(status)) => text += &format!(" abort grpc {status}"),
        None => {}
    }
    text
}

#[test]
fn destinations_by_weight() {
    let three = forward(&[("a", 1), ("b", 2), ("gone", 1)]);
    for (drawn, expected) in [(0, "a"), (1, "b"), (2, "b"), (3, "no gone")] {
        assert_eq!(told(&three, &[drawn]), expected);
    }
    // One takes everything, whatever its weight, and nothing is drawn.
    assert_eq!(told(&forward(&[("b", 0)]), &[]), "b");
    // No weight, no share.
    let dropped = forward(&[("a", 0), ("b", 3)]);
    assert_eq!(told(&dropped, &[0]), "b");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every draw belongs to one destination, each has as many as its weight, and what chance draws comes near that.
    #[test]
    fn weights_converge(weights in prop::collection::vec(0..200_u32, 2..7), seed in any::<u64>()) {
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let hosts = ["a", "b", "c", "d", "e", "f"];
        let shares: Vec<_> = hosts.into_iter().zip(weights.iter().copied()).collect();
        let forward = forward(&shares);
        let hits = |pick: &mut dyn Pick, times: u32| {
            let mut hits = vec![0_u32; weights.len()];
            for _ in 0..times {
                hits[destination(&forward, pick).0] += 1;
            }
            hits
        };
        let mut each = Told((0..u64::from(total)).collect());
        prop_assert_eq!(&hits(&mut each, total), &weights);
        let times = 4_000;
        let drawn = hits(&mut Seeded(fastrand::Rng::with_seed(seed)), times);
        for (drawn, weight) in drawn.iter().zip(&weights) {
            let share = f64::from(*weight) / f64::from(total);
            let deviation = (f64::from(times) * share * (1.0 - share)).sqrt();
            let off = (f64::from(*drawn) - f64::from(times) * share).abs();
            // Missed once in some hundred million times.
            prop_assert!(off <= 6.0 * deviation + 1e-9, "{drawn} of {times} at {share}");
        }
    }
}

#[test]
fn faults_are_drawn_one_by_one() {
    let mut forward = forward(&[("a", 1), ("b", 1)]);
    let half = Share::percent(50.0);
    forward.fault = Fault {
        delay: Some(Delay {
            duration: Duration::from_secs(5),
            share: half,
        }),
        abort: Some((Abort::Grpc(14), half)),
    };
    // First the destination, then the delay, then the abort.
    for (draws, expected) in [
        ([0, 0, 0], "a delay 5s abort grpc 14"),
        ([1, 499_999, 500_000], "b delay 5s"),
        ([1, 500_000, 499_999], "b abort grpc 14"),
        ([0, 999_999, 999_999], "a"),
    ] {
        assert_eq!(told(&forward, &draws), expected);
    }
}

#[test]
fn what_is_certain_is_not_drawn() {
    let mut forward = forward(&[("a", 1)]);
    let teapot = http::StatusCode::IM_A_TEAPOT;
    for (delay, abort, expected) in [
        (Share(0), Share(0), "a"),
        (Share::ALL, Share(0), "a delay 1s"),
        (Share(0), Share::ALL, "a abort 418"),
        (
            Share::percent(100.0),
            Share::percent(100.0),
            "a delay 1s abort 418",
        ),
    ] {
        forward.fault = Fault {
            delay: Some(Delay {
                duration: Duration::from_secs(1),
                share: delay,
            }),
            abort: Some((Abort::Http(teapot), abort)),
        };
        assert_eq!(told(&forward, &[]), expected);
    }
    assert_eq!(Share::percent(0.0001), Share(1));
}

#[test]
fn mirrors_are_drawn_one_by_one() {
    let mut forward = forward(&[("a", 1)]);
    let mirror = |host: &str, share| Mirror {
        cluster: key(host),
        share,
    };
    forward.mirrors = vec![
        mirror("b", Share::ALL),
        mirror("a", Share::percent(10.0)),
        mirror("b", Share(0)),
        // Nobody hears of a copy that has no one to go to.
        mirror("gone", Share::ALL),
        mirror("b", Share::percent(10.0)),
    ];
    for (draws, expected) in [
        ([0, 0], "a +b +a +b"),
        ([99_999, 100_000], "a +b +a"),
        ([100_000, 100_000], "a +b"),
    ] {
        assert_eq!(told(&forward, &draws), expected);
    }
}

#[test]
fn rewrites() {
    let of = |uri: Option<PathMatch>, rewrite: PathRewrite, path: &str| {
        let mut forward = forward(&[("a", 1)]);
        forward.rewrite_path = Some(rewrite);
        forward.rewrite_authority = Some("new.com".into());
        let mut route = fixture::route(RouteAction::Forward(forward));
        route.when.uri = uri;
        let request = Request {
            query: Some("k=v"),
            ..fixture::get("a", path)
        };
        match followed(route, &request, &[]).act {
            Act::Forward(Forwarding {
                path: Some(path),
                authority: Some(authority),
                ..
            }) => {
                assert_eq!(&*authority, "new.com");
                path
            }
            act => panic!("{act:?}"),
        }
    };
    let prefix = |text: &str| Some(PathMatch::Prefix(text.into()));
    let matched = |text: &str| PathRewrite::Matched(text.into());
    let regex = |regex: &str, with: &str| {
        PathRewrite::Regex(regex::Regex::new(regex).expect("a regex"), with.into())
    };
    for (uri, rewrite, path, expected) in [
        (prefix("/v1"), matched("/"), "/v1/foo", "//foo"),
        (prefix("/v1/"), matched("/"), "/v1/foo", "/foo"),
        (prefix(""), matched("/x"), "/foo", "/x/foo"),
        (None, matched("/foo"), "/bar", "/foobar"),
        (
            Some(PathMatch::Exact("/a".into())),
            matched("/b"),
            "/a",
            "/b",
        ),
        // All matches, wherever they are, and groups.
        (None, regex("b+", "x"), "/abba/b", "/axa/x"),
        (
            prefix("/v"),
            regex("^/v([0-9]+)/", "/${1}/v/"),
            "/v12/a",
            "/12/v/a",
        ),
        (None, regex("nothing", "x"), "/abba", "/abba"),
    ] {
        assert_eq!(of(uri, rewrite, path), expected, "{path}");
    }
}

#[test]
fn answers_without_a_server() {
    let respond = RouteAction::Respond(DirectResponse {
        status: http::StatusCode::OK,
        body: "hello".into(),
        response_headers: HeaderEdits::default(),
    });
    let request = fixture::get("a", "/x");
    let routed = followed(fixture::route(respond), &request, &[]);
    assert_eq!(routed.act, Act::Respond);
    let redirect = RouteAction::Redirect(Redirect {
        status: http::StatusCode::FOUND,
        scheme: None,
        authority: Some("b.com".into()),
        port: RedirectPort::Kept,
        path: RedirectPath::Whole("/y".into()),
        response_headers: HeaderEdits::default(),
    });
    let routed = followed(fixture::route(redirect), &request, &[]);
    assert_eq!(routed.act, Act::Redirect("http://b.com/y".to_owned()));
}
