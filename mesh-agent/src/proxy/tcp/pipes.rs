//! The pipes of a worker, through which what is relayed goes without a copy. They are lent for as long as bytes flow, so
//! that a few serve many connections.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::sys::pipe::Pipe;

/// So many may be in use at once, and so many are kept for later. Each takes two descriptors, and some kilobytes while
/// it is empty.
const MOST: usize = 128;
const KEPT: usize = 16;

/// How long nobody asks the kernel again that had no pipe to give.
const PAUSE: Duration = Duration::from_secs(1);

/// The pipes of a worker.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Pipes {
    most: usize,
    free: RefCell<Vec<Pipe>>,
    lent: Cell<usize>,
    /// When the kernel had none.
    refused: Cell<Option<Instant>>,
}

/// A pipe, until it is dropped.
#[derive(Debug)]
pub(super) struct Lent {
    /// Always there, until it goes back.
    pipe: Option<Pipe>,
    pipes: Rc<Pipes>,
}

impl Pipes {
    /// None at all where what is read from a connection may not be seen by `splice`.
    pub(in crate::proxy) fn new(splice: bool) -> Self {
        Self {
            most: if splice { MOST } else { 0 },
            free: RefCell::default(),
            lent: Cell::new(0),
            refused: Cell::new(None),
        }
    }

    /// Whether there are any.
    pub(super) fn any(&self) -> bool {
        self.most > 0
    }

    /// Lends a pipe that is empty, if one can be had.
    pub(super) fn lend(self: &Rc<Self>) -> Option<Lent> {
        if self.lent.get() >= self.most {
            return None;
        }
        let pipe = match self.free.borrow_mut().pop() {
            Some(pipe) => pipe,
            None => self.make()?,
        };
        self.lent.set(self.lent.get() + 1);
        Some(Lent {
            pipe: Some(pipe),
            pipes: Rc::clone(self),
        })
    }

    fn make(&self) -> Option<Pipe> {
        if self.refused.get().is_some_and(|at| at.elapsed() < PAUSE) {
            return None;
        }
        match Pipe::new() {
            Ok(pipe) => Some(pipe),
            Err(error) => {
                tracing::debug!(%error, "no pipe: what is relayed is copied");
                self.refused.set(Some(Instant::now()));
                None
            }
        }
    }
}

impl Lent {
    fn pipe(&self) -> &Pipe {
        self.pipe.as_ref().expect("a pipe stays until it goes back")
    }
}

impl Deref for Lent {
    type Target = Pipe;

    fn deref(&self) -> &Pipe {
        self.pipe()
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Pipe {
        self.pipe.as_mut().expect("a pipe stays until it goes back")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.pipes.lent.set(self.pipes.lent.get() - 1);
        let mut free = self.pipes.free.borrow_mut();
        // What is left in a pipe is nobody else's.
        if let Some(pipe) = self.pipe.take()
            && pipe.held() == 0
            && free.len() < KEPT
        {
            free.push(pipe);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lends_what_it_has_and_no_more() {
        let none = Rc::new(Pipes::new(false));
        assert!(none.lend().is_none());
        let pipes = Rc::new(Pipes::new(true));
        let all: Vec<_> = std::iter::from_fn(|| pipes.lend()).take(1000).collect();
        assert!(!all.is_empty() && all.len() <= MOST, "{}", all.len());
        drop(all);
        assert_eq!(pipes.lent.get(), 0);
        assert!(pipes.free.borrow().len() <= KEPT);
        assert!(pipes.lend().is_some());
    }
}
