//! Which entry has a key that several entries desire: the newest of them. The others wait, each with its value, and the
//! newest of those gets the key when it is free, however it became free.
//!
//! This depends on who desires the key, and not on the order in which that was reported: entries that leave and
//! entries that take their place are often reported together.

use super::KeyTable;
use super::key_state::KeyState;
use crate::observe::observer::WriteReason;
use crate::registrar::ids::{EntryId, Key};
use std::sync::Arc;

// === impl KeyTable ===

impl KeyTable {
    /// Sets the desired keys and values of `entry`.
    ///
    /// Returns the first of the keys that a newer entry has. `entry` gets it when it is free.
    pub(crate) fn set_desired(
        &mut self,
        entry: EntryId,
        records: Vec<(Key, Arc<str>)>,
    ) -> Option<Key> {
        let mut keys: Vec<Key> = records.iter().map(|(key, _)| key.clone()).collect();
        for key in self.entries.remove(&entry).unwrap_or_default() {
            if !keys.contains(&key) && self.withdraw_key(entry, &key) {
                keys.push(key);
            }
        }
        self.entries.insert(entry, keys);
        self.changed.insert(entry);
        let mut waits_for = None;
        for (key, value) in records {
            if !self.claim(entry, &key, value) {
                waits_for.get_or_insert(key);
            }
        }
        waits_for
    }

    /// Makes `entry` desire no keys any more.
    pub(crate) fn withdraw(&mut self, entry: EntryId) {
        for key in self.entries.get(&entry).cloned().unwrap_or_default() {
            self.withdraw_key(entry, &key);
        }
        self.changed.insert(entry);
    }

    /// Whether `entry` desires a key that a newer entry has.
    pub(super) fn is_waiting(&self, entry: EntryId, key: &Key) -> bool {
        let waiting = self.waiting.get(key);
        waiting.is_some_and(|waiting| waiting.contains_key(&entry))
    }

    /// `entry` desires this key with this value. Returns whether it has the key now.
    fn claim(&mut self, entry: EntryId, key: &Key, value: Arc<str>) -> bool {
        let next_watch_id = &mut self.next_watch_id;
        let state = self.keys.entry(key.clone()).or_insert_with(|| {
            *next_watch_id += 1;
            KeyState::new(entry, *next_watch_id - 1)
        });
        let has_newer = state.entry > entry && state.desired.is_some();
        if !has_newer {
            let before = state.inherit(entry);
            state.retry_at = None;
            let replaced = state.desired.replace(value);
            self.dirty.insert(key.clone());
            let (Some(before), Some(value)) = (before, replaced) else {
                return true;
            };
            self.wait(before, key, value);
            return true;
        }
        self.wait(entry, key, value);
        false
    }

    fn wait(&mut self, entry: EntryId, key: &Key, value: Arc<str>) {
        let waiting = self.waiting.entry(key.clone()).or_default();
        waiting.insert(entry, value);
        self.changed.insert(entry);
    }

    /// Makes `entry` not desire this key any more. Returns whether the key may still be in etcd because of it.
    fn withdraw_key(&mut self, entry: EntryId, key: &Key) -> bool {
        self.stop_waiting(entry, key);
        let Some(state) = self.keys.get_mut(key).filter(|state| state.entry == entry) else {
            return false;
        };
        state.desired = None;
        state.retry_at = None;
        self.dirty.insert(key.clone());
        let waiting = self.waiting.get(key);
        let next = waiting.and_then(|waiting| Some(*waiting.last_key_value()?.0));
        if let Some((next, value)) =
            next.and_then(|next| Some((next, self.stop_waiting(next, key)?)))
        {
            self.claim(next, key, value);
            if let Some(state) = self.keys.get_mut(key) {
                state.reason = WriteReason::New;
            }
            self.changed.insert(next);
            return false;
        }
        self.remove_if_done(key);
        self.keys.contains_key(key)
    }

    /// Returns the value that `entry` waited with.
    fn stop_waiting(&mut self, entry: EntryId, key: &Key) -> Option<Arc<str>> {
        let waiting = self.waiting.get_mut(key)?;
        let value = waiting.remove(&entry);
        if waiting.is_empty() {
            self.waiting.remove(key);
        }
        value
    }
}
