//! The states that the reconciler consists of. The other files change them.

use super::watch_check::WatchCheck;
use crate::etcd::RpcError;
use crate::lease::Lease;
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
    Open(OpenConnection),
}

/// The requests and watches on an open connection.
#[derive(Debug, Default)]
pub(super) struct OpenConnection {
    /// When the first request was sent that was answered on this connection.
    pub(super) connected_since: Option<Instant>,
    /// etcd has confirmed on this connection that the lease lives, in the answer to a grant, a renewal or a read of the lease.
    pub(super) is_lease_confirmed: bool,
    pub(super) is_renewing: bool,
    pub(super) has_request: bool,
    /// A request was rejected: the earliest time of the next one.
    pub(super) not_before: Option<Instant>,
    pub(super) is_watching: bool,
    pub(super) has_watch_request: bool,
    /// The error of a refused token. A new token is being requested, while the renewals continue.
    pub(super) refused_token: Option<RpcError>,
    /// Watches that we cancelled: their end is expected.
    pub(super) cancelled_watches: BTreeSet<i64>,
    pub(super) check: WatchCheck,
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
