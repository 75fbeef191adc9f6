//! Transactions and reads: the next one, and what its answer changes.

use super::KeyTable;
use super::key_state::{KeyState, Observed};
use super::limits::Size;
use crate::etcd::{KeyMeta, Op, RpcErrorKind};
use crate::observe::observer::WriteReason;
use crate::registrar::ids::Key;
use crate::registrar::on_conflict::OnConflict;
use crate::runtime::backoff::Rate;
use std::time::Duration;
use tokio::time::Instant;

/// The rate of repairs of one key. The burst is enough for any accident. The refill keeps two clients that
/// overwrite each other at a few writes a minute.
pub(super) const REPAIRS: Rate = Rate {
    burst: 24,
    refill: Duration::from_secs(10),
};

// === impl KeyTable ===

impl KeyTable {
    /// The next transaction: as many writes as etcd accepts at once. Empty: nothing to write now.
    pub(crate) fn next_txn(&mut self, now: Instant) -> Vec<Op> {
        let (mut ops, mut size): (Vec<Op>, Size) = (vec![], Size::default());
        let mut clean = vec![];
        for key in &self.dirty {
            let Some(state) = self.keys.get_mut(key) else {
                clean.push(key.clone());
                continue;
            };
            if state.retry_at.is_some_and(|at| at > now) || self.unverified.contains(key) {
                continue;
            }
            let Some(op) = state.next_op(key, self.on_conflict) else {
                clean.push(key.clone());
                continue;
            };
            size.add(&op);
            let is_full = !self.limits.take(size) || state.isolate;
            if is_full && !ops.is_empty() {
                break;
            }
            state.retry_at = None;
            state.writing = Some(state.desired.clone());
            state.writer = state.entry;
            clean.push(key.clone());
            ops.push(op);
            if state.isolate {
                break;
            }
        }
        for key in clean {
            self.dirty.remove(&key);
        }
        ops
    }

    /// When a write that has to wait is due.
    pub(crate) fn next_retry(&self) -> Option<Instant> {
        let retry_at = |key| self.keys.get(key)?.retry_at;
        self.dirty.iter().filter_map(retry_at).min()
    }

    /// The transaction of `ops` was applied.
    pub(crate) fn on_txn(
        &mut self,
        ops: &[Op],
        revision: i64,
        refused_by: &[Option<i64>],
        now: Instant,
    ) {
        for (index, op) in ops.iter().enumerate() {
            let key = op.key();
            let Some(state) = self.keys.get_mut(key) else {
                continue;
            };
            self.changed.insert(state.entry);
            state.is_holder_unknown = false;
            let refused_by = refused_by.get(index).copied().flatten();
            match (state.writing.take().flatten(), refused_by) {
                (Some(_), Some(lease)) => {
                    state.observed = None;
                    state.conflicting_lease = Some(lease);
                }
                (Some(value), None) => {
                    state.observed = Some(Observed::with_value(revision, value));
                    state.conflicting_lease = None;
                    state.is_unconfirmed = false;
                    state.author = state.writer;
                    state.isolate = false;
                }
                (None, _) => state.observed = None,
            }
            if state.watch_from == 0 {
                state.watch_from = revision + 1;
                state.is_watch_due = true;
                self.to_watch.push_back(key.clone());
            }
            if state.needs_write() {
                self.dirty.insert(key.clone());
            }
            let event = state.buffered_event.take();
            if let Some(event) = event.filter(|event| event.revision > revision) {
                self.on_watch_event(*event, now);
            }
            self.remove_if_done(key);
        }
    }

    /// The transaction of `ops` was certainly not applied.
    pub(crate) fn on_txn_rejected(&mut self, ops: &[Op], now: Instant) {
        for op in ops {
            let Some(state) = self.keys.get_mut(op.key()) else {
                continue;
            };
            state.writing = None;
            self.changed.insert(state.entry);
            self.dirty.insert(op.key().clone());
            if let Some(event) = state.buffered_event.take() {
                self.on_watch_event(*event, now);
            }
            self.remove_if_done(op.key());
        }
    }

    /// The transaction of `ops` was too large for etcd: the next ones are half as large. Only for
    /// more than one operation, because one cannot be split.
    pub(crate) fn on_txn_too_large(&mut self, ops: &[Op], kind: RpcErrorKind, now: Instant) {
        self.on_txn_rejected(ops, now);
        let mut size = Size::default();
        ops.iter().for_each(|op| size.add(op));
        self.limits.lower(size, kind);
    }

    /// The transaction of `ops` was denied. Each key is then tried alone, to find out which one
    /// may not be written; that one waits until `retry_at`.
    pub(crate) fn on_txn_denied(&mut self, ops: &[Op], now: Instant, retry_at: Instant) {
        self.on_txn_rejected(ops, now);
        for op in ops {
            let Some(state) = self.keys.get_mut(op.key()) else {
                continue;
            };
            state.isolate = true;
            if ops.len() == 1 {
                state.retry_at = Some(retry_at);
                // It may be neither read nor written, so it may not be there any more.
                let is_unseen = |observed: &Observed| observed.value.is_none();
                state.is_unconfirmed |= state.observed.as_ref().is_some_and(is_unseen);
            }
        }
    }

