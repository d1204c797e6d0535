//! What is done beside sending a request on.

use super::*;

#[test]
fn header_operations_are_checked() {
    check_rule(&[
        // 13
        (
            "headers: {request: {set: {':path': x}, add: {Host: z}, remove: [host, ':method', 'a b']}}",
            &[
                "E headers.request.set.:path: \":path\" cannot be changed here",
                "E headers.request.remove[0]: \"host\" cannot be changed here",
                "E headers.request.remove[1]: \":method\" cannot be changed here",
                "E headers.request.remove[2]: \"a b\" is no name of a header",
            ],
        ),
        (
            "headers: {response: {set: {':authority': x}, add: {Host: z}, remove: [':status']}}",
            &[
                "E headers.response.set.:authority: \":authority\" cannot be changed here",
                "E headers.response.add.Host: \"Host\" cannot be changed here",
                "E headers.response.remove[0]: \":status\" cannot be changed here",
            ],
        ),
        (
            "headers: {request: {set: {a: '100%'}}}",
            &["E headers.request.set.a: \"%\" begins no command operator such as %PROTOCOL%"],
        ),
        (
            "headers: {request: {add: {a: '%NO_SUCH%'}}}",
            &["E headers.request.add.a: Envoy has no command operator %NO_SUCH%"],
        ),
        (
            "headers: {request: {set: {host: x}}}, rewrite: {authority: z}",
            &["E headers.request.set.host: the Host is rewritten twice"],
        ),
        (
            "headers: {request: {set: {host: x}, add: {':authority': z}}}",
            &["W headers.request.add.:authority: the Host is set already, and that is stronger"],
        ),
        (
            "headers: {request: {set: {a: ''}}}",
            &["W headers.request.set.a: an empty value changes nothing"],
        ),
        (
            "headers: {request: {set: {':authority': x, a: '%PROTOCOL% 100%%'}, remove: [B]}, response: {add: {c: d}}}",
            &[],
        ),
        ("headers: {}", &[]),
    ]);
    check(&[(
        "{hosts: [a], http: [{route: [{destination: {host: a}, headers: {response: {set: {host: x}}}}]}]}",
        &["E http[0].route[0].headers.response.set.host: \"host\" cannot be changed here"],
    )]);
    let headers = rule(
        "headers: {request: {set: {Z: '1', a: '2', Host: 'x%PROTOCOL%'}, add: {b: '3'}, remove: [C, d]}, response: {set: {e: '%%'}}}",
    )
    .headers
    .expect("they are there");
    let edits: Vec<_> = headers
        .request
        .edits
        .iter()
        .map(|edit| (edit.name.as_str(), edit.append))
        .collect();
    assert_eq!(edits, [("z", false), ("a", false), ("b", true)]);
    let removed: Vec<_> = headers
        .request
        .remove
        .iter()
        .map(|name| name.as_str())
        .collect();
    assert_eq!(removed, ["c", "d"]);
    // The Host is taken literally.
    let fixed = |text: &'static str| model::Template::Fixed(http::HeaderValue::from_static(text));
    assert_eq!(headers.request.authority, Some(fixed("x%PROTOCOL%")));
    assert_eq!(headers.response.edits[0].value, fixed("%"));
}

#[test]
fn retries_and_durations_are_checked() {
    check_rule(&[
        // 14
        (
            "retries: {attempts: -1}",
            &["E retries.attempts: -1 attempts are fewer than none"],
        ),
        (
            "retries: {attempts: 0, perTryTimeout: 1s, retryOn: 5xx, retryRemoteLocalities: false}",
            &[
                "E retries.perTryTimeout: perTryTimeout without attempts",
                "E retries.retryOn: retryOn without attempts",
                "E retries.retryRemoteLocalities: retryRemoteLocalities without attempts",
            ],
        ),
        (
            "retries: {retryOn: 5xx}",
            &["E retries.retryOn: retryOn without attempts"],
        ),
        (
            "retries: {attempts: 0, retryIgnorePreviousHosts: true, backoff: 1s}",
            &[],
        ),
        ("retries: {}", &[]),
        (
            "retries: {attempts: 1, retryOn: '5xx, reset'}",
            &["E retries.retryOn: \" reset\" is nothing to retry on"],
        ),
        (
            "retries: {attempts: 1, retryOn: '5xx,'}",
            &["E retries.retryOn: \"\" is nothing to retry on"],
        ),
        (
            "retries: {attempts: 1, retryOn: '306'}",
            &["E retries.retryOn: \"306\" is nothing to retry on"],
        ),
        (
            "retries: {attempts: 1, retryOn: '5xx,gateway-error,reset,reset-before-request,connect-failure,envoy-ratelimited,retriable-4xx,refused-stream,retriable-status-codes,retriable-headers,http3-post-connect-failure,cancelled,deadline-exceeded,internal,resource-exhausted,unavailable,503,409'}",
            &[],
        ),
        // 15
        (
            "retries: {attempts: 1, perTryTimeout: 0s}",
            &["E retries.perTryTimeout: a duration must be at least 1ms"],
        ),
        (
            "retries: {attempts: 1, backoff: 1us}",
            &["E retries.backoff: a duration must be at least 1ms"],
        ),
        (
            "timeout: 0s",
            &["E timeout: a duration must be at least 1ms"],
        ),
        (
            "timeout: 1.0005s",
            &["E timeout: a duration must be whole milliseconds"],
        ),
        ("timeout: soon", &["E timeout: \"soon\" is no duration"]),
        ("timeout: 1ms", &[]),
    ]);
}

