//! [`KeyTable`]: for every key, what should be in etcd and what is known to be there. Pure.
//!
//! The reconciler passes it each result (of transactions, reads and watches), and takes from it
//! the next keys to write, read or watch. One lease, one table: a new lease starts
//! with an empty table, because every key under the old lease is gone with it.
//!
//! | file | |
//! |---|---|
//! | `check.rs` | keys that are read although their watches are silent |
//! | `claims.rs` | which entry has a key that several desire |
//! | `deleted.rs` | keys that an etcd restored from an older copy has again |
//! | `key_state.rs` | one key: desired, observed, and the write that makes them equal |
//! | `limits.rs` | how much etcd accepts in one request |
//! | `requests.rs` | transactions and reads: the next one, and what its answer changes |
//! | `takeover.rs` | the lease and value that a takeover replaced |
//! | `watch.rs` | watches: the next one, and what an event changes |

mod check;
mod claims;
mod deleted;
mod key_state;
mod limits;
mod requests;
mod takeover;
#[cfg(test)]
mod tests;
mod watch;

use super::ids::{EntryId, Key};
use super::on_conflict::OnConflict;
use super::rivals::Rival;
use crate::etcd::Op;
use crate::observe::observer::WriteReason;
use deleted::Deleted;
use key_state::{KeyState, WatchState};
use limits::Limits;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct KeyTable {
    lease: i64,
    on_conflict: OnConflict,
    limits: Limits,
    keys: HashMap<Key, KeyState>,
    /// The keys of each entry: those it desires, then those it does not desire any more.
    entries: BTreeMap<EntryId, Vec<Key>>,
    /// The entries that desire a key which a newer entry has, with their values.
    waiting: BTreeMap<Key, BTreeMap<EntryId, Arc<str>>>,
    /// Keys that may need a write.
    dirty: BTreeSet<Key>,
    /// Keys to read before anything is written to them.
    unverified: BTreeSet<Key>,
    deleted: Deleted,
    to_watch: VecDeque<Key>,
    to_unwatch: VecDeque<i64>,
    next_watch_id: i64,
    /// Where the next check of watched keys begins, among the keys of all entries.
    next_checked: usize,
    /// Entries whose [`View`] may have changed.
    changed: BTreeSet<EntryId>,
    /// Other clients that wrote a key of ours, and were not reported yet.
    rivals: Vec<(EntryId, Rival)>,
    /// A transaction with `prev_kv` was denied.
    prev_kv_denied: bool,
}

/// The state of all keys of one entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) keys: Vec<Key>,
    /// Every key is there, under our lease.
    pub(crate) held: bool,
    /// The reason of the next write of a key that is missing.
    pub(crate) missing: Option<WriteReason>,
    /// The revision of the newest of them.
    pub(crate) revision: i64,
    /// The other lease that holds one of the keys, under `OnConflict::Yield`.
    pub(crate) conflicting_lease: Option<i64>,
    /// Another client rewrote a key so often that the next repair has to wait.
    pub(crate) contested: bool,
    /// The first of its keys that a newer entry has.
    pub(crate) waits_for: Option<Key>,
}

// === impl KeyTable ===

impl KeyTable {
    pub(crate) fn new(lease: i64, on_conflict: OnConflict) -> Self {
        Self {
            lease,
            on_conflict,
            limits: Limits::default(),
            keys: HashMap::new(),
            entries: BTreeMap::new(),
            waiting: BTreeMap::new(),
            dirty: BTreeSet::new(),
            unverified: BTreeSet::new(),
            deleted: Deleted::default(),
            to_watch: VecDeque::new(),
            to_unwatch: VecDeque::new(),
            next_watch_id: 1,
            next_checked: 0,
            changed: BTreeSet::new(),
            rivals: vec![],
            prev_kv_denied: false,
        }
    }

    /// Starts over with another lease, 0 for none. Keeps the limits and permissions that were learned.
    pub(crate) fn reset(&mut self, lease: i64) {
        let (limits, prev_kv_denied) = (self.limits, self.prev_kv_denied);
        *self = Self {
            limits,
            prev_kv_denied,
            ..Self::new(lease, self.on_conflict)
        };
    }

