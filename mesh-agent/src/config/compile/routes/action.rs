//! What a rule does, as a route does it.

use http::HeaderName;

use crate::config::compile::routes::{Place, cluster};
use crate::config::compile::services::Services;
use crate::config::object::virtual_service::{
    self as written, Action, Headers, Mirrors, RedirectPort, Rule, Share,
};
use crate::model::{
    self, Destination, DirectResponse, Forward, HeaderEdit, HeaderEdits, Mirror, Redirect,
    RouteAction,
};

/// Makes it; `None` for a rule that only delegates.
pub(super) fn action(
    rule: &Rule,
    place: &Place<'_>,
    services: &Services<'_>,
) -> Option<RouteAction> {
    let response_headers = || {
        let headers = rule.headers.as_ref();
        headers.map_or_else(HeaderEdits::default, |headers| headers.response.clone())
    };
    match &rule.action {
        Action::Forward(shares) => {
            Some(RouteAction::Forward(forward(rule, shares, place, services)))
        }
        Action::Redirect(written) => Some(RouteAction::Redirect(Redirect {
            status: written.status,
            scheme: written.scheme.clone(),
            authority: written.authority.clone(),
            port: redirect_port(written, place),
            path: written.path.clone(),
            response_headers: response_headers(),
        })),
        Action::Respond(written) => Some(RouteAction::Respond(DirectResponse {
            status: written.status,
            body: written.body.clone(),
            response_headers: response_headers(),
        })),
        Action::Delegate(_) => None,
    }
}

/// Shares as a route has them, without the headers of its rule.
pub(in crate::config::compile) fn destinations(
    shares: &[Share],
    port: u16,
    services: &Services<'_>,
) -> Vec<Destination> {
    let none = Headers::default();
    let shares = shares.iter();
    let destinations = shares.map(|share| destination(share, &none, false, port, services));
    destinations.collect()
}

/// The sum of the weights.
pub(in crate::config::compile) fn total_weight(destinations: &[Destination]) -> u64 {
    destinations
        .iter()
        .map(|destination| u64::from(destination.weight))
        .sum()
}

fn forward(rule: &Rule, shares: &[Share], place: &Place<'_>, services: &Services<'_>) -> Forward {
    let port = place.port;
    let none = Headers::default();
    let headers = rule.headers.as_deref().unwrap_or(&none);
    let alone = shares.len() == 1;
    let destinations: Vec<Destination> = shares
        .iter()
        .map(|share| destination(share, headers, alone, port, services))
        .collect();
    let rewrite = rule.rewrite.as_ref();
    let retry = rule.retry.as_ref().unwrap_or(&services.retry);
    let mut retry = retry.clone();
    // What is as long as the whole exchange or longer limits no try.
    retry.per_try_timeout = retry
        .per_try_timeout
        .filter(|limit| rule.timeout.is_none_or(|whole| *limit < whole));
    Forward {
        total_weight: total_weight(&destinations),
        destinations,
        rewrite_path: rewrite.and_then(|rewrite| rewrite.path.clone()),
        rewrite_authority: rewrite.and_then(|rewrite| rewrite.authority.clone()),
        timeout: rule.timeout,
        retry,
        fault: rule.fault.as_deref().cloned().unwrap_or_default(),
        mirrors: mirrors(&rule.mirrors, port, services),
    }
}

fn destination(
    share: &Share,
    rule: &Headers,
    alone: bool,
    port: u16,
    services: &Services<'_>,
) -> Destination {
    let Headers { request, response } = &share.headers;
    let combine = if alone { together } else { one_after_the_other };
    Destination {
        cluster: cluster(&share.target, port, services),
        names_port: share.target.port.is_some(),
        weight: share.weight,
        request_headers: combine(request, &rule.request),
        response_headers: combine(response, &rule.response),
    }
}

/// The changes of a rule and of its only destination are made in one go: everything is removed first, then everything is
/// set, then everything is added, those of the rule first each time.
fn together(destination: &HeaderEdits, rule: &HeaderEdits) -> HeaderEdits {
    let mut remove = rule.remove.clone();
    remove.extend(destination.remove.iter().cloned());
    let all = rule.edits.iter().chain(&destination.edits);
    let (add, set): (Vec<&HeaderEdit>, Vec<&HeaderEdit>) = all.partition(|edit| edit.append);
    HeaderEdits {
        remove,
        edits: set.into_iter().chain(add).cloned().collect(),
        authority: host(destination, rule),
    }
}

/// Of several destinations, each makes its changes before the rule does. What the rule removes then, the destination
/// need not have set.
fn one_after_the_other(destination: &HeaderEdits, rule: &HeaderEdits) -> HeaderEdits {
    let mut remove = destination.remove.clone();
    remove.extend(rule.remove.iter().cloned());
    let removed = |name: &HeaderName| rule.remove.contains(name);
    let kept = destination.edits.iter().filter(|edit| !removed(&edit.name));
    HeaderEdits {
        remove,
        edits: kept.chain(&rule.edits).cloned().collect(),
        authority: host(destination, rule),
    }
}

/// A rule's word on the Host is stronger, however many destinations there are.
fn host(destination: &HeaderEdits, rule: &HeaderEdits) -> Option<model::Template> {
    let authority = rule.authority.as_ref().or(destination.authority.as_ref());
    authority.cloned()
}

/// `:80` of http and `:443` of https are left out, and then the Host keeps the port that it has. The scheme is the
/// redirect's, else the listener's.
fn redirect_port(redirect: &written::Redirect, place: &Place<'_>) -> model::RedirectPort {
    let number = match redirect.port {
        RedirectPort::Kept => return model::RedirectPort::Kept,
        RedirectPort::Number(number) => number,
        RedirectPort::Listener => place.port,
    };
    let own = if place.tls { "https" } else { "http" };
    match (number, redirect.scheme.as_deref().unwrap_or(own)) {
        (80, "http") | (443, "https") => model::RedirectPort::Kept,
        (number, _) => model::RedirectPort::Number(number),
    }
}

/// Without a percentage, all requests are copied.
fn mirrors(mirrors: &Mirrors, port: u16, services: &Services<'_>) -> Vec<Mirror> {
    let Mirrors {
        target,
        percentage,
        percent,
        list,
    } = mirrors;
    let share = percentage.or(*percent).unwrap_or(model::Share::ALL);
    let first = target.iter().map(|target| (target, share));
    let others = list.iter().map(|(target, share)| (target, *share));
    let all = first.chain(others);
    all.filter(|(_, share)| *share > model::Share::default())
        .map(|(target, share)| Mirror {
            cluster: cluster(target, port, services),
            share,
        })
        .collect()
}
