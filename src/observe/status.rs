//! [`RegistrationStatus`]: the state of a registration.
//!
//! The registrar publishes it; health and users read it. No decision depends on it.

use crate::observe::lease_expiry::LeaseExpiry;
use crate::observe::timestamp::Timestamp;
use crate::runtime::lock::Lock;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::sleep;

/// The state of a registration.
///
/// ```text
/// Registering ──> Registered <──> Suspect ──> Lost ──> Registered
///                     └──────────────────────> Lost
/// any of them ──> Paused ──> Registering
/// any of them ──> Deregistering ──> Ended
/// ```
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RegistrationStatus {
    /// Not in etcd yet: the server is not announced, or no write has succeeded.
    #[non_exhaustive]
    Registering {
        /// The error of the last attempt.
        reason: Option<Arc<str>>,
    },
    /// In etcd, under a lease that lives.
    Registered(Registered),
    /// In etcd: a renewal is late, but the lease cannot have expired.
    #[non_exhaustive]
    Suspect {
        /// The registration.
        registered: Registered,
        /// Since when no renewal was acknowledged.
        since: Timestamp,
        /// Why.
        reason: Arc<str>,
    },
    /// No longer known to be in etcd. The registrar registers it again.
    #[non_exhaustive]
    Lost {
        /// Since when.
        since: Timestamp,
        /// What happened.
        reason: Arc<str>,
    },
    /// Another lease holds the key, and [`OnConflict::Yield`](crate::OnConflict::Yield) is set. The key is written as soon
    /// as it is free.
    #[non_exhaustive]
    Yielding {
        /// The lease that holds it. 0: the key has no lease.
        to_lease: i64,
    },
    /// The keys are withheld: the registration is [paused](crate::Registration::pause). They are put back when the last
    /// pause is over. Meanwhile the lease is kept, or replaced by another one. This status does not show errors of that.
    #[non_exhaustive]
    Paused {
        /// The reason of each pause, the oldest first.
        reasons: Arc<[Arc<str>]>,
        /// Since when the registration has been paused without interruption.
        since: Timestamp,
    },
    /// Deregistration has begun: the keys are being deleted.
    Deregistering,
    /// The registration has ended: the last status.
    Ended(Ended),
}

/// How a registration ended.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Ended {
    /// The keys are deleted.
    Deregistered,
    /// etcd could not be reached. The keys are deleted when their lease expires.
    #[non_exhaustive]
    LeftToExpire {
        /// The longest time that the keys may remain, once etcd works.
        ttl: Duration,
        /// Why etcd could not be reached.
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
    /// The revision of etcd at which the newest key was written.
    pub revision: i64,
    /// Since when all keys have been in etcd without interruption.
    pub since: Timestamp,
}

/// Watches a [`RegistrationStatus`]. Cheap to clone.
///
/// It returns the latest status: of two quick changes it may return only the second one.
#[derive(Clone)]
pub struct StatusWatch {
    cell: Arc<StatusCell>,
    /// The number of the status that was returned last.
    seen: u64,
}

/// A status and the number of its publication, which health services acknowledge.
pub(crate) type Numbered = (u64, Arc<RegistrationStatus>);

/// The published status, with the expiry of the lease after which it is not valid.
///
/// The status is shared with the reconciler, which compares the next one with it. The cell needs a
/// tenth of the memory of `tokio::sync::watch`, and each of ten thousand registrations has one.
#[derive(Debug)]
pub(crate) struct StatusCell {
    /// The status, and since when it has been of this kind.
    published: Lock<(Numbered, Timestamp)>,
    changed: Notify,
    expiry: Arc<LeaseExpiry>,
}

/// How often a waiting task reads the expiry of a lease again.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

// === impl RegistrationStatus ===

impl RegistrationStatus {
    /// Whether the keys are known to be in etcd: [`Registered`](Self::Registered) or
    /// [`Suspect`](Self::Suspect).
    #[must_use]
    pub fn is_registered(&self) -> bool {
        self.registered().is_some()
    }

    /// Whether the registration has [ended](Self::Ended): no other status follows.
    #[must_use]
    pub fn is_final(&self) -> bool {
        matches!(self, Self::Ended(_))
    }

    /// The registration, if the keys are known to be in etcd.
    #[must_use]
    pub fn registered(&self) -> Option<&Registered> {
        match self {
            Self::Registered(registered) | Self::Suspect { registered, .. } => Some(registered),
            _ => None,
        }
    }
}

