//! What a test can read afterwards: requests, changes of keys, and the keys themselves.

use crate::model::store::Commit;
use etcd_client::EventType;
use etcd_client::proto::PbKeyValue;
use tokio::time::Instant;

/// The kinds of requests. A message on a stream counts as a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rpc {
    /// A new connection; recorded also when it is refused.
    Connect,
    /// `KV/Range`, unless it only counts.
    Range,
    /// `KV/Range` that only counts keys.
    Count,
    /// `KV/Put`.
    Put,
    /// `KV/DeleteRange`.
    Delete,
    /// `KV/Txn`.
    Txn,
    /// `KV/Compact`.
    Compact,
    /// `Lease/LeaseGrant`.
    LeaseGrant,
    /// `Lease/LeaseRevoke`.
    LeaseRevoke,
    /// One renewal on a `Lease/LeaseKeepAlive` stream.
    LeaseKeepAlive,
    /// `Lease/LeaseTimeToLive`.
    LeaseTimeToLive,
    /// `Lease/LeaseLeases`.
    LeaseLeases,
    /// The creation of one watch on a `Watch/Watch` stream.
    Watch,
    /// `Cluster/MemberList`.
    MemberList,
    /// `Auth/Authenticate`.
    Authenticate,
}

/// One request, recorded when it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    /// When it arrived.
    pub at: Instant,
    /// What it was.
    pub rpc: Rpc,
    /// The host of the address that was dialled.
    pub member: String,
    /// Which connection it came on, counted from 1; 0 for a refused one.
    pub connection: u64,
    /// The lease it names, 0 for none.
    pub lease: i64,
    /// The requested TTL, or, for `LeaseTimeToLive`, the remaining time in the answer.
    pub ttl: i64,
    /// The keys it would put; for a transaction those of both branches.
    pub puts: Vec<String>,
    /// The keys (or beginnings of ranges) it would delete.
    pub deletes: Vec<String>,
    /// The keys (or beginnings of ranges) it reads, compares or watches.
    pub reads: Vec<String>,
    /// The revision it reads at or watches from.
    pub revision: i64,
    /// Whether it came with `hasleader`.
    pub require_leader: bool,
    /// Whether it was applied. Stays false for one that was refused, ignored, or lost.
    pub applied: bool,
}

/// One key that changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// When.
    pub at: Instant,
    /// At which revision.
    pub revision: i64,
    /// Its value and lease, or `None` if it was deleted.
    pub put: Option<(String, i64)>,
    /// The key.
    pub key: String,
}

/// What a key holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its value.
    pub value: String,
    /// Its lease, 0 for none.
    pub lease: i64,
    /// The revision of its last write.
    pub mod_revision: i64,
    /// The revision of its first write.
    pub create_revision: i64,
    /// The number of its writes.
    pub version: i64,
}

impl Call {
    pub(crate) fn new(rpc: Rpc, member: &str, connection: u64) -> Self {
        Self {
            at: Instant::now(),
            rpc,
            member: member.to_owned(),
            connection,
            lease: 0,
            ttl: 0,
            puts: Vec::new(),
            deletes: Vec::new(),
            reads: Vec::new(),
            revision: 0,
            require_leader: false,
            applied: false,
        }
    }
}

impl Change {
    /// The changes that a commit consists of.
    pub(crate) fn of(commit: &Commit, at: Instant) -> impl Iterator<Item = Self> {
        let revision = commit.revision;
        commit.events.iter().filter_map(move |event| {
            let kv = event.kv.as_ref()?;
            let put = event.r#type == i32::from(EventType::Put);
            Some(Self {
                at,
                revision,
                put: put.then(|| (text(&kv.value), kv.lease)),
                key: text(&kv.key),
            })
        })
    }
}

impl Stored {
    pub(crate) fn of(kv: &PbKeyValue) -> (String, Self) {
        let stored = Self {
            value: text(&kv.value),
            lease: kv.lease,
            mod_revision: kv.mod_revision,
            create_revision: kv.create_revision,
            version: kv.version,
        };
        (text(&kv.key), stored)
    }
}

/// Keys and values of tests are text; other bytes are replaced.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
