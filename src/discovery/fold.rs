//! [`Fold`]: what there is, as the sum of lists and events; and what each of them changes. Pure.

use crate::Instance;
use crate::etcd::KeyMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// A key changed; `None`: there is no instance under it any more.
pub(super) type Step = (Arc<str>, Option<Arc<Instance>>);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Fold {
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

// === impl Fold ===

impl Fold {
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
    pub(super) fn trust(&mut self, steps: &mut Vec<Step>) {
        (self.floor, self.was) = (0, 0);
        self.drop_missing(steps);
    }

    fn drop_missing(&mut self, steps: &mut Vec<Step>) {
        for key in std::mem::take(&mut self.missing).keys.into_keys() {
            self.remove(&key, steps);
        }
    }

    /// Everything there is, at `revision`.
    pub(super) fn list(
        &mut self,
        readings: Vec<Reading>,
        crowded: usize,
        revision: i64,
        steps: &mut Vec<Step>,
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
            self.put(reading, steps);
        }
        if self.present() >= self.floor {
            self.drop_missing(steps);
        }
        // etcd may have lost its history: what counts is what it says now.
        self.revision = revision;
        self.is_history = false;
    }

    /// A key was put.
    pub(super) fn put(&mut self, reading: Reading, steps: &mut Vec<Step>) {
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
            steps.push((key, instance));
        }
        // After the new one, so that whoever counts by address keeps its connection.
        for former in formers {
            self.missing.remove(&former);
            self.remove(&former, steps);
        }
    }

    /// A key was deleted, at `revision`.
    pub(super) fn deleted(&mut self, key: &str, revision: i64, steps: &mut Vec<Step>) {
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
        self.remove(&key, steps);
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

    fn remove(&mut self, key: &Arc<str>, steps: &mut Vec<Step>) {
        let Some(known) = self.keys.remove(key) else {
            return;
        };
        if known.instance.is_some() {
            self.readable -= 1;
            steps.push((key.clone(), None));
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

    fn listed(keys: &[&str]) -> Fold {
        let mut fold = Fold::new(100);
        list(&mut fold, keys, 5);
        fold
    }

    fn list(fold: &mut Fold, keys: &[&str], revision: i64) -> Vec<String> {
        let mut steps = vec![];
        let readings = keys.iter().map(|key| reading(key, revision)).collect();
        fold.list(readings, 0, revision, &mut steps);
        shown(steps)
    }

    fn deleted(fold: &mut Fold, key: &str) -> Vec<String> {
        let mut steps = vec![];
        fold.deleted(key, fold.revision() + 1, &mut steps);
        shown(steps)
    }

    fn trust(fold: &mut Fold) -> Vec<String> {
        let mut steps = vec![];
        fold.trust(&mut steps);
        shown(steps)
    }

    fn shown(steps: Vec<Step>) -> Vec<String> {
        let sign = |(key, instance): Step| match instance {
            Some(_) => format!("+{key}"),
            None => format!("-{key}"),
        };
        steps.into_iter().map(sign).collect()
    }

    #[test]
    fn a_list_is_a_difference_and_never_a_flush() {
        let mut fold = listed(&["a", "b", "c"]);
        assert_eq!(list(&mut fold, &["a", "b", "c"], 9), [""; 0]);
        assert_eq!(list(&mut fold, &["a", "c", "d"], 12), ["+d", "-b"]);
        assert_eq!((fold.revision(), fold.readable), (12, 3));
    }

    #[test]
    fn an_instance_that_is_written_again_as_it_was_is_no_change() {
        let mut fold = listed(&["a"]);
        let mut steps = vec![];
        fold.put(reading("a", 9), &mut steps);
        assert!(steps.is_empty());
        assert_eq!(fold.revision(), 9);
    }

    #[test]
    fn after_a_cut_less_than_half_is_not_believed_until_it_is_over() {
        let mut fold = listed(&["a", "b", "c", "d"]);
        fold.distrust();
        assert_eq!(list(&mut fold, &[], 2), [""; 0], "an etcd that was wiped");
        assert_eq!((fold.missing(), fold.readable, fold.revision()), (4, 4, 2));
        let mut steps = vec![];
        fold.put(reading("a", 3), &mut steps);
        fold.put(reading("b", 4), &mut steps);
        fold.put(reading("e", 5), &mut steps);
        assert_eq!(shown(steps), ["+e"]);
        assert_eq!(trust(&mut fold), ["-c", "-d"]);
        assert_eq!((fold.missing(), fold.readable), (0, 3));
    }

    #[test]
    fn after_a_cut_the_leases_of_a_fleet_may_end_at_once() {
        let mut fold = listed(&["a", "b", "c", "d"]);
        fold.distrust();
        assert_eq!(deleted(&mut fold, "a"), ["-a"], "one may always leave");
        assert_eq!(deleted(&mut fold, "b"), ["-b"]);
        assert_eq!(deleted(&mut fold, "c"), [""; 0]);
        assert_eq!(deleted(&mut fold, "d"), [""; 0]);
        assert_eq!(trust(&mut fold), ["-c", "-d"]);
    }

    #[test]
    fn who_was_seen_since_the_cut_leaves_at_once() {
        let mut fold = listed(&["a"]);
        fold.distrust();
        assert_eq!(list(&mut fold, &[], 2), [""; 0]);
        let mut steps = vec![];
        fold.put(reading("a", 3), &mut steps);
        assert_eq!((steps.len(), fold.missing()), (0, 0));
        assert_eq!(deleted(&mut fold, "a"), ["-a"]);
    }

    #[test]
    fn once_believed_the_last_one_leaves_at_once_and_what_is_missing_stays() {
        let mut fold = listed(&["a", "b", "c"]);
        fold.distrust();
        assert_eq!(deleted(&mut fold, "a"), ["-a"]);
        assert_eq!(deleted(&mut fold, "b"), [""; 0]);
        fold.believe();
        assert_eq!(deleted(&mut fold, "c"), ["-c"]);
        assert_eq!(fold.missing(), 1);
        assert_eq!(trust(&mut fold), ["-b"]);
    }

    #[test]
    fn a_missing_server_that_is_back_under_another_key_is_one_and_not_two() {
        let mut fold = listed(&["a", "b"]);
        fold.distrust();
        assert_eq!(list(&mut fold, &[], 2), [""; 0]);
        let mut steps = vec![];
        let back = Reading {
            instance: Some(at("a", "a")),
            ..reading("a2", 3)
        };
        fold.put(back, &mut steps);
        assert_eq!(shown(steps), ["+a2", "-a"]);
        assert_eq!((fold.missing(), fold.readable), (1, 2));
    }

    #[test]
    fn the_last_of_a_trusted_fleet_leaves_at_once() {
        let mut fold = listed(&["a"]);
        assert_eq!(deleted(&mut fold, "a"), ["-a"]);
    }

    #[test]
    fn what_does_not_read_is_counted_and_the_rest_is_shown() {
        let mut fold = listed(&["a"]);
        let mut steps = vec![];
        let bad = |key, revision| Reading {
            instance: None,
            ..reading(key, revision)
        };
        fold.put(bad("b", 6), &mut steps);
        assert_eq!((fold.skipped(), steps.len()), (1, 0));
        fold.put(bad("a", 7), &mut steps);
        assert_eq!((fold.skipped(), shown(steps)), (2, vec!["-a".to_owned()]));
        assert_eq!(deleted(&mut fold, "b"), [""; 0]);
        assert_eq!(fold.skipped(), 1);
    }

    #[test]
    fn there_is_room_for_so_many_keys_and_the_others_are_counted() {
        let mut fold = Fold::new(2);
        let mut steps = vec![];
        for key in ["a", "b", "c", "d"] {
            fold.put(reading(key, 6), &mut steps);
        }
        assert_eq!((fold.readable, fold.skipped()), (2, 2));
    }

    #[test]
    fn the_witness_is_a_key_that_etcd_should_have() {
        let mut fold = listed(&["a", "b"]);
        fold.distrust();
        assert_eq!(list(&mut fold, &["b"], 9), ["-a"]);
        let (key, seen) = fold.witness().unwrap();
        assert_eq!((&*key, seen.revision), ("b", 9));
    }
}
