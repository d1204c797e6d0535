//! The index against a look at each route.

use proptest::prelude::*;
use regex::Regex;

use super::*;
use crate::model::Labels;
use crate::route::fixture::route_of;

fn path_matches(condition: Option<&PathMatch>, path: &str) -> bool {
    match condition {
        None => true,
        Some(PathMatch::Exact(text)) => **text == *path,
        Some(PathMatch::Prefix(text)) => path.starts_with(&**text),
        Some(PathMatch::ExactIgnoreCase(text)) => path.eq_ignore_ascii_case(text),
        Some(PathMatch::PrefixIgnoreCase(text)) => {
            path.len() >= text.len() && path[..text.len()].eq_ignore_ascii_case(text)
        }
        Some(PathMatch::Regex(regex)) => regex.is_match(path),
    }
}

/// The place of the first route, of those whose place `allowed` has.
fn first(list: &Routes, path: &str, allowed: &[bool]) -> Option<usize> {
    let place = |route: &Route| route.name.parse::<usize>().expect("its place");
    let passes =
        |route: &Route| allowed[place(route)] && path_matches(route.when.uri.as_ref(), path);
    list.first(path, passes).map(|route| place(route))
}

fn condition() -> impl Strategy<Value = Option<PathMatch>> {
    let text = "(/|/[ab]{0,3}){0,3}";
    prop_oneof![
        4 => text.prop_map(|text| Some(PathMatch::Exact(text.into()))),
        6 => text.prop_map(|text| Some(PathMatch::Prefix(text.into()))),
        1 => text.prop_map(|text| Some(PathMatch::ExactIgnoreCase(text.into()))),
        1 => text.prop_map(|text| Some(PathMatch::PrefixIgnoreCase(text.into()))),
        1 => "/[ab]{1,2}".prop_map(|text| {
            Some(PathMatch::Regex(Regex::new(&format!(r"\A(?:{text}.*)\z")).expect("a regex")))
        }),
        1 => Just(None),
    ]
}

proptest! {
    #[test]
    fn the_index_agrees_with_a_look_at_each(
        conditions in prop::collection::vec(condition(), 0..60),
        paths in prop::collection::vec("(/|/[abA]{0,3}){1,4}", 1..12),
        allowed in prop::collection::vec(prop::bool::weighted(0.6), 60),
    ) {
        let list: Vec<_> = conditions
            .iter()
            .enumerate()
            .map(|(place, uri)| route_of(uri.clone(), &place.to_string()))
            .collect();
        let routes = Routes::from(list);
        for path in &paths {
            let expected = conditions.iter().enumerate().position(|(place, uri)| {
                allowed[place] && path_matches(uri.as_ref(), path)
            });
            prop_assert_eq!(first(&routes, path, &allowed), expected, "{}", path);
        }
    }
}

#[test]
fn written_order_decides_whatever_kind_a_path_is() {
    let exact = |text: &str| Some(PathMatch::Exact(text.into()));
    let prefix = |text: &str| Some(PathMatch::Prefix(text.into()));
    let filler = (0..20).map(|number| exact(&format!("/filler/{number}")));
    let conditions: Vec<_> = filler
        .chain([
            prefix("/a/b"),
            exact("/a/b/c"),
            prefix("/a"),
            None,
            exact("/never"),
        ])
        .collect();
    let list = conditions
        .iter()
        .enumerate()
        .map(|(place, uri)| route_of(uri.clone(), &place.to_string()));
    let routes: Routes = list.collect();
    let all = [true; 25];
    for (path, expected) in [
        ("/a/b/c", 20),
        ("/a/b", 20),
        ("/a/c", 22),
        ("/b", 23),
        ("/never", 23),
        ("/filler/7", 7),
        ("/filler/77", 23),
    ] {
        assert_eq!(first(&routes, path, &all), Some(expected), "{path}");
    }
    let mut allowed = all;
    allowed[20] = false;
    assert_eq!(first(&routes, "/a/b/c", &allowed), Some(21));
    allowed[21] = false;
    assert_eq!(first(&routes, "/a/b/c", &allowed), Some(22));
    assert_eq!(first(&routes, "/a/b/c", &[false; 25]), None);
}

#[test]
fn audiences_are_told_once() {
    let route = |app: Option<&str>| {
        let mut route = Route::clone(&route_of(None, "0"));
        let labels = app.map(|app| ("app".into(), app.into()));
        route.when.client.labels = labels.into_iter().collect::<Labels>();
        Arc::new(route)
    };
    let of = |apps: &[Option<&str>]| {
        let routes: Routes = apps.iter().map(|app| route(*app)).collect();
        let labels = routes.audiences().map(|audience| audience.labels.len());
        labels.collect::<Vec<_>>()
    };
    assert_eq!(of(&[]), Vec::<usize>::new());
    assert_eq!(of(&[Some("a"), Some("b"), Some("a")]), [1, 1]);
    assert_eq!(of(&[Some("a"), None, Some("b"), None]), [0]);
}