    /// The next keys to read, as many as etcd accepts at once.
    pub(crate) fn next_read(&self) -> Vec<Key> {
        let mut size = Size::default();
        let fits = |key: &&Key| {
            let is_first = size == Size::default();
            size.add_read(key);
            is_first || self.limits.take(size)
        };
        self.unverified.iter().take_while(fits).cloned().collect()
    }

    /// The read of `keys` was too large for etcd. Only for more than one key.
    pub(crate) fn on_read_too_large(&mut self, keys: &[Key], kind: RpcErrorKind) {
        let mut size = Size::default();
        keys.iter().for_each(|key| size.add_read(key));
        self.limits.lower(size, kind);
    }

    /// `keys` were read, at `revision`.
    pub(crate) fn on_read(&mut self, keys: &[Key], revision: i64, found: &[Option<KeyMeta>]) {
        for (key, found) in keys.iter().zip(found) {
            self.unverified.remove(key);
            if found.is_some_and(|found| found.lease == self.lease) {
                self.restore_if_deleted(key);
            }
            let Some(state) = self.keys.get_mut(key) else {
                continue;
            };
            self.changed.insert(state.entry);
            state.conflicting_lease = None;
            state.is_holder_unknown = found.is_some_and(|found| found.lease != self.lease);
            let ours = found.filter(|found| found.lease == self.lease);
            let intact = matches!((ours, &state.observed), (Some(found), Some(observed))
                if found.revision == observed.revision);
            if intact {
                let is_known = |observed: &Observed| observed.value.is_some();
                state.is_unconfirmed &= !state.observed.as_ref().is_some_and(is_known);
            } else {
                // Under our lease but at another revision: most likely a write of ours whose
                // answer was lost. Writing it again is harmless; reading every value back is not.
                // It counts as held until then: otherwise the status became `Lost` for a moment.
                let before = state.observed.take();
                state.observed = ours.map(|found| Observed::without_value(found.revision));
                state.is_unconfirmed = false;
                state.author = state.writer;
                // One that was not there, and that another address or entry desires now, is as absent as before.
                if before.is_some() || ours.is_some() {
                    state.reason = WriteReason::Differs;
                }
                let theirs = found.filter(|found| found.lease != self.lease);
                state.conflicting_lease = match self.on_conflict {
                    OnConflict::Yield => theirs.map(|found| found.lease),
                    OnConflict::TakeOver => None,
                };
                let is_wanted = state.desired.is_some() || state.write_may_still_land;
                if found.is_none() && !is_wanted {
                    self.deleted.add(key, state.entry);
                    self.keys.remove(key);
                    continue;
                }
            }
            state.watch_from = revision + 1;
            state.is_watch_due = true;
            self.to_watch.push_back(key.clone());
            if state.conflicting_lease.is_none() || state.desired.is_none() {
                self.dirty.insert(key.clone());
            }
            self.remove_if_done(key);
        }
    }

    /// A read has found this key under our lease: if we deleted it before etcd was restored, it is deleted again.
    fn restore_if_deleted(&mut self, key: &Key) {
        let entry = self.deleted.entry_of(key);
        if let Some(entry) = entry.filter(|_| !self.keys.contains_key(key)) {
            let state = KeyState::new(entry, self.next_watch_id);
            self.next_watch_id += 1;
            self.keys.insert(key.clone(), state);
        }
    }

    /// The read of `keys` was denied: they are written again without a read, because each may have changed.
    pub(crate) fn on_read_denied(&mut self, keys: &[Key]) {
        for key in keys {
            self.unverified.remove(key);
            let Some(state) = self.keys.get_mut(key) else {
                continue;
            };
            match &mut state.observed {
                // etcd acknowledged it under this lease, which lives. Counting it as missing until the next write
                // made the status `Lost` for a moment at each reconnect.
                Some(observed) => observed.value = None,
                // It may be there: it is deleted without a read if it is not desired any more.
                None => {
                    state.observed = Some(Observed::without_value(0));
                    state.is_unconfirmed = true;
                }
            }
            // A guarded write finds out whether another lease has it.
            state.conflicting_lease = None;
            state.is_holder_unknown = false;
            self.changed.insert(state.entry);
            self.dirty.insert(key.clone());
        }
    }

    /// The session ended: no request and no watch is left, and the observed state may be out of date.
    pub(crate) fn on_disconnect(&mut self) {
        self.unverified.extend(self.deleted.keys().cloned());
        self.to_watch.clear();
        self.to_unwatch.clear();
        for (key, state) in &mut self.keys {
            state.watch_from = 0;
            state.is_watch_due = false;
            state.buffered_event = None;
            let writing = state.writing.take();
            state.write_may_still_land |= writing.as_ref().is_some_and(Option::is_some);
            // A deletion may have been applied, so the key does not count as held before the read.
            state.is_unconfirmed |= matches!(writing, Some(None));
            if state.write_may_still_land
                || writing.is_some()
                || state.observed.is_some()
                || state.conflicting_lease.is_some()
            {
                self.unverified.insert(key.clone());
            }
        }
    }
}
