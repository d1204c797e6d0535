//! How far along a served pod or gateway is, as the connections of one thread see it. They ask with every turn they take,
//! and hardly ever is there news: so asking must cost nothing.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

/// How far along a served pod or gateway is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Accepts.
    Serving,
    /// Accepts no more, and lets come to an end what runs.
    Draining,
    /// Everything is to end now.
    Stopped,
}

/// The phase, and who waits for another one, on one thread.
#[derive(Debug)]
pub(super) struct Progress {
    now: Cell<Phase>,
    waiting: RefCell<Waiting>,
}

/// Those that wait, each in a place that it keeps.
#[derive(Debug, Default)]
struct Waiting {
    places: Vec<Option<Waker>>,
    free: Vec<usize>,
}

/// Ready once the phase is the one that is waited for, or the last; says which.
#[derive(Debug)]
#[must_use = "futures do nothing unless polled"]
pub(super) struct Until {
    progress: Rc<Progress>,
    wanted: Phase,
    /// Once it has waited.
    place: Option<usize>,
}

impl Progress {
    /// Begins with serving.
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            now: Cell::new(Phase::Serving),
            waiting: RefCell::default(),
        })
    }

    /// The phase.
    pub(super) fn now(&self) -> Phase {
        self.now.get()
    }

    /// Tells everybody of another phase.
    pub(super) fn set(&self, phase: Phase) {
        self.now.set(phase);
        let wakers: Vec<Waker> = {
            let waiting = self.waiting.borrow();
            waiting.places.iter().flatten().cloned().collect()
        };
        for waker in wakers {
            waker.wake();
        }
    }

    /// Waits until the phase is `wanted`, or the last.
    pub(super) fn until(self: &Rc<Self>, wanted: Phase) -> Until {
        Until {
            progress: Rc::clone(self),
            wanted,
            place: None,
        }
    }
}

impl Future for Until {
    type Output = Phase;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Phase> {
        let now = self.progress.now();
        if now == self.wanted || now == Phase::Stopped {
            return Poll::Ready(now);
        }
        let mut waiting = self.progress.waiting.borrow_mut();
        let Waiting { places, free } = &mut *waiting;
        let place = self.place.or_else(|| free.pop());
        let place = place.unwrap_or(places.len());
        match places.get_mut(place) {
            Some(Some(waker)) => waker.clone_from(cx.waker()),
            Some(empty) => *empty = Some(cx.waker().clone()),
            None => places.push(Some(cx.waker().clone())),
        }
        drop(waiting);
        self.place = Some(place);
        Poll::Pending
    }
}

impl Drop for Until {
    fn drop(&mut self) {
        if let Some(place) = self.place {
            let mut waiting = self.progress.waiting.borrow_mut();
            let waker = waiting.places[place].take();
            waiting.free.push(place);
            if waiting.free.len() == waiting.places.len() {
                // Nobody is left: the memory of a rush of connections goes with them.
                *waiting = Waiting::default();
            }
            drop(waiting);
            // May be the last that holds a task, whose end leads here again.
            drop(waker);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::task::{JoinHandle, LocalSet, spawn_local, yield_now};

    use super::*;

    fn waiting(progress: &Rc<Progress>, wanted: Phase) -> JoinHandle<Phase> {
        spawn_local(progress.until(wanted))
    }

    #[test]
    fn everybody_hears_of_what_they_wait_for() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        LocalSet::new().block_on(&runtime, async {
            let progress = Progress::new();
            let [mut draining, stopped] =
                [Phase::Draining, Phase::Stopped].map(|wanted| waiting(&progress, wanted));
            let given_up = spawn_local({
                let until = progress.until(Phase::Draining);
                async move {
                    tokio::select! {
                        biased;
                        _ = until => {}
                        () = yield_now() => pending::<()>().await,
                    }
                }
            });
            yield_now().await;
            yield_now().await;
            assert!(!draining.is_finished());
            given_up.abort();
            assert!(given_up.await.unwrap_err().is_cancelled());
            progress.set(Phase::Draining);
            assert_eq!((&mut draining).await.unwrap(), Phase::Draining);
            assert!(!stopped.is_finished());
            // What is so already need not be waited for.
            let late = waiting(&progress, Phase::Draining);
            assert_eq!(late.await.unwrap(), Phase::Draining);
            progress.set(Phase::Stopped);
            assert_eq!(stopped.await.unwrap(), Phase::Stopped);
            let late = waiting(&progress, Phase::Draining);
            assert_eq!(late.await.unwrap(), Phase::Stopped);
            assert_eq!(progress.waiting.borrow().places.len(), 0);
        });
    }
}
