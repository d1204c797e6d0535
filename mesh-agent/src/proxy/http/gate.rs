//! Holds a request's body back until the server has said `100 Continue`.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// Shut until the server has said so. (The client is told by the first read of its body.)
#[derive(Debug, Default)]
pub(in crate::proxy) struct Gate(Mutex<(GateState, Option<Waker>)>);

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum GateState {
    #[default]
    Shut,
    Open,
    /// The server has answered in full; nobody wants the body.
    Barred,
}

/// A body behind a gate, which waits only so long.
#[derive(Debug)]
pub(super) struct Held {
    gate: Arc<Gate>,
    timer: Pin<Box<Sleep>>,
}

/// Nobody wants the body.
#[derive(Debug)]
pub(super) struct Barred;

/// A server that does not know `Expect` gets the body after this while, as RFC 9110 advises clients.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

impl Gate {
    /// Lets the body through.
    pub(in crate::proxy) fn open(&self) {
        self.set(GateState::Open);
    }

    fn set(&self, state: GateState) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.0 == GateState::Shut {
            inner.0 = state;
        }
        if let Some(waker) = inner.1.take() {
            waker.wake();
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> GateState {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.0 == GateState::Shut {
            inner.1 = Some(cx.waker().clone());
        }
        inner.0
    }
}

impl Held {
    pub(super) fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate,
            timer: Box::pin(sleep(CONTINUE_WAIT)),
        }
    }

    /// Ready once the body may pass.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Barred>> {
        match self.gate.poll(cx) {
            GateState::Open => Poll::Ready(Ok(())),
            GateState::Barred => Poll::Ready(Err(Barred)),
            GateState::Shut => {
                ready!(self.timer.as_mut().poll(cx));
                self.gate.open();
                Poll::Ready(Ok(()))
            }
        }
    }

    /// Keeps the body back for good.
    pub(super) fn bar(&self) {
        self.gate.set(GateState::Barred);
    }
}
