//! The routes of a virtual host, in order, with a short way to those that a path may take.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::model::{ClientMatch, PathMatch, Route};

/// Routes in order: the first that matches wins. Derefs to the list.
///
/// However many exact and prefix paths there are, the first route for a request is found without looking at each. What
/// has another condition on the path, or none, is looked at one by one.
#[derive(Debug, Default)]
pub struct Routes {
    list: Few<Arc<Route>>,
    /// `None` where the list is so short that it is its own index.
    index: Option<Box<Index>>,
    /// Routes that between them have every condition on the client that any route has; one, where one takes anyone.
    audiences: Few<u32>,
}

/// A list that is not far away where it has one item, as most have.
#[derive(Debug)]
enum Few<T> {
    One([T; 1]),
    Any(Vec<T>),
}

/// So many routes are faster looked at than looked up.
const SHORT: usize = 8;

/// Where in the list which paths are. All places are in the order of the list.
#[derive(Debug)]
struct Index {
    /// Of each exact path its part of `places`.
    exact: HashMap<Arc<str>, Range<u32>>,
    prefixes: Prefixes,
    places: Vec<u32>,
    /// Everything else.
    others: Vec<u32>,
}

/// Prefixes in the order of their texts, which lie side by side: a search stays in a small piece of memory.
#[derive(Debug, Default)]
struct Prefixes {
    texts: Vec<u8>,
    list: Vec<Prefix>,
}

/// A prefix.
#[derive(Debug)]
struct Prefix {
    /// Its part of the texts.
    text: Range<u32>,
    /// Its part of `places`.
    routes: Range<u32>,
    /// The longest of the others that it begins with itself.
    shorter: Option<u32>,
    /// The first route of this one and all shorter ones.
    first: u32,
}

impl Routes {
    /// The first route that is for `path` and passes. `passes` is to look at the path too.
    pub fn first(&self, path: &str, passes: impl Fn(&Route) -> bool) -> Option<&Arc<Route>> {
        let Some(index) = &self.index else {
            return self.list.iter().find(|route| passes(route));
        };
        let mut best = u32::MAX;
        let mut consider = |places: &[u32]| {
            let better = places.iter().take_while(|place| **place < best);
            let passing = better
                .copied()
                .find(|place| passes(&self.list[*place as usize]));
            best = passing.unwrap_or(best);
            best
        };
        if let Some(places) = index.exact.get(path) {
            consider(index.places(places));
        }
        let mut best = consider(&[]);
        let prefixes = &index.prefixes;
        let mut next = prefixes.longest(path);
        while let Some(prefix) = next.filter(|prefix| prefix.first < best) {
            if path.as_bytes().starts_with(prefixes.text(prefix)) {
                best = consider(index.places(&prefix.routes));
            }
            next = prefixes.shorter(prefix);
        }
        let best = consider(&index.others);
        self.list.get(best as usize)
    }

    /// The conditions on clients that its routes have, each once; where one of them takes anyone, that one alone.
    pub fn audiences(&self) -> impl Iterator<Item = &ClientMatch> {
        self.audiences
            .iter()
            .map(|place| &self.list[*place as usize].when.client)
    }
}

impl Index {
    fn new(list: &[Arc<Route>]) -> Self {
        let mut exact: BTreeMap<&Arc<str>, Vec<u32>> = BTreeMap::new();
        let mut prefixes: BTreeMap<&Arc<str>, Vec<u32>> = BTreeMap::new();
        let mut others = Vec::new();
        for (place, route) in (0..).zip(list) {
            match &route.when.uri {
                Some(PathMatch::Exact(text)) => exact.entry(text).or_default().push(place),
                Some(PathMatch::Prefix(text)) => prefixes.entry(text).or_default().push(place),
                Some(
                    PathMatch::ExactIgnoreCase(_)
                    | PathMatch::PrefixIgnoreCase(_)
                    | PathMatch::Regex(_),
                )
                | None => others.push(place),
            }
        }
        let mut places = Vec::with_capacity(list.len() - others.len());
        let mut keep = |routes: Vec<u32>| {
            let start = number(places.len());
            places.extend(routes);
            start..number(places.len())
        };
        let exact = exact
            .into_iter()
            .map(|(text, routes)| (Arc::clone(text), keep(routes)))
            .collect();
        let mut sorted = Prefixes::default();
        for (text, routes) in prefixes {
            let first = routes.first().copied().unwrap_or(u32::MAX);
            sorted.push(text, keep(routes), first);
        }
        Self {
            exact,
            prefixes: sorted,
            places,
            others,
        }
    }

