//! Tells everybody that something has changed. Wakes its listeners in the order in which they came.
//!
//! It does what [`tokio::sync::watch`] does, except for one thing: that one spreads its listeners over several queues *at
//! random*, and with the order in which tasks wake the whole run would be another one each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// Wakes the listeners.
#[derive(Clone, Debug, Default)]
pub(super) struct Notifier(Arc<Inner>);

/// Waits for changes.
#[derive(Debug)]
pub(super) struct Listener {
    notifier: Notifier,
    seen: u64,
}

#[derive(Debug, Default)]
struct Inner {
    count: AtomicU64,
    waiting: Notify,
}

impl Notifier {
    pub(super) fn notify(&self) {
        self.0.count.fetch_add(1, Ordering::Relaxed);
        self.0.waiting.notify_waiters();
    }

    /// Is woken by changes from now on.
    pub(super) fn listener(&self) -> Listener {
        Listener {
            seen: self.0.count.load(Ordering::Relaxed),
            notifier: self.clone(),
        }
    }
}

impl Listener {
    /// Returns at once if something has changed since the last time. Cancel safe.
    pub(super) async fn changed(&mut self) {
        loop {
            // Enlisted before looking, so that a change in between is not missed.
            let notified = self.notifier.0.waiting.notified();
            let count = self.notifier.0.count.load(Ordering::Relaxed);
            if count != self.seen {
                self.seen = count;
                return;
            }
            notified.await;
        }
    }

    /// Changes so far are known.
    pub(super) fn forget(&mut self) {
        self.seen = self.notifier.0.count.load(Ordering::Relaxed);
    }
}
