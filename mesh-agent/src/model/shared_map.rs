//! A map that is cheap to copy: of a world that differs from the last one in a handful of entries, the rest is shared.
//!
//! The entries are spread by their hash over parts, each behind an [`Arc`]. A copy of the map copies the list of parts;
//! a change to a copy copies the one part that it concerns. With about a hundred entries in a part, a map of 100,000
//! costs about a thousand reference counts to copy, and a change a hundred. A key is hashed once for both the part and
//! the place in it, so looking one up costs one load from memory more than in a plain map.

use std::borrow::Borrow;
use std::fmt;
use std::hash::{BuildHasher, Hash};
use std::ops::Index;
use std::sync::Arc;

use hashbrown::DefaultHashBuilder;
use hashbrown::hash_table::{Entry, HashTable};

/// How many entries a part has on average before the parts are halved.
const FULL: usize = 128;

/// A hash map whose copies share what they have in common. It never shrinks below the parts that it once needed.
#[derive(Clone)]
pub struct SharedMap<K, V> {
    /// As many as a power of two, or none.
    parts: Vec<Arc<HashTable<(K, V)>>>,
    len: usize,
    hasher: DefaultHashBuilder,
}

impl<K, V> SharedMap<K, V> {
    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        let entries = self.parts.iter().flat_map(|part| part.iter());
        entries.map(|(key, value)| (key, value))
    }

    /// The keys.
    pub fn keys(&self) -> impl Iterator<Item = &K> {
        self.iter().map(|(key, _)| key)
    }

    /// The values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// Of a key with this hash. The table within a part goes by the lowest and the highest bits.
    fn part(&self, hash: u64) -> usize {
        (hash >> 24) as usize & (self.parts.len() - 1)
    }
}

impl<K: Hash + Eq, V> SharedMap<K, V> {
    /// What a key has.
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if self.parts.is_empty() {
            return None;
        }
        let hash = self.hasher.hash_one(key);
        let part = &self.parts[self.part(hash)];
        let found = part.find(hash, |(other, _)| other.borrow() == key);
        found.map(|(_, value)| value)
    }

    /// Whether a key is there.
    pub fn contains_key<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> bool
    where
        K: Borrow<Q>,
    {
        self.get(key).is_some()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    /// A map for so many entries.
    pub fn with_capacity(capacity: usize) -> Self {
        let mut map = Self::default();
        while map.parts.len() * FULL < capacity {
            map.split();
        }
        map
    }

    /// Gives a key a value. What it had comes back.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let (entry, len) = self.entry(&key);
        match entry {
            Entry::Occupied(mut entry) => Some(std::mem::replace(&mut entry.get_mut().1, value)),
            Entry::Vacant(entry) => {
                *len += 1;
                entry.insert((key, value));
                None
            }
        }
    }

    /// What a key has; where it has nothing, it gets what `make` makes.
    pub fn get_or_insert_with(&mut self, key: K, make: impl FnOnce() -> V) -> &mut V {
        let (entry, len) = self.entry(&key);
        let entry = match entry {
            Entry::Occupied(entry) => entry,
            Entry::Vacant(entry) => {
                *len += 1;
                entry.insert((key, make()))
            }
        };
        &mut entry.into_mut().1
    }

    /// The place of a key, and the number of entries, which is to grow where a vacant place is filled.
    fn entry(&mut self, key: &K) -> (Entry<'_, (K, V)>, &mut usize) {
        if self.len >= self.parts.len() * FULL {
            self.split();
        }
        let hash = self.hasher.hash_one(key);
        let place = self.part(hash);
        let hasher = &self.hasher;
        let entry = Arc::make_mut(&mut self.parts[place]).entry(
            hash,
            |(other, _)| other == key,
            |(other, _)| hasher.hash_one(other),
        );
        (entry, &mut self.len)
    }

    /// Takes a key out, with what it had.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        // What is not there must not cost a copy of the part.
        self.get(key)?;
        let hash = self.hasher.hash_one(key);
        let part = self.part(hash);
        let part = Arc::make_mut(&mut self.parts[part]);
        let found = part.find_entry(hash, |(other, _)| other.borrow() == key);
        let ((_, value), _) = found.ok()?.remove();
        self.len -= 1;
        Some(value)
    }

    /// Halves the parts.
    fn split(&mut self) {
        let count = (self.parts.len() * 2).max(1);
        let before = std::mem::take(&mut self.parts);
        self.parts = (0..count).map(|_| Arc::default()).collect();
        for part in before {
            for (key, value) in Arc::unwrap_or_clone(part) {
                let hash = self.hasher.hash_one(&key);
                let place = self.part(hash);
                let hasher = &self.hasher;
                // Nobody else has seen the new parts.
                let part = Arc::make_mut(&mut self.parts[place]);
                part.insert_unique(hash, (key, value), |(other, _)| hasher.hash_one(other));
            }
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        Self {
            parts: Vec::new(),
            len: 0,
            hasher: DefaultHashBuilder::default(),
        }
    }
}

