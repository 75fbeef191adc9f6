//! [`Report`]: the log lines of the watcher, one for each change of state.

use super::store::Limits;
use crate::etcd::RpcError;

/// See the [module](self).
pub(super) struct Report {
    prefix: String,
    limits: Limits,
    /// An outage was reported, and not its end.
    outage: bool,
    /// That keys are passed over was reported.
    overflow: bool,
}

// === impl Report ===

impl Report {
    pub(super) fn new(prefix: String, limits: Limits) -> Self {
        Self {
            prefix,
            limits,
            outage: false,
            overflow: false,
        }
    }

    /// etcd cannot be watched.
    pub(super) fn outage(&mut self, error: &RpcError) {
        if !std::mem::replace(&mut self.outage, true) {
            crate::logging::warn!(prefix = %self.prefix, reason = %error, "etcd cannot be watched, keeping what is known");
        }
    }

    /// etcd can be watched. Says whether it could not before.
    pub(super) fn outage_ended(&mut self) -> bool {
        let ended = std::mem::take(&mut self.outage);
        if ended {
            crate::logging::info!(prefix = %self.prefix, "watching etcd again");
        }
        ended
    }

    /// A connection ended, as they do.
    pub(super) fn disconnected(&self, error: &RpcError) {
        crate::logging::debug!(prefix = %self.prefix, reason = %error, "the watch ended");
    }

    /// So many keys are passed over now.
    pub(super) fn overflow(&mut self, passed_over: usize) {
        let before = std::mem::replace(&mut self.overflow, passed_over > 0);
        if passed_over > 0 && !before {
            let Limits { keys, bytes, .. } = self.limits;
            crate::logging::warn!(
                prefix = %self.prefix, passed_over, max_instances = keys, max_bytes = bytes,
                "too many keys, passing over the rest",
            );
        }
    }

    /// So many keys are missing after a list.
    pub(super) fn missing(&self, missing: usize) {
        if missing > 0 {
            crate::logging::warn!(
                prefix = %self.prefix, missing, retention = ?self.limits.retention,
                "more than half of the instances are gone from etcd, keeping them for the time being",
            );
        }
    }

    /// So many keys were missing for too long.
    pub(super) fn given_up(&self, given_up: usize) {
        if given_up > 0 {
            crate::logging::warn!(prefix = %self.prefix, given_up, "instances did not come back in time");
        }
    }

    pub(super) fn panicked(&mut self) {
        self.outage = true;
        crate::logging::error!(
            prefix = %self.prefix,
            "the task that watches etcd panicked (a bug), starting it again",
        );
    }
}
