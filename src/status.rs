//! [`Status`]: what the world may know about a registration.
//!
//! A projection: the registrar publishes it, health and users read it, and nobody steers by it.

use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Where a registration stands.
///
/// ```text
/// Registering ──> Registered <──> Suspect ──> Lost ──> Registered
///                     └──────────────────────> Lost
/// any of them ──> Deregistering ──> Deregistered | LeftToExpire
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Status {
    /// Not in etcd yet: the listener is not bound, or etcd has not taken it so far.
    #[non_exhaustive]
    Registering {
        /// What the last attempt failed of.
        reason: Option<Arc<str>>,
    },
    /// In etcd, under a lease that lives.
    Registered(Registered),
    /// In etcd as far as is known: a renewal is late, but the lease cannot have run out.
    #[non_exhaustive]
    Suspect {
        /// What is still held.
        registered: Registered,
        /// When the trouble began.
        since: Instant,
        /// What the trouble is.
        reason: Arc<str>,
    },
    /// No longer known to be in etcd, though it should be. It comes back by itself.
    #[non_exhaustive]
    Lost {
        /// Since when it is not known to be held.
        since: Instant,
        /// What happened.
        reason: Arc<str>,
    },
    /// Another lease holds the key, and [`OnConflict::Yield`](crate::OnConflict::Yield) says to
    /// leave it. Taken as soon as it is free.
    #[non_exhaustive]
    Yielding {
        /// The lease that holds it; 0 when it is held without one.
        to_lease: i64,
    },
    /// On the way out; the key is being removed.
    Deregistering,
    /// Out, by our own hand: the key is gone, and will not come back.
    Deregistered,
    /// Stopped while etcd could not be told: the key goes when its lease runs out.
    #[non_exhaustive]
    LeftToExpire {
        /// At most how long the key may remain, once etcd works.
        ttl: Duration,
        /// Why etcd could not be told.
        reason: Arc<str>,
    },
}

/// A registration that is in etcd.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct Registered {
    /// The lease that holds the keys.
    pub lease: i64,
    /// The keys, one for each instance, in the order they were registered in.
    pub keys: Arc<[Arc<str>]>,
    /// The revision of etcd at which the newest of them was written.
    pub revision: i64,
    /// Since when they have been held without a gap.
    pub since: Instant,
}

/// A view of a [`Status`] that changes. Cheap to clone.
///
/// It shows the latest status, not each one that ever was: two quick changes may be seen as one.
#[derive(Debug, Clone)]
pub struct StatusWatch {
    cell: Arc<StatusCell>,
    /// The number of the status that was shown last.
    seen: u64,
}

/// A status and the number of its publication, for those who must answer for having seen it.
pub(crate) type Numbered = (u64, Status);

/// Where a status is published.
///
/// A tenth of what `tokio::sync::watch` takes, of which each of ten thousand registrations has one.
#[derive(Debug)]
pub(crate) struct StatusCell {
    now: Mutex<Numbered>,
    changed: Notify,
}

// === impl Status ===

impl Status {
    /// Whether the keys are known to be held: [`Registered`](Self::Registered) or
    /// [`Suspect`](Self::Suspect).
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.registered().is_some()
    }

    /// Whether this is the end: [`Deregistered`](Self::Deregistered) or
    /// [`LeftToExpire`](Self::LeftToExpire).
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Deregistered | Self::LeftToExpire { .. })
    }

    /// What is held, if anything is.
    #[must_use]
    pub fn registered(&self) -> Option<&Registered> {
        match self {
            Self::Registered(registered) | Self::Suspect { registered, .. } => Some(registered),
            _ => None,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registering { reason: None } => f.write_str("registering"),
            Self::Registering {
                reason: Some(reason),
            } => write!(f, "registering: {reason}"),
            Self::Registered(_) => f.write_str("registered"),
            Self::Suspect { reason, .. } => write!(f, "registered, not confirmed: {reason}"),
            Self::Lost { reason, .. } => write!(f, "registration lost: {reason}"),
            Self::Yielding { to_lease } => write!(f, "yielding to lease {to_lease:x}"),
            Self::Deregistering => f.write_str("deregistering"),
            Self::Deregistered => f.write_str("deregistered"),
            Self::LeftToExpire { ttl, reason } => {
                write!(f, "left to expire within {ttl:?}: {reason}")
            }
        }
    }
}

// === impl StatusWatch ===

impl StatusWatch {
    /// The status now.
    #[must_use]
    pub fn get(&self) -> Status {
        self.cell.get().1
    }

    /// Waits for a status that this watch has not shown yet; `None` after the final one.
    ///
    /// Cancel safe.
    pub async fn changed(&mut self) -> Option<Status> {
        self.next().await.map(|(_, status)| status)
    }

    /// Waits for a status that `wanted` accepts, the one of now included; `None` if the
    /// registration ends without one.
    ///
    /// Cancel safe.
    pub async fn wait_for(&mut self, mut wanted: impl FnMut(&Status) -> bool) -> Option<Status> {
        let mut status = self.seen().1;
        while !wanted(&status) {
            status = self.changed().await?;
        }
        Some(status)
    }

    /// The status now, marked as seen, with its number.
    pub(crate) fn seen(&mut self) -> Numbered {
        let now = self.cell.get();
        self.seen = now.0;
        now
    }

    pub(crate) async fn next(&mut self) -> Option<Numbered> {
        let cell = self.cell.clone();
        loop {
            let mut changed = pin!(cell.changed.notified());
            // Before the look, so that nothing that happens after it is missed.
            changed.as_mut().enable();
            {
                // Both are asked of one look: with two, the final status could come in between,
                // and whoever waits for it would be told that there is nothing more to come.
                let now = cell.lock();
                if now.0 != self.seen {
                    self.seen = now.0;
                    return Some(now.clone());
                }
                if now.1.is_final() {
                    return None;
                }
            }
            changed.await;
        }
    }
}

// === impl StatusCell ===

impl StatusCell {
    pub(crate) fn new(first: Status) -> Self {
        Self {
            now: Mutex::new((0, first)),
            changed: Notify::new(),
        }
    }

    /// A view of it that has shown what there is now.
    pub(crate) fn watch(self: &Arc<Self>) -> StatusWatch {
        StatusWatch {
            seen: self.lock().0,
            cell: self.clone(),
        }
    }

    pub(crate) fn get(&self) -> Numbered {
        self.lock().clone()
    }

    /// Publishes what `change` makes of the status; `None`: nothing.
    pub(crate) fn publish(&self, change: impl FnOnce(&Status) -> Option<Status>) {
        let mut now = self.lock();
        let Some(next) = change(&now.1) else { return };
        *now = (now.0 + 1, next);
        drop(now);
        self.changed.notify_waiters();
    }

    fn lock(&self) -> MutexGuard<'_, Numbered> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_final_status_is_shown_once_whenever_it_comes() {
        for _ in 0..20_000 {
            let cell = Arc::new(StatusCell::new(Status::Deregistering));
            let mut watch = cell.watch();
            let publish = tokio::spawn(async move {
                cell.publish(|_| Some(Status::Deregistered));
            });
            assert_eq!(watch.changed().await, Some(Status::Deregistered));
            assert_eq!(watch.changed().await, None);
            drop(publish.await);
        }
    }
}
