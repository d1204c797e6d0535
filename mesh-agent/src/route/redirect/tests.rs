//! Redirects by tables.

use http::StatusCode;

use super::*;
use crate::model::HeaderEdits;
use crate::route::fixture;

struct Case {
    scheme: Option<&'static str>,
    authority: Option<&'static str>,
    port: Option<u16>,
    path: RedirectPath,
    condition: Option<PathMatch>,
    tls: bool,
}

const CASE: Case = Case {
    scheme: None,
    authority: None,
    port: None,
    path: RedirectPath::Kept,
    condition: None,
    tls: false,
};

/// `url` is the request's, with its scheme.
fn check(case: Case, url: &str, expected: &str) {
    let redirect = Redirect {
        status: StatusCode::MOVED_PERMANENTLY,
        scheme: case.scheme.map(Into::into),
        authority: case.authority.map(Into::into),
        port: case.port.map_or(RedirectPort::Kept, RedirectPort::Number),
        path: case.path,
        response_headers: HeaderEdits::default(),
    };
    let found = with_url(url, |request| {
        location(&redirect, case.condition.as_ref(), request, case.tls)
    });
    assert_eq!(found, expected, "{redirect:?} of {url}");
}

fn with_url<T>(url: &str, ask: impl FnOnce(&Request<'_>) -> T) -> T {
    let (scheme, rest) = url.split_once("://").expect("a scheme");
    let (authority, rest) = rest.split_at(rest.find('/').expect("a path"));
    let (path, query) = match rest.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (rest, None),
    };
    ask(&Request {
        scheme,
        query,
        ..fixture::get(authority, path)
    })
}

#[test]
fn the_path() {
    let whole = |path: &str| RedirectPath::Whole(path.into());
    let prefix = |path: &str| RedirectPath::Prefix(path.into());
    let foo = || Some(PathMatch::Prefix("/foo".into()));
    for (path, condition, url, expected) in [
        (RedirectPath::Kept, None, "http://a/b/c", "http://a/b/c"),
        (RedirectPath::Kept, None, "http://a/b?k=v", "http://a/b?k=v"),
        (whole("/new"), None, "http://a/b/c", "http://a/new"),
        (
            whole("/new"),
            None,
            "http://a/b?k=v&l",
            "http://a/new?k=v&l",
        ),
        (
            whole("/new?x=y"),
            None,
            "http://a/b?k=v",
            "http://a/new?x=y",
        ),
        (prefix("/"), foo(), "http://a/foo/baz", "http://a//baz"),
        (
            prefix("/bar"),
            foo(),
            "http://a/foo/baz?k",
            "http://a/bar/baz?k",
        ),
        (prefix("/bar"), foo(), "http://a/foobaz", "http://a/barbaz"),
    ] {
        let case = Case {
            path,
            condition,
            ..CASE
        };
        check(case, url, expected);
    }
}

#[test]
fn the_host() {
    for (authority, url, expected) in [
        (None, "http://a.com:8080/", "http://a.com:8080/"),
        (None, "http://a.com:80/", "http://a.com:80/"),
        (Some("b.com"), "http://a.com:8080/", "http://b.com/"),
        (Some("b.com:81"), "http://a.com:8080/", "http://b.com:81/"),
        (None, "http://[fd00::1]:8080/", "http://[fd00::1]:8080/"),
        (None, "http://[fd00::1]/", "http://[fd00::1]/"),
    ] {
        let case = Case { authority, ..CASE };
        check(case, url, expected);
    }
}

#[test]
fn the_scheme_takes_its_old_port_along() {
    let https = Some("https");
    for (scheme, url, expected) in [
        (https, "http://a.com/", "https://a.com/"),
        (https, "http://a.com:80/", "https://a.com/"),
        (https, "http://a.com:443/", "https://a.com:443/"),
        (https, "http://a.com:8080/", "https://a.com:8080/"),
        (https, "http://[fd00::1]:80/", "https://[fd00::1]/"),
        (https, "https://a.com:443/", "https://a.com:443/"),
        (Some("http"), "https://a.com:443/x", "http://a.com/x"),
        (Some("http"), "https://a.com:80/x", "http://a.com:80/x"),
    ] {
        let case = Case { scheme, ..CASE };
        check(case, url, expected);
    }
}

#[test]
fn the_port() {
    let https = Some("https");
    for (scheme, port, tls, url, expected) in [
        (None, 8080, false, "http://a.com/", "http://a.com:8080/"),
        (None, 8080, false, "http://a.com:81/", "http://a.com:8080/"),
        (
            None,
            8080,
            false,
            "http://[fd00::1]:81/",
            "http://[fd00::1]:8080/",
        ),
        // A port that goes without saying is none, and takes no other's place.
        (None, 80, false, "http://a.com/", "http://a.com/"),
        (None, 80, false, "http://a.com:8080/", "http://a.com:8080/"),
        (https, 443, false, "http://a.com/", "https://a.com/"),
        // FROM_REQUEST_PORT on port 80, with another scheme.
        (https, 80, false, "http://a.com/", "https://a.com:80/"),
        (None, 443, false, "http://a.com/", "http://a.com:443/"),
        // The listener judges where no scheme is written, whatever the request says of its own.
        (None, 443, true, "https://a.com/", "https://a.com/"),
        (None, 443, true, "http://a.com/", "http://a.com/"),
        (None, 80, true, "https://a.com/", "https://a.com:80/"),
    ] {
        let case = Case {
            scheme,
            port: Some(port),
            tls,
            ..CASE
        };
        check(case, url, expected);
    }
    let case = Case {
        authority: Some("b.com"),
        port: Some(8443),
        scheme: https,
        ..CASE
    };
    check(case, "http://a.com:80/x?k", "https://b.com:8443/x?k");
}

#[test]
fn https_redirect_keeps_everything_else() {
    for (url, expected) in [
        ("http://a.com/x?k=v", "https://a.com/x?k=v"),
        ("http://a.com:80/", "https://a.com:80/"),
        ("http://[fd00::1]:8080/", "https://[fd00::1]:8080/"),
    ] {
        assert_eq!(with_url(url, https), expected);
    }
}