#[test]
fn retries_are_read() {
    let read = |fields: &str| {
        rule(&format!("retries: {fields}"))
            .retry
            .expect("it is there")
    };
    assert_eq!(rule("").retry, None);
    assert_eq!(read("{}").attempts, 0);
    assert_eq!(
        read("{attempts: 3}"),
        Retry {
            attempts: 3,
            ..Retry::default()
        }
    );
    let full = read(
        "{attempts: 3, perTryTimeout: 2s, retryOn: '503,gateway-error,unavailable', retryRemoteLocalities: true, retryIgnorePreviousHosts: false, backoff: 10ms}",
    );
    assert_eq!(
        full,
        Retry {
            attempts: 3,
            on: model::RetryOn {
                gateway_error: true,
                grpc_unavailable: true,
                ..model::RetryOn::default()
            },
            statuses: vec![StatusCode::SERVICE_UNAVAILABLE],
            per_try_timeout: Some(Duration::from_secs(2)),
            backoff: Some(Duration::from_millis(10)),
            avoid_previous: false,
            avoid_previous_priorities: true,
        }
    );
}

#[test]
fn faults_are_checked_and_read() {
    check_rule(&[
        // 16
        ("fault: {}", &["E fault: this fault does nothing"]),
        (
            "fault: {delay: {fixedDelay: 1s, percentage: {value: 0.00001}}}",
            &["E fault.delay.percentage.value: 0.00001 is no percentage"],
        ),
        (
            "fault: {abort: {httpStatus: 500, percentage: {value: 100.1}}}",
            &["E fault.abort.percentage.value: 100.1 is no percentage"],
        ),
        (
            "fault: {abort: {httpStatus: 500, percentage: {value: .nan}}}",
            &["E fault.abort.percentage.value: NaN is no percentage"],
        ),
        (
            "fault: {abort: {grpcStatus: UNAVAIL}}",
            &["E fault.abort.grpcStatus: gRPC has no status \"UNAVAIL\""],
        ),
        (
            "fault: {abort: {httpStatus: 199}}",
            &["E fault.abort.httpStatus: 199 is no status of a response"],
        ),
        (
            "fault: {abort: {httpStatus: 601}}",
            &["E fault.abort.httpStatus: 601 is no status of a response"],
        ),
        (
            "fault: {abort: {http2Error: x}}",
            &["E fault.abort.http2Error: Istio does not support http2Error"],
        ),
        (
            "fault: {abort: {httpStatus: 500, grpcStatus: OK}}",
            &["E fault.abort: httpStatus and grpcStatus exclude each other"],
        ),
        (
            "fault: {delay: {exponentialDelay: 1s}}",
            &["E fault.delay.exponentialDelay: Istio does not support exponentialDelay"],
        ),
        (
            "fault: {delay: {fixedDelay: 0s}}",
            &["E fault.delay.fixedDelay: a duration must be at least 1ms"],
        ),
        // 17
        (
            "fault: {abort: {percentage: {value: 1}}}",
            &["W fault.abort: an abort without a status aborts nothing"],
        ),
        (
            "fault: {delay: {percentage: {value: 1}}}",
            &["W fault.delay: a delay without fixedDelay delays nothing"],
        ),
        // 22
        (
            "fault: {delay: {fixedDelay: 1s, percent: 5}}",
            &["W fault.delay.percent: percent is deprecated"],
        ),
        (
            "fault: {delay: {fixedDelay: 1s, percent: 101}}",
            &[
                "W fault.delay.percent: percent is deprecated",
                "E fault.delay.percent: 101 is no percentage",
            ],
        ),
        (
            "fault: {delay: {fixedDelay: 1s, percentage: {value: '0.0001'}}, abort: {httpStatus: 600, percentage: {value: 100}}}",
            &[],
        ),
    ]);
    let read = |fields: &str| {
        rule(&format!("fault: {fields}"))
            .fault
            .expect("it is there")
    };
    let delay = |share: u32| {
        Some(model::Delay {
            duration: Duration::from_secs(1),
            share: model::Share(share),
        })
    };
    for (fields, share) in [
        ("{delay: {fixedDelay: 1s}}", 0),
        ("{delay: {fixedDelay: 1s, percent: 5}}", 50_000),
        (
            "{delay: {fixedDelay: 1s, percent: 5, percentage: {value: 0.5}}}",
            5_000,
        ),
        ("{delay: {fixedDelay: 1s, percentage: {}}}", 0),
    ] {
        assert_eq!(read(fields).delay, delay(share), "{fields}");
    }
    let abort = |fields: &str| read(&format!("{{abort: {fields}}}")).abort;
    assert_eq!(
        abort("{httpStatus: 503}"),
        Some((
            model::Abort::Http(StatusCode::SERVICE_UNAVAILABLE),
            model::Share(0)
        ))
    );
    assert_eq!(
        abort("{grpcStatus: UNAVAILABLE, percentage: {value: 100}}"),
        Some((model::Abort::Grpc(14), model::Share::ALL))
    );
}