    fn places(&self, part: &Range<u32>) -> &[u32] {
        &self.places[part.start as usize..part.end as usize]
    }
}

impl Prefixes {
    /// Adds the next one in order.
    fn push(&mut self, text: &str, routes: Range<u32>, first: u32) {
        // What a text begins with stands before it, and of those the last one is the longest.
        let mut shorter = self.list.len().checked_sub(1).map(number);
        while let Some(place) = shorter {
            let other = &self.list[place as usize];
            if text.as_bytes().starts_with(self.text(other)) {
                break;
            }
            shorter = other.shorter;
        }
        let above = shorter.map_or(u32::MAX, |place| self.list[place as usize].first);
        let start = number(self.texts.len());
        self.texts.extend_from_slice(text.as_bytes());
        self.list.push(Prefix {
            text: start..number(self.texts.len()),
            routes,
            shorter,
            first: first.min(above),
        });
    }

    fn text(&self, prefix: &Prefix) -> &[u8] {
        &self.texts[prefix.text.start as usize..prefix.text.end as usize]
    }

    fn shorter(&self, prefix: &Prefix) -> Option<&Prefix> {
        prefix.shorter.map(|place| &self.list[place as usize])
    }

    /// The longest prefix that `path` begins with, or one that begins with that: between a prefix of a path and the path
    /// itself there stand only texts that have the prefix too.
    fn longest(&self, path: &str) -> Option<&Prefix> {
        let before = |prefix: &Prefix| self.text(prefix) <= path.as_bytes();
        let behind = self.list.partition_point(before);
        self.list.get(behind.checked_sub(1)?)
    }
}

fn number(place: usize) -> u32 {
    u32::try_from(place).expect("nobody writes four billion routes")
}

impl<T> Deref for Few<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Self::One(one) => one,
            Self::Any(list) => list,
        }
    }
}

impl<T> From<Vec<T>> for Few<T> {
    fn from(list: Vec<T>) -> Self {
        match <[T; 1]>::try_from(list) {
            Ok(one) => Self::One(one),
            Err(list) => Self::Any(list),
        }
    }
}

impl<T> Default for Few<T> {
    fn default() -> Self {
        Self::Any(Vec::new())
    }
}

impl From<Vec<Arc<Route>>> for Routes {
    fn from(list: Vec<Arc<Route>>) -> Self {
        let audience = |place: &u32| &list[*place as usize].when.client;
        let everyone = (0..number(list.len())).find(|place| audience(place).takes_anyone());
        let audiences = match everyone {
            Some(place) => vec![place],
            None => {
                let mut seen = HashSet::new();
                let new = |place: &u32| seen.insert(audience(place));
                (0..number(list.len())).filter(new).collect()
            }
        };
        Self {
            index: (list.len() > SHORT).then(|| Box::new(Index::new(&list))),
            audiences: audiences.into(),
            list: list.into(),
        }
    }
}

impl FromIterator<Arc<Route>> for Routes {
    fn from_iter<I: IntoIterator<Item = Arc<Route>>>(routes: I) -> Self {
        routes.into_iter().collect::<Vec<_>>().into()
    }
}

impl Deref for Routes {
    type Target = [Arc<Route>];

    fn deref(&self) -> &[Arc<Route>] {
        &self.list
    }
}

impl<'a> IntoIterator for &'a Routes {
    type Item = &'a Arc<Route>;
    type IntoIter = std::slice::Iter<'a, Arc<Route>>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl PartialEq for Routes {
    fn eq(&self, other: &Self) -> bool {
        *self.list == *other.list
    }
}

#[cfg(test)]
mod tests;
