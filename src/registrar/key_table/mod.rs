//! [`KeyTable`]: for every key, what should be in etcd and what is known to be there. Pure.
//!
//! The reconciler passes it each result (of transactions, reads and watches), and takes from it
//! the next keys to write, read or watch. One lease, one table: a new lease starts
//! with an empty table, because every key under the old lease is gone with it.
//!
//! | file | |
//! |---|---|
//! | `check.rs` | keys that are read although their watches are silent |
//! | `deleted.rs` | keys that an etcd restored from an older copy has again |
//! | `key_state.rs` | one key: desired, observed, and the write that makes them equal |
//! | `limits.rs` | how much etcd accepts in one request |
//! | `requests.rs` | transactions and reads: the next one, and what its answer changes |
//! | `takeover.rs` | the lease and value that a takeover replaced |
//! | `watch.rs` | watches: the next one, and what an event changes |

mod check;
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
use crate::observer::WriteReason;
use deleted::Deleted;
use key_state::KeyState;
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
    may_not_ask: bool,
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
            dirty: BTreeSet::new(),
            unverified: BTreeSet::new(),
            deleted: Deleted::default(),
            to_watch: VecDeque::new(),
            to_unwatch: VecDeque::new(),
            next_watch_id: 1,
            next_checked: 0,
            changed: BTreeSet::new(),
            rivals: vec![],
            may_not_ask: false,
        }
    }

    /// Starts over with another lease, 0 for none. Keeps the limits and permissions that were learned.
    pub(crate) fn reset(&mut self, lease: i64) {
        let (limits, may_not_ask) = (self.limits, self.may_not_ask);
        *self = Self {
            limits,
            may_not_ask,
            ..Self::new(lease, self.on_conflict)
        };
    }

    /// Sets the desired keys and values of `entry`.
    ///
    /// Returns the first key that another entry has already; then nothing was changed.
    pub(crate) fn set_desired(
        &mut self,
        entry: EntryId,
        records: Vec<(Key, Arc<str>)>,
    ) -> Result<(), Key> {
        let is_taken = |(key, _): &&(Key, Arc<str>)| {
            let state = self.keys.get(key);
            state.is_some_and(|state| state.entry != entry && state.desired.is_some())
        };
        if let Some((key, _)) = records.iter().find(is_taken) {
            return Err(key.clone());
        }
        let mut keys: Vec<Key> = records.iter().map(|(key, _)| key.clone()).collect();
        for key in self.entries.remove(&entry).unwrap_or_default() {
            if !keys.contains(&key) && self.withdraw_key(entry, &key) {
                keys.push(key);
            }
        }
        self.entries.insert(entry, keys);
        self.changed.insert(entry);
        for (key, value) in records {
            let next_watch_id = &mut self.next_watch_id;
            let state = self.keys.entry(key.clone()).or_insert_with(|| {
                *next_watch_id += 1;
                KeyState::new(entry, *next_watch_id - 1)
            });
            state.inherit(entry);
            state.desired = Some(value);
            state.retry_at = None;
            self.dirty.insert(key);
        }
        Ok(())
    }

    /// Makes `entry` desire no keys any more.
    pub(crate) fn withdraw(&mut self, entry: EntryId) {
        for key in self.entries.get(&entry).cloned().unwrap_or_default() {
            self.withdraw_key(entry, &key);
        }
        self.changed.insert(entry);
    }

    /// Makes `entry` not desire this key any more. Returns whether the key may still be in etcd.
    fn withdraw_key(&mut self, entry: EntryId, key: &Key) -> bool {
        let Some(state) = self.keys.get_mut(key).filter(|state| state.entry == entry) else {
            return false;
        };
        state.desired = None;
        state.retry_at = None;
        self.dirty.insert(key.clone());
        self.remove_if_done(key);
        self.keys.contains_key(key)
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
        let keys = self.entries.get(&entry).into_iter().flatten();
        let keys: Vec<Key> = keys.filter(desired).cloned().collect();
        let mut view = View {
            held: !keys.is_empty(),
            keys,
            missing: None,
            revision: 0,
            conflicting_lease: None,
            contested: false,
        };
        for state in view.keys.iter().filter_map(|key| self.keys.get(key)) {
            // It is being deleted although it is desired again: a pause was short.
            let is_going = matches!(state.writing, Some(None));
            let is_held = !state.is_unconfirmed && !is_going;
            let observed = state.observed.as_ref().filter(|_| is_held);
            let revision = observed.map(|observed| observed.revision);
            if revision.is_none() {
                view.held = false;
                view.missing = view.missing.or(Some(state.reason));
            }
            view.revision = view.revision.max(revision.unwrap_or(0));
            view.conflicting_lease = view.conflicting_lease.or(state.conflicting_lease);
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
            if let Some(state) = self.keys.get_mut(key) {
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
        if state.write_may_still_land {
            return;
        }
        if state.watch_from != 0 && !state.is_watch_due {
            self.to_unwatch.push_back(state.watch_id);
        }
        self.deleted.add(key, state.entry);
        self.keys.remove(key);
        self.dirty.remove(key);
    }
}
