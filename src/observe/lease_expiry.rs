//! [`LeaseExpiry`]: until when the lease of a registrar certainly lives, for statuses and health checks.

use crate::runtime::clock;
use crate::runtime::lock::Lock;
use tokio::time::Instant;

/// The worker sets it; each status and each health check compares it with the current time. After the
/// process was frozen they may run before the worker does, when its last status is out of date.
///
/// All registrations of a registrar share one, because they share a lease.
#[derive(Debug, Default)]
pub(crate) struct LeaseExpiry(Lock<Option<Instant>>);

impl LeaseExpiry {
    /// The current lease certainly lives until `at`, by [`clock::now`]. Set it before publishing a status that
    /// depends on this lease.
    pub(crate) fn set(&self, at: Instant) {
        *self.0.lock() = Some(at);
    }

    /// When the lease expired, if it may have.
    pub(crate) fn passed(&self) -> Option<Instant> {
        self.0.lock().filter(|at| *at <= clock::now())
    }

    pub(crate) fn get(&self) -> Option<Instant> {
        *self.0.lock()
    }
}
