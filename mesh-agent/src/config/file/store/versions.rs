//! Every version of each object that the files have, by the object's name.

use std::hash::BuildHasher;
use std::sync::Arc;

use hashbrown::hash_table::{Entry, HashTable};

use crate::config::file::store::Written;
use crate::config::object::ObjectId;

/// The versions of every object.
#[derive(Debug, Default)]
pub(super) struct Versions {
    table: HashTable<Slot>,
    hasher: hashbrown::DefaultHashBuilder,
}

/// The versions of one object: hardly any has several, and there may be a hundred thousand objects.
#[derive(Debug)]
#[expect(
    clippy::box_collection,
    reason = "a slot with room for a list would be twice as large for every object"
)]
enum Slot {
    One(Arc<Written>),
    Many(Box<Vec<Arc<Written>>>),
}

impl Versions {
    /// The versions of an object, in no order.
    pub(super) fn get(&self, id: &ObjectId) -> &[Arc<Written>] {
        let hash = self.hasher.hash_one(id);
        let found = self.table.find(hash, |slot| slot.id() == id);
        found.map_or(&[], Slot::all)
    }

    /// All versions of all objects, object by object.
    pub(super) fn iter(&self) -> impl Iterator<Item = &[Arc<Written>]> {
        self.table.iter().map(Slot::all)
    }

    pub(super) fn add(&mut self, written: &Arc<Written>) {
        match self.entry(&written.object.id) {
            Entry::Vacant(entry) => {
                entry.insert(Slot::One(Arc::clone(written)));
            }
            Entry::Occupied(mut entry) => match entry.get_mut() {
                Slot::Many(all) => all.push(Arc::clone(written)),
                Slot::One(other) => {
                    let both = vec![Arc::clone(other), Arc::clone(written)];
                    *entry.get_mut() = Slot::Many(Box::new(both));
                }
            },
        }
    }

    pub(super) fn remove(&mut self, written: &Arc<Written>) {
        let Entry::Occupied(mut entry) = self.entry(&written.object.id) else {
            return;
        };
        let left = match entry.get_mut() {
            Slot::One(only) => !Arc::ptr_eq(only, written),
            Slot::Many(all) => {
                if let Some(place) = all.iter().position(|other| Arc::ptr_eq(other, written)) {
                    all.swap_remove(place);
                }
                !all.is_empty()
            }
        };
        if !left {
            entry.remove();
        }
    }

    fn entry(&mut self, id: &ObjectId) -> Entry<'_, Slot> {
        let hasher = &self.hasher;
        self.table.entry(
            hasher.hash_one(id),
            |slot| slot.id() == id,
            |slot| hasher.hash_one(slot.id()),
        )
    }
}

impl Slot {
    fn all(&self) -> &[Arc<Written>] {
        match self {
            Self::One(only) => std::slice::from_ref(only),
            Self::Many(all) => all,
        }
    }

    /// A slot is never empty.
    fn id(&self) -> &ObjectId {
        &self.all()[0].object.id
    }
}
