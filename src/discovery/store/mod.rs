//! [`Store`]: the current instances. It applies lists and events, and returns the changes. Pure: the time
//! is passed in.

mod history;
mod preservation;
mod reading;

pub(super) use history::{Check, Known, Sample};
pub(super) use reading::Reading;

use super::missing::Missing;
use super::skipped::{Skipped, by_reason};
use crate::etcd::KeyMeta;
use crate::instance::Instance;
use crate::observe::observer::InstanceCounts;
use reading::weight;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A change of a key.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) key: Arc<str>,
    /// `None`: its instance was removed.
    pub(super) instance: Option<Arc<Instance>>,
    /// There was no instance before.
    pub(super) is_new: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Store {
    entries: BTreeMap<Arc<str>, Entry>,
    revision: i64,
    /// etcd does not have our history any more: a list is needed.
    history_lost: bool,
    /// The last key that was deleted since the last list, unless it was put again.
    last_deleted: Option<Arc<str>>,
    readable: usize,
    /// Counts changes of the keys that cannot be decoded, and of their reasons.
    unreadable_changes: u64,
    /// The memory of all entries, in bytes.
    bytes: usize,
    /// Keys skipped since the last list, because there was no room.
    passed_over: usize,
    /// A key was deleted since one was skipped.
    has_room: bool,
    limits: Limits,
    /// When etcd last answered anything.
    pub(super) last_answer: Option<Instant>,
    /// Counts the silences of etcd that started self-preservation.
    epoch: u64,
    /// Until when deletions are subject to self-preservation.
    preserved_until: Option<Instant>,
    /// If fewer instances than this would be left, missing ones are kept.
    threshold: usize,
    missing: Missing,
    /// Half are back: unless another one comes back until then, the others are removed.
    settled_at: Option<Instant>,
    /// The changes since the last [`take_updates`](Self::take_updates).
    updates: Vec<Update>,
}

/// The limits of memory and retention.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    pub(super) keys: usize,
    pub(super) bytes: usize,
    pub(super) retention: Duration,
}

/// One key.
#[derive(Debug)]
struct Entry {
    seen: KeyMeta,
    /// The [`Store::epoch`] in which it was last seen.
    epoch: u64,
    weight: usize,
    /// Of its value.
    digest: u64,
    /// The instance, or why its value cannot be decoded.
    instance: Result<Arc<Instance>, Arc<str>>,
}

/// After so long without an answer leases may have expired: etcd's shortest TTL.
pub(super) const SHORTEST_TTL: Duration = Duration::from_secs(2);
// === impl Store ===

