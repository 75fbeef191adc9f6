//! [`KeyState`]: one key: what is desired, what is known to be in etcd, and the write that makes them equal.

use crate::etcd::{Event, EventKind, KeyMeta, Op};
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
    pub(super) observed: Observed,
    /// The write that is not answered yet.
    pub(super) writing: Option<Writing>,
    /// The entry whose put is the last one that is, or may be, in etcd.
    writer: EntryId,
    /// A put timed out. etcd may still apply it until the lease ends. So the key is watched until then, also when it
    /// is not desired any more.
    pub(super) put_may_still_land: bool,
    pub(super) watch_id: i64,
    pub(super) watch: WatchState,
    pub(super) repairs: Bucket,
    pub(super) retry_at: Option<Instant>,
    /// Write it in a transaction of its own: a transaction with it was denied, and etcd denies the whole
    /// transaction for one key.
    pub(super) isolate: bool,
    /// The reason of its next write.
    pub(super) reason: WriteReason,
}

/// The key in etcd, as far as we know.
#[derive(Debug)]
pub(super) enum Observed {
    /// Nothing was read or written yet, or a read has found the key of another client, which will be taken over.
    Unknown,
    /// No key is there, or a watch has shown that of another client, which will be taken over.
    Absent,
    Ours(OurKey),
    /// It is under another lease, and is left to it.
    Theirs {
        lease: i64,
    },
}

/// A key under our lease.
#[derive(Debug)]
pub(super) struct OurKey {
    pub(super) revision: i64,
    /// `None`: it may be any value. The key is written again if it is desired, else deleted.
    pub(super) value: Option<Arc<str>>,
    /// It counts as registered: the entry has put it, and nothing suggests that it is gone.
    pub(super) is_held: bool,
}

/// A write that is under way.
#[derive(Debug)]
pub(super) struct Writing {
    pub(super) write: Write,
    /// A change that was seen meanwhile. Only the revision of our own write tells which of the two came last.
    pub(super) seen: Option<Box<Event>>,
}

#[derive(Debug)]
pub(super) enum Write {
    Put { value: Arc<str>, writer: EntryId },
    Delete,
}

#[derive(Debug)]
pub(super) enum WatchState {
    Unwatched,
    /// The watch has yet to be requested, from this revision on.
    Due {
        from: i64,
    },
    Requested,
}

/// What a watch event means for the key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    /// The desired value is there under our lease: a late put was applied.
    Written,
    /// A late put was applied that is not desired any more.
    WrittenLate,
    /// Another value is there under our lease: of a late put, or of another client.
    Replaced,
    /// The key is under this lease of another client.
    Taken {
        lease: i64,
    },
    Deleted,
}

// === impl KeyState ===

impl KeyState {
    pub(super) fn new(entry: EntryId, watch_id: i64) -> Self {
        Self {
            entry,
            desired: None,
            observed: Observed::Unknown,
            writing: None,
            writer: entry,
            put_may_still_land: false,
            watch_id,
            watch: WatchState::Unwatched,
            repairs: Bucket::default(),
            retry_at: None,
            isolate: false,
            reason: WriteReason::New,
        }
    }

    /// Neither desired nor observed, and no write is under way.
    pub(super) fn is_done(&self) -> bool {
        let is_ours = matches!(self.observed, Observed::Ours(_));
        self.desired.is_none() && !is_ours && self.writing.is_none()
    }

    /// Whether only a read or a watch can tell whether etcd still has what was observed.
    pub(super) fn is_observed(&self) -> bool {
        matches!(self.observed, Observed::Ours(_) | Observed::Theirs { .. })
    }

    /// The revision of the key, if it counts as registered. A key that is being deleted, although it is desired again
    /// after a short pause, does not.
    pub(super) fn held_revision(&self) -> Option<i64> {
        let is_going =
            matches!(&self.writing, Some(writing) if matches!(writing.write, Write::Delete));
        match &self.observed {
            Observed::Ours(key) if key.is_held && !is_going => Some(key.revision),
            _ => None,
        }
    }