#[test]
fn rewrites_are_checked_and_read() {
    check_rule(&[
        // 20
        ("rewrite: {}", &["E rewrite: this rewrite rewrites nothing"]),
        (
            "rewrite: {uri: /, uriRegexRewrite: {match: a, rewrite: b}}",
            &["E rewrite: uri and uriRegexRewrite exclude each other"],
        ),
        (
            "rewrite: {uriRegexRewrite: {match: a}}",
            &["E rewrite.uriRegexRewrite: uriRegexRewrite needs match and rewrite"],
        ),
        (
            "rewrite: {uriRegexRewrite: {match: '(', rewrite: b}}",
            &["E rewrite.uriRegexRewrite.match: \"(\" is no regex: unclosed group"],
        ),
        (
            "rewrite: {uriRegexRewrite: {match: a, rewrite: '\\1'}}",
            &["E rewrite.uriRegexRewrite.rewrite: the pattern has no group 1"],
        ),
        ("rewrite: {authority: x}", &[]),
    ]);
    let rewrite =
        rule("rewrite: {authority: x, uriRegexRewrite: {match: '^/(a)', rewrite: '/\\1$'}}")
            .rewrite
            .expect("it is there");
    assert_eq!(rewrite.authority.as_deref(), Some("x"));
    assert!(
        matches!(&rewrite.path, Some(PathRewrite::Regex(regex, with)) if regex.as_str() == "^/(a)" && &**with == "/${1}$$"),
        "{rewrite:?}"
    );
}

#[test]
fn cors_is_checked_and_read() {
    check_rule(&[
        // 21
        (
            "corsPolicy: {allowMethods: [get]}",
            &["E corsPolicy.allowMethods[0]: \"get\" is no method that a page can ask for"],
        ),
        (
            "corsPolicy: {allowOrigins: [{}]}",
            &["E corsPolicy.allowOrigins[0]: an origin that is allowed cannot be empty"],
        ),
        (
            "corsPolicy: {allowOrigins: [{exact: ''}]}",
            &["E corsPolicy.allowOrigins[0]: an origin that is allowed cannot be empty"],
        ),
        (
            "corsPolicy: {allowOrigins: [{regex: '('}]}",
            &["E corsPolicy.allowOrigins[0].regex: \"(\" is no regex: unclosed group"],
        ),
        (
            "corsPolicy: {maxAge: 1.5s}",
            &["E corsPolicy.maxAge: maxAge is counted in whole seconds"],
        ),
        (
            "corsPolicy: {maxAge: 1ms}",
            &["E corsPolicy.maxAge: maxAge is counted in whole seconds"],
        ),
        (
            "corsPolicy: {allowHeaders: ['a b']}",
            &["E corsPolicy.allowHeaders[0]: \"a b\" is no name of a header"],
        ),
        (
            "corsPolicy: {exposeHeaders: ['']}",
            &["E corsPolicy.exposeHeaders[0]: \"\" is no name of a header"],
        ),
        (
            "corsPolicy: {unmatchedPreflights: X}",
            &["E corsPolicy.unmatchedPreflights: \"X\" is nothing to do with a preflight"],
        ),
        // 22
        (
            "corsPolicy: {allowOrigin: [x]}",
            &["W corsPolicy.allowOrigin: allowOrigin is deprecated"],
        ),
        ("corsPolicy: {}", &[]),
    ]);
    let cors = |fields: &str| {
        rule(&format!("corsPolicy: {fields}"))
            .cors
            .expect("it is there")
    };
    assert_eq!(
        cors(
            "{allowOrigins: [{exact: '*'}], allowOrigin: [x], allowMethods: [GET, '*'], allowHeaders: [x-a, x-b], exposeHeaders: ['*'], maxAge: 24h, allowCredentials: true, unmatchedPreflights: IGNORE}"
        ),
        Box::new(Cors {
            origins: vec![TextMatch::Exact("*".into())],
            methods: Some("GET,*".into()),
            headers: Some("x-a,x-b".into()),
            expose: Some("*".into()),
            max_age: Some(86_400),
            credentials: true,
            forward_unmatched: false,
        })
    );
    assert_eq!(
        cors("{allowOrigin: [x], unmatchedPreflights: FORWARD}"),
        Box::new(Cors {
            origins: vec![TextMatch::Exact("x".into())],
            forward_unmatched: true,
            ..Cors::default()
        })
    );
}