impl fmt::Display for RegistrationStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Registering { reason: None } => f.write_str("registering"),
            Self::Registering {
                reason: Some(reason),
            } => write!(f, "registering: {reason}"),
            Self::Registered(_) => f.write_str("registered"),
            Self::Suspect { reason, .. } => write!(f, "registered, not confirmed: {reason}"),
            Self::Lost { reason, .. } => write!(f, "registration lost: {reason}"),
            Self::Yielding { to_lease } => write!(f, "yielding to lease {to_lease:016x}"),
            Self::Paused { reasons, .. } => write!(f, "paused: {}", reasons.join("; ")),
            Self::Deregistering => f.write_str("deregistering"),
            Self::Ended(ended) => ended.fmt(f),
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Deregistered => f.write_str("deregistered"),
            Self::LeftToExpire { ttl, reason } => {
                write!(f, "left to expire within {ttl:?}: {reason}")
            }
        }
    }
}

// === impl StatusWatch ===

impl StatusWatch {
    /// The current status. It is [`Lost`](RegistrationStatus::Lost) as soon as the lease may have expired, also if the
    /// registrar has not run since, such as after a freeze of the process.
    #[must_use]
    pub fn get(&self) -> RegistrationStatus {
        self.cell.get()
    }

    /// Waits for a status that this watch has not returned yet. `None` after the last one.
    ///
    /// Cancel safe.
    pub async fn changed(&mut self) -> Option<RegistrationStatus> {
        let (_, status) = self.next().await?;
        Some(Arc::unwrap_or_clone(status))
    }

    /// Waits for a status for which `wanted` returns true, beginning with the current one. `None` if the registration ends
    /// without one.
    ///
    /// Cancel safe.
    pub async fn wait_for(
        &mut self,
        mut wanted: impl FnMut(&RegistrationStatus) -> bool,
    ) -> Option<RegistrationStatus> {
        let mut published = self.seen().1;
        loop {
            let status = self.cell.at_expiry(&published);
            if wanted(&status) {
                return Some(status);
            }
            // A renewal that arrives at the last moment extends the expiry without a publication.
            let look_again = async {
                match status == *published {
                    true => std::future::pending().await,
                    false => sleep(LOOK_AGAIN).await,
                }
            };
            tokio::select! {
                biased;
                next = self.next() => published = next?.1,
                () = look_again => {}
            }
        }
    }

    /// The last published status with its number, marked as seen.
    pub(crate) fn seen(&mut self) -> Numbered {
        let published = self.cell.published();
        self.seen = published.0;
        published
    }

    pub(crate) async fn next(&mut self) -> Option<Numbered> {
        let cell = self.cell.clone();
        loop {
            let mut changed = pin!(cell.changed.notified());
            // Before the read, so that no change after it is missed.
            changed.as_mut().enable();
            // Both conditions are checked on one read. With two reads the final status could come in between,
            // and a waiting caller would get `None` instead of it.
            let (number, status) = cell.published();
            if number != self.seen {
                self.seen = number;
                return Some((number, status));
            }
            if status.is_final() {
                return None;
            }
            changed.await;
        }
    }
}

impl fmt::Debug for StatusWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let status = self.get();
        f.debug_tuple("StatusWatch")
            .field(&format_args!("{status}"))
            .finish()
    }
}

// === impl StatusCell ===

impl StatusCell {
    pub(crate) fn new(expiry: Arc<LeaseExpiry>) -> Self {
        let status = RegistrationStatus::Registering { reason: None };
        Self {
            published: Lock::new(((0, Arc::new(status)), Timestamp::now())),
            changed: Notify::new(),
            expiry,
        }
    }

    /// A watch that has returned the current status already.
    pub(crate) fn watch(self: &Arc<Self>) -> StatusWatch {
        StatusWatch {
            seen: self.published.lock().0.0,
            cell: self.clone(),
        }
    }

    /// The status that holds now.
    pub(crate) fn get(&self) -> RegistrationStatus {
        self.at_expiry(&self.published().1)
    }

    /// The status that was published last.
    pub(crate) fn published(&self) -> Numbered {
        self.published.lock().0.clone()
    }

