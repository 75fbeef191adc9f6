//! [`Report`]: the log lines of the watcher, one for each change of state.

use super::store::Limits;
use crate::etcd::RpcError;
use crate::runtime::backoff::{Bucket, Rate};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// See the [module](self).
pub(super) struct Report {
    service: Arc<str>,
    prefix: String,
    limits: Limits,
    /// An outage was reported, and its end was not.
    outage: bool,
    /// The line about skipped keys was logged.
    overflow: bool,
    attempts: Bucket,
}

/// The rate of lines about failed attempts.
const ATTEMPTS: Rate = Rate {
    burst: 1,
    refill: Duration::from_secs(1),
};

// === impl Report ===

impl Report {
    pub(super) fn new(service: Arc<str>, prefix: String, limits: Limits) -> Self {
        Self {
            service,
            prefix,
            limits,
            outage: false,
            overflow: false,
            attempts: Bucket::default(),
        }
    }

    /// The first list came.
    pub(super) fn listed(&self, revision: i64, found: usize) {
        crate::runtime::logging::info!(
            service = %self.service, prefix = %self.prefix, revision, found, "watching",
        );
    }

    /// etcd cannot be watched.
    pub(super) fn outage(&mut self, error: &RpcError) {
        if std::mem::replace(&mut self.outage, true) {
            self.disconnected(error);
        } else {
            crate::runtime::logging::warn!(service = %self.service, prefix = %self.prefix, reason = %error, "etcd cannot be watched, keeping what is known");
        }
    }

    /// etcd can be watched. Returns whether an outage was reported before.
    pub(super) fn outage_ended(&mut self) -> bool {
        let ended = std::mem::take(&mut self.outage);
        if ended {
            crate::runtime::logging::info!(service = %self.service, prefix = %self.prefix, "watching etcd again");
        }
        ended
    }

    /// A connection ended or was not made, which is no outage yet. At most one line a second.
    pub(super) fn disconnected(&mut self, error: &RpcError) {
        if self.attempts.take(ATTEMPTS, Instant::now()).is_ok() {
            crate::runtime::logging::debug!(
                service = %self.service, prefix = %self.prefix, reason = %error,
                "the connection ended or was not made, trying again",
            );
        }
    }

    /// The number of skipped keys is now `passed_over`.
    pub(super) fn overflow(&mut self, passed_over: usize) {
        let before = std::mem::replace(&mut self.overflow, passed_over > 0);
        if passed_over > 0 && !before {
            let Limits { keys, bytes, .. } = self.limits;
            crate::runtime::logging::warn!(
                service = %self.service, prefix = %self.prefix, skipped = passed_over, max_instances = keys, max_bytes = bytes,
                "too many keys, skipping the rest",
            );
        }
    }

    /// So many keys are missing after a list.
    pub(super) fn missing(&self, missing: usize) {
        if missing > 0 {
            crate::runtime::logging::warn!(
                service = %self.service, prefix = %self.prefix, missing, retention = ?self.limits.retention,
                "more than half of the instances are gone from etcd, keeping them for the time being",
            );
        }
    }

    /// So many keys were missing for too long.
    pub(super) fn given_up(&self, given_up: usize) {
        if given_up > 0 {
            crate::runtime::logging::warn!(service = %self.service, prefix = %self.prefix, given_up, "instances did not come back in time");
        }
    }

    pub(super) fn panicked(&mut self) {
        self.outage = true;
        crate::runtime::logging::error!(
            service = %self.service, prefix = %self.prefix,
            "the task that watches etcd panicked (a bug), starting it again",
        );
    }
}
