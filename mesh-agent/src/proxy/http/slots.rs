//! Room for what is too large to be a part of every connection's future: allocated once, and used again and again.

use std::cell::RefCell;
use std::fmt;
use std::ops::{Deref, DerefMut};
use std::rc::Rc;

/// Room that is not in use; one set for each worker.
pub(in crate::proxy) struct Slots<T>(RefCell<Vec<Room<T>>>);

type Room<T> = Box<Option<T>>;

/// What has a place there. The place is free once this is dropped.
pub(super) struct Slot<T> {
    /// Full until this is dropped.
    room: Option<Room<T>>,
    slots: Rc<Slots<T>>,
}

/// So many are kept for later.
const KEPT: usize = 64;

impl<T> fmt::Debug for Slots<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} free slots", self.0.borrow().len())
    }
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self(RefCell::default())
    }
}

impl<T> Slots<T> {
    /// Gives `value` a place.
    pub(super) fn hold(self: &Rc<Self>, value: T) -> Slot<T> {
        let room = match self.0.borrow_mut().pop() {
            Some(mut room) => {
                *room = Some(value);
                room
            }
            None => Box::new(Some(value)),
        };
        Slot {
            room: Some(room),
            slots: Rc::clone(self),
        }
    }
}

const FULL: &str = "a slot is full until it is dropped";

impl<T> Deref for Slot<T> {
    type Target = T;

    fn deref(&self) -> &T {
        let value = self.room.as_ref().and_then(|room| room.as_ref().as_ref());
        value.expect(FULL)
    }
}

impl<T> DerefMut for Slot<T> {
    fn deref_mut(&mut self) -> &mut T {
        let value = self.room.as_mut().and_then(|room| room.as_mut().as_mut());
        value.expect(FULL)
    }
}

impl<T> Drop for Slot<T> {
    fn drop(&mut self) {
        if let Some(mut room) = self.room.take() {
            *room = None;
            let mut kept = self.slots.0.borrow_mut();
            if kept.len() < KEPT {
                kept.push(room);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_free_once_its_value_is_gone() {
        let slots = Rc::<Slots<Rc<u32>>>::default();
        let value = Rc::new(7);
        for _ in 0..3 {
            let mut slot = slots.hold(Rc::clone(&value));
            let other = slots.hold(Rc::new(8));
            assert_eq!((**slot, **other, Rc::strong_count(&value)), (7, 8, 2));
            *slot = Rc::new(9);
            assert_eq!((**slot, Rc::strong_count(&value)), (9, 1));
            drop((slot, other));
            assert_eq!(slots.0.borrow().len(), 2);
        }
    }
}
