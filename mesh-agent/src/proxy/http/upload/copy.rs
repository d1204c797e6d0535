//! The copy of a request's body that goes to a mirror. It follows the original and never holds it up: a mirror that falls
//! too far behind loses its copy.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::{Frame, SizeHint};

use crate::proxy::http::body::BodyError;
use crate::proxy::http::upload::kept::Piece;

/// The side of the original.
#[derive(Debug)]
pub(super) struct Source(Rc<RefCell<State>>);

/// The side of the mirror. Its clones are the same copy.
#[derive(Clone, Debug)]
pub(in crate::proxy) struct Copy {
    state: Rc<RefCell<State>>,
    hint: SizeHint,
}

#[derive(Debug, Default)]
struct State {
    frames: VecDeque<Piece>,
    /// What those that wait cost.
    cost: usize,
    end: Option<End>,
    reader: Option<Waker>,
    /// The task that waits for the end.
    waiting: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All of it was handed over.
    Whole,
    /// The original broke off, or the mirror was too slow.
    Broken,
}

/// So much may wait for a mirror to take it.
const BACKLOG: usize = 1024 * 1024;

/// Both sides of a copy.
pub(super) fn copy(hint: SizeHint) -> (Source, Copy) {
    let state = Rc::<RefCell<State>>::default();
    let copy = Copy {
        state: Rc::clone(&state),
        hint,
    };
    (Source(state), copy)
}

impl Source {
    /// Hands a frame over. Gives false where nobody will take any more.
    pub(super) fn push(&self, frame: &Frame<Bytes>) -> bool {
        let mut state = self.0.borrow_mut();
        // The other side is gone.
        if Rc::strong_count(&self.0) == 1 {
            state.frames.clear();
            return false;
        }
        if let Some(piece) = Piece::of(frame) {
            state.cost += piece.cost();
            if state.cost > BACKLOG {
                state.finish(End::Broken);
                state.frames.clear();
                return false;
            }
            state.frames.push_back(piece);
            state.wake();
        }
        true
    }

    /// The original has ended.
    pub(super) fn end(&self) {
        self.0.borrow_mut().finish(End::Whole);
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        self.0.borrow_mut().finish(End::Broken);
    }
}

impl State {
    fn finish(&mut self, end: End) {
        self.end.get_or_insert(end);
        self.wake();
        if let Some(waiting) = self.waiting.take() {
            waiting.wake();
        }
    }

    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

impl Copy {
    /// Whether the mirror has taken all of it.
    pub(super) fn is_done(&self) -> bool {
        let state = self.state.borrow();
        state.frames.is_empty() && state.end == Some(End::Whole)
    }

    /// Ready once no more will come.
    pub(super) fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state.borrow_mut();
        if state.end.is_some() {
            return Poll::Ready(());
        }
        state.waiting = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl http_body::Body for Copy {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut state = self.state.borrow_mut();
        if let Some(piece) = state.frames.pop_front() {
            state.cost -= piece.cost();
            return Poll::Ready(Some(Ok(piece.into_frame())));
        }
        match state.end {
            Some(End::Whole) => Poll::Ready(None),
            Some(End::Broken) => Poll::Ready(Some(Err(BodyError::Unwanted))),
            None => {
                state.reader = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.is_done()
    }

    fn size_hint(&self) -> SizeHint {
        self.hint
    }
}
