//! Notifies listeners of a change. It wakes them in the order in which they began to wait.
//!
//! It works like [`tokio::sync::watch`] with one difference: `watch` distributes its listeners over several queues *at
//! random*, so that tasks would wake in another order in each run, and a run could not be repeated.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Notify;

/// Wakes the listeners.
#[derive(Clone, Debug, Default)]
pub(crate) struct Notifier(Arc<Inner>);

/// Waits for changes.
#[derive(Debug)]
pub(crate) struct Listener {
    notifier: Notifier,
    seen: u64,
}

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    waiting: Notify,
}

impl Notifier {
    pub(crate) fn notify(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.waiting.notify_waiters();
    }

    /// A listener of changes from now on.
    pub(crate) fn listener(&self) -> Listener {
        Listener {
            seen: self.0.count.load(Ordering::Relaxed),
            notifier: self.clone(),
        }
    }
}

impl Listener {
    /// Returns at once if something has changed since the last time. Cancel safe.
    pub(crate) async fn changed(&mut self) {
        loop {
            // Registered before the check, so that a change in between is not missed.
            let notified = self.notifier.0.waiting.notified();
            let count = self.notifier.0.count.load(Ordering::Relaxed);
            if count != self.seen {
                self.seen = count;
                return;
            }
            notified.await;
        }
    }
}
