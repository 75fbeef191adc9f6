//! [`Listeners`]: the listeners of one registration, counted.

use crate::runtime::lock::Lock;
use std::time::Duration;
use tokio::time::Instant;

/// The registration appears when all of them accept. The drain continues when all of them are closed.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Lock<State>);

#[derive(Debug, Default)]
struct State {
    added: usize,
    accepting: usize,
    closed: usize,
    /// When the last warning was logged that nothing can be accepted.
    warned: Option<Instant>,
}

/// How often a warning is logged, whatever happens.
const WARN_EVERY: Duration = Duration::from_secs(60);

impl Listeners {
    /// Adds a listener that is bound and will accept later.
    pub(crate) fn add(&self) {
        self.0.lock().added += 1;
    }

    /// Another listener accepts from now on. Returns whether all of them do.
    pub(crate) fn accept(&self) -> bool {
        let mut state = self.0.lock();
        state.accepting += 1;
        state.accepting == state.added
    }

    /// Another listener is closed. Returns whether all of them are.
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

    /// Whether there is, or was, any.
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
