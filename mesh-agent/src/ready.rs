//! Whether the process is ready: it is as long as nobody holds a reason why it is not.

use std::sync::{Arc, Mutex, PoisonError};

/// Readiness, shared by all who can hold it up.
#[derive(Clone, Default)]
pub struct Ready(Arc<Mutex<Vec<&'static str>>>);

/// A reason not to be ready; dropping it takes it back.
#[must_use = "dropped, it no longer holds up readiness"]
pub struct NotReady {
    ready: Ready,
    reason: &'static str,
}

impl Ready {
    /// Holds up readiness. `reason` is shown to whoever asks.
    pub fn hold(&self, reason: &'static str) -> NotReady {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(reason);
        NotReady {
            ready: self.clone(),
            reason,
        }
    }

    /// What is waited for; empty when the process is ready.
    pub fn waiting_for(&self) -> Vec<&'static str> {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl Drop for NotReady {
    fn drop(&mut self) {
        let mut reasons = self.ready.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(position) = reasons.iter().position(|reason| *reason == self.reason) {
            reasons.swap_remove(position);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_reason_to_go_makes_ready() {
        let ready = Ready::default();
        let (a, b) = (ready.hold("a"), ready.hold("b"));
        drop(a);
        assert_eq!(ready.waiting_for(), ["b"]);
        drop(b);
        assert!(ready.waiting_for().is_empty());
    }
}