impl Store {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            entries: BTreeMap::new(),
            revision: 0,
            history_lost: false,
            last_deleted: None,
            readable: 0,
            unreadable_changes: 0,
            bytes: 0,
            passed_over: 0,
            has_room: false,
            limits,
            last_answer: None,
            epoch: 0,
            preserved_until: None,
            threshold: 0,
            missing: Missing::default(),
            settled_at: None,
            updates: vec![],
        }
    }

    /// The changes since the last call.
    pub(super) fn take_updates(&mut self) -> Vec<Update> {
        std::mem::take(&mut self.updates)
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Instance>)> {
        let entries = self.entries.iter();
        entries.filter_map(|(key, entry)| Some((key, entry.instance.as_ref().ok()?)))
    }

    /// The revision up to which all changes are applied.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn skipped(&self) -> usize {
        self.entries.len() - self.readable + self.passed_over
    }

    /// The skipped keys by reason, the most frequent first.
    pub(super) fn skipped_by_reason(&self) -> Vec<Skipped> {
        let entries = self.entries.iter();
        let unreadable = entries.filter_map(|(key, it)| Some((key, it.instance.as_ref().err()?)));
        // Usually there are none: then no entry is visited.
        let unreadable = unreadable.take(self.entries.len() - self.readable);
        let Limits { keys, bytes, .. } = self.limits;
        by_reason(unreadable, self.passed_over, (keys, bytes))
    }

    pub(super) fn missing(&self) -> usize {
        self.missing.len()
    }

    pub(super) fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Keys were skipped, and there may be room for them now.
    pub(super) fn has_room(&self) -> bool {
        self.has_room
    }

    /// The number of keys that etcd has, as far as we know.
    pub(super) fn keys(&self) -> usize {
        self.entries.len() + self.passed_over - self.missing.len()
    }

    /// The figures of a snapshot besides its instances, to detect a change.
    pub(super) fn figures(&self) -> (InstanceCounts, bool, u64) {
        let counts = InstanceCounts {
            found: self.readable,
            missing: self.missing(),
            skipped: self.skipped(),
        };
        (counts, self.revision > 0, self.unreadable_changes)
    }

    /// Applies a list at `revision`, without `unread` keys that there was no room for.
    pub(super) fn list(
        &mut self,
        readings: Vec<Reading>,
        unread: usize,
        revision: i64,
        now: Instant,
    ) {
        self.set_threshold(now);
        let present: BTreeSet<&str> = readings.iter().map(|reading| &*reading.key).collect();
        let absent = self.entries.keys().filter(|key| !present.contains(&***key));
        let absent: Vec<_> = absent.cloned().collect();
        (self.passed_over, self.has_room) = (unread, false);
        for key in &absent {
            self.miss(key, now);
        }
        // Decided after the new keys are applied.
        for reading in readings {
            self.set(reading, now);
        }
        if self.present() >= self.threshold {
            for key in self.missing.take_all() {
                self.remove(&key);
            }
        }
        self.settle(false, now);
        // etcd may have lost its data, so the revision may be lower.
        self.revision = revision;
        self.history_lost = false;
        self.last_deleted = None;
    }

    /// A key was put.
    pub(super) fn put(&mut self, reading: Reading, now: Instant) {
        if !self.is_older(&reading.key, reading.seen.revision) {
            self.set(reading, now);
        }
    }

    fn set(&mut self, reading: Reading, now: Instant) {
        let Reading {
            key,
            seen,
            digest,
            instance,
        } = reading;
        self.revision = self.revision.max(seen.revision);
        self.last_deleted.take_if(|deleted| **deleted == *key);
        let mut is_back = self.missing.remove(&key);
        let weight = weight(&key, instance.as_ref().ok());
        if !self.has_room_for(&key, weight) {
            self.passed_over += 1;
            self.remove(&key);
            return;
        }
        // The same server under another key, which contains its lease or its pid.
        let address = instance.as_ref().ok().and_then(Instance::address);
        let formers = address.map_or(vec![], |address| self.missing.at(address));
        let entry = Entry {
            seen,
            epoch: self.epoch,
            weight,
            digest,
            instance: instance.map(Arc::new),
        };
        self.insert(key, entry);
        // After the new one, so that a channel keeps its connection to the address.
        for former in formers {
            is_back |= self.missing.remove(&former);
            self.remove(&former);
        }
        self.settle(is_back, now);
    }

    fn insert(&mut self, key: String, entry: Entry) {
        let known = self.entries.get_key_value(&*key);
        let key = known.map_or_else(|| key.into(), |(known, _)| known.clone());
        let (instance, reason) = split(entry.instance.clone());
        self.bytes += entry.weight;
        self.readable += usize::from(instance.is_some());
        let before = self.entries.insert(key.clone(), entry);
        self.bytes -= before.as_ref().map_or(0, |before| before.weight);
        let (before, reason_before) = before.map_or((None, None), |it| split(it.instance));
        self.unreadable_changes += u64::from(reason_before != reason);
        self.readable -= usize::from(before.is_some());
        if before != instance {
            self.updates.push(Update {
                key,
                instance,
                is_new: before.is_none(),
            });
        }
    }

    /// A key was deleted, at `revision`.
    pub(super) fn delete(&mut self, key: &str, revision: i64, now: Instant) {
        self.revision = self.revision.max(revision);
        if self.is_older(key, revision) {
            return;
        }
        self.has_room |= self.passed_over > 0;
        self.last_deleted = Some(key.into());
        let Some((key, entry)) = self.entries.get_key_value(key) else {
            return;
        };
        let key = key.clone();
        // An entry that was seen since is deleted at once.
        let is_unverified = entry.instance.is_ok() && entry.epoch < self.epoch;
        if is_unverified && self.is_preserving(now) && self.present() <= self.threshold {
            self.miss(&key, now);
        } else {
            self.missing.remove(&key);
            self.remove(&key);
        }
        self.settle(false, now);
    }

    fn has_room_for(&self, key: &str, weight: usize) -> bool {
        let known = self.entries.get(key);
        let others = self.bytes - known.map_or(0, |known| known.weight);
        (known.is_some() || self.entries.len() < self.limits.keys)
            && weight <= self.limits.bytes.saturating_sub(others)
    }

    fn remove(&mut self, key: &str) {
        let Some((key, entry)) = self.entries.remove_entry(key) else {
            return;
        };
        self.bytes -= entry.weight;
        if entry.instance.is_err() {
            self.unreadable_changes += 1;
        } else {
            self.readable -= 1;
            self.updates.push(Update {
                key,
                instance: None,
                is_new: false,
            });
        }
    }
}

/// An instance, or why there is none.
fn split(read: Result<Arc<Instance>, Arc<str>>) -> (Option<Arc<Instance>>, Option<Arc<str>>) {
    match read {
        Ok(instance) => (Some(instance), None),
        Err(reason) => (None, Some(reason)),
    }
}

#[cfg(test)]
mod tests;
