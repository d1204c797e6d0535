//! How often a request is tried again, and after what: `retries`.

use http::StatusCode;

use crate::config::crd::virtual_service::Retries;
use crate::config::object::duration;
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::{Retry, RetryOn};

/// Reads `retries`. Nothing but `attempts: 0`, or nothing at all, is no retry.
pub(in crate::config::object) fn read(
    written: &Retries,
    path: &Path,
    problems: &mut Problems,
) -> Retry {
    let Retries {
        attempts,
        per_try_timeout,
        retry_on,
        retry_remote_localities,
        retry_ignore_previous_hosts,
        backoff,
    } = written;
    let attempts = attempts.map_or(0, |attempts| attempts.0);
    if attempts == 0 {
        for (there, name) in [
            (per_try_timeout.is_some(), "perTryTimeout"),
            (!retry_on.is_empty(), "retryOn"),
            (retry_remote_localities.is_some(), "retryRemoteLocalities"),
        ] {
            if there {
                problems.error(
                    &path.key(name),
                    format!("{name} without attempts"),
                    "set attempts above 0",
                );
            }
        }
    }
    if attempts < 0 {
        problems.error(
            &path.key("attempts"),
            format!("{attempts} attempts are fewer than none"),
            "write 0 or more",
        );
    }
    let mut duration = |text: &Option<String>, name: &str| {
        let text = text.as_ref()?;
        duration::read(text, &path.key(name), problems)
    };
    let per_try_timeout = duration(per_try_timeout, "perTryTimeout");
    let backoff = duration(backoff, "backoff");
    let (on, statuses) = match retry_on.as_str() {
        "" => (RetryOn::DEFAULT, Vec::new()),
        text => read_conditions(text, &path.key("retryOn"), problems),
    };
    Retry {
        attempts: u32::try_from(attempts).unwrap_or_default(),
        on,
        statuses,
        per_try_timeout,
        backoff,
        avoid_previous: retry_ignore_previous_hosts.unwrap_or(true),
        avoid_previous_priorities: retry_remote_localities.unwrap_or(false),
    }
}

fn read_conditions(text: &str, path: &Path, problems: &mut Problems) -> (RetryOn, Vec<StatusCode>) {
    let mut on = RetryOn::default();
    let mut statuses = Vec::new();
    for word in text.split(',') {
        if let Some(flag) = flag(&mut on, word) {
            *flag = true;
        } else if let Some(status) = registered_status(word) {
            statuses.push(status);
        } else if !matches!(
            word,
            // The numbers are these; and nobody speaks HTTP/3 here.
            "retriable-status-codes" | "http3-post-connect-failure"
        ) {
            problems.error(
                path,
                format!("\"{word}\" is nothing to retry on"),
                "write words such as 5xx,reset,connect-failure,unavailable or statuses such as 503, without spaces",
            );
        }
    }
    (on, statuses)
}

fn flag<'o>(on: &'o mut RetryOn, word: &str) -> Option<&'o mut bool> {
    Some(match word {
        "5xx" => &mut on.server_error_5xx,
        "gateway-error" => &mut on.gateway_error,
        "reset" => &mut on.reset,
        "reset-before-request" => &mut on.reset_before_request,
        "connect-failure" => &mut on.connect_failure,
        "envoy-ratelimited" => &mut on.envoy_ratelimited,
        "retriable-4xx" => &mut on.retriable_4xx,
        "refused-stream" => &mut on.refused_stream,
        "retriable-headers" => &mut on.retriable_headers,
        "cancelled" => &mut on.grpc_cancelled,
        "deadline-exceeded" => &mut on.grpc_deadline_exceeded,
        "internal" => &mut on.grpc_internal,
        "resource-exhausted" => &mut on.grpc_resource_exhausted,
        "unavailable" => &mut on.grpc_unavailable,
        _ => return None,
    })
}

/// A number that HTTP gives a meaning, as Istio knows them.
fn registered_status(word: &str) -> Option<StatusCode> {
    let number: u16 = word.parse().ok()?;
    let registered = matches!(
        number,
        100..=103
            | 200..=208
            | 226
            | 300..=305
            | 307
            | 308
            | 400..=418
            | 421..=426
            | 428
            | 429
            | 431
            | 451
            | 500..=508
            | 510
            | 511
    );
    registered.then(|| StatusCode::from_u16(number).ok())?
}
