//! What policies say, by tables.

use http::{HeaderMap, HeaderName, HeaderValue};
use regex::Regex;

use super::*;
use crate::model::TextMatch;
use crate::route::fixture;

const PREFLIGHT: &[(&str, &str)] = &[("access-control-request-method", "PUT")];

fn check(
    origins: &[TextMatch],
    forward_unmatched: bool,
    method: &str,
    headers: &[(&str, &str)],
    expected: CorsVerdict,
) {
    let policy = Cors {
        origins: origins.to_vec(),
        forward_unmatched,
        ..Cors::default()
    };
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(
            HeaderName::from_bytes(name.as_bytes()).expect("a name"),
            HeaderValue::from_str(value).expect("a value"),
        );
    }
    let request = Request {
        method,
        headers: &map,
        ..fixture::get("a", "/")
    };
    let found = verdict(Some(&policy), &request);
    assert_eq!(found, expected, "{policy:?} of {method} with {headers:?}");
    assert_eq!(verdict(None, &request), CorsVerdict::Silent);
}

fn with_origin<'a>(origin: &'a str, others: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
    [&[("origin", origin)], others].concat()
}

#[test]
fn origins() {
    let regex =
        |text: &str| TextMatch::Regex(Regex::new(&format!(r"\A(?:{text})\z")).expect("a regex"));
    for (allowed, origin, passes) in [
        (TextMatch::Exact("http://a".into()), "http://a", true),
        (TextMatch::Exact("http://a".into()), "http://A", false),
        (TextMatch::Exact("http://a".into()), "http://ab", false),
        (TextMatch::Exact("*".into()), "http://a", true),
        (TextMatch::Prefix("http://a".into()), "http://ab", true),
        (TextMatch::Prefix("http://a".into()), "http://b", false),
        (regex("http://.*"), "http://b", true),
        (regex("http://.*"), "https://b", false),
        (regex(".*"), "null", true),
    ] {
        let expected = match passes {
            true => CorsVerdict::Allowed,
            false => CorsVerdict::Silent,
        };
        let headers = with_origin(origin, &[]);
        check(
            std::slice::from_ref(&allowed),
            true,
            "GET",
            &headers,
            expected,
        );
        let expected = match passes {
            true => CorsVerdict::Preflight { allowed: true },
            false => CorsVerdict::Silent,
        };
        let headers = with_origin(origin, PREFLIGHT);
        check(&[allowed], true, "OPTIONS", &headers, expected);
    }
    check(
        &[],
        true,
        "GET",
        &with_origin("http://a", &[]),
        CorsVerdict::Silent,
    );
}

#[test]
fn what_a_preflight_is() {
    let allowed = [TextMatch::Exact("http://a".into())];
    let is = |method, headers: &[(&str, &str)], expected| {
        check(&allowed, true, method, headers, expected);
    };
    let preflight = CorsVerdict::Preflight { allowed: true };
    is("OPTIONS", &with_origin("http://a", PREFLIGHT), preflight);
    is(
        "GET",
        &with_origin("http://a", PREFLIGHT),
        CorsVerdict::Allowed,
    );
    is(
        "OPTIONS",
        &with_origin("http://a", &[]),
        CorsVerdict::Allowed,
    );
    let empty = [("access-control-request-method", "")];
    is(
        "OPTIONS",
        &with_origin("http://a", &empty),
        CorsVerdict::Allowed,
    );
    is("OPTIONS", PREFLIGHT, CorsVerdict::Silent);
    is("OPTIONS", &with_origin("", PREFLIGHT), CorsVerdict::Silent);
}

#[test]
fn a_preflight_from_elsewhere() {
    let allowed = [TextMatch::Exact("http://a".into())];
    let headers = with_origin("http://b", PREFLIGHT);
    check(&allowed, true, "OPTIONS", &headers, CorsVerdict::Silent);
    let refused = CorsVerdict::Preflight { allowed: false };
    check(&allowed, false, "OPTIONS", &headers, refused);
    check(
        &allowed,
        false,
        "GET",
        &with_origin("http://b", &[]),
        CorsVerdict::Silent,
    );
}
