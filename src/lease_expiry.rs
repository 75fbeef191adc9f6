//! [`LeaseExpiry`]: until when the lease of a registrar surely lives, for everybody who has to say so.

use crate::clock;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// The worker sets it; each status and each health check compares it with the time now. After the
/// process was frozen they may run before the worker does, and must not repeat what it said before.
///
/// One for all registrations of a registrar, because they share a lease.
#[derive(Debug, Default)]
pub(crate) struct LeaseExpiry(Mutex<Option<Instant>>);

impl LeaseExpiry {
    /// The lease of now surely lives until `at`, by [`clock::now`]. Set it before a status says
    /// that something is held under that lease.
    pub(crate) fn set(&self, at: Instant) {
        *self.lock() = Some(at);
    }

    /// Since when the lease is not known to live, if it is not.
    pub(crate) fn passed(&self) -> Option<Instant> {
        self.lock().filter(|at| *at <= clock::now())
    }

    pub(crate) fn get(&self) -> Option<Instant> {
        *self.lock()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Instant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
