//! [`KeyState`]: one key.

use crate::etcd::{Event, Op};
use crate::observe::observer::WriteReason;
use crate::registrar::ids::{EntryId, Key};
use crate::registrar::on_conflict::OnConflict;
use crate::runtime::backoff::Bucket;
use std::sync::Arc;
use tokio::time::Instant;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct KeyState {
    pub(super) entry: EntryId,
    /// The value that should be there; `None`: no key.
    pub(super) desired: Option<Arc<str>>,
    /// The key in etcd under our lease, as far as we know.
    pub(super) observed: Option<Observed>,
    /// The observed key may not be what this entry wrote, or may not be there. So it does not count as held before
    /// it is written. It is still deleted when it is not desired any more.
    pub(super) is_unconfirmed: bool,
    /// The entry whose write is under way, or was the last one.
    pub(super) writer: EntryId,
    /// The entry whose value was there last, as far as we know. It may be one that had the key before.
    pub(super) author: EntryId,
    /// The value in a transaction that is not answered yet.
    pub(super) writing: Option<Option<Arc<str>>>,
    /// A write of it timed out. etcd may still apply it until the lease ends. So the
    /// key is watched until then, also when it is not desired any more.
    pub(super) write_may_still_land: bool,
    /// Another client's change that was seen while a write of ours was under way.
    pub(super) buffered_event: Option<Box<Event>>,
    /// The other lease that the key is left to.
    pub(super) conflicting_lease: Option<i64>,
    pub(super) watch_id: i64,
    /// The revision to watch from; 0: it is not watched.
    pub(super) watch_from: i64,
    /// The watch has not been requested yet.
    pub(super) is_watch_due: bool,
    pub(super) repairs: Bucket,
    pub(super) retry_at: Option<Instant>,
    /// Write it in a transaction of its own: a transaction with it was denied, and etcd denies the whole
    /// transaction for one key.
    pub(super) isolate: bool,
    /// Another client may have the key, and no watch has shown which.
    pub(super) is_holder_unknown: bool,
    /// The reason of its next write.
    pub(super) reason: WriteReason,
}

/// A key that is there under our lease.
#[derive(Debug, Clone)]
pub(super) struct Observed {
    pub(super) revision: i64,
    /// `None`: only the key was read.
    pub(super) value: Option<Arc<str>>,
}

// === impl KeyState ===

impl KeyState {
    pub(super) fn new(entry: EntryId, watch_id: i64) -> Self {
        Self {
            entry,
            desired: None,
            observed: None,
            is_unconfirmed: false,
            writer: entry,
            author: entry,
            writing: None,
            write_may_still_land: false,
            buffered_event: None,
            conflicting_lease: None,
            watch_id,
            watch_from: 0,
            is_watch_due: false,
            repairs: Bucket::default(),
            retry_at: None,
            isolate: false,
            is_holder_unknown: true,
            reason: WriteReason::New,
        }
    }

    /// Neither desired nor observed, and no write is under way.
    pub(super) fn is_done(&self) -> bool {
        self.desired.is_none() && self.observed.is_none() && self.writing.is_none()
    }

    /// The key belongs to `entry` from now on. It is written again, or deleted. Returns the entry that had it
    /// before, if that is another one.
    pub(super) fn inherit(&mut self, entry: EntryId) -> Option<EntryId> {
        if self.entry == entry {
            return None;
        }
        self.is_unconfirmed = true;
        if let Some(observed) = &mut self.observed {
            observed.value = None;
        }
        Some(std::mem::replace(&mut self.entry, entry))
    }

    fn is_current(&self) -> bool {
        match (&self.desired, &self.observed) {
            (Some(desired), Some(observed)) => observed.value.as_ref() == Some(desired),
            (None, None) => true,
            _ => false,
        }
    }

    pub(super) fn needs_write(&self) -> bool {
        !self.is_current() && self.conflicting_lease.is_none()
    }

    /// The write that makes observed equal to desired, if one is needed and none is under way.
    pub(super) fn next_op(&self, key: &Key, on_conflict: OnConflict) -> Option<Op> {
        if self.writing.is_some() || self.is_current() {
            return None;
        }
        let key = key.clone();
        Some(match (&self.desired, on_conflict) {
            (None, _) => Op::Delete { key },
            (Some(_), OnConflict::Yield) if self.conflicting_lease.is_some() => return None,
            (Some(value), OnConflict::Yield) => Op::PutIfFree {
                key,
                value: value.clone(),
            },
            (Some(value), OnConflict::TakeOver) => Op::Put {
                key,
                value: value.clone(),
            },
        })
    }
}

// === impl Observed ===

impl Observed {
    pub(super) fn with_value(revision: i64, value: Arc<str>) -> Self {
        let value = Some(value);
        Self { revision, value }
    }

    /// A key of ours with an unknown value: it is written again if it is desired, else deleted.
    pub(super) fn without_value(revision: i64) -> Self {
        let value = None;
        Self { revision, value }
    }
}
