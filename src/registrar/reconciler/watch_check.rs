//! Reads the keys now and then, because a watch that hangs looks like a watch without events.
//!
//! A proxy may send each request and each stream to another member. Once the member of the watch hung, renewals were
//! still answered, by others, and `Registered` was reported for 20 s without a key. Each answer names its member. If the
//! same member answers renewals and has the watch, it lives as long as renewals are answered, and a check every
//! 12 TTLs is enough. Otherwise keys are checked once a TTL.

use crate::etcd::DENIED_RETRY;
use crate::registrar::ids::Key;
use crate::runtime::deadline;
use std::time::Duration;
use tokio::time::Instant;

/// After how many TTLs each key is checked again, if the watch is at the member that answers renewals.
const QUIET_TTLS: u32 = 12;

/// What is known about the watch of one connection.
#[derive(Debug, Default)]
pub(super) struct WatchCheck {
    /// The member that created the watch last; 0: not known.
    watch_member: u64,
    /// The member that answered a renewal last; 0: not known.
    lease_member: u64,
    /// When the last check ended, or the first watch was created.
    pub(super) last: Option<Instant>,
    pub(super) under_way: Option<Check>,
    /// How many requests a check of all keys takes.
    pub(super) requests: u32,
    /// Keys that differed. They are read again, because the event of a change may be under way.
    pub(super) differing: Vec<Key>,
    pub(super) failures: u32,
    /// The last check was denied.
    pub(super) is_denied: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    First,
    /// Of keys that differed before.
    Second,
}

// === impl WatchCheck ===

impl WatchCheck {
    pub(super) fn on_created(&mut self, now: Instant, member: u64) {
        self.watch_member = member;
        self.last.get_or_insert(now);
    }

    pub(super) fn on_renewed(&mut self, member: u64) {
        if member != 0 {
            self.lease_member = member;
        }
    }

    /// When the next check is due.
    pub(super) fn due(&self, ttl: Duration, attempt_timeout: Duration) -> Option<Instant> {
        let last = self.last.filter(|_| self.under_way.is_none())?;
        let requests = self.requests.max(1);
        let is_same = self.watch_member != 0 && self.watch_member == self.lease_member;
        let wait = match (self.failures, is_same) {
            _ if !self.differing.is_empty() => attempt_timeout,
            (1.., _) => ttl / 3,
            (0, true) => ttl * QUIET_TTLS / requests,
            (0, false) => ttl * requests.min(QUIET_TTLS) / requests,
        };
        let denied = match self.is_denied {
            true => DENIED_RETRY,
            false => Duration::ZERO,
        };
        Some(deadline::after(last, wait.max(denied)))
    }
}
