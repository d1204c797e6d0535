//! A rule of a VirtualService: what it matches and what it does.

use crate::config::crd::virtual_service::HttpRoute;
use crate::config::object::virtual_service::{
    Action, Delegate, Rule, answer, block, compact, cors, each, fault, header, mirror, retry,
    rewrite, share,
};
use crate::config::object::{Context, duration};
use crate::config::path::Path;
use crate::config::problem::Problems;

/// Reads one of `http[]`, of a VirtualService that is a `delegate` or not; `None` where it does nothing.
pub(super) fn read(
    mut rule: HttpRoute,
    delegate: bool,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Rule> {
    check(&rule, delegate, path, problems);
    rewrite::check_authority(&rule, path, problems);
    let mirrors = mirror::read(&mut rule, context, path, problems);
    let prefixes = answer::all_prefixes(&rule.r#match);
    let action = read_action(&mut rule, prefixes, context, path, problems);
    let HttpRoute {
        name,
        r#match,
        rewrite,
        timeout,
        retries,
        fault,
        cors_policy,
        headers,
        // Read above.
        route: _,
        redirect: _,
        direct_response: _,
        delegate: _,
        mirror: _,
        mirrors: _,
        mirror_percent: _,
        mirror_percentage: _,
    } = rule;
    let blocks = compact(
        each(r#match, &path.key("match"))
            .map(|(block, path)| block::read(block, context, &path, problems)),
    );
    Some(Rule {
        name: name.into(),
        blocks,
        rewrite: rewrite.map(|written| rewrite::read(written, &path.key("rewrite"), problems)),
        timeout: timeout.and_then(|text| duration::read(&text, &path.key("timeout"), problems)),
        retry: retries.map(|written| retry::read(&written, &path.key("retries"), problems)),
        fault: fault.map(|written| Box::new(fault::read(written, &path.key("fault"), problems))),
        mirrors,
        cors: cors_policy
            .map(|written| Box::new(cors::read(written, &path.key("corsPolicy"), problems))),
        headers: headers
            .map(|written| Box::new(header::read(written, &path.key("headers"), problems))),
        action: action?,
    })
}

/// What may not stand together.
fn check(rule: &HttpRoute, delegate: bool, path: &Path, problems: &mut Problems) {
    let redirects = rule.redirect.is_some();
    let responds = rule.direct_response.is_some();
    let mut written = Vec::new();
    for (there, name) in [
        (!rule.route.is_empty(), "route"),
        (redirects, "redirect"),
        (responds, "directResponse"),
        (rule.delegate.is_some(), "delegate"),
    ] {
        // A delegate's rules inherit a directResponse.
        if there && !(rule.delegate.is_some() && name == "directResponse") {
            written.push(name);
        }
    }
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
    if delegate && rule.delegate.is_some() {
        problems.error(
            &path.key("delegate"),
            "a VirtualService without hosts is a delegate, which cannot delegate in its turn",
            "write its rules here, or add hosts",
        );
    }
    let answers = rule.delegate.is_none() && (redirects || responds);
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
    let inherits = delegate || rule.delegate.is_some();
    for (there, name) in [
        (rule.mirror_percent.is_some(), "mirrorPercent"),
        (rule.mirror_percentage.is_some(), "mirrorPercentage"),
    ] {
        if there && rule.mirror.is_none() && !inherits {
            problems.warning(
                &path.key(name),
                format!("{name} without mirror has no effect"),
                "add mirror, or a percentage to each of mirrors",
            );
        }
    }
}

/// Takes what the rule does out of it.
fn read_action(
    rule: &mut HttpRoute,
    prefixes: bool,
    context: &Context<'_>,
    path: &Path,
    problems: &mut Problems,
) -> Option<Action> {
    let response = rule
        .direct_response
        .take()
        .map(|written| answer::read_response(written, &path.key("directResponse"), problems));
    if let Some(written) = rule.delegate.take() {
        let path = path.key("delegate");
        if written.name.is_empty() {
            problems.error(
                &path.key("name"),
                "a delegate needs a name",
                "name a VirtualService without hosts",
            );
        }
        return Some(Action::Delegate(Delegate {
            namespace: match written.namespace.as_str() {
                "" => context.namespace.into(),
                namespace => namespace.into(),
            },
            name: written.name.into(),
            respond: response.flatten(),
        }));
    }
    if let Some(written) = rule.redirect.take() {
        let path = path.key("redirect");
        return answer::read_redirect(written, prefixes, &path, problems).map(Action::Redirect);
    }
    if let Some(response) = response {
        return response.map(Action::Respond);
    }
    let route = std::mem::take(&mut rule.route);
    let shares = share::read(route, context, &path.key("route"), problems);
    (!shares.is_empty()).then_some(Action::Forward(shares))
}
