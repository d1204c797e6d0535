//! Headers with which a client steers the proxy: Envoy's `x-envoy-retry-on` and its like. Only what is internal may, and
//! no server sees them.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

use crate::model::RetryOn;

/// What a client asks for.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Control {
    /// `x-envoy-retry-on`, `x-envoy-retry-grpc-on`.
    pub(super) retry_on: Option<RetryOn>,
    /// `x-envoy-max-retries`.
    pub(super) retries: Option<u32>,
    /// `x-envoy-retriable-status-codes`.
    pub(super) statuses: Vec<StatusCode>,
    /// `x-envoy-retriable-header-names`.
    pub(super) headers: Vec<HeaderName>,
    /// `x-envoy-upstream-rq-timeout-ms`; zero is none.
    pub(super) timeout: Option<Duration>,
    /// `x-envoy-upstream-rq-per-try-timeout-ms`.
    pub(super) per_try_timeout: Option<Duration>,
}

const RETRY_ON: HeaderName = HeaderName::from_static("x-envoy-retry-on");
const RETRY_GRPC_ON: HeaderName = HeaderName::from_static("x-envoy-retry-grpc-on");
const MAX_RETRIES: HeaderName = HeaderName::from_static("x-envoy-max-retries");
const STATUSES: HeaderName = HeaderName::from_static("x-envoy-retriable-status-codes");
const HEADERS: HeaderName = HeaderName::from_static("x-envoy-retriable-header-names");
const TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-upstream-rq-timeout-ms");
const PER_TRY_TIMEOUT: HeaderName =
    HeaderName::from_static("x-envoy-upstream-rq-per-try-timeout-ms");

const ALL: [HeaderName; 11] = [
    RETRY_ON,
    RETRY_GRPC_ON,
    MAX_RETRIES,
    STATUSES,
    HEADERS,
    TIMEOUT,
    PER_TRY_TIMEOUT,
    HeaderName::from_static("x-envoy-upstream-alt-stat-name"),
    HeaderName::from_static("x-envoy-upstream-rq-timeout-alt-response"),
    HeaderName::from_static("x-envoy-hedge-on-per-try-timeout"),
    HeaderName::from_static("x-envoy-expected-rq-timeout-ms"),
];

/// One request must not become any number of them.
const MOST_RETRIES: u32 = 25;

/// Removes them, whatever they say.
pub(super) fn strip(headers: &mut HeaderMap) {
    for name in &ALL {
        headers.remove(name);
    }
}

/// Reads and removes them. What cannot be read is not there.
pub(super) fn take(headers: &mut HeaderMap) -> Control {
    // All of them begin so, and hardly any request has one.
    if !ALL.iter().any(|name| headers.contains_key(name)) {
        return Control::default();
    }
    let number = |name: &HeaderName| text(headers.get(name)?)?.trim().parse().ok();
    let milliseconds = |name: &HeaderName| number(name).map(Duration::from_millis);
    let words = |name: &HeaderName| -> Vec<String> {
        let value = headers.get(name).and_then(text).unwrap_or_default();
        let words = value.split(',').map(|word| word.trim().to_owned());
        words.filter(|word| !word.is_empty()).collect()
    };
    let control = Control {
        retry_on: retry_on(&words(&RETRY_ON), &words(&RETRY_GRPC_ON)),
        retries: number(&MAX_RETRIES)
            .map(|n: u64| u32::try_from(n).unwrap_or(u32::MAX).min(MOST_RETRIES)),
        statuses: words(&STATUSES)
            .iter()
            .filter_map(|word| word.parse().ok())
            .collect(),
        headers: words(&HEADERS)
            .iter()
            .filter_map(|word| word.parse().ok())
            .collect(),
        timeout: milliseconds(&TIMEOUT),
        per_try_timeout: milliseconds(&PER_TRY_TIMEOUT),
    };
    strip(headers);
    control
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

/// `None` where no word of either list is known.
fn retry_on(http: &[String], grpc: &[String]) -> Option<RetryOn> {
    let mut on = RetryOn::default();
    for word in http {
        let RetryOn {
            server_error_5xx,
            gateway_error,
            reset,
            reset_before_request,
            connect_failure,
            envoy_ratelimited,
            retriable_4xx,
            refused_stream,
            retriable_headers,
            ..
        } = &mut on;
        let known = match word.as_str() {
            "5xx" => server_error_5xx,
            "gateway-error" => gateway_error,
            "reset" => reset,
            "reset-before-request" => reset_before_request,
            "connect-failure" => connect_failure,
            "envoy-ratelimited" => envoy_ratelimited,
            "retriable-4xx" => retriable_4xx,
            "refused-stream" => refused_stream,
            "retriable-headers" => retriable_headers,
            _ => continue,
        };
        *known = true;
    }
    for word in grpc {
        let known = match word.as_str() {
            "cancelled" => &mut on.grpc_cancelled,
            "deadline-exceeded" => &mut on.grpc_deadline_exceeded,
            "internal" => &mut on.grpc_internal,
            "resource-exhausted" => &mut on.grpc_resource_exhausted,
            "unavailable" => &mut on.grpc_unavailable,
            _ => continue,
        };
        *known = true;
    }
    let codes = http.iter().any(|word| word == "retriable-status-codes");
    (codes || on != RetryOn::default()).then_some(on)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &'static str)], expected: &Control) {
        let mut map = HeaderMap::new();
        map.insert("x-envoy-other", HeaderValue::from_static("stays"));
        for (name, value) in headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(&take(&mut map), expected, "{headers:?}");
        assert_eq!(map.len(), 1, "{map:?}");
    }

    #[test]
    fn reads_what_a_client_asks_for() {
        check(&[], &Control::default());
        check(
            &[
                ("x-envoy-retry-on", "5xx, reset,nonsense"),
                ("x-envoy-retry-grpc-on", "internal"),
                ("x-envoy-max-retries", "3"),
                ("x-envoy-retriable-status-codes", "418,x,503"),
                ("x-envoy-retriable-header-names", "X-Again, b c"),
                ("x-envoy-upstream-rq-timeout-ms", "0"),
                ("x-envoy-upstream-rq-per-try-timeout-ms", "250"),
                ("x-envoy-expected-rq-timeout-ms", "9"),
            ],
            &Control {
                retry_on: Some(RetryOn {
                    server_error_5xx: true,
                    reset: true,
                    grpc_internal: true,
                    ..RetryOn::default()
                }),
                retries: Some(3),
                statuses: vec![StatusCode::IM_A_TEAPOT, StatusCode::SERVICE_UNAVAILABLE],
                headers: vec![HeaderName::from_static("x-again")],
                timeout: Some(Duration::ZERO),
                per_try_timeout: Some(Duration::from_millis(250)),
            },
        );
        check(
            &[
                ("x-envoy-retry-on", "nonsense"),
                ("x-envoy-max-retries", "4294967296"),
                ("x-envoy-upstream-rq-timeout-ms", "-1"),
            ],
            &Control {
                retries: Some(MOST_RETRIES),
                ..Control::default()
            },
        );
        check(
            &[("x-envoy-retry-on", "retriable-status-codes")],
            &Control {
                retry_on: Some(RetryOn::default()),
                ..Control::default()
            },
        );
    }
}