    /// Whether `entry` has no key in etcd, and no write under way.
    pub(crate) fn is_gone(&self, entry: EntryId) -> bool {
        let keys = self.entries.get(&entry).map_or(&[][..], Vec::as_slice);
        !keys.iter().any(|key| {
            let state = self.keys.get(key).filter(|state| state.entry == entry);
            state.is_some_and(|state| !state.is_done() || self.unverified.contains(key))
        })
    }

    /// Forgets an entry that is gone.
    pub(crate) fn forget(&mut self, entry: EntryId) {
        self.entries.remove(&entry);
        self.changed.remove(&entry);
    }

    pub(crate) fn view(&self, entry: EntryId) -> View {
        let desired = |key: &&Key| {
            let state = self.keys.get(*key);
            state.is_some_and(|state| state.entry == entry && state.desired.is_some())
        };
        let all = self.entries.get(&entry).map_or(&[][..], Vec::as_slice);
        let keys: Vec<Key> = all.iter().filter(desired).cloned().collect();
        let waits_for = all.iter().find(|key| self.is_waiting(entry, key)).cloned();
        let mut view = View {
            held: !keys.is_empty() && waits_for.is_none(),
            keys,
            missing: None,
            revision: 0,
            conflicting_lease: None,
            contested: false,
            waits_for,
        };
        for state in view.keys.iter().filter_map(|key| self.keys.get(key)) {
            let revision = state.held_revision();
            if revision.is_none() {
                view.held = false;
                // A key that moves has a former one: one that is simply missing counts more.
                let missing = view.missing.filter(|it| *it != WriteReason::Updated);
                view.missing = missing.or(Some(state.reason));
            }
            view.revision = view.revision.max(revision.unwrap_or(0));
            view.conflicting_lease = view.conflicting_lease.or(state.conflicting_lease());
            view.contested |= state.retry_at.is_some() && !state.isolate;
        }
        view
    }

    /// The entry that a key belongs to.
    pub(crate) fn owner(&self, key: &Key) -> Option<EntryId> {
        self.keys.get(key).map(|state| state.entry)
    }

    /// The entries whose view may have changed since the last call.
    pub(crate) fn take_changed(&mut self) -> BTreeSet<EntryId> {
        std::mem::take(&mut self.changed)
    }

    /// The other clients that wrote a key of ours since the last call.
    pub(crate) fn take_rivals(&mut self) -> Vec<(EntryId, Rival)> {
        std::mem::take(&mut self.rivals)
    }

    /// Sets the reason for writing the keys of `entry` that are not there yet.
    pub(crate) fn set_reason(&mut self, entry: EntryId, reason: WriteReason) {
        for key in self.entries.get(&entry).into_iter().flatten() {
            let state = self.keys.get_mut(key);
            if let Some(state) = state.filter(|state| state.entry == entry) {
                state.reason = reason;
            }
        }
    }

    /// How many of `ops` have which reason.
    pub(crate) fn reasons(&self, ops: &[Op]) -> Vec<(WriteReason, usize)> {
        let mut reasons = BTreeMap::new();
        for op in ops {
            let state = self.keys.get(op.key());
            let reason = match op {
                Op::Delete { .. } => WriteReason::Withdrawn,
                _ => state.map(|state| state.reason).unwrap_or_default(),
            };
            *reasons.entry(reason).or_insert(0) += 1;
        }
        reasons.into_iter().collect()
    }

    /// Removes a key that is neither desired nor observed, unless a late write may still create it.
    fn remove_if_done(&mut self, key: &Key) {
        let Some(state) = self.keys.get(key) else {
            return;
        };
        if !state.is_done() || self.unverified.contains(key) {
            return;
        }
        self.changed.insert(state.entry);
        if state.put_may_still_land {
            return;
        }
        if matches!(state.watch, WatchState::Requested) {
            self.to_unwatch.push_back(state.watch_id);
        }
        self.deleted.add(key, state.entry);
        self.keys.remove(key);
        self.dirty.remove(key);
    }
}