    /// The other lease that the key is left to.
    pub(super) fn conflicting_lease(&self) -> Option<i64> {
        match self.observed {
            Observed::Theirs { lease } => Some(lease),
            _ => None,
        }
    }

    /// The key belongs to `entry` from now on. It is written again, or deleted. Returns the entry that had it
    /// before, if that is another one.
    pub(super) fn inherit(&mut self, entry: EntryId) -> Option<EntryId> {
        if self.entry == entry {
            return None;
        }
        if let Observed::Ours(key) = &mut self.observed {
            (key.value, key.is_held) = (None, false);
        }
        Some(std::mem::replace(&mut self.entry, entry))
    }

    pub(super) fn needs_write(&self) -> bool {
        match (&self.desired, &self.observed) {
            (_, Observed::Theirs { .. }) => false,
            (Some(desired), Observed::Ours(key)) => key.value.as_ref() != Some(desired),
            (Some(_), _) | (None, Observed::Ours(_)) => true,
            (None, _) => false,
        }
    }

    /// The write that makes observed equal to desired, if one is needed and none is under way.
    pub(super) fn next_op(&self, key: &Key, on_conflict: OnConflict) -> Option<Op> {
        if self.writing.is_some() || !self.needs_write() {
            return None;
        }
        let key = key.clone();
        Some(match (self.desired.clone(), on_conflict) {
            (None, _) => Op::Delete { key },
            (Some(value), OnConflict::Yield) => Op::PutIfFree { key, value },
            (Some(value), OnConflict::TakeOver) => Op::Put { key, value },
        })
    }

    /// The [next write](Self::next_op) is sent.
    pub(super) fn begin_write(&mut self) {
        let writer = self.entry;
        let write = match self.desired.clone() {
            Some(value) => Write::Put { value, writer },
            None => Write::Delete,
        };
        self.writing = Some(Writing { write, seen: None });
        self.retry_at = None;
    }

    /// The write under way was applied at `revision`, unless the key was left to the lease `refused_by`. Returns the
    /// change that came after it.
    pub(super) fn on_written(&mut self, revision: i64, refused_by: Option<i64>) -> Option<Event> {
        let Writing { write, seen } = self.writing.take()?;
        self.observed = match (write, refused_by) {
            (Write::Put { .. }, Some(lease)) => Observed::Theirs { lease },
            (Write::Put { value, writer }, None) => {
                (self.writer, self.isolate) = (writer, false);
                let is_held = writer == self.entry;
                // The put of an earlier entry does not count for this one, even with the same value.
                let value = Some(value).filter(|_| is_held);
                Observed::ours(revision, value, is_held)
            }
            (Write::Delete, _) => Observed::Absent,
        };
        seen.map(|event| *event)
            .filter(|event| event.revision > revision)
    }

    /// The write under way was certainly not applied. Returns the change that was seen meanwhile.
    pub(super) fn on_rejected(&mut self) -> Option<Event> {
        let seen = self.writing.take()?.seen?;
        Some(*seen)
    }

    /// The key was written alone and denied.
    pub(super) fn on_denied(&mut self, retry_at: Instant) {
        self.retry_at = Some(retry_at);
        // It may be neither read nor written, so it may not be there any more.
        if let Observed::Ours(key) = &mut self.observed {
            key.is_held &= key.value.is_some();
        }
    }

    /// The connection ended. Returns whether the key has to be read before it is written.
    pub(super) fn on_disconnect(&mut self) -> bool {
        self.watch = WatchState::Unwatched;
        match self.writing.take().map(|writing| writing.write) {
            Some(Write::Put { writer, .. }) => {
                (self.writer, self.put_may_still_land) = (writer, true);
            }
            // The deletion may have been applied, so the key does not count as held before the read.
            Some(Write::Delete) => {
                if let Observed::Ours(key) = &mut self.observed {
                    key.is_held = false;
                }
            }
            None => {}
        }
        self.put_may_still_land || self.is_observed()
    }

