//! Each word of `retryOn` against each way in which a try can end.

use super::*;

fn words(words: &str) -> Tries {
    let mut retry = Retry {
        on: RetryOn::default(),
        ..Retry::default()
    };
    for word in words.split(',') {
        match word {
            "5xx" => retry.on.server_error_5xx = true,
            "gateway-error" => retry.on.gateway_error = true,
            "reset" => retry.on.reset = true,
            "reset-before-request" => retry.on.reset_before_request = true,
            "connect-failure" => retry.on.connect_failure = true,
            "envoy-ratelimited" => retry.on.envoy_ratelimited = true,
            "retriable-4xx" => retry.on.retriable_4xx = true,
            "refused-stream" => retry.on.refused_stream = true,
            "retriable-headers" => retry.on.retriable_headers = true,
            "cancelled" => retry.on.grpc_cancelled = true,
            "deadline-exceeded" => retry.on.grpc_deadline_exceeded = true,
            "internal" => retry.on.grpc_internal = true,
            "resource-exhausted" => retry.on.grpc_resource_exhausted = true,
            "unavailable" => retry.on.grpc_unavailable = true,
            "default" => retry.on = RetryOn::DEFAULT,
            status => retry.statuses.push(status.parse().unwrap()),
        }
    }
    Tries::of(retry)
}

/// Which of the ways to fail call for another try: connecting, an end before and after the request was begun, a
/// refused stream, nonsense instead of HTTP, a try's timeout.
#[track_caller]
fn check_failures(on: &str, expected: [bool; 6]) {
    let connect = Failure::Connect { cause: None };
    let outcomes = [
        (&connect, false),
        (&Failure::Closed, false),
        (&Failure::Closed, true),
        (&Failure::Reset { refused: true }, true),
        (&Failure::UpstreamProtocol, true),
        (&Failure::Timeout, true),
    ];
    let tries = words(on);
    let wanted = outcomes.map(|(failure, begun)| tries.want(Outcome::Failed { failure, begun }));
    assert_eq!(wanted, expected, "{on}");
    for never in [
        Failure::Overflow,
        Failure::NoEndpoint,
        Failure::ClientClosed,
    ] {
        let outcome = Outcome::Failed {
            failure: &never,
            begun: false,
        };
        assert!(!tries.want(outcome), "{on}: {never:?}");
    }
}

#[test]
fn failures() {
    let (y, n) = (true, false);
    check_failures("5xx", [y, y, y, y, y, y]);
    check_failures("gateway-error", [y, y, y, y, y, y]);
    check_failures("reset", [y, y, y, y, y, y]);
    check_failures("reset-before-request", [y, y, n, n, n, n]);
    check_failures("connect-failure", [y, n, n, n, n, n]);
    check_failures("refused-stream", [n, n, n, y, n, n]);
    check_failures("default", [y, n, n, y, n, n]);
    for on in ["503", "retriable-4xx", "retriable-headers", "unavailable"] {
        check_failures(on, [n, n, n, n, n, n]);
    }
}

#[track_caller]
fn check_answer(on: &str, status: u16, header: Option<(&'static str, &'static str)>, again: bool) {
    let mut headers = HeaderMap::new();
    if let Some((name, value)) = header {
        headers.insert(name, value.parse().unwrap());
    }
    let tries = words(on);
    let outcome = Outcome::Answered {
        status: StatusCode::from_u16(status).unwrap(),
        headers: &headers,
    };
    assert_eq!(tries.want(outcome), again, "{on}: {status} {header:?}");
}

#[test]
fn answers() {
    for (on, status, again) in [
        ("5xx", 500, true),
        ("5xx", 504, true),
        ("5xx", 499, false),
        ("gateway-error", 500, false),
        ("gateway-error", 502, true),
        ("gateway-error", 504, true),
        ("gateway-error", 505, false),
        ("retriable-4xx", 409, true),
        ("retriable-4xx", 404, false),
        ("418,503", 418, true),
        ("418,503", 503, true),
        ("418,503", 500, false),
        ("default", 503, false),
        ("reset", 503, false),
        ("connect-failure", 503, false),
    ] {
        check_answer(on, status, None, again);
    }
    for (on, header, again) in [
        ("cancelled", ("grpc-status", "1"), true),
        ("deadline-exceeded", ("grpc-status", "4"), true),
        ("resource-exhausted", ("grpc-status", "8"), true),
        ("internal", ("grpc-status", "13"), true),
        ("unavailable", ("grpc-status", "14"), true),
        ("default", ("grpc-status", "14"), true),
        ("default", ("grpc-status", "1"), true),
        ("default", ("grpc-status", "13"), false),
        ("unavailable", ("grpc-status", "0"), false),
        ("unavailable", ("grpc-status", "x"), false),
        ("5xx", ("grpc-status", "14"), false),
        ("retriable-headers", ("x-again", ""), false),
    ] {
        check_answer(on, 200, Some(header), again);
    }
    let limited = Some(("x-envoy-ratelimited", "true"));
    check_answer("5xx", 503, limited, false);
    check_answer("5xx,envoy-ratelimited", 503, limited, true);
    check_answer("envoy-ratelimited", 503, None, false);
}

#[test]
fn counts_tries() {
    let tries = words("5xx");
    assert_eq!([1, 2, 3].map(|n| tries.allow(n)), [true, true, false]);
    let outcome = Outcome::Answered {
        status: StatusCode::INTERNAL_SERVER_ERROR,
        headers: &HeaderMap::new(),
    };
    assert!(tries.want(outcome));
    let once = Tries::none();
    assert!(!once.want(outcome) && !once.allow(1));
    assert!(!Tries::inbound(true).allow(1));
    assert!(Tries::inbound(false).allow(2));
}

#[test]
fn keeps_only_what_may_be_sent_again() {
    let check = |on: &str, version, grpc, keep| {
        let kept = words(on).may_want_after_sending(version, grpc);
        assert_eq!(kept, keep, "{on} {version:?} {grpc}");
    };
    check("default", Version::Http1, false, false);
    check("default", Version::Http2, false, true);
    check("default", Version::Http1, true, true);
    check("connect-failure", Version::Http2, true, false);
    check("503", Version::Http1, false, true);
    check("5xx", Version::Http1, false, true);
    assert!(!Tries::none().may_want_after_sending(Version::Http2, true));
}
