//! What a route does with a request, in words.

use std::time::Duration;

use crate::explain::hosts::Drawn;
use crate::explain::{Explanation, Facts, Teller};
use crate::model::{Abort, Cors, Forward, HeaderEdits, Retry, RouteAction, Share};
use crate::route::{Act, CorsVerdict, Decision, Forwarding, HttpScope, Request, Routed, decide};

impl Teller<'_> {
    /// A request that a route took.
    pub(super) fn routed(
        &self,
        scope: &HttpScope,
        request: &Request<'_>,
        routed: &Routed,
        told: &mut Explanation,
    ) {
        let route = &routed.route;
        if let Some(policy) = &route.cors {
            told.route
                .add("corsPolicy", cors(policy, routed.cors, request));
        }
        let result = match (&route.action, &routed.act) {
            (RouteAction::Redirect(redirect), Act::Redirect(location)) => {
                edits("response", &redirect.response_headers, &mut told.route);
                vec![format!("{} to {location}", redirect.status.as_u16())]
            }
            (RouteAction::Respond(response), _) => {
                edits("response", &response.response_headers, &mut told.route);
                let status = response.status.as_u16();
                let body = match response.body.len() {
                    0 => "an empty body".to_owned(),
                    1 => "1 byte of body".to_owned(),
                    bytes => format!("{bytes} bytes of body"),
                };
                vec![format!("{status} with {body}, from here")]
            }
            // A preflight goes no further than to the fault.
            (RouteAction::Forward(forward), _) => {
                faults(forward, &mut told.route);
                match routed.cors {
                    CorsVerdict::Preflight { .. } => Vec::new(),
                    CorsVerdict::Silent | CorsVerdict::Allowed => {
                        self.forwarded(scope, request, forward, told)
                    }
                }
            }
            (RouteAction::Redirect(_), act) => vec![format!("{act:?}")],
        };
        told.result = match (&route.action, routed.cors) {
            (RouteAction::Forward(forward), _)
                if forward
                    .fault
                    .abort
                    .is_some_and(|(_, share)| share >= Share::ALL) =>
            {
                let abort = forward.fault.abort.map(|(abort, _)| self::abort(abort));
                vec![format!(
                    "{}, always: fault.abort",
                    abort.unwrap_or_default()
                )]
            }
            (_, CorsVerdict::Preflight { .. }) => vec!["200 from here: a preflight".to_owned()],
            _ => result,
        };
    }

    fn forwarded(
        &self,
        scope: &HttpScope,
        request: &Request<'_>,
        forward: &Forward,
        told: &mut Explanation,
    ) -> Vec<String> {
        let several = forward.destinations.len() > 1;
        let mut before = 0;
        let mut results = Vec::new();
        let mut forwarding: Option<Forwarding> = None;
        for destination in &forward.destinations {
            let weight = u64::from(destination.weight);
            if several && weight == 0 {
                continue;
            }
            // The very draw that chance would have to make for this destination.
            let mut drawn = Drawn(several.then_some(before));
            before += weight;
            let decided = decide(
                &self.world.snapshot,
                scope,
                &self.client,
                request,
                &mut drawn,
            );
            let percent = match several {
                true => 100.0 * weight as f64 / forward.total_weight.max(1) as f64,
                false => 100.0,
            };
            let act = match decided {
                Decision::Routed(routed) => routed.act,
                Decision::Passthrough | Decision::Reply(_) => continue,
            };
            let cluster = match &act {
                Act::Forward(forwarding) => Some(&forwarding.cluster),
                Act::NoCluster(_) | Act::Redirect(_) | Act::Respond => None,
            };
            let key = &destination.cluster;
            let mut line =
                self.destination(percent, key, cluster, "503, flag NC", told.destination);
            if let Act::Forward(forwarding) = &act {
                let hash = self.hash(forwarding, request);
                line.policy.add_some("hash", hash);
            }
            let mut headers = Facts::default();
            edits("request", &destination.request_headers, &mut headers);
            edits("response", &destination.response_headers, &mut headers);
            line.policy.0.splice(0..0, headers.0);
            results.push(match (several, &line.problem) {
                (true, None) => format!("{} % {key}", rounded(percent)),
                (false, None) => key.to_string(),
                (true, Some(problem)) => format!("{} % {problem}", rounded(percent)),
                (false, Some(problem)) => problem.clone(),
            });
            told.destinations.push(line);
            if let Act::Forward(found) = act {
                forwarding.get_or_insert(found);
            }
        }
        if let Some(forwarding) = &forwarding {
            rewritten(forwarding, request, &mut told.route);
        }
        self.conduct(forward, &mut told.route);
        results
    }

    /// How long it may take, how often it is tried, and who gets a copy.
    fn conduct(&self, forward: &Forward, facts: &mut Facts) {
        let timeout = forward.timeout.map_or_else(
            || "none".to_owned(),
            |timeout| format!("{timeout:?} from the end of the request to the end of the response"),
        );
        facts.add("timeout", timeout);
        facts.add("retries", retries(&forward.retry));
        for mirror in &forward.mirrors {
            let known = self
                .client
                .cluster(&self.world.snapshot, &mirror.cluster)
                .is_some();
            let gone = if known {
                ""
            } else {
                ", which does not exist: no copy is sent"
            };
            let share = of(mirror.share);
            facts.add(
                "mirror",
                format!("a copy to {}{gone}, {share}", mirror.cluster),
            );
        }
    }
}