impl<K: Hash + Eq, V: PartialEq> PartialEq for SharedMap<K, V> {
    fn eq(&self, other: &Self) -> bool {
        let same = |(key, value): (&K, &V)| other.get(key) == Some(value);
        self.len == other.len && self.iter().all(same)
    }
}

impl<K: fmt::Debug, V: fmt::Debug> fmt::Debug for SharedMap<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

impl<K: Hash + Eq + Borrow<Q>, V, Q: Hash + Eq + ?Sized> Index<&Q> for SharedMap<K, V> {
    type Output = V;

    fn index(&self, key: &Q) -> &V {
        self.get(key).expect("no such key")
    }
}

impl<K: Hash + Eq + Clone, V: Clone> FromIterator<(K, V)> for SharedMap<K, V> {
    fn from_iter<I: IntoIterator<Item = (K, V)>>(entries: I) -> Self {
        let entries = entries.into_iter();
        let mut map = Self::with_capacity(entries.size_hint().0);
        map.extend(entries);
        map
    }
}

impl<K: Hash + Eq + Clone, V: Clone, const N: usize> From<[(K, V); N]> for SharedMap<K, V> {
    fn from(entries: [(K, V); N]) -> Self {
        entries.into_iter().collect()
    }
}

impl<K: Hash + Eq + Clone, V: Clone> Extend<(K, V)> for SharedMap<K, V> {
    fn extend<I: IntoIterator<Item = (K, V)>>(&mut self, entries: I) {
        for (key, value) in entries {
            self.insert(key, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Many random changes leave what they leave in a plain map, and copies stay what they were.
    #[test]
    fn it_is_a_map_and_its_copies_are_their_own() {
        let mut chance = fastrand::Rng::with_seed(7);
        let mut map: SharedMap<u32, u64> = SharedMap::default();
        let mut plain: HashMap<u32, u64> = HashMap::new();
        let mut copies = Vec::new();
        for step in 0..20_000 {
            let key = chance.u32(..3_000);
            match chance.u32(..4) {
                0 => assert_eq!(map.remove(&key), plain.remove(&key)),
                1 => {
                    let ours = *map.get_or_insert_with(key, || step);
                    assert_eq!(ours, *plain.entry(key).or_insert(step));
                }
                _ => assert_eq!(map.insert(key, step), plain.insert(key, step)),
            }
            assert_eq!(map.get(&key), plain.get(&key));
            assert_eq!(map.len(), plain.len());
            if step % 2_000 == 0 {
                copies.push((map.clone(), plain.clone()));
            }
        }
        copies.push((map, plain));
        for (map, plain) in &copies {
            let entries: HashMap<u32, u64> =
                map.iter().map(|(key, value)| (*key, *value)).collect();
            assert_eq!(entries, *plain);
            assert!(plain.iter().all(|(key, value)| map[key] == *value));
            // The order of insertion and the number of parts are no part of the value.
            let again: SharedMap<u32, u64> =
                plain.iter().map(|(key, value)| (*key, *value)).collect();
            assert_eq!(*map, again);
        }
        assert!(copies[1].0 != copies[2].0);
    }

    #[test]
    fn a_copy_shares_what_was_not_changed() {
        let map: SharedMap<u32, u32> = (0..10_000).map(|key| (key, key)).collect();
        let mut copy = map.clone();
        copy.insert(17, 0);
        assert_eq!(copy.remove(&20_000), None);
        let pairs = map.parts.iter().zip(&copy.parts);
        let own = pairs
            .filter(|(one, other)| !Arc::ptr_eq(one, other))
            .count();
        assert_eq!((own, map.parts.len()), (1, 128));
        assert_eq!((map[&17], copy[&17]), (17, 0));
    }
}
