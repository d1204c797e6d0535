//! Things by the hosts that they are for: VirtualServices, DestinationRules, Services.

use std::collections::HashMap;

/// Things under hosts, wildcards among them.
pub(super) struct HostIndex<'a, T> {
    exact: HashMap<&'a str, Vec<T>>,
    /// `*.x` as `.x`, and `*` as nothing.
    wildcards: HashMap<&'a str, Vec<T>>,
}

impl<'a, T> HostIndex<'a, T> {
    /// Puts a thing under `host`, behind those that are there.
    pub(super) fn insert(&mut self, host: &'a str, thing: T) {
        let (table, key) = match host.strip_prefix('*') {
            Some(suffix) => (&mut self.wildcards, suffix),
            None => (&mut self.exact, host),
        };
        table.entry(key).or_default().push(thing);
    }

    /// Those that name `host` itself.
    pub(super) fn exact(&self, host: &str) -> &[T] {
        self.exact.get(host).map_or(&[], Vec::as_slice)
    }

    /// Those with a wildcard that covers `host`, a list per wildcard, the longest wildcard first.
    pub(super) fn wildcards<'s>(&'s self, host: &'s str) -> impl Iterator<Item = &'s [T]> {
        endings(host)
            .filter_map(|ending| self.wildcards.get(ending))
            .map(Vec::as_slice)
    }

    /// Those whose host covers `host`, the most specific first, and in the order in which they came.
    pub(super) fn covering<'s>(&'s self, host: &'s str) -> impl Iterator<Item = &'s T> {
        self.exact(host)
            .iter()
            .chain(self.wildcards(host).flatten())
    }
}

impl<T> Default for HostIndex<'_, T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            wildcards: HashMap::new(),
        }
    }
}

impl<'a, T> FromIterator<(&'a str, T)> for HostIndex<'a, T> {
    fn from_iter<I: IntoIterator<Item = (&'a str, T)>>(things: I) -> Self {
        let mut index = Self::default();
        for (host, thing) in things {
            index.insert(host, thing);
        }
        index
    }
}

/// Everything that a host ends in, from a dot on, the longest first.
pub(super) fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').map(|(dot, _)| &host[dot..])
}

/// What follows the star in the wildcards that cover a host, the longest first; for `*` that is nothing.
pub(super) fn endings(host: &str) -> impl Iterator<Item = &str> {
    suffixes(host).chain([""])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_wildcard_comes_first() {
        let mut index = HostIndex::default();
        for (number, host) in ["*.com", "a.b.com", "*.b.com", "*", "*.b.com", "*.a.b.com"]
            .iter()
            .enumerate()
        {
            index.insert(host, number);
        }
        let cases = [
            ("a.b.com", vec![1], vec![vec![2, 4], vec![0], vec![3]]),
            ("b.com", vec![], vec![vec![0], vec![3]]),
            (
                "x.a.b.com",
                vec![],
                vec![vec![5], vec![2, 4], vec![0], vec![3]],
            ),
            ("org", vec![], vec![vec![3]]),
        ];
        for (host, exact, wildcards) in cases {
            assert_eq!(index.exact(host), exact, "{host}");
            let found: Vec<_> = index.wildcards(host).collect();
            assert_eq!(found, wildcards, "{host}");
        }
    }
}
