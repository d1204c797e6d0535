//! Timers of requests, used again and again: hardly one ever fires, and one that is moved to a later time costs next to
//! nothing, where a new one must be allocated and entered.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use tokio::time::{Instant, Sleep, sleep_until};

/// Those that are not in use; one set for each worker.
#[derive(Debug, Default)]
pub(in crate::proxy) struct Timers(RefCell<Vec<Pin<Box<Sleep>>>>);

/// One that is in use.
#[derive(Debug)]
pub(super) struct Timer {
    /// None once it is dropped.
    sleep: Option<Pin<Box<Sleep>>>,
    timers: Rc<Timers>,
}

/// So many are kept for later. Until its time one keeps the memory of the task that it was last for.
const KEPT: usize = 64;

impl Timer {
    /// Fires at that time.
    pub(super) fn at(time: Instant, timers: &Rc<Timers>) -> Self {
        let kept = timers.0.borrow_mut().pop();
        let sleep = match kept {
            Some(mut sleep) => {
                sleep.as_mut().reset(time);
                sleep
            }
            None => Box::pin(sleep_until(time)),
        };
        Self {
            sleep: Some(sleep),
            timers: Rc::clone(timers),
        }
    }

    /// Ready once it has fired.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.sleep {
            Some(sleep) => sleep.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut kept = self.timers.0.borrow_mut();
        if kept.len() < KEPT
            && let Some(sleep) = self.sleep.take()
        {
            kept.push(sleep);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn one_that_is_used_again_fires_at_its_new_time() {
        let timers = Rc::<Timers>::default();
        let began = Instant::now();
        let mut expected = Duration::ZERO;
        // Later, sooner, and after it has fired.
        for (given_up, waited) in [(100, 200), (5000, 10), (20, 30), (1, 1)] {
            let mut timer = Timer::at(Instant::now() + Duration::from_millis(given_up), &timers);
            let polled = poll_fn(|cx| Poll::Ready(timer.poll(cx))).await;
            assert!(polled.is_pending());
            drop(timer);
            assert_eq!(timers.0.borrow().len(), 1);
            let mut timer = Timer::at(Instant::now() + Duration::from_millis(waited), &timers);
            assert_eq!(timers.0.borrow().len(), 0);
            poll_fn(|cx| timer.poll(cx)).await;
            expected += Duration::from_millis(waited);
            assert_eq!(began.elapsed(), expected);
        }
    }
}
