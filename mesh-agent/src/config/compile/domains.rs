//! The names of virtual hosts, on their way to a route table.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::model::{RouteTable, VirtualHost};

/// A route table in the making. A name that is taken stays with the host that was there first.
#[derive(Default)]
pub(super) struct Domains {
    table: RouteTable,
    suffixes: HashSet<Arc<str>>,
    /// Names that only the clients of a namespace may use.
    local: HashMap<Arc<str>, Domains>,
}

impl Domains {
    /// Adds a name, `*.x` or `*`.
    pub(super) fn add(&mut self, name: &str, host: &Arc<VirtualHost>) {
        match name.strip_prefix('*') {
            None => {
                if let Entry::Vacant(entry) = self.table.exact.entry(name.into()) {
                    entry.insert(Arc::clone(host));
                }
            }
            Some("") => {
                self.table.any.get_or_insert_with(|| Arc::clone(host));
            }
            Some(suffix) => {
                let suffix: Arc<str> = suffix.into();
                if self.suffixes.insert(Arc::clone(&suffix)) {
                    self.table.suffixes.push((suffix, Arc::clone(host)));
                }
            }
        }
    }

    /// The names that only the clients of `namespace` may use.
    pub(super) fn local(&mut self, namespace: &str) -> &mut Self {
        if !self.local.contains_key(namespace) {
            self.local.insert(namespace.into(), Self::default());
        }
        self.local
            .get_mut(namespace)
            .expect("it was put in where it was missing")
    }

    /// The table, with the longest wildcard first.
    pub(super) fn finish(self) -> RouteTable {
        let Self {
            mut table, local, ..
        } = self;
        table
            .suffixes
            .sort_by_key(|(suffix, _)| std::cmp::Reverse(suffix.len()));
        table.local = local
            .into_iter()
            .map(|(namespace, names)| (namespace, names.finish()))
            .collect();
        table
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_keeps_a_name_and_the_longest_wildcard_comes_first() {
        let host = |name: &str| {
            Arc::new(VirtualHost {
                name: name.into(),
                routes: Vec::new(),
                https_redirect: false,
                next: None,
            })
        };
        let mut domains = Domains::default();
        for name in ["a", "*.b", "*", "*.c.b", "*.d"] {
            domains.add(name, &host("first"));
            domains.add(name, &host("second"));
        }
        domains.local("ns").add("a", &host("local"));
        domains.local("ns").add("a", &host("second"));
        let table = domains.finish();
        let suffixes: Vec<&str> = table.suffixes.iter().map(|(suffix, _)| &**suffix).collect();
        assert_eq!(suffixes, [".c.b", ".b", ".d"]);
        let any = table.any.iter();
        let all = table
            .exact
            .values()
            .chain(any)
            .chain(table.suffixes.iter().map(|(_, host)| host));
        assert!(all.clone().all(|host| &*host.name == "first"));
        assert_eq!(all.count(), 5);
        assert_eq!(&*table.local["ns"].exact["a"].name, "local");
    }
}
