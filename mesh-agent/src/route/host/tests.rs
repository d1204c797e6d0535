//! Hosts by tables: which virtual host has a name, and who answers for it.

use proptest::prelude::*;

use super::*;
use crate::model::{ClientMatch, Pod, PodId};
use crate::route::fixture;

fn pod(namespace: &str) -> Pod {
    Pod::new(PodId {
        namespace: namespace.into(),
        name: "client".into(),
    })
}

fn host(name: &str) -> Arc<VirtualHost> {
    Arc::new(VirtualHost {
        name: name.into(),
        routes: vec![fixture::route_of(None, name)].into(),
        https_redirect: false,
        next: None,
    })
}

/// A table of these domains.
fn table(domains: &[&str]) -> RouteTable {
    let mut table = RouteTable::default();
    for name in domains {
        match name.strip_prefix('*') {
            None => {
                table.exact.insert((*name).into(), host(name));
            }
            Some("") => table.any = Some(host(name)),
            Some(suffix) => table.suffixes.insert(suffix.into(), &host(name)),
        }
    }
    table
}

fn names(table: &RouteTable, namespace: &str, authority: &str) -> Vec<String> {
    let pod = pod(namespace);
    let name = Name::of(authority);
    candidates(table, &Client::Pod(&pod), name.as_str())
        .map(|host| host.name.to_string())
        .collect()
}

#[test]
fn the_most_specific_comes_first() {
    let domains = ["a.com", "*.com", "*.b.com", "*.a.b.com", "x.b.com", "*"];
    let mut table = table(&domains);
    table.local = [("next".into(), Arc::new(self::table(&["x", "*.x"])))].into();
    for (namespace, authority, expected) in [
        ("other", "a.com", &["a.com", "*.com", "*"][..]),
        ("other", "A.com:80", &["a.com", "*.com", "*"]),
        ("other", "x.b.com", &["x.b.com", "*.b.com", "*.com", "*"]),
        (
            "other",
            "z.a.b.com",
            &["*.a.b.com", "*.b.com", "*.com", "*"],
        ),
        ("other", "b.com", &["*.com", "*"]),
        ("other", "com", &["*"]),
        ("other", ".com", &["*"]),
        ("other", "", &["*"]),
        ("other", "x", &["*"]),
        ("next", "x", &["x", "*"]),
        ("next", "0.x", &["*.x", "*"]),
        ("other", "0.x", &["*"]),
        ("other", "[fd00::1]:80", &["*"]),
        ("other", "ä.com", &["*.com", "*"]),
    ] {
        assert_eq!(
            names(&table, namespace, authority),
            expected,
            "{namespace} {authority}"
        );
    }
}

#[test]
fn the_first_of_two_keeps_a_wildcard() {
    let mut suffixes = crate::model::Suffixes::default();
    suffixes.insert(".a.com".into(), &host("first"));
    suffixes.insert(".a.com".into(), &host("second"));
    suffixes.insert(".com".into(), &host("short"));
    let all: Vec<_> = suffixes
        .iter()
        .map(|(suffix, host)| format!("{suffix} {}", host.name))
        .collect();
    assert_eq!(all, [".a.com first", ".com short"]);
}

#[test]
fn a_name_that_never_ends_costs_no_more_than_the_longest_wildcard() {
    let mut table = table(&["*.b.com"]);
    table.any = None;
    let long = ".".repeat(1_000_000) + "b.com";
    assert_eq!(names(&table, "other", &long), ["*.b.com"]);
}

/// What a chain of virtual hosts does with a request of namespace `own`.
fn asked(chain: Vec<VirtualHost>, request: &Request<'_>) -> String {
    let chain = chain.into_iter().rev().fold(None, |next, host| {
        Some(Arc::new(VirtualHost { next, ..host }))
    });
    let pod = pod("own");
    match route(&chain.expect("a host"), &Client::Pod(&pod), request) {
        Found::Route(route) => route.name.to_string(),
        Found::NoRoute => "404".to_owned(),
        Found::Insecure => "https".to_owned(),
        Found::Nothing => "nothing".to_owned(),
    }
}

/// A virtual host with a route for a path, for clients of a namespace or of all.
fn only_for(namespace: Option<&str>, path: &str) -> VirtualHost {
    let uri = Some(crate::model::PathMatch::Exact(path.into()));
    let mut route = Route::clone(&fixture::route_of(uri, path));
    route.when.client = ClientMatch {
        namespace: namespace.map(Into::into),
        ..ClientMatch::default()
    };
    VirtualHost {
        name: "a".into(),
        routes: vec![Arc::new(route)].into(),
        https_redirect: false,
        next: None,
    }
}

#[test]
fn a_host_that_does_not_concern_the_client_is_as_absent() {
    let all = || only_for(None, "/all");
    let own = || only_for(Some("own"), "/own");
    let other = || only_for(Some("other"), "/other");
    for (chain, path, expected) in [
        (vec![all()], "/all", "/all"),
        (vec![all()], "/x", "404"),
        (vec![own(), all()], "/own", "/own"),
        // It concerns the client, so nothing stands in for it.
        (vec![own(), all()], "/all", "404"),
        (vec![other(), all()], "/all", "/all"),
        (vec![other(), own(), all()], "/own", "/own"),
        (vec![other(), own(), all()], "/all", "404"),
        (vec![other()], "/other", "nothing"),
    ] {
        assert_eq!(asked(chain, &fixture::get("a", path)), expected, "{path}");
    }
}

#[test]
fn what_is_for_tls_alone() {
    let host = || VirtualHost {
        https_redirect: true,
        ..only_for(None, "/all")
    };
    let with_scheme = |scheme| Request {
        scheme,
        ..fixture::get("a", "/all")
    };
    assert_eq!(asked(vec![host()], &with_scheme("http")), "https");
    assert_eq!(asked(vec![host()], &with_scheme("https")), "/all");
    let bare = || VirtualHost {
        routes: Vec::new().into(),
        ..host()
    };
    assert_eq!(asked(vec![bare()], &with_scheme("http")), "https");
    assert_eq!(asked(vec![bare()], &with_scheme("https")), "404");
}

proptest! {
    /// The wildcards that cover a name are those that a look at each of them finds.
    #[test]
    fn wildcards_are_found_by_their_ends(
        suffixes in prop::collection::hash_set("(\\.[ab]{1,2}){1,3}", 0..12),
        name in "([ab]{0,2}\\.){0,4}[ab]{0,2}",
    ) {
        let domains: Vec<String> = suffixes.iter().map(|suffix| format!("*{suffix}")).collect();
        let domains: Vec<&str> = domains.iter().map(String::as_str).collect();
        let table = table(&domains);
        let mut expected: Vec<String> = suffixes
            .iter()
            .filter(|suffix| name.len() > suffix.len() && name.ends_with(suffix.as_str()))
            .map(|suffix| format!("*{suffix}"))
            .collect();
        expected.sort_by_key(|name| std::cmp::Reverse(name.len()));
        prop_assert_eq!(names(&table, "other", &name), expected);
    }
}