fn faults(forward: &Forward, facts: &mut Facts) {
    if let Some(delay) = forward.fault.delay {
        facts.add(
            "fault",
            format!("waits {:?}, {}", delay.duration, of(delay.share)),
        );
    }
    if let Some((abort, share)) = forward.fault.abort {
        facts.add(
            "fault",
            format!("answers {}, {}", self::abort(abort), of(share)),
        );
    }
}

fn rewritten(forwarding: &Forwarding, request: &Request<'_>, facts: &mut Facts) {
    if let Some(path) = &forwarding.path {
        facts.add("rewrite", format!("path {} becomes {path}", request.path));
    }
    if let Some(authority) = &forwarding.authority {
        facts.add(
            "rewrite",
            format!("Host {} becomes {authority}", request.authority),
        );
    }
}

/// Changes of headers, in the order in which they are made.
fn edits(what: &'static str, edits: &HeaderEdits, facts: &mut Facts) {
    let label = match what {
        "request" => "request headers",
        _ => "response headers",
    };
    for name in &edits.remove {
        facts.add(label, format!("remove {name}"));
    }
    for edit in &edits.edits {
        let verb = if edit.append { "add" } else { "set" };
        facts.add(label, format!("{verb} {}: {}", edit.name, edit.value));
    }
    if let Some(authority) = &edits.authority {
        facts.add(label, format!("set Host: {authority}"));
    }
}

fn retries(retry: &Retry) -> String {
    if retry.attempts == 0 {
        return "none".to_owned();
    }
    let mut after = vec![retry.on.to_string()];
    after.retain(|words| !words.is_empty());
    after.extend(
        retry
            .statuses
            .iter()
            .map(|status| status.as_u16().to_string()),
    );
    let mut text = format!("{} more tries after {}", retry.attempts, after.join(","));
    if let Some(limit) = retry.per_try_timeout {
        text += &format!(", each within {limit:?}");
    }
    if let Some(backoff) = retry.backoff {
        text += &format!(", at first {backoff:?} apart");
    }
    text
}

fn cors(policy: &Cors, verdict: CorsVerdict, request: &Request<'_>) -> String {
    let origin = request.headers.get(http::header::ORIGIN);
    let origin = origin.map(|origin| String::from_utf8_lossy(origin.as_bytes()).into_owned());
    match (verdict, origin) {
        (CorsVerdict::Silent, None) => "says nothing: the request has no origin".to_owned(),
        (CorsVerdict::Silent, Some(origin)) => {
            format!("says nothing: {origin} is no allowed origin")
        }
        (CorsVerdict::Allowed, origin) => {
            format!("allows the origin {}", origin.unwrap_or_default())
        }
        (CorsVerdict::Preflight { allowed: false }, _) => {
            "answers the preflight with 200, and allows nothing".to_owned()
        }
        (CorsVerdict::Preflight { allowed: true }, origin) => {
            let mut text = format!(
                "answers the preflight with 200, and allows {}",
                origin.unwrap_or_default()
            );
            for (what, list) in [("methods", &policy.methods), ("headers", &policy.headers)] {
                if let Some(list) = list {
                    text += &format!(", {what} {list}");
                }
            }
            text
        }
    }
}

fn abort(abort: Abort) -> String {
    match abort {
        Abort::Http(status) => status.as_u16().to_string(),
        Abort::Grpc(status) => format!("grpc-status {status}"),
    }
}

fn of(share: Share) -> String {
    match share {
        Share(0) => "but never: its percentage is 0".to_owned(),
        share if share >= Share::ALL => "always".to_owned(),
        Share(parts) => format!(
            "with {} % of the requests",
            rounded(f64::from(parts) / 10_000.0)
        ),
    }
}

/// With as many digits as it takes, and no more than four.
pub(super) fn rounded(percent: f64) -> f64 {
    (percent * 10_000.0).round() / 10_000.0
}

/// A time, in words.
pub(super) fn time(duration: Duration) -> String {
    format!("{duration:?}")
}
