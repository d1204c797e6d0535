//! A rule of a VirtualService: what it matches and what it does.

use std::sync::Arc;

use crate::config::crd::virtual_service::{HttpRoute, Retries, Rewrite};
use crate::config::object::virtual_service::{Action, Block, Rule, block, share};
use crate::config::object::{Context, duration};
use crate::config::path::Path;
use crate::config::problem::Problems;
use crate::model::Retry;

/// Reads one of `http[]`; `None` where it sends requests nowhere.
pub(super) fn read(
    rule: HttpRoute,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Rule> {
    check_rule(&rule, path, problems);
    let HttpRoute {
        name,
        r#match,
        route,
        rewrite,
        timeout,
        retries,
        // Checked above: none of them is there.
        redirect: _,
        direct_response: _,
        delegate: _,
        fault: _,
        mirror: _,
        mirrors: _,
        mirror_percent: _,
        mirror_percentage: _,
        cors_policy: _,
        headers: _,
    } = rule;
    let mut blocks: Vec<Block> = r#match
        .into_iter()
        .enumerate()
        .map(|(index, block)| {
            block::read(block, context, &path.key("match").index(index), problems)
        })
        .collect();
    if blocks.is_empty() {
        blocks.push(Block::default());
    }
    let shares = share::read(route, context, &path.key("route"), problems);
    let (rewrite_uri, rewrite_authority) = match rewrite {
        Some(rewrite) => read_rewrite(rewrite, &path.key("rewrite"), problems),
        None => (None, None),
    };
    let timeout = timeout.and_then(|text| duration::read(&text, &path.key("timeout"), problems));
    let retry = match retries {
        Some(retries) => read_retries(&retries, &path.key("retries"), problems),
        None => Retry::default(),
    };
    (!shares.is_empty()).then(|| Rule {
        name: name.into(),
        blocks,
        action: Action {
            shares,
            rewrite_uri,
            rewrite_authority,
            timeout,
            retry,
        },
    })
}

/// What may not stand together, and what this version does not do.
fn check_rule(rule: &HttpRoute, path: &Path, problems: &mut Problems) {
    let actions = [
        (!rule.route.is_empty(), "route"),
        (rule.redirect.is_some(), "redirect"),
        (rule.direct_response.is_some(), "directResponse"),
        (rule.delegate.is_some(), "delegate"),
    ];
    let written: Vec<&str> = actions
        .iter()
        .filter_map(|(there, name)| there.then_some(*name))
        .collect();
    match written.as_slice() {
        [] => problems.error(
            path,
            "this rule does nothing",
            "add route, redirect or directResponse",
        ),
        [_] => {}
        [first, second, ..] => {
            problems.error(
                path,
                format!("{first} and {second} cannot stand in one rule"),
                "keep one of them",
            );
        }
    }
    let answers = rule.redirect.is_some() || rule.direct_response.is_some();
    if answers && (rule.fault.is_some() || rule.rewrite.is_some()) {
        let message = "fault and rewrite cannot stand beside redirect or directResponse";
        problems.error(path, message, "remove them");
    }
    if rule.mirror.is_some() && !rule.mirrors.is_empty() {
        problems.error(
            &path.key("mirrors"),
            "mirror and mirrors cannot stand in one rule",
            "keep mirrors",
        );
    }
    for (there, name) in [
        (rule.redirect.is_some(), "redirect"),
        (rule.direct_response.is_some(), "directResponse"),
        (rule.delegate.is_some(), "delegate"),
        (rule.fault.is_some(), "fault"),
        (rule.mirror.is_some(), "mirror"),
        (!rule.mirrors.is_empty(), "mirrors"),
        (rule.cors_policy.is_some(), "corsPolicy"),
        (rule.headers.is_some(), "headers"),
    ] {
        if there {
            problems.unsupported(&path.key(name), name);
        }
    }
    for (field, name) in [
        (rule.mirror_percent.is_some(), "mirrorPercent"),
        (rule.mirror_percentage.is_some(), "mirrorPercentage"),
    ] {
        if field {
            problems.without_effect(&path.key(name), name);
        }
    }
}

fn read_rewrite(
    rewrite: Rewrite,
    path: &Path,
    problems: &mut Problems,
) -> (Option<Arc<str>>, Option<Arc<str>>) {
    let Rewrite {
        uri,
        authority,
        uri_regex_rewrite,
    } = rewrite;
    if uri_regex_rewrite.is_some() {
        if uri.is_empty() {
            problems.unsupported(&path.key("uriRegexRewrite"), "uriRegexRewrite");
        } else {
            problems.error(
                path,
                "uri and uriRegexRewrite exclude each other",
                "keep one of them",
            );
        }
    } else if uri.is_empty() && authority.is_empty() {
        problems.error(
            path,
            "this rewrite rewrites nothing",
            "add uri or authority",
        );
    }
    let text = |text: String| (!text.is_empty()).then(|| text.into());
    (text(uri), text(authority))
}

fn read_retries(retries: &Retries, path: &Path, problems: &mut Problems) -> Retry {
    let Retries {
        attempts,
        per_try_timeout,
        retry_on,
        retry_remote_localities,
        retry_ignore_previous_hosts,
        backoff,
    } = retries;
    let others = [
        (per_try_timeout.is_some(), "perTryTimeout"),
        (!retry_on.is_empty(), "retryOn"),
        (retry_remote_localities.is_some(), "retryRemoteLocalities"),
        (
            retry_ignore_previous_hosts.is_some(),
            "retryIgnorePreviousHosts",
        ),
        (backoff.is_some(), "backoff"),
    ];
    let attempts = attempts.map_or(0, |attempts| attempts.0);
    for (field, name) in others {
        if field && attempts == 0 {
            problems.error(
                &path.key(name),
                format!("{name} without attempts"),
                "set attempts above 0",
            );
        } else if field {
            problems.unsupported(&path.key(name), name);
        }
    }
    match u32::try_from(attempts) {
        Ok(attempts) => Retry {
            attempts,
            ..Retry::default()
        },
        Err(_) => {
            problems.error(
                &path.key("attempts"),
                format!("{attempts} attempts are fewer than none"),
                "write 0 or more",
            );
            Retry::default()
        }
    }
}
