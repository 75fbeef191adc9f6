//! [`RuntimeGuard`]: ends all entries when the runtime drops the worker, so that no caller waits forever.

use super::reconciler::{Reconciler, Settings};
use super::registry::Registry;
use super::report;
use crate::observe::status::{Ended, RegistrationStatus};
use crate::runtime::random;
use std::sync::Arc;

/// See the [module](self).
pub(super) struct RuntimeGuard {
    pub(super) registry: Arc<Registry>,
    pub(super) reconciler: Reconciler,
    /// Why the keys that are left cannot be deleted.
    pub(super) reason: &'static str,
}

// === impl RuntimeGuard ===

impl RuntimeGuard {
    pub(super) fn new(registry: Arc<Registry>) -> Self {
        let config = &registry.config;
        let settings = Settings {
            ttl: config.ttl,
            revoke_timeout: config.revoke_timeout,
            on_conflict: config.on_conflict,
            cluster: config.cluster.clone(),
            random_id: |rng| random::id(|| rng.u64(..)),
        };
        let is_observed = !config.observers.is_empty();
        let reconciler = Reconciler::new(settings, fastrand::Rng::new()).observed(is_observed);
        Self {
            registry,
            reconciler,
            reason: "the runtime ended",
        }
    }
}

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        self.registry.close();
        for entry in self.registry.entries() {
            let last = match entry.draft().is_announced() {
                true => self.reconciler.abandoned(entry.id, self.reason),
                false => RegistrationStatus::Ended(Ended::Deregistered),
            };
            report::publish(&self.registry, &entry, Arc::new(last));
            entry.lifecycle.drain_now();
        }
    }
}
