//! The state of the fake, behind one lock.

use crate::auth::Auth;
use crate::errors;
use crate::members::Members;
use crate::model::keyspace::Keyspace;
use crate::model::settings::Settings;
use crate::pipe::Mode;
use crate::queue::Queues;
use crate::record::{Call, Change};
use crate::script::Scripts;
use etcd_client::proto::PbResponseHeader;
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// The cluster id is fixed: etcd's stays the same, too, when the data is wiped and the configuration is not.
const CLUSTER: u64 = 0xcafe;

/// See the [module](self).
pub(crate) struct State {
    pub(crate) keyspace: Keyspace,
    pub(crate) auth: Auth,
    pub(crate) members: Members,
    pub(crate) scripts: Scripts,
    pub(crate) queues: Queues,
    /// The client URLs in the member list.
    pub(crate) member_urls: Vec<String>,
    pub(crate) calls: Vec<Call>,
    pub(crate) changes: Vec<Change>,
    /// The raft term: a new one with every election.
    pub(crate) term: u64,
    /// Watches that were opened before this number went up are cancelled, with that reason.
    pub(crate) watch_cancel: (u64, String),
    /// Streams of watches that were opened before this number went up send nothing any more.
    pub(crate) watch_mutes: u64,
    /// How long a request takes to arrive.
    pub(crate) delay: Duration,
    /// How long a request that arrived takes to be applied.
    pub(crate) latency: Range<Duration>,
    pub(crate) rng: fastrand::Rng,
}

impl State {
    /// An empty etcd that serves.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            keyspace: Keyspace::new(Settings::default()),
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
            delay: Duration::ZERO,
            latency: Duration::ZERO..Duration::ZERO,
            rng: fastrand::Rng::with_seed(seed),
        }
    }

    pub(crate) fn settings(&self) -> Settings {
        self.keyspace.store.settings
    }

    /// Ends all faults. Leases that did not expire meanwhile are extended in the same step, before any of them can.
    pub(crate) fn up(&mut self) {
        let was_down = self.members.is_down();
        self.members.set(None, Mode::Up);
        if was_down {
            self.elect();
        }
    }

    pub(crate) fn elect(&mut self) {
        self.term += 1;
        self.keyspace.leases.extend(Instant::now());
    }

    /// Records what has been committed after a revision.
    pub(crate) fn note_changes(&mut self, before: i64) {
        let now = Instant::now();
        for commit in self.keyspace.store.since(before + 1) {
            self.changes.extend(Change::of(commit, now));
        }
    }

    /// What watches can notice: a revision, a compaction, an order to cancel them.
    pub(crate) fn watchable(&self) -> (i64, i64, u64) {
        let store = &self.keyspace.store;
        (store.revision(), store.compacted(), self.watch_cancel.0)
    }

    /// How long the next request takes.
    pub(crate) fn next_latency(&mut self) -> Duration {
        let Range { start, end } = self.latency;
        let spread = end.saturating_sub(start).as_nanos();
        let spread = u64::try_from(spread).unwrap_or(u64::MAX);
        start + Duration::from_nanos(self.rng.u64(0..=spread))
    }

    pub(crate) fn check_size(&self, size: usize) -> Result<(), Status> {
        match size > self.settings().max_request_bytes {
            true => Err(errors::request_too_large()),
            false => Ok(()),
        }
    }

    /// Without its data directory etcd starts from revision 1 and from the first term.
    pub(crate) fn wipe(&mut self) {
        self.keyspace = Keyspace::new(self.settings());
        self.auth.lose_history();
        self.term = 1;
    }

    /// The header of an answer: the member, and the revision.
    #[allow(clippy::unnecessary_wraps, reason = "as the field of an answer is")]
    pub(crate) fn header(&self, member: &str) -> Option<PbResponseHeader> {
        Some(PbResponseHeader {
            cluster_id: CLUSTER,
            member_id: member_id(member),
            revision: self.keyspace.store.revision(),
            raft_term: self.term,
        })
    }
}

/// Stable, never zero, different for different names (FNV-1a).
fn member_id(member: &str) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3);
    member.bytes().fold(0xcbf2_9ce4_8422_2325, step) | 1
}
