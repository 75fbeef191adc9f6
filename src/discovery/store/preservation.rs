//! Self-preservation: which missing instances are kept, and until when. Pure.
//!
//! Lists and events take effect at once, with two exceptions. A set does not shrink to less than half
//!
//! * by a list: an etcd that lost its data is empty until the servers are registered again;
//! * by deletions in the first 5 s after etcd answered nothing for 2 s, its shortest TTL: when such an etcd continues, it
//!   deletes the keys of whole fleets before the servers can renew their leases.
//!
//! The missing keys are kept, each until a deadline of its own that later lost connections do not change.

use super::{SHORTEST_TTL, Store};
use crate::runtime::deadline;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How long deletions are subject to self-preservation after etcd was silent. After that, servers that run
/// have registered again.
pub(super) const AFTER_SILENCE: Duration = Duration::from_secs(5);
/// Servers that run register again within one second of each other.
const STILL_MISSING_LIMIT: Duration = Duration::from_secs(1);

// === impl Store ===

impl Store {
    /// etcd answered. Call it before the answer is applied.
    pub(in crate::discovery) fn on_answer(&mut self, now: Instant) {
        let silent = self.last_answer.replace(now).map(|last| now - last);
        let Some(silent) = silent.filter(|silent| *silent >= SHORTEST_TTL) else {
            return;
        };
        self.epoch += 1;
        self.set_threshold(now);
        let window = AFTER_SILENCE.min(self.limits.retention);
        self.preserved_until = Some(now + window);
        // No server could register again meanwhile.
        self.missing.postpone(silent);
        self.settled_at = self.settled_at.map(|at| deadline::after(at, silent));
    }

    /// Sets the threshold to half of the instances; until self-preservation is over, of those before it.
    pub(super) fn set_threshold(&mut self, now: Instant) {
        if self.missing.is_empty() && !self.is_preserving(now) {
            self.threshold = 0;
        }
        if !self.limits.retention.is_zero() {
            self.threshold = self.threshold.max(self.readable.div_ceil(2));
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(in crate::discovery) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.missing.first_deadline(), self.settled_at];
        deadlines.into_iter().flatten().min()
    }

    /// Removes the keys that were missing for too long. Returns their number.
    pub(in crate::discovery) fn expire(&mut self, now: Instant) -> usize {
        let keys = match self.settled_at {
            Some(at) if at <= now => self.missing.take_all(),
            _ => self.missing.take_expired(now),
        };
        for key in &keys {
            self.remove(key);
        }
        self.settle(false, now);
        keys.len()
    }

    pub(super) fn is_preserving(&self, now: Instant) -> bool {
        self.preserved_until.is_some_and(|until| now < until)
    }

    pub(super) fn miss(&mut self, key: &Arc<str>, now: Instant) {
        let entry = self.entries.get(key);
        let instance = entry.and_then(|entry| entry.instance.as_ref().ok());
        let address = instance.map(|instance| instance.address().unwrap_or_default());
        let until = deadline::after(now, self.limits.retention);
        self.missing.insert(key, address, until);
    }

    /// The number of instances that etcd has, as far as we know.
    pub(super) fn present(&self) -> usize {
        self.readable - self.missing.instances()
    }

    /// Once half are back, the others are kept for one second after the last one that came back.
    pub(super) fn settle(&mut self, is_back: bool, now: Instant) {
        if self.missing.is_empty() || self.present() < self.threshold {
            self.settled_at = None;
        } else if is_back || self.settled_at.is_none() {
            self.settled_at = Some(now + STILL_MISSING_LIMIT);
        }
    }
}
