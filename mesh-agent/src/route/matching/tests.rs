//! Conditions by tables: what is asked for, what comes, and which condition fails.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use regex::Regex;

use super::*;
use crate::model::{Labels, Pod, PodId};
use crate::route::fixture;

/// As config compiles it.
fn regex(text: &str) -> Regex {
    Regex::new(&format!(r"\A(?:{text})\z")).expect("a regex")
}

/// `=exact`, `^prefix`, `~regex`, or `?` for presence.
fn text_match(text: &str) -> TextMatch {
    match text.split_at(1) {
        ("=", text) => TextMatch::Exact(text.into()),
        ("^", text) => TextMatch::Prefix(text.into()),
        ("~", text) => TextMatch::Regex(regex(text)),
        ("?", "") => TextMatch::Present,
        _ => panic!("{text} is no condition that these tests know"),
    }
}

fn pod(labels: &[(&str, &str)]) -> Pod {
    let id = PodId {
        namespace: "default".into(),
        name: "client".into(),
    };
    Pod {
        labels: labels
            .iter()
            .map(|(key, value)| ((*key).into(), (*value).into()))
            .collect::<Labels>()
            .into(),
        ..Pod::new(id)
    }
}

/// The condition that fails, by its name in a VirtualService.
fn told(mismatch: Option<Mismatch<'_>>) -> &'static str {
    match mismatch {
        None => "",
        Some(Mismatch::NotExported { .. }) => "exportTo",
        Some(Mismatch::SourceNamespace { .. }) => "sourceNamespace",
        Some(Mismatch::SourceLabel { .. }) => "sourceLabels",
        Some(Mismatch::Path { .. }) => "uri",
        Some(Mismatch::Scheme { .. }) => "scheme",
        Some(Mismatch::Method { .. }) => "method",
        Some(Mismatch::Authority { .. }) => "authority",
        Some(Mismatch::Header { expected }) if expected.inverted => "withoutHeaders",
        Some(Mismatch::Header { .. }) => "headers",
        Some(Mismatch::Query { .. }) => "queryParams",
        Some(
            Mismatch::Subnet { .. } | Mismatch::WiderSubnet { .. } | Mismatch::ServerName { .. },
        ) => "not of a request",
    }
}

fn check(conditions: &RouteMatch, request: &Request<'_>, expected: &str) {
    let pod = pod(&[("app", "client")]);
    let found = told(mismatch(conditions, &Client::Pod(&pod), request));
    assert_eq!(found, expected, "{conditions:?} of {request:?}");
}

#[test]
fn paths() {
    let cases = [
        (PathMatch::Exact("/a".into()), "/a", ""),
        (PathMatch::Exact("/a".into()), "/a/", "uri"),
        (PathMatch::Exact("/a".into()), "/A", "uri"),
        (PathMatch::Prefix("/a".into()), "/ab", ""),
        (PathMatch::Prefix("/a".into()), "/", "uri"),
        (PathMatch::Prefix("".into()), "/x", ""),
        (PathMatch::ExactIgnoreCase("/Ab".into()), "/aB", ""),
        (PathMatch::PrefixIgnoreCase("/Ab".into()), "/aBc", ""),
        (PathMatch::PrefixIgnoreCase("/Ab".into()), "/ba", "uri"),
        (PathMatch::Regex(regex("/a|/b+")), "/bbb", ""),
        (PathMatch::Regex(regex("/a|/b+")), "/ax", "uri"),
    ];
    for (uri, path, expected) in cases {
        let conditions = RouteMatch {
            uri: Some(uri),
            ..RouteMatch::default()
        };
        check(&conditions, &fixture::get("a", path), expected);
    }
}

#[test]
fn what_stands_in_the_first_line() {
    let request = Request {
        method: "GET",
        scheme: "https",
        authority: "A.com:8080",
        ..fixture::get("", "/")
    };
    for (conditions, passes) in [
        ("=GET", true),
        ("=get", false),
        ("^GE", true),
        ("~GET|PUT", true),
        ("~E", false),
    ] {
        let conditions = RouteMatch {
            method: Some(text_match(conditions)),
            ..RouteMatch::default()
        };
        check(&conditions, &request, if passes { "" } else { "method" });
    }
    for (conditions, passes) in [("=https", true), ("=http", false), ("^http", true)] {
        let conditions = RouteMatch {
            scheme: Some(text_match(conditions)),
            ..RouteMatch::default()
        };
        check(&conditions, &request, if passes { "" } else { "scheme" });
    }
    for (conditions, passes) in [
        ("=A.com:8080", true),
        ("=a.com:8080", false),
        ("=A.com", false),
        ("^A.com", true),
        ("~.*:80..", true),
    ] {
        let conditions = RouteMatch {
            authority: Some(text_match(conditions)),
            ..RouteMatch::default()
        };
        check(&conditions, &request, if passes { "" } else { "authority" });
    }
}

/// What is asked for, what the header `h` has, whether `headers` passes, and whether `withoutHeaders` does.
const HEADERS: [(&str, &[&str], bool, bool); 22] = [
    ("=x", &["x"], true, false),
    ("=x", &["y"], false, true),
    ("=x", &["X"], false, true),
    ("=x", &[], false, true),
    ("=x", &[""], false, true),
    ("=", &[""], true, false),
    // Turned round, absence is the empty value.
    ("=", &[], false, false),
    ("^x", &["xy"], true, false),
    ("^x", &[], false, true),
    ("~x+", &["xx"], true, false),
    ("~x+", &["xxy"], false, true),
    ("~x+", &[], false, true),
    ("~.*", &["x"], true, false),
    ("~.*", &[""], true, false),
    ("~.*", &[], false, false),
    ("?", &["x"], true, false),
    ("?", &[""], true, false),
    ("?", &[], false, true),
    // Each value for itself, and not as they are joined.
    ("=y", &["x", "y"], true, false),
    ("=x,y", &["x", "y"], false, true),
    ("=x,y", &["x,y"], true, false),
    ("~x|z", &["y", "z"], true, false),
];

#[test]
fn headers_and_their_absence() {
    for (value, given, with, without) in HEADERS {
        let mut headers = HeaderMap::new();
        for given in given {
            headers.append("h", HeaderValue::from_str(given).expect("a value"));
        }
        let request = Request {
            headers: &headers,
            ..fixture::get("a", "/")
        };
        for (inverted, passes) in [(false, with), (true, without)] {
            let expected = match (passes, inverted) {
                (true, _) => "",
                (false, false) => "headers",
                (false, true) => "withoutHeaders",
            };
            let conditions = RouteMatch {
                headers: vec![HeaderMatch {
                    subject: HeaderSubject::Header(HeaderName::from_static("h")),
                    value: text_match(value),
                    inverted,
                }],
                ..RouteMatch::default()
            };
            check(&conditions, &request, expected);
        }
    }
}

#[test]
fn all_headers_must_pass() {
    let mut headers = HeaderMap::new();
    headers.insert("a", HeaderValue::from_static("1"));
    let request = Request {
        headers: &headers,
        ..fixture::get("a", "/")
    };
    let header = |name, value, inverted| HeaderMatch {
        subject: HeaderSubject::Header(HeaderName::from_static(name)),
        value: text_match(value),
        inverted,
    };
    for (headers, expected) in [
        (vec![header("a", "=1", false), header("b", "?", true)], ""),
        (
            vec![header("a", "=1", false), header("b", "?", false)],
            "headers",
        ),
        (
            vec![header("a", "=1", true), header("b", "?", false)],
            "withoutHeaders",
        ),
    ] {
        let conditions = RouteMatch {
            headers,
            ..RouteMatch::default()
        };
        check(&conditions, &request, expected);
    }
}

#[test]
fn values_that_are_no_text() {
    let mut headers = HeaderMap::new();
    let value = HeaderValue::from_bytes(b"x\xff").expect("a value");
    headers.insert("h", value);
    let request = Request {
        headers: &headers,
        ..fixture::get("a", "/")
    };
    for (value, passes) in [("^x", true), ("=x", false), ("~.*", false), ("?", true)] {
        let conditions = RouteMatch {
            headers: vec![HeaderMatch {
                subject: HeaderSubject::Header(HeaderName::from_static("h")),
                value: text_match(value),
                inverted: false,
            }],
            ..RouteMatch::default()
        };
        check(&conditions, &request, if passes { "" } else { "headers" });
    }
}

#[test]
fn pseudo_headers() {
    let request = Request {
        method: "POST",
        scheme: "http",
        query: Some("k=v"),
        ..fixture::get("a.com:80", "/p")
    };
    let host = || HeaderSubject::Header(HOST);
    for (subject, value, passes) in [
        (HeaderSubject::Method, "=POST", true),
        (HeaderSubject::Method, "=GET", false),
        (HeaderSubject::Scheme, "?", true),
        (HeaderSubject::Authority, "=a.com:80", true),
        (HeaderSubject::Authority, "=a.com", false),
        (HeaderSubject::Path, "=/p?k=v", true),
        (HeaderSubject::Path, "=/p", false),
        (HeaderSubject::Path, "^/p?k", true),
        (HeaderSubject::Path, "~/p.k=v", true),
        (host(), "=a.com:80", true),
        (host(), "=other", false),
    ] {
        let matched = |inverted| RouteMatch {
            headers: vec![HeaderMatch {
                subject: subject.clone(),
                value: text_match(value),
                inverted,
            }],
            ..RouteMatch::default()
        };
        check(
            &matched(false),
            &request,
            if passes { "" } else { "headers" },
        );
        check(
            &matched(true),
            &request,
            if passes { "withoutHeaders" } else { "" },
        );
    }
}

#[test]
fn query_parameters() {
    for (value, query, passes) in [
        ("=v", Some("k=v"), true),
        ("=v", Some("a=b&k=v&k=w"), true),
        ("=w", Some("k=v&k=w"), false),
        ("=v", Some("K=v"), false),
        ("=v", Some("k=V"), false),
        ("=v", Some("kk=v"), false),
        ("=v", Some("a=k=v"), false),
        ("=v=w", Some("k=v=w"), true),
        ("=a b", Some("k=a%20b"), false),
        ("=a%20b", Some("k=a%20b"), true),
        ("=", Some("k"), true),
        ("=", Some("k="), true),
        ("=", Some("k=v"), false),
        ("=", Some(""), false),
        ("=", None, false),
        ("?", Some("k"), true),
        ("?", Some("a=1&k=2"), true),
        ("?", Some("a=1"), false),
        ("?", None, false),
        ("~v+", Some("k=vv"), true),
        ("~v+", Some("k=vvw"), false),
        ("^v", Some("k=vw"), true),
    ] {
        let conditions = RouteMatch {
            query: vec![QueryMatch {
                name: "k".into(),
                value: text_match(value),
            }],
            ..RouteMatch::default()
        };
        let request = Request {
            query,
            ..fixture::get("a", "/")
        };
        check(
            &conditions,
            &request,
            if passes { "" } else { "queryParams" },
        );
    }
}

#[test]
fn who_asks() {
    let labels = |list: &[(&str, &str)]| -> Labels {
        let list = list.iter();
        list.map(|(key, value)| ((*key).into(), (*value).into()))
            .collect()
    };
    let exported = |list: &[&str]| -> Option<Vec<Arc<str>>> {
        Some(list.iter().map(|name| (*name).into()).collect())
    };
    let any = ClientMatch::default;
    for (client, expected) in [
        (any(), ""),
        (
            ClientMatch {
                labels: labels(&[("app", "client")]),
                ..any()
            },
            "",
        ),
        (
            ClientMatch {
                labels: labels(&[("app", "client"), ("v", "1")]),
                ..any()
            },
            "sourceLabels",
        ),
        (
            ClientMatch {
                namespace: Some("default".into()),
                ..any()
            },
            "",
        ),
        (
            ClientMatch {
                namespace: Some("other".into()),
                ..any()
            },
            "sourceNamespace",
        ),
        (
            ClientMatch {
                exported_to: exported(&["other", "default"]),
                ..any()
            },
            "",
        ),
        (
            ClientMatch {
                exported_to: exported(&["other"]),
                namespace: Some("other".into()),
                ..any()
            },
            "exportTo",
        ),
    ] {
        let conditions = RouteMatch {
            client,
            ..RouteMatch::default()
        };
        check(&conditions, &fixture::get("a", "/"), expected);
    }
}

#[test]
fn the_mismatch_says_what_was_found() {
    let conditions = RouteMatch {
        query: vec![QueryMatch {
            name: "k".into(),
            value: text_match("=v"),
        }],
        ..RouteMatch::default()
    };
    let pod = pod(&[]);
    let request = Request {
        query: Some("k=w"),
        ..fixture::get("a", "/")
    };
    let Some(Mismatch::Query { expected, found }) =
        mismatch(&conditions, &Client::Pod(&pod), &request)
    else {
        panic!("another condition");
    };
    assert_eq!((&*expected.name, found), ("k", Some("w")));
}
