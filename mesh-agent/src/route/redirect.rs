//! Where a client is sent instead: the `location` of a `redirect`, put together as Envoy does it.

use std::borrow::Cow;

use crate::model::{PathMatch, PathRewrite, Redirect, RedirectPath, RedirectPort};
use crate::route::{Request, path};

/// The `location` of a redirect of a route with this condition on the path. `tls` is whether the listener opened TLS.
pub(super) fn location(
    redirect: &Redirect,
    condition: Option<&PathMatch>,
    request: &Request<'_>,
    tls: bool,
) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(request.scheme);
    // Whether a port goes without saying is judged by the listener where no scheme is written.
    let judged = redirect.scheme.as_deref().unwrap_or(match tls {
        true => "https",
        false => "http",
    });
    let port = match redirect.port {
        RedirectPort::Kept => None,
        RedirectPort::Number(port) => (default_port(judged) != Some(port)).then_some(port),
    };
    let host = match &redirect.authority {
        Some(authority) => &**authority,
        None => host(request, scheme, port.is_some()),
    };
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    let path = match &redirect.path {
        RedirectPath::Kept => Cow::Borrowed(request.path),
        RedirectPath::Whole(path) if path.contains('?') => {
            return format!("{scheme}://{host}{port}{path}");
        }
        RedirectPath::Whole(path) => Cow::Borrowed(&**path),
        RedirectPath::Prefix(prefix) => {
            let rewrite = PathRewrite::Matched(prefix.clone());
            Cow::Owned(path::rewrite(condition, request.path, &rewrite))
        }
    };
    with_query(format!("{scheme}://{host}{port}{path}"), request)
}

/// The `location` of `httpsRedirect`: the same in `https`, the port of the Host included.
pub(super) fn https(request: &Request<'_>) -> String {
    let Request {
        authority, path, ..
    } = request;
    with_query(format!("https://{authority}{path}"), request)
}

/// The request's Host. Its port goes where another is given, or where it is the old scheme's own and the scheme changes.
fn host<'a>(request: &Request<'a>, scheme: &str, another_port: bool) -> &'a str {
    let authority = request.authority;
    let end = match authority.starts_with('[') {
        // In `[fd00::1]` the colons belong to the address.
        true => authority.rfind("]:").map(|bracket| bracket + 1),
        false => authority.rfind(':'),
    };
    let Some((host, port)) = end.map(|end| authority.split_at(end)) else {
        return authority;
    };
    let own = default_port(request.scheme).is_some_and(|own| port[1..] == own.to_string());
    match another_port || (scheme != request.scheme && own) {
        true => host,
        false => authority,
    }
}

fn default_port(scheme: &str) -> Option<u16> {
    match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

fn with_query(mut location: String, request: &Request<'_>) -> String {
    if let Some(query) = request.query {
        location.push('?');
        location.push_str(query);
    }
    location
}

#[cfg(test)]
mod tests;