    /// The key was read under our `lease`.
    pub(super) fn on_read(&mut self, found: Option<KeyMeta>, lease: i64, on_conflict: OnConflict) {
        let was_ours = matches!(self.observed, Observed::Ours(_));
        if let (Observed::Ours(key), Some(found)) = (&mut self.observed, found)
            && (found.lease, found.revision) == (lease, key.revision)
        {
            key.is_held |= key.value.is_some();
            return;
        }
        // One that was not there, and that another address or entry desires now, is as absent as before.
        let is_ours = found.is_some_and(|found| found.lease == lease);
        if was_ours || is_ours {
            self.reason = WriteReason::Differs;
        }
        self.observed = match found {
            None => Observed::Absent,
            // Most likely a put of ours whose answer was lost. Writing it again is harmless; reading every value back
            // is not. It counts as held until then: otherwise the status became `Lost` for a moment.
            Some(found) if found.lease == lease => {
                Observed::ours(found.revision, None, self.writer == self.entry)
            }
            Some(KeyMeta { lease, .. }) => match on_conflict {
                OnConflict::Yield => Observed::Theirs { lease },
                OnConflict::TakeOver => Observed::Unknown,
            },
        };
    }

    /// The read was denied: the key is written again without a read, because it may have changed.
    pub(super) fn on_read_denied(&mut self) {
        match &mut self.observed {
            // etcd acknowledged it under this lease, which lives. Counting it as missing until the next write
            // made the status `Lost` for a moment at each reconnect.
            Observed::Ours(key) => key.value = None,
            // It may be there: it is deleted without a read if it is not desired any more. A guarded write finds out
            // whether another lease has it.
            _ => self.observed = Observed::ours(0, None, false),
        }
    }

    /// What an event means, if it is news. An event during a write is kept until the write is answered.
    pub(super) fn news(&mut self, event: Event, lease: i64) -> Option<(Change, Event)> {
        if matches!(&self.observed, Observed::Ours(key) if event.revision <= key.revision) {
            return None;
        }
        if let Some(writing) = &mut self.writing {
            writing.seen = Some(Box::new(event));
            return None;
        }
        let change = match (&event.kind, &self.desired) {
            (EventKind::Delete, _) => Change::Deleted,
            (EventKind::Put { lease: other, .. }, _) if *other != lease => {
                Change::Taken { lease: *other }
            }
            (EventKind::Put { .. }, None) => Change::WrittenLate,
            (EventKind::Put { value, .. }, Some(desired)) => match **value == *desired.as_bytes() {
                true => Change::Written,
                false => Change::Replaced,
            },
        };
        Some((change, event))
    }

    /// What is in etcd after a change at `revision`, and the reason for the next write if the change is not ours.
    pub(super) fn after(
        &self,
        change: Change,
        revision: i64,
        on_conflict: OnConflict,
    ) -> (Observed, Option<WriteReason>) {
        use WriteReason::{Deleted, Overwritten};
        let is_ours = self.writer == self.entry;
        let is_held = match &self.observed {
            Observed::Ours(key) => key.is_held,
            _ => is_ours,
        };
        match change {
            Change::Written => (Observed::ours(revision, self.desired.clone(), true), None),
            Change::WrittenLate => (Observed::ours(revision, None, is_held), None),
            Change::Replaced => {
                // If it is a late put of ours, it counts as held until it is written again.
                let is_held = self.put_may_still_land && is_ours;
                (Observed::ours(revision, None, is_held), Some(Overwritten))
            }
            Change::Taken { lease } => match on_conflict {
                OnConflict::Yield => (Observed::Theirs { lease }, Some(Overwritten)),
                OnConflict::TakeOver => (Observed::Absent, Some(Overwritten)),
            },
            Change::Deleted => (Observed::Absent, Some(Deleted)),
        }
    }
}

// === impl Observed ===

impl Observed {
    fn ours(revision: i64, value: Option<Arc<str>>, is_held: bool) -> Self {
        Self::Ours(OurKey {
            revision,
            value,
            is_held,
        })
    }
}
