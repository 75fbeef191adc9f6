//! The states that the reconciler consists of. The other files change them.

use super::watch_check::WatchCheck;
use crate::etcd::{Member, RpcError};
use crate::registrar::lease::Lease;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) enum LeaseState {
    /// No lease is needed, or the next one may not be requested yet.
    None,
    /// We choose the id, so that repeating the request after a lost answer cannot make a second lease, and
    /// so that the lease can be revoked without an answer.
    Granting {
        id: i64,
        /// When it was first requested.
        first_sent: Option<Instant>,
        attempts: u32,
    },
    Held(Lease),
    Revoking(Revoking),
}

#[derive(Debug)]
pub(super) struct Revoking {
    pub(super) leases: Vec<i64>,
    /// How long to wait for the answer to a grant: a revoke that overtakes the grant would leave
    /// a lease behind.
    pub(super) grant_deadline: Option<Instant>,
    pub(super) deadline: Instant,
    /// How long the keys may outlive a revoke that fails.
    pub(super) ttl: Duration,
    pub(super) last_error: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) enum Connection {
    Closed {
        /// The earliest time of the next attempt to connect.
        retry_at: Option<Instant>,
    },
    Opening,
    Open(Box<OpenConnection>),
}

/// The requests and watches on an open connection.
#[derive(Debug, Default)]
pub(super) struct OpenConnection {
    /// When the first request was sent that was answered on this connection.
    pub(super) connected_since: Option<Instant>,
    /// etcd has confirmed on this connection that the lease lives, in the answer to a grant, a renewal or a read of the lease.
    pub(super) is_lease_confirmed: bool,
    /// Since when the renewal under way waits: it was sent, or a read of the lease was answered meanwhile.
    pub(super) renewing_since: Option<Instant>,
    pub(super) has_request: bool,
    /// When the request under way was sent to etcd.
    pub(super) request_sent: Option<Instant>,
    /// A request was rejected: the earliest time of the next one.
    pub(super) not_before: Option<Instant>,
    /// How often the member has refused requests since one was done, because it is busy.
    pub(super) refusals: u32,
    /// A renewal was rejected: the time of the next one.
    pub(super) renew_not_before: Option<Instant>,
    pub(super) is_watching: bool,
    /// When the watch request under way was begun: to watch, or to cancel a watch.
    pub(super) watch_request_sent: Option<Instant>,
    /// Watches that etcd has not acknowledged, and since when it acknowledges none.
    pub(super) unanswered_watches: u32,
    pub(super) watch_since: Option<Instant>,
    /// The request that waits longest is late: since when it waits.
    pub(super) late_since: Option<Instant>,
    /// The error of a refused token. A new token is being requested, while the renewals continue.
    pub(super) refused_token: Option<RpcError>,
    /// Watches that we cancelled: their end is expected.
    pub(super) cancelled_watches: BTreeSet<i64>,
    pub(super) check: WatchCheck,
}

/// Another connection, which is tried while the current one does not answer. It is used once it has answered first.
#[derive(Debug, Default)]
pub(super) struct Beside {
    pub(super) is_connecting: bool,
    /// Its member, and the place of that in the rotation.
    pub(super) member: Option<Member>,
    pub(super) place: usize,
    /// Attempts that failed one after the other.
    pub(super) failures: usize,
    /// Those of them at members that accepted the connection and did not answer.
    pub(super) silent: usize,
    /// The earliest time of the next attempt.
    pub(super) not_before: Option<Instant>,
}

/// An entry that is being deregistered.
#[derive(Debug)]
pub(super) struct Deregistration {
    /// How long its handle waits for etcd; `None`: the handle has its final status already.
    pub(super) deadline: Option<Instant>,
}

/// Something is wrong: since when, and what.
#[derive(Debug, Clone)]
pub(super) struct Problem {
    pub(super) since: Instant,
    pub(super) reason: Arc<str>,
}

// === impl OpenConnection ===

impl OpenConnection {
    /// An answer shows that the lease lives; the request was sent at `sent`. Other requests may follow now.
    pub(super) fn confirm_lease(&mut self, sent: Instant) {
        self.connected_since.get_or_insert(sent);
        self.is_lease_confirmed = true;
    }

    /// Since when the request that waits longest waits for etcd.
    pub(super) fn waiting_since(&self) -> Option<Instant> {
        let watch = [self.watch_request_sent, self.watch_since];
        let waiting = [self.renewing_since, self.request_sent]
            .into_iter()
            .chain(watch);
        waiting.flatten().min()
    }

    pub(super) fn is_late(&self) -> bool {
        self.late_since.is_some() && self.late_since == self.waiting_since()
    }

    pub(super) fn is_renewing(&self) -> bool {
        self.renewing_since.is_some()
    }

    /// A watch was requested.
    pub(super) fn watch_asked(&mut self, now: Instant) {
        self.unanswered_watches += 1;
        self.watch_since.get_or_insert(now);
    }

    /// etcd acknowledged a watch.
    pub(super) fn watch_created(&mut self, now: Instant) {
        self.unanswered_watches = self.unanswered_watches.saturating_sub(1);
        self.watch_since = Some(now).filter(|_| self.unanswered_watches > 0);
    }
}

// === impl LeaseState ===

impl LeaseState {
    pub(super) fn granting(id: i64) -> Self {
        Self::Granting {
            id,
            first_sent: None,
            attempts: 0,
        }
    }
}
