//! What comes in, and what goes out.

use crate::etcd::{Applied, KeyMeta, Member, Op, RpcError, WatchResponse};
use crate::observer::WriteReason;
use crate::registrar::ids::{EntryId, Key};
use crate::registrar::rivals::Rival;
use crate::status::Status;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// What these entries want, under the lease that [`Reconciler::held_lease`](super::Reconciler::held_lease) gives.
    Desired(Vec<(EntryId, Desired)>),
    /// Nobody can register any more.
    RegistryClosed,
    /// Everything is to be deregistered. No entry is added after this.
    Stop,
    /// Everything is to be deregistered, with one attempt to revoke the lease.
    StopNow,
    Connected(Result<(), RpcError>),
    Granted {
        lease: i64,
        sent: Instant,
        result: Result<Duration, RpcError>,
    },
    /// `None`: the TTL is the one of before.
    Renewed {
        sent: Instant,
        result: Result<Option<Duration>, RpcError>,
    },
    /// A renewal is not answered yet, but a look sent at `seen_at` was: the lease lives for
    /// `remaining` from then on. `error`: what is wrong if that is too short to wait on.
    RenewalLate {
        seen_at: Instant,
        remaining: Duration,
        error: RpcError,
    },
    Revoked {
        lease: i64,
        result: Result<(), RpcError>,
    },
    Read {
        keys: Vec<Key>,
        result: Result<(i64, Vec<Option<KeyMeta>>), RpcError>,
    },
    Written {
        ops: Vec<Op>,
        result: Result<Applied, RpcError>,
    },
    /// The entries that waited for it are reported as desired anew.
    LocalIpFound,
    /// There is another token, for another connection.
    Authenticated(Result<(), RpcError>),
    /// A request to watch a key, or not to watch it any more, was sent.
    WatchRequested(Result<(), RpcError>),
    Watched(Result<WatchResponse, RpcError>),
}

/// What one entry wants.
#[derive(Debug, Clone)]
pub(crate) enum Desired {
    /// It is not announced yet, or no lease is held that its keys could be made for.
    Waiting {
        /// It is bound to no particular address: ours on the way to etcd has to be found.
        needs_local_ip: bool,
    },
    /// These keys with these values.
    Keys(Vec<(Key, Arc<str>)>),
    /// No keys for now; the lease is kept.
    Paused {
        /// One or more.
        reasons: Arc<[Arc<str>]>,
        /// As for `Waiting`, so that the keys come back at once later.
        needs_local_ip: bool,
    },
    /// The keys could not be made.
    Failed(Arc<str>),
    /// To be deregistered.
    Gone {
        /// In one attempt.
        now: bool,
    },
}

/// What to do next.
#[derive(Debug)]
pub(crate) enum Action {
    /// Report [`Event::Desired`] for these entries.
    ReadDesired(Vec<EntryId>),
    /// [`Event::Connected`].
    Connect(Member),
    /// Drop the session with all that is under way on it.
    Disconnect,
    /// Drop the request and the streams on the session, and keep the session.
    CloseStreams,
    /// [`Event::Granted`].
    Grant { lease: i64, ttl: Duration },
    /// [`Event::Revoked`]. Takes the place of a request that is under way.
    Revoke { lease: i64 },
    /// [`Event::Renewed`], after any number of [`Event::RenewalLate`].
    Renew { lease: i64 },
    /// [`Event::Read`].
    Read { keys: Vec<Key> },
    /// [`Event::Written`].
    Write {
        lease: i64,
        ops: Vec<Op>,
        /// The answer is to tell what was replaced.
        asks_replaced: bool,
    },
    /// Close the watch stream, and get another token: [`Event::Authenticated`].
    Authenticate,
    /// [`Event::LocalIpFound`].
    FindLocalIp,
    /// [`Event::WatchRequested`], then [`Event::Watched`] for each response.
    Watch { key: Key, id: i64, from: i64 },
    /// [`Event::WatchRequested`].
    Unwatch { id: i64 },
    /// Until when the lease surely lives. Comes before any status that says so.
    LeaseExpiry(Instant),
    /// Another client wrote a key of this entry, or this entry one of its: to be logged.
    Rival(EntryId, Rival),
    /// A transaction ended: so many keys for each reason, and what failed.
    Wrote(Vec<(WriteReason, usize)>, Option<String>),
    /// Publish a status.
    Publish(EntryId, Status),
    /// Wait until the health services of these entries have reported the statuses that were
    /// published before, but not for long.
    AwaitHealth(Vec<EntryId>),
    /// Publish a final status and let the server go on to drain.
    End(EntryId, Status),
    /// Nothing will ever be left to do.
    Finish,
}

// === impl Event ===

impl Event {
    /// What failed, if anything did.
    pub(crate) fn error(&self) -> Option<&RpcError> {
        match self {
            Self::Connected(result)
            | Self::Authenticated(result)
            | Self::WatchRequested(result) => result.as_ref().err(),
            Self::Granted { result, .. } => result.as_ref().err(),
            Self::Renewed { result, .. } => result.as_ref().err(),
            Self::Revoked { result, .. } => result.as_ref().err(),
            Self::Read { result, .. } => result.as_ref().err(),
            Self::Written { result, .. } => result.as_ref().err(),
            Self::Watched(result) => result.as_ref().err(),
            Self::Desired(_)
            | Self::RegistryClosed
            | Self::Stop
            | Self::StopNow
            | Self::LocalIpFound
            | Self::RenewalLate { .. } => None,
        }
    }
}
