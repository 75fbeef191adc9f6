//! Transactions and reads: the next one, and what its answer changes.

use super::KeyTable;
use super::key_state::{KeyState, WatchState};
use super::limits::Size;
use crate::etcd::{KeyMeta, Op, RpcErrorKind};
use crate::registrar::ids::Key;
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
            let is_full = !self.limits.allows(size) || state.isolate;
            if is_full && !ops.is_empty() {
                break;
            }
            state.begin_write();
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
            let refused_by = refused_by.get(index).copied().flatten();
            let event = state.on_written(revision, refused_by);
            if let WatchState::Unwatched = state.watch {
                state.watch = WatchState::Due { from: revision + 1 };
                self.to_watch.push_back(key.clone());
            }
            if state.needs_write() {
                self.dirty.insert(key.clone());
            }
            if let Some(event) = event {
                self.on_watch_event(event, now);
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
            let event = state.on_rejected();
            self.changed.insert(state.entry);
            self.dirty.insert(op.key().clone());
            if let Some(event) = event {
                self.on_watch_event(event, now);
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
                state.on_denied(retry_at);
            }
        }
    }

    /// The next keys to read, as many as etcd accepts at once.
    pub(crate) fn next_read(&self) -> Vec<Key> {
        let mut size = Size::default();
        let fits = |key: &&Key| {
            let is_first = size == Size::default();
            size.add_read(key);
            is_first || self.limits.allows(size)
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
            state.on_read(*found, self.lease, self.on_conflict);
            let is_wanted = state.desired.is_some() || state.put_may_still_land;
            if found.is_none() && !is_wanted {
                self.deleted.add(key, state.entry);
                self.keys.remove(key);
                continue;
            }
            state.watch = WatchState::Due { from: revision + 1 };
            self.to_watch.push_back(key.clone());
            if state.needs_write() {
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
            state.on_read_denied();
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
            if state.on_disconnect() {
                self.unverified.insert(key.clone());
            }
        }
    }
}
