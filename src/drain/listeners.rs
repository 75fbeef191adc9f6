//! [`Listeners`]: counts the listeners of one registration.

use crate::runtime::lock::Lock;
use std::time::Duration;
use tokio::time::Instant;

/// The server is announced when all listeners accept. The drain continues when all are closed.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Lock<State>);

#[derive(Debug, Default)]
struct State {
    added: usize,
    accepting: usize,
    closed: usize,
    /// When a warning was last logged that no connection can be accepted.
    warned: Option<Instant>,
}

/// The shortest time between two warnings.
const WARN_EVERY: Duration = Duration::from_secs(60);

impl Listeners {
    /// Adds a listener that is bound, and accepts later.
    pub(crate) fn add(&self) {
        self.0.lock().added += 1;
    }

    /// Another listener accepts from now on. Returns whether all do.
    pub(crate) fn accept(&self) -> bool {
        let mut state = self.0.lock();
        state.accepting += 1;
        state.accepting == state.added
    }

    /// Another listener is closed. Returns whether all are.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.0.lock();
        state.closed += 1;
        state.closed == state.added
    }

    /// Whether a warning may be logged now.
    pub(crate) fn may_warn(&self, now: Instant) -> bool {
        let mut state = self.0.lock();
        let last = state.warned;
        let may = last.is_none_or(|last| now.duration_since(last) >= WARN_EVERY);
        state.warned = if may { Some(now) } else { last };
        may
    }

    /// Whether any listener was added.
    pub(crate) fn exist(&self) -> bool {
        self.0.lock().added > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_warning_may_be_logged_once_a_minute() {
        let listeners = Listeners::default();
        let start = Instant::now();
        let at = |seconds| listeners.may_warn(start + Duration::from_secs(seconds));
        assert_eq!(
            [0, 1, 59, 60, 61, 120].map(at),
            [true, false, false, true, false, true]
        );
    }
}
