//! The state of the fake, behind one lock.

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::auth::Auth;
use super::capacity::Queues;
use super::members::Members;
use super::model::keyspace::Keyspace;
use super::record::{Call, Change};
use super::script::Scripts;

/// The shortest TTL of an etcd with default settings, in seconds.
const MIN_TTL: i64 = 2;
/// The default of etcd's `--max-request-bytes`.
const MAX_REQUEST_BYTES: usize = 1536 * 1024;

/// See the [module](self).
pub(super) struct State {
    pub(super) keyspace: Keyspace,
    pub(super) auth: Auth,
    pub(super) members: Members,
    pub(super) scripts: Scripts,
    pub(super) queues: Queues,
    /// The client URLs in the member list.
    pub(super) member_urls: Vec<String>,
    pub(super) calls: Vec<Call>,
    pub(super) changes: Vec<Change>,
    /// The raft term: a new one with every election.
    pub(super) term: u64,
    /// Watches opened before this number went up are cancelled, with that reason.
    pub(super) watch_cancel: (u64, String),
    /// Streams of watches opened before this number went up say nothing any more.
    pub(super) watch_mutes: u64,
    /// Watches are answered by a member of their own.
    pub(super) watches_elsewhere: bool,
    /// Watches get ids of the fake's choice, not the requested ones.
    pub(super) own_watch_ids: bool,
    /// `--max-request-bytes`.
    pub(super) max_request_bytes: usize,
    /// Calls that read or compare a key are denied.
    pub(super) denies_reads: bool,
    /// How long a request takes to be applied.
    pub(super) latency: Range<Duration>,
    pub(super) rng: fastrand::Rng,
}

impl State {
    /// An empty etcd that serves.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            keyspace: Keyspace::new(MIN_TTL),
            auth: Auth::default(),
            members: Members::default(),
            scripts: Scripts::default(),
            queues: Queues::default(),
            member_urls: Vec::new(),
            calls: Vec::new(),
            changes: Vec::new(),
            term: 2,
            watch_cancel: (0, String::new()),
            watch_mutes: 0,
            watches_elsewhere: false,
            own_watch_ids: false,
            max_request_bytes: MAX_REQUEST_BYTES,
            denies_reads: false,
            latency: Duration::ZERO..Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    /// Records what has been committed after a revision.
    pub(super) fn note_changes(&mut self, before: i64) {
        let now = Instant::now();
        for commit in self.keyspace.store.since(before + 1) {
            self.changes.extend(Change::of(commit, now));
        }
    }

    /// What watches can notice: a revision, a compaction, an order to cancel them.
    pub(super) fn watchable(&self) -> (i64, i64, u64) {
        let store = &self.keyspace.store;
        (store.revision(), store.compacted(), self.watch_cancel.0)
    }

    /// How long the next request takes.
    pub(super) fn next_latency(&mut self) -> Duration {
        let Range { start, end } = self.latency;
        let spread = end.saturating_sub(start).as_nanos();
        let spread = u64::try_from(spread).unwrap_or(u64::MAX);
        start + Duration::from_nanos(self.rng.u64(0..=spread))
    }

    /// Without its data directory etcd starts from revision 1 and from the first term.
    pub(super) fn wipe(&mut self) {
        self.keyspace.wipe();
        self.auth.lose_history();
        self.term = 1;
    }
}
