//! How long a request may take: what the route says, what the client says, and the clock that begins with the end of
//! the request (`istio-routing.md` 1.3, `timeout`).

use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use tokio::time::Instant;

use crate::model::Forward;
use crate::proxy::http::texts::Texts;
use crate::proxy::http::timers::{Timer, Timers};
use crate::proxy::http::upload::RequestBody;

/// The limits of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Timeouts {
    /// From the end of the request to the end of the response.
    pub(super) whole: Option<Duration>,
    /// From the end of the request to the beginning of a response, for each try.
    pub(super) per_try: Option<Duration>,
    /// gRPC clients and servers have a header of their own for it.
    grpc: bool,
}

/// A limit that begins to run when the request has ended.
#[derive(Debug)]
pub(in crate::proxy) struct Deadline {
    limit: Option<Duration>,
    earliest: Instant,
    timers: Rc<Timers>,
    timer: Option<Timer>,
}

const GRPC_TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
const EXPECTED: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");

/// More digits than this gRPC does not allow.
const GRPC_DIGITS: usize = 8;

impl Timeouts {
    /// What holds for a request that a route sends on.
    pub(super) fn of(forward: &Forward, headers: &HeaderMap, grpc: bool) -> Self {
        let asked = grpc.then(|| headers.get(GRPC_TIMEOUT)).flatten();
        let asked = asked
            .and_then(|value| grpc_timeout(value.as_bytes()))
            .filter(|limit| !limit.is_zero());
        let whole = match (forward.timeout, asked) {
            (Some(route), Some(asked)) => Some(route.min(asked)),
            (route, asked) => route.or(asked),
        };
        Self {
            whole,
            per_try: forward
                .retry
                .per_try_timeout
                .filter(|limit| whole.is_none_or(|whole| *limit < whole)),
            grpc,
        }
    }

    /// Tells the server how long is left for a try, so long after the request has ended.
    pub(super) fn tell(&self, headers: &mut HeaderMap, elapsed: Duration, texts: &Texts) {
        let left = self.whole.map(|whole| {
            // Nothing would be no limit at all.
            whole.saturating_sub(elapsed).max(Duration::from_millis(1))
        });
        let Some(expected) = self.per_try.into_iter().chain(left).min() else {
            return;
        };
        let milliseconds = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        headers.insert(EXPECTED, texts.number(milliseconds));
        if self.grpc
            && let Ok(value) = HeaderValue::from_str(&as_grpc_timeout(milliseconds))
        {
            headers.insert(GRPC_TIMEOUT, value);
        }
    }
}

impl Deadline {
    /// A limit that begins to run at the end of the request, and not before `earliest`; none never does.
    pub(super) fn after(limit: Option<Duration>, earliest: Instant, timers: &Rc<Timers>) -> Self {
        Self {
            limit,
            earliest,
            timers: Rc::clone(timers),
            timer: None,
        }
    }

    /// Ready once the limit is over.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, body: &RequestBody) -> Poll<()> {
        let Some(limit) = self.limit else {
            return Poll::Pending;
        };
        let timer = match &mut self.timer {
            Some(timer) => timer,
            None => {
                let ended = ready!(body.poll_ended(cx)).unwrap_or(self.earliest);
                let timer = Timer::at(ended.max(self.earliest) + limit, &self.timers);
                self.timer.insert(timer)
            }
        };
        timer.poll(cx)
    }
}

/// `100m`: at most eight digits and a unit. Less than a millisecond is one.
fn grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if digits.len() > GRPC_DIGITS {
        return None;
    }
    let count: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_millis(count.div_ceil(1000)),
        b'n' => Duration::from_millis(count.div_ceil(1_000_000)),
        _ => return None,
    })
}

fn as_grpc_timeout(milliseconds: u64) -> String {
    let most = 10_u64.pow(GRPC_DIGITS as u32) - 1;
    let (mut value, mut unit) = (milliseconds, 'm');
    for (step, larger) in [(1000, 'S'), (60, 'M'), (60, 'H')] {
        if value <= most {
            break;
        }
        (value, unit) = (value / step, larger);
    }
    format!("{}{unit}", value.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(count: u64) -> Option<Duration> {
        Some(Duration::from_millis(count))
    }

    #[test]
    fn reads_grpc_timeouts() {
        for (text, expected) in [
            ("1H", ms(3_600_000)),
            ("2M", ms(120_000)),
            ("3S", ms(3000)),
            ("250m", ms(250)),
            ("1u", ms(1)),
            ("1500u", ms(2)),
            ("1n", ms(1)),
            ("0m", ms(0)),
            ("99999999H", ms(99_999_999 * 3_600_000)),
            ("100000000m", None),
            ("m", None),
            ("", None),
            ("5", None),
            ("-5m", None),
            ("5 m", None),
        ] {
            assert_eq!(grpc_timeout(text.as_bytes()), expected, "{text:?}");
        }
        for (milliseconds, expected) in [
            (1, "1m"),
            (99_999_999, "99999999m"),
            (100_000_000, "100000S"),
            (u64::MAX, "99999999H"),
        ] {
            assert_eq!(as_grpc_timeout(milliseconds), expected);
        }
    }

    #[track_caller]
    fn check(
        route: Option<Duration>,
        per_try: Option<Duration>,
        header: Option<&'static str>,
        expected: (Option<Duration>, Option<Duration>),
    ) {
        let mut forward = crate::proxy::tests::forwarding();
        forward.timeout = route;
        forward.retry.per_try_timeout = per_try;
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(GRPC_TIMEOUT, HeaderValue::from_static(value));
        }
        let timeouts = Timeouts::of(&forward, &headers, header.is_some());
        assert_eq!((timeouts.whole, timeouts.per_try), expected);
    }

    #[test]
    fn the_shorter_holds() {
        check(None, None, None, (None, None));
        check(ms(100), None, None, (ms(100), None));
        check(None, None, Some("5S"), (ms(5000), None));
        check(ms(100), None, Some("5S"), (ms(100), None));
        check(ms(100), None, Some("20m"), (ms(20), None));
        check(ms(100), None, Some("nonsense"), (ms(100), None));
        check(ms(100), None, Some("0m"), (ms(100), None));
        check(ms(100), ms(30), None, (ms(100), ms(30)));
        check(ms(100), ms(100), None, (ms(100), None));
        check(None, ms(100), None, (None, ms(100)));
    }

    #[test]
    fn tells_what_is_left() {
        let check = |timeouts: Timeouts, elapsed, expected: &[(&str, &str)]| {
            let mut headers = HeaderMap::new();
            timeouts.tell(
                &mut headers,
                Duration::from_millis(elapsed),
                &Texts::default(),
            );
            let told: Vec<_> = headers
                .iter()
                .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
                .collect();
            assert_eq!(told, expected);
        };
        let limits = |whole, per_try, grpc| Timeouts {
            whole,
            per_try,
            grpc,
        };
        let expected = "x-envoy-expected-rq-timeout-ms";
        check(limits(None, None, true), 0, &[]);
        check(limits(ms(100), None, false), 0, &[(expected, "100")]);
        check(limits(ms(100), ms(30), false), 0, &[(expected, "30")]);
        check(limits(ms(100), ms(30), false), 80, &[(expected, "20")]);
        check(limits(ms(100), None, false), 200, &[(expected, "1")]);
        check(
            limits(ms(100), None, true),
            0,
            &[(expected, "100"), ("grpc-timeout", "100m")],
        );
    }
}