    /// The status that holds now, and since when it has been of this kind.
    pub(crate) fn get_since(&self) -> (RegistrationStatus, Timestamp) {
        let ((_, published), since) = self.published.lock().clone();
        match self.at_expiry(&published) {
            RegistrationStatus::Lost { since, reason } => {
                (RegistrationStatus::Lost { since, reason }, since)
            }
            status => (status, since),
        }
    }

    /// Publishes `next` if it differs from the last status and `allows` returns true for that. Returns the last status.
    pub(crate) fn publish(
        &self,
        next: Arc<RegistrationStatus>,
        allows: impl FnOnce(&RegistrationStatus) -> bool,
    ) -> Option<Arc<RegistrationStatus>> {
        let mut guard = self.published.lock();
        let ((number, published), since) = &mut *guard;
        if *published == next || !allows(published) {
            return None;
        }
        if std::mem::discriminant(&**published) != std::mem::discriminant(&*next) {
            *since = Timestamp::now();
        }
        let last = std::mem::replace(published, next);
        *number += 1;
        drop(guard);
        self.changed.notify_waiters();
        Some(last)
    }

    /// The current status for a published one: no key is known to be in etcd once the lease may have expired.
    fn at_expiry(&self, published: &RegistrationStatus) -> RegistrationStatus {
        if !published.is_registered() {
            return published.clone();
        }
        match self.expiry.passed() {
            None => published.clone(),
            Some(at) => RegistrationStatus::Lost {
                since: Timestamp::at(at),
                reason: "the lease expired unconfirmed".into(),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::clock;
    use std::future::Future as _;
    use std::sync::OnceLock;
    use std::task::Poll;

    static SINCE: OnceLock<Timestamp> = OnceLock::new();

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_final_status_is_shown_once_whenever_it_comes() {
        for _ in 0..20_000 {
            let cell = Arc::new(StatusCell::new(Arc::default()));
            cell.publish(Arc::new(RegistrationStatus::Deregistering), |_| true);
            let mut watch = cell.watch();
            let publish = tokio::spawn(async move {
                cell.publish(
                    Arc::new(RegistrationStatus::Ended(Ended::Deregistered)),
                    |_| true,
                );
            });
            assert_eq!(
                watch.changed().await,
                Some(RegistrationStatus::Ended(Ended::Deregistered))
            );
            assert_eq!(watch.changed().await, None);
            drop(publish.await);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_held_is_lost_once_its_lease_may_have_run_out() {
        let second = Duration::from_secs(1);
        let expiry = Arc::new(LeaseExpiry::default());
        let cell = Arc::new(StatusCell::new(expiry.clone()));
        let mut watch = cell.watch();
        expiry.set(clock::now() + 5 * second);
        cell.publish(Arc::new(registered()), |_| true);
        assert_eq!(watch.changed().await, Some(registered()));
        tokio::time::advance(5 * second - Duration::from_millis(1)).await;
        assert_eq!(cell.get(), registered());
        tokio::time::advance(Duration::from_millis(1)).await;
        let expired = clock::now();
        tokio::time::advance(second).await;
        assert!(
            matches!(watch.get(), RegistrationStatus::Lost { since, .. } if since == Timestamp::at(expired))
        );
        let mut again = std::pin::pin!(watch.wait_for(RegistrationStatus::is_registered));
        let once = std::future::poll_fn(|cx| Poll::Ready(again.as_mut().poll(cx))).await;
        assert!(once.is_pending());
        expiry.set(clock::now() + second);
        assert_eq!(cell.get(), registered());
        assert_eq!(
            again.await,
            Some(registered()),
            "although nothing was published"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_suspend_no_status_is_registered_before_a_renewal() {
        let expiry = Arc::new(LeaseExpiry::default());
        let cell = Arc::new(StatusCell::new(expiry.clone()));
        expiry.set(clock::now() + Duration::from_secs(5));
        cell.publish(Arc::new(registered()), |_| true);
        clock::tests::suspend(Duration::from_millis(4_999));
        assert_eq!(cell.get(), registered());
        clock::tests::suspend(Duration::from_millis(1));
        assert!(
            matches!(cell.get(), RegistrationStatus::Lost { .. }),
            "{}",
            cell.get()
        );
    }

    fn registered() -> RegistrationStatus {
        let since = *SINCE.get_or_init(Timestamp::now);
        RegistrationStatus::Registered(Registered {
            lease: 1,
            keys: Arc::new([]),
            revision: 1,
            since,
        })
    }
}
