//! [`Status`]: what the world may know about a registration.
//!
//! A projection: the registrar publishes it, health and users read it, and nobody steers by it.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
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
        why: Option<Arc<str>>,
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
        why: Arc<str>,
    },
    /// No longer known to be in etcd, though it should be. It comes back by itself.
    #[non_exhaustive]
    Lost {
        /// Since when it is not known to be held.
        since: Instant,
        /// What happened.
        why: Arc<str>,
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
        why: Arc<str>,
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
pub struct StatusWatch(watch::Receiver<Numbered>);

/// A status and the number of its publication, for those who must answer for having seen it.
pub(crate) type Numbered = (u64, Status);

// === impl Status ===

impl Status {
    /// Whether the keys are known to be held: [`Registered`](Self::Registered) or
    /// [`Suspect`](Self::Suspect).
    #[must_use]
    pub fn is_held(&self) -> bool {
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

// === impl StatusWatch ===

impl StatusWatch {
    pub(crate) fn new(receiver: watch::Receiver<Numbered>) -> Self {
        Self(receiver)
    }

    /// The status now.
    #[must_use]
    pub fn get(&self) -> Status {
        self.0.borrow().1.clone()
    }

    /// Waits for a status that this watch has not shown yet; `None` after the final one.
    ///
    /// Cancel safe.
    pub async fn changed(&mut self) -> Option<Status> {
        self.next().await.map(|(_, status)| status)
    }

    /// The status now, marked as seen, with its number.
    pub(crate) fn seen(&mut self) -> Numbered {
        self.0.borrow_and_update().clone()
    }

    pub(crate) async fn next(&mut self) -> Option<Numbered> {
        {
            // Both are asked of one look: with two, the final status could come in between, and
            // whoever waits for it would be told that there is nothing more to come.
            let now = self.0.borrow();
            if now.1.is_final() && !now.has_changed() {
                return None;
            }
        }
        self.0.changed().await.ok()?;
        Some(self.seen())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_final_status_is_shown_once_whenever_it_comes() {
        for _ in 0..20_000 {
            let sender = watch::Sender::new((0, Status::Deregistering));
            let mut watch = StatusWatch::new(sender.subscribe());
            watch.seen();
            let publish = tokio::spawn(async move {
                sender.send_replace((1, Status::Deregistered));
                sender
            });
            assert_eq!(watch.changed().await, Some(Status::Deregistered));
            assert_eq!(watch.changed().await, None);
            drop(publish.await);
        }
    }
}
