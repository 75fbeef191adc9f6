//! [`Store`]: what there is, as the sum of lists and events; and what each of them changes. Pure.

use crate::Instance;
use crate::etcd::KeyMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A key changed; `None`: there is no instance under it any more.
pub(super) type Update = (Arc<str>, Option<Arc<Instance>>);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Store {
    keys: BTreeMap<Arc<str>, Known>,
    revision: i64,
    /// etcd does not have the history any more that we go by.
    is_history: bool,
    readable: usize,
    /// Keys that there was no room for, at the last list.
    crowded: usize,
    max: usize,
    /// Below so many instances, what goes missing is kept.
    floor: usize,
    /// How many instances there were before the last cut.
    was: usize,
    /// Keys put or listed with a higher number have been seen since the last cut.
    cuts: u64,
    missing: Missing,
}

/// Keys that are kept although etcd does not have them.
#[derive(Debug, Default)]
struct Missing {
    /// With the address of the instance, if there is one.
    keys: BTreeMap<Arc<str>, Option<Arc<str>>>,
    /// The addresses with their keys: one for each missing instance.
    addresses: BTreeSet<(Arc<str>, Arc<str>)>,
}

/// One key.
#[derive(Debug)]
struct Known {
    seen: KeyMeta,
    /// How many cuts there had been when it was last seen.
    cuts: u64,
    /// `None`: its value does not read.
    instance: Option<Arc<Instance>>,
}

/// A key with what was read from its value.
#[derive(Debug)]
pub(super) struct Reading {
    pub(super) key: String,
    pub(super) seen: KeyMeta,
    pub(super) instance: Option<Instance>,
}

// === impl Store ===

impl Store {
    /// At most `max` keys.
    pub(super) fn new(max: usize) -> Self {
        Self {
            keys: BTreeMap::new(),
            revision: 0,
            is_history: false,
            readable: 0,
            crowded: 0,
            max,
            floor: 0,
            was: 0,
            cuts: 0,
            missing: Missing::default(),
        }
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Instance>)> {
        let keys = self.keys.iter();
        keys.filter_map(|(key, known)| Some((key, known.instance.as_ref()?)))
    }

    /// The revision up to which everything is in.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn skipped(&self) -> usize {
        self.keys.len() - self.readable + self.crowded
    }

    pub(super) fn missing(&self) -> usize {
        self.missing.keys.len()
    }

    /// Everything that a reader could see besides the instances.
    pub(super) fn figures(&self) -> (bool, usize, usize) {
        (self.revision > 0, self.skipped(), self.missing())
    }

    /// A key that tells whether etcd still has the same history, with what is known of it.
    pub(super) fn witness(&self) -> Option<(Arc<str>, KeyMeta)> {
        if self.is_history {
            return None;
        }
        let mut present = self
            .keys
            .iter()
            .filter(|(key, _)| !self.missing.keys.contains_key(*key));
        present.next().map(|(key, known)| (key.clone(), known.seen))
    }

    /// What is known cannot be gone on from: only a list helps.
    pub(super) fn forget_history(&mut self) {
        self.is_history = true;
    }

    /// From now on, what goes missing is kept when it is more than half of what there is.
    pub(super) fn distrust(&mut self) {
        self.cuts += 1;
        self.was = self.was.max(self.readable);
        self.floor = self.floor.max(self.readable.div_ceil(2));
    }

    /// How many are missing, if more than half of what there was before the cut is back.
    pub(super) fn stragglers(&self) -> Option<usize> {
        let missing = self.missing();
        (missing > 0 && self.present() >= self.was.div_ceil(2)).then_some(missing)
    }

    /// Deletions are believed again; what is missing already stays for now.
    pub(super) fn believe(&mut self) {
        self.floor = 0;
    }

    /// What is missing is gone.
    pub(super) fn trust(&mut self, updates: &mut Vec<Update>) {
        (self.floor, self.was) = (0, 0);
        self.drop_missing(updates);
    }

    fn drop_missing(&mut self, updates: &mut Vec<Update>) {
        for key in std::mem::take(&mut self.missing).keys.into_keys() {
            self.remove(&key, updates);
        }
    }

    /// Everything there is, at `revision`.
    pub(super) fn list(
        &mut self,
        readings: Vec<Reading>,
        crowded: usize,
        revision: i64,
        updates: &mut Vec<Update>,
    ) {
        let present: BTreeSet<&str> = readings.iter().map(|reading| &*reading.key).collect();
        let absent = self.keys.keys().filter(|key| !present.contains(&***key));
        let absent: Vec<_> = absent.cloned().collect();
        self.crowded = crowded;
        for key in &absent {
            self.miss(key);
        }
        // Judged when those that came are in.
        for reading in readings {
            self.put(reading, updates);
        }
        if self.present() >= self.floor {
            self.drop_missing(updates);
        }
        // etcd may have lost its history: what counts is what it says now.
        self.revision = revision;
        self.is_history = false;
    }

    /// A key was put.
    pub(super) fn put(&mut self, reading: Reading, updates: &mut Vec<Update>) {
        let Reading {
            key,
            seen,
            instance,
        } = reading;
        self.revision = self.revision.max(seen.revision);
        self.missing.remove(&key);
        // The same server under another key: one with its lease or its pid in it.
        let address = instance.as_ref().and_then(Instance::get_address);
        let formers = address.map_or(vec![], |address| self.missing.at(address));
        let key: Arc<str> = match self.keys.get_key_value(&*key) {
            Some((known, _)) => known.clone(),
            None if self.keys.len() >= self.max => {
                self.crowded += 1;
                return;
            }
            None => key.into(),
        };
        let instance = instance.map(Arc::new);
        let known = Known {
            seen,
            cuts: self.cuts,
            instance: instance.clone(),
        };
        let before = self.keys.insert(key.clone(), known);
        let before = before.and_then(|known| known.instance);
        self.readable += usize::from(instance.is_some());
        self.readable -= usize::from(before.is_some());
        if before != instance {
            updates.push((key, instance));
        }
        // After the new one, so that whoever counts by address keeps its connection.
        for former in formers {
            self.missing.remove(&former);
            self.remove(&former, updates);
        }
    }

    /// A key was deleted, at `revision`.
    pub(super) fn deleted(&mut self, key: &str, revision: i64, updates: &mut Vec<Update>) {
        self.revision = self.revision.max(revision);
        let Some((key, known)) = self.keys.get_key_value(key) else {
            return;
        };
        let key = key.clone();
        // One that was seen since the cut is known to etcd, and its end is the truth.
        if known.instance.is_some() && known.cuts < self.cuts && self.present() <= self.floor {
            self.miss(&key);
            return;
        }
        self.missing.remove(&key);
        self.remove(&key, updates);
    }

    fn miss(&mut self, key: &Arc<str>) {
        let known = self.keys.get(key).and_then(|known| known.instance.as_ref());
        let address = known.map(|instance| instance.get_address().unwrap_or_default());
        self.missing.insert(key, address);
    }

    /// How many instances etcd has, as far as is known.
    fn present(&self) -> usize {
        self.readable - self.missing.addresses.len()
    }

    fn remove(&mut self, key: &Arc<str>, updates: &mut Vec<Update>) {
        let Some(known) = self.keys.remove(key) else {
            return;
        };
        if known.instance.is_some() {
            self.readable -= 1;
            updates.push((key.clone(), None));
        }
    }
}

