//! After what a request is tried again (`istio-routing.md` 1.5), with Envoy's meaning of each word.

use std::time::Duration;

use http::{HeaderMap, HeaderName, StatusCode};

use crate::model::{Retry, RetryOn};
use crate::proxy::respond::Failure;
use crate::proxy::upstream::pool::Version;

/// The retries that one request is entitled to.
///
/// `retriable-headers` is one of the words, and means nothing here: nobody can say which headers those are.
#[derive(Debug)]
pub(super) struct Tries {
    policy: Retry,
    /// The route wants each request sent once at most.
    once: bool,
}

/// How a try ended, before anything of it was shown to the client.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    /// Without a response.
    Failed {
        failure: &'a Failure,
        /// Whether a server may have seen some of the request.
        begun: bool,
    },
    /// With the beginning of a response.
    Answered {
        status: StatusCode,
        headers: &'a HeaderMap,
    },
}

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const RATELIMITED: HeaderName = HeaderName::from_static("x-envoy-ratelimited");

impl Tries {
    /// One try and no more.
    pub(super) fn none() -> Self {
        Self {
            policy: Retry {
                attempts: 0,
                ..Retry::default()
            },
            once: false,
        }
    }

    /// As many as a route says.
    pub(super) fn of(policy: Retry) -> Self {
        Self {
            once: policy.attempts == 0,
            policy,
        }
    }

    /// Those of an inbound hop: an application that is just being restarted.
    pub(super) fn inbound(grpc: bool) -> Self {
        if grpc {
            return Self::none();
        }
        Self::of(Retry {
            attempts: 2,
            on: RetryOn {
                reset_before_request: true,
                ..RetryOn::default()
            },
            ..Retry::default()
        })
    }

    /// Whether an idempotent request goes out again within its try, where a kept connection has ended under it.
    pub(super) fn may_repeat(&self) -> bool {
        !self.once
    }

    /// Whether there is any, and whether there is another one after so many tries.
    pub(super) fn allow(&self, tries: u32) -> bool {
        tries <= self.policy.attempts
    }

    /// Whether endpoints that were tried are avoided.
    pub(super) fn avoid_previous(&self) -> bool {
        self.policy.avoid_previous
    }

    /// Whether their priorities are.
    pub(super) fn avoid_previous_priorities(&self) -> bool {
        self.policy.avoid_previous_priorities
    }

    /// The base of the wait before another try.
    pub(super) fn backoff(&self) -> Option<Duration> {
        self.policy.backoff
    }

    /// Whether an outcome calls for another try, should there be one left.
    pub(super) fn want(&self, outcome: Outcome<'_>) -> bool {
        if self.policy.attempts == 0 {
            return false;
        }
        match outcome {
            Outcome::Failed { failure, begun } => self.want_after_failure(failure, begun),
            Outcome::Answered { status, headers } => self.want_after_answer(status, headers),
        }
    }

    /// Whether it can come to another try once a server has seen the request, so that all of it must be kept.
    pub(super) fn may_want_after_sending(&self, version: Version, grpc: bool) -> bool {
        let Retry {
            attempts,
            on,
            statuses,
            ..
        } = &self.policy;
        *attempts > 0
            && (!statuses.is_empty()
                || on.server_error_5xx
                || on.gateway_error
                || on.reset
                || on.envoy_ratelimited
                || on.retriable_4xx
                || on.refused_stream && version == Version::Http2
                || grpc && any_grpc(on))
    }

    fn want_after_failure(&self, failure: &Failure, begun: bool) -> bool {
        let on = &self.policy.on;
        let any_reset = on.reset || on.server_error_5xx || on.gateway_error;
        match failure {
            Failure::Connect { .. } => on.connect_failure || on.reset_before_request || any_reset,
            Failure::Reset { refused: true } if on.refused_stream => true,
            Failure::Closed
            | Failure::Reset { .. }
            | Failure::UpstreamProtocol
            | Failure::Timeout => any_reset || on.reset_before_request && !begun,
            // Nobody was asked, or there is nobody to be answered.
            Failure::NoRoute
            | Failure::NoCluster
            | Failure::NoEndpoint
            | Failure::Aborted(_)
            | Failure::Overflow
            | Failure::ClientClosed
            | Failure::BadRequest
            | Failure::NoHost
            | Failure::NotSecure
            | Failure::Upgrade
            | Failure::HeadTooLarge
            | Failure::Encoding
            | Failure::OldVersion
            | Failure::Connected => false,
        }
    }

    fn want_after_answer(&self, status: StatusCode, headers: &HeaderMap) -> bool {
        let Retry { on, statuses, .. } = &self.policy;
        let wanted = on.server_error_5xx && status.is_server_error()
            || on.gateway_error && is_gateway_error(status)
            || on.retriable_4xx && status == StatusCode::CONFLICT
            || statuses.contains(&status)
            || any_grpc(on) && grpc_status(headers).is_some_and(|status| wants_grpc(on, status));
        // The header outweighs all that; mostly it would say the same.
        match wanted == on.envoy_ratelimited || !headers.contains_key(RATELIMITED) {
            true => wanted,
            false => on.envoy_ratelimited,
        }
    }
}

/// 502, 503 and 504.
pub(super) fn is_gateway_error(status: StatusCode) -> bool {
    matches!(status.as_u16(), 502..=504)
}

/// The status of a gRPC call that ended before it had begun: it stands among the headers.
pub(super) fn grpc_status(headers: &HeaderMap) -> Option<u8> {
    headers.get(GRPC_STATUS)?.to_str().ok()?.trim().parse().ok()
}

fn wants_grpc(on: &RetryOn, status: u8) -> bool {
    match status {
        1 => on.grpc_cancelled,
        4 => on.grpc_deadline_exceeded,
        8 => on.grpc_resource_exhausted,
        13 => on.grpc_internal,
        14 => on.grpc_unavailable,
        _ => false,
    }
}

fn any_grpc(on: &RetryOn) -> bool {
    on.grpc_cancelled
        || on.grpc_deadline_exceeded
        || on.grpc_internal
        || on.grpc_resource_exhausted
        || on.grpc_unavailable
}

#[cfg(test)]
mod tests;
