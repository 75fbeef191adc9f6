//! The states that the reconciler is made of. What changes them stands in the other files.

use crate::etcd::RpcError;
use crate::lease::Lease;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

#[derive(Debug)]
pub(super) enum LeaseState {
    /// No lease is needed, or the next one may not be asked for yet.
    None,
    /// We choose the id, so that asking again after a lost answer cannot make a second lease, and
    /// so that it can be revoked without an answer.
    Granting {
        id: i64,
        /// When it was first asked for.
        first_sent: Option<Instant>,
        attempts: u32,
    },
    Held(Lease),
    Revoking(Revoking),
}

#[derive(Debug)]
pub(super) struct Revoking {
    pub(super) leases: Vec<i64>,
    /// Until when the answer to a grant is awaited: a revoke that overtakes the grant would leave
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
        /// No attempt to connect before.
        retry_at: Option<Instant>,
    },
    Opening,
    Open(OpenConnection),
}

/// What is under way on an open connection.
#[derive(Debug, Default)]
pub(super) struct OpenConnection {
    /// When the request was sent that first showed that the connection works.
    pub(super) connected_since: Option<Instant>,
    /// The lease is known to live: etcd said so on this connection, in answer to a grant, a renewal or a look.
    pub(super) is_lease_confirmed: bool,
    pub(super) is_renewing: bool,
    pub(super) has_request: bool,
    /// A request was rejected: no other one before.
    pub(super) not_before: Option<Instant>,
    pub(super) is_watching: bool,
    pub(super) has_watch_request: bool,
    /// The token was refused, in these words. Another one is under way, while the renewals go on.
    pub(super) refused_token: Option<RpcError>,
    /// Watches that we cancelled, whose end is no news.
    pub(super) cancelled_watches: BTreeSet<i64>,
}

/// An entry that leaves.
#[derive(Debug)]
pub(super) struct Deregistration {
    /// Until when its handle waits for etcd; `None`: it has ended for the handle.
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
    /// The lease lives, by the answer to a request that was sent then: what else is to be done may be done.
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
