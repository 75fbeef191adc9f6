//! Tells everybody that something has changed. Wakes its listeners in the order in which they came.
//!
//! It does what [`tokio::sync::watch`] does, except for one thing: that one spreads its listeners over several queues *at
//! random*, and with the order in which tasks wake the whole run would be another one each time.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::Notify;

/// The one who tells.
#[derive(Clone, Debug, Default)]
pub(super) struct Bell(Arc<Inner>);

/// One who wants to know.
#[derive(Debug)]
pub(super) struct Listener {
    bell: Bell,
    heard: u64,
}

#[derive(Debug, Default)]
struct Inner {
    rung: AtomicU64,
    waiting: Notify,
}

impl Bell {
    pub(super) fn ring(&self) {
        self.0.rung.fetch_add(1, Ordering::Relaxed);
        self.0.waiting.notify_waiters();
    }

    /// Hears what is rung from now on.
    pub(super) fn listener(&self) -> Listener {
        Listener {
            heard: self.0.rung.load(Ordering::Relaxed),
            bell: self.clone(),
        }
    }
}

impl Listener {
    /// Returns at once if the bell has been rung since the last time. Cancel safe.
    pub(super) async fn rung(&mut self) {
        loop {
            // Enlisted before looking, so that a ring in between is not missed.
            let notified = self.bell.0.waiting.notified();
            let rung = self.bell.0.rung.load(Ordering::Relaxed);
            if rung != self.heard {
                self.heard = rung;
                return;
            }
            notified.await;
        }
    }

    /// What has been rung so far is known.
    pub(super) fn forget(&mut self) {
        self.heard = self.bell.0.rung.load(Ordering::Relaxed);
    }
}
