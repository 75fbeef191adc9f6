//! The reconciler's input and output: [`Event`] and [`Action`].

use crate::etcd::{Applied, KeyMeta, Member, Op, RpcError, WatchResponse};
use crate::observe::observer::WriteReason;
use crate::observe::status::RegistrationStatus;
use crate::registrar::ids::{EntryId, Key};
use crate::registrar::rivals::Rival;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What happened.
#[derive(Debug)]
pub(crate) enum Event {
    /// The desired state of these entries, under the lease [`Reconciler::held_lease`](super::Reconciler::held_lease).
    Desired(Vec<(EntryId, Desired)>),
    /// No handle is left that could register an instance.
    RegistryClosed,
    /// Everything is to be deregistered. No entry is added after this.
    Stop,
    /// Everything is to be deregistered, with one attempt to revoke the lease.
    StopNow,
    Connected(Result<(), RpcError>),
    /// The other connection has answered, or the attempt failed.
    ConnectedBeside(Result<Answer, RpcError>),
    Granted(Granted),
    Renewed(Renewed),
    /// A renewal is not answered yet, but a read of the lease sent at `seen_at` was: the lease lives for
    /// `remaining` from then on. `None`: the member answers, and is too busy to say it.
    RenewalLate {
        seen_at: Instant,
        remaining: Option<Duration>,
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
    /// Our address was found. The desired state of the entries that waited for it is reported again.
    LocalIpFound,
    /// There is a new token, for the next connection.
    Authenticated(Result<(), RpcError>),
    /// A request to watch a key, or to cancel a watch, was sent.
    WatchRequested(Result<(), RpcError>),
    Watched(Result<WatchResponse, RpcError>),
}

/// The answer to a grant.
#[derive(Debug, Clone)]
pub(crate) struct Granted {
    pub(crate) lease: i64,
    pub(crate) sent: Instant,
    pub(crate) result: Result<Duration, RpcError>,
}

/// The answer to a renewal.
#[derive(Debug, Clone)]
pub(crate) struct Renewed {
    pub(crate) lease: i64,
    pub(crate) sent: Instant,
    /// The member that answered; 0: not known.
    pub(crate) member: u64,
    /// `None`: the TTL has not changed.
    pub(crate) result: Result<Option<Duration>, RpcError>,
}

/// What another connection has to answer before it is used: what the first connection does not answer. When etcd is busy, a
/// read is answered long before a renewal, and a connection that was used because of it would be as late as the first one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Question {
    Grant {
        lease: i64,
        ttl: Duration,
        /// As for [`Request::Renew`].
        again: Option<Duration>,
    },
    Renew {
        lease: i64,
        /// As for [`Request::Renew`].
        again: Option<Duration>,
    },
    Read,
}

/// The answer to a [`Question`]. That there is no such lease is an answer, too.
#[derive(Debug)]
pub(crate) enum Answer {
    Granted(Granted),
    Renewed(Renewed),
    Read,
}

/// The desired state of one entry.
#[derive(Debug, Clone)]
pub(crate) enum Desired {
    /// It is not announced yet, or no lease is held that its keys could be made for.
    Waiting {
        /// It is bound to no particular address, so the local address of the route to etcd is needed.
        needs_local_ip: bool,
    },
    /// These keys with these values.
    Keys(Vec<(Key, Arc<str>)>),
    /// No keys for now; the lease is kept.
    Paused {
        /// One or more.
        reasons: Arc<[Arc<str>]>,
        /// As for `Waiting`, so that the address is known when the pause ends.
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

/// What the worker does next.
#[derive(Debug)]
pub(crate) enum Action {
    /// Report [`Event::Desired`] for these entries.
    ReadDesired(Vec<EntryId>),
    /// [`Event::Connected`], within the limit.
    Connect { member: Member, limit: Duration },
    /// Open another connection beside the one that does not answer, and send a request on it:
    /// [`Event::ConnectedBeside`], within the limit.
    ConnectBeside {
        member: Member,
        limit: Duration,
        question: Question,
    },
    /// Use the other connection, and drop the first one.
    UseBeside,
    /// Drop the other connection: the first one has answered.
    DropBeside,
    /// Report that a request has no answer in time; `renewal`: when it was sent, if it is a renewal.
    Late {
        error: RpcError,
        renewal: Option<Instant>,
    },
    /// Drop the session, and the requests and streams on it.
    Disconnect,
    /// Drop the requests and streams on the session, and keep the session.
    CloseStreams,
    /// Send a request on the session.
    Send(Request),
    /// [`Event::LocalIpFound`].
    FindLocalIp,
    /// Until when the lease certainly lives. Comes before any status that depends on it.
    LeaseExpiry(Instant),
    /// Log a rival: another client wrote a key of this entry, or this entry took over its key.
    Rival(EntryId, Rival),
    /// Report a transaction to observers: the number of keys for each reason, and the error.
    Wrote(Vec<(WriteReason, usize)>, Option<String>),
    /// Publish a status.
    Publish(EntryId, Arc<RegistrationStatus>),
    /// Wait, at most 50 ms, until the health services of these entries have reported the statuses that were
    /// published before.
    AwaitHealth(Vec<EntryId>),
    /// Publish a final status and begin the drain of the server.
    End(EntryId, RegistrationStatus),
    /// End the worker: there is nothing left to do.
    Finish,
}

/// A request on an open session. Its answer is the event that repeats it.
#[derive(Debug)]
pub(crate) enum Request {
    /// [`Event::Granted`].
    Grant { lease: i64, ttl: Duration },
    /// [`Event::Revoked`]. Replaces a request that is under way.
    Revoke { lease: i64 },
    /// [`Event::Renewed`], after any number of [`Event::RenewalLate`], the first one `late` after this.
    Renew {
        lease: i64,
        late: Duration,
        /// Repeat it after this time, beside the first one: see [`ask`](crate::registrar::ask).
        again: Option<Duration>,
    },
    /// [`Event::Read`].
    Read { keys: Vec<Key> },
    /// [`Event::Written`].
    Write {
        lease: i64,
        ops: Vec<Op>,
        /// Ask for the values that the puts replace (`prev_kv`).
        asks_replaced: bool,
    },
    /// Close the watch stream, and get another token: [`Event::Authenticated`].
    Authenticate,
    /// [`Event::WatchRequested`], then [`Event::Watched`] for each response.
    Watch { key: Key, id: i64, from: i64 },
    /// [`Event::WatchRequested`].
    Unwatch { id: i64 },
}

// === impl Event ===

impl Event {
    /// The error of its request, if it failed.
    pub(crate) fn error(&self) -> Option<&RpcError> {
        match self {
            Self::Connected(result)
            | Self::Authenticated(result)
            | Self::WatchRequested(result) => result.as_ref().err(),
            Self::ConnectedBeside(result) => result.as_ref().err(),
            Self::Granted(granted) => granted.result.as_ref().err(),
            Self::Renewed(renewed) => renewed.result.as_ref().err(),
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
