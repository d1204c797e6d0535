//! Hosts with a wildcard, found by the ends of a name.

use std::sync::Arc;

use crate::model::{SharedMap, VirtualHost};

/// `*.foo.com` as `.foo.com`, each with its virtual host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Suffixes {
    by_text: SharedMap<Arc<str>, Arc<VirtualHost>>,
    /// No suffix is longer, so no longer end of a name is worth a look.
    longest: usize,
}

impl Suffixes {
    /// Adds a suffix, which begins with a dot, unless it is taken: the first one keeps it.
    pub fn insert(&mut self, suffix: Arc<str>, host: &Arc<VirtualHost>) {
        self.longest = self.longest.max(suffix.len());
        self.by_text.get_or_insert_with(suffix, || Arc::clone(host));
    }

    /// What a suffix has.
    pub fn get(&self, suffix: &str) -> Option<&Arc<VirtualHost>> {
        self.by_text.get(suffix)
    }

    /// Gives a suffix another virtual host, or none.
    pub fn put(&mut self, suffix: Arc<str>, host: Option<Arc<VirtualHost>>) {
        let length = suffix.len();
        match host {
            Some(host) => {
                self.longest = self.longest.max(length);
                self.by_text.insert(suffix, host);
            }
            None => {
                self.by_text.remove(&suffix);
                if length == self.longest {
                    let lengths = self.by_text.keys().map(|suffix| suffix.len());
                    self.longest = lengths.max().unwrap_or_default();
                }
            }
        }
    }

    /// Those that cover a name, the longest first: `.foo.com` covers `a.foo.com` and `a.b.foo.com`, not `.foo.com`.
    pub fn covering<'a>(&'a self, name: &str) -> impl Iterator<Item = &'a Arc<VirtualHost>> {
        let from = match self.longest {
            0 => name.len(),
            longest => name.len().saturating_sub(longest).max(1),
        };
        // A dot is one byte, so what begins with one is a text wherever that is.
        let ends = (from..name.len()).filter(move |at| name.as_bytes()[*at] == b'.');
        ends.filter_map(move |at| self.by_text.get(name.get(at..)?))
    }

    /// All of them, the longest first.
    pub fn iter(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<VirtualHost>)> {
        let mut all: Vec<_> = self.by_text.iter().collect();
        all.sort_by_key(|(suffix, _)| (std::cmp::Reverse(suffix.len()), Arc::clone(suffix)));
        all.into_iter()
    }
}
