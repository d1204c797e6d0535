//! Which VirtualServices are for a host.

use std::collections::HashMap;

/// VirtualServices, by number, under the hosts that they are for.
#[derive(Default)]
pub(super) struct HostIndex<'a> {
    exact: HashMap<&'a str, Vec<usize>>,
    /// `*.x` as `.x`, and `*` as nothing.
    wildcards: HashMap<&'a str, Vec<usize>>,
}

impl<'a> HostIndex<'a> {
    /// Puts number `index` under `host`, behind those that are there.
    pub(super) fn insert(&mut self, host: &'a str, index: usize) {
        let (table, key) = match host.strip_prefix('*') {
            Some(suffix) => (&mut self.wildcards, suffix),
            None => (&mut self.exact, host),
        };
        table.entry(key).or_default().push(index);
    }

    /// Those that name `host` itself.
    pub(super) fn exact(&self, host: &str) -> &[usize] {
        self.exact.get(host).map_or(&[], Vec::as_slice)
    }

    /// Those with a wildcard that covers `host`, a list per wildcard, the longest wildcard first.
    pub(super) fn wildcards<'s>(&'s self, host: &'s str) -> impl Iterator<Item = &'s [usize]> {
        suffixes(host)
            .chain([""])
            .filter_map(|suffix| self.wildcards.get(suffix))
            .map(Vec::as_slice)
    }
}

/// Everything that a host ends in, from a dot on, the longest first.
pub(super) fn suffixes(host: &str) -> impl Iterator<Item = &str> {
    host.match_indices('.').map(|(dot, _)| &host[dot..])
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