// === impl Missing ===

impl Missing {
    fn insert(&mut self, key: &Arc<str>, address: Option<&str>) {
        let address: Option<Arc<str>> = address.map(Into::into);
        let there = address.clone().map(|address| (address, key.clone()));
        self.addresses.extend(there);
        self.keys.insert(key.clone(), address);
    }

    fn remove(&mut self, key: &str) {
        if let Some((key, Some(address))) = self.keys.remove_entry(key) {
            self.addresses.remove(&(address, key));
        }
    }

    /// The keys whose instances are dialled there.
    fn at(&self, address: &str) -> Vec<Arc<str>> {
        if self.addresses.is_empty() {
            return vec![];
        }
        let from: (Arc<str>, Arc<str>) = (address.into(), "".into());
        let there = self.addresses.range(from..);
        let there = there.take_while(|(at, _)| **at == *address);
        there.map(|(_, key)| key.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(key: &str, revision: i64) -> Reading {
        Reading {
            key: key.to_owned(),
            seen: KeyMeta { lease: 7, revision },
            instance: Some(at(key, key)),
        }
    }

    fn at(id: &str, host: &str) -> Instance {
        Instance::new("greeter")
            .id(id)
            .address(format!("{host}.example:9000"))
    }

    fn listed(keys: &[&str]) -> Store {
        let mut store = Store::new(100);
        list(&mut store, keys, 5);
        store
    }

    fn list(store: &mut Store, keys: &[&str], revision: i64) -> Vec<String> {
        let mut updates = vec![];
        let readings = keys.iter().map(|key| reading(key, revision)).collect();
        store.list(readings, 0, revision, &mut updates);
        shown(updates)
    }

    fn deleted(store: &mut Store, key: &str) -> Vec<String> {
        let mut updates = vec![];
        store.deleted(key, store.revision() + 1, &mut updates);
        shown(updates)
    }

    fn trust(store: &mut Store) -> Vec<String> {
        let mut updates = vec![];
        store.trust(&mut updates);
        shown(updates)
    }

    fn shown(updates: Vec<Update>) -> Vec<String> {
        let sign = |(key, instance): Update| match instance {
            Some(_) => format!("+{key}"),
            None => format!("-{key}"),
        };
        updates.into_iter().map(sign).collect()
    }

    #[test]
    fn a_list_is_a_difference_and_never_a_flush() {
        let mut store = listed(&["a", "b", "c"]);
        assert_eq!(list(&mut store, &["a", "b", "c"], 9), [""; 0]);
        assert_eq!(list(&mut store, &["a", "c", "d"], 12), ["+d", "-b"]);
        assert_eq!((store.revision(), store.readable), (12, 3));
    }

    #[test]
    fn an_instance_that_is_written_again_as_it_was_is_no_change() {
        let mut store = listed(&["a"]);
        let mut updates = vec![];
        store.put(reading("a", 9), &mut updates);
        assert!(updates.is_empty());
        assert_eq!(store.revision(), 9);
    }

    #[test]
    fn after_a_cut_less_than_half_is_not_believed_until_it_is_over() {
        let mut store = listed(&["a", "b", "c", "d"]);
        store.distrust();
        assert_eq!(list(&mut store, &[], 2), [""; 0], "an etcd that was wiped");
        assert_eq!(
            (store.missing(), store.readable, store.revision()),
            (4, 4, 2)
        );
        let mut updates = vec![];
        store.put(reading("a", 3), &mut updates);
        store.put(reading("b", 4), &mut updates);
        store.put(reading("e", 5), &mut updates);
        assert_eq!(shown(updates), ["+e"]);
        assert_eq!(trust(&mut store), ["-c", "-d"]);
        assert_eq!((store.missing(), store.readable), (0, 3));
    }

    #[test]
    fn after_a_cut_the_leases_of_a_fleet_may_end_at_once() {
        let mut store = listed(&["a", "b", "c", "d"]);
        store.distrust();
        assert_eq!(deleted(&mut store, "a"), ["-a"], "one may always leave");
        assert_eq!(deleted(&mut store, "b"), ["-b"]);
        assert_eq!(deleted(&mut store, "c"), [""; 0]);
        assert_eq!(deleted(&mut store, "d"), [""; 0]);
        assert_eq!(trust(&mut store), ["-c", "-d"]);
    }

    #[test]
    fn who_was_seen_since_the_cut_leaves_at_once() {
        let mut store = listed(&["a"]);
        store.distrust();
        assert_eq!(list(&mut store, &[], 2), [""; 0]);
        let mut updates = vec![];
        store.put(reading("a", 3), &mut updates);
        assert_eq!((updates.len(), store.missing()), (0, 0));
        assert_eq!(deleted(&mut store, "a"), ["-a"]);
    }

    #[test]
    fn once_believed_the_last_one_leaves_at_once_and_what_is_missing_stays() {
        let mut store = listed(&["a", "b", "c"]);
        store.distrust();
        assert_eq!(deleted(&mut store, "a"), ["-a"]);
        assert_eq!(deleted(&mut store, "b"), [""; 0]);
        store.believe();
        assert_eq!(deleted(&mut store, "c"), ["-c"]);
        assert_eq!(store.missing(), 1);
        assert_eq!(trust(&mut store), ["-b"]);
    }

    #[test]
    fn a_missing_server_that_is_back_under_another_key_is_one_and_not_two() {
        let mut store = listed(&["a", "b"]);
        store.distrust();
        assert_eq!(list(&mut store, &[], 2), [""; 0]);
        let mut updates = vec![];
        let back = Reading {
            instance: Some(at("a", "a")),
            ..reading("a2", 3)
        };
        store.put(back, &mut updates);
        assert_eq!(shown(updates), ["+a2", "-a"]);
        assert_eq!((store.missing(), store.readable), (1, 2));
    }

    #[test]
    fn the_last_of_a_trusted_fleet_leaves_at_once() {
        let mut store = listed(&["a"]);
        assert_eq!(deleted(&mut store, "a"), ["-a"]);
    }

    #[test]
    fn what_does_not_read_is_counted_and_the_rest_is_shown() {
        let mut store = listed(&["a"]);
        let mut updates = vec![];
        let bad = |key, revision| Reading {
            instance: None,
            ..reading(key, revision)
        };
        store.put(bad("b", 6), &mut updates);
        assert_eq!((store.skipped(), updates.len()), (1, 0));
        store.put(bad("a", 7), &mut updates);
        assert_eq!(
            (store.skipped(), shown(updates)),
            (2, vec!["-a".to_owned()])
        );
        assert_eq!(deleted(&mut store, "b"), [""; 0]);
        assert_eq!(store.skipped(), 1);
    }

    #[test]
    fn there_is_room_for_so_many_keys_and_the_others_are_counted() {
        let mut store = Store::new(2);
        let mut updates = vec![];
        for key in ["a", "b", "c", "d"] {
            store.put(reading(key, 6), &mut updates);
        }
        assert_eq!((store.readable, store.skipped()), (2, 2));
    }

    #[test]
    fn the_witness_is_a_key_that_etcd_should_have() {
        let mut store = listed(&["a", "b"]);
        store.distrust();
        assert_eq!(list(&mut store, &["b"], 9), ["-a"]);
        let (key, seen) = store.witness().unwrap();
        assert_eq!((&*key, seen.revision), ("b", 9));
    }
}
