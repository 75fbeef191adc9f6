//! [`LeaseExpiry`]: the earliest time at which the lease of a registrar may expire, for statuses and health checks.

use crate::runtime::clock;
use crate::runtime::lock::Lock;
use tokio::time::Instant;

/// The worker sets it. Statuses and health checks compare it with the current time, because after a freeze of the process
/// they may run before the worker does. All registrations of a registrar share it, as they share the lease.
#[derive(Debug, Default)]
pub(crate) struct LeaseExpiry(Lock<Option<Instant>>);

impl LeaseExpiry {
    /// The current lease lives until `at`, an instant of [`clock::now`], or longer. Set it before a status that depends on
    /// this lease is published.
    pub(crate) fn set(&self, at: Instant) {
        *self.0.lock() = Some(at);
    }

    /// When the lease may have expired, if that time has passed.
    pub(crate) fn passed(&self) -> Option<Instant> {
        self.0.lock().filter(|at| *at <= clock::now())
    }

    pub(crate) fn get(&self) -> Option<Instant> {
        *self.0.lock()
    }
}
