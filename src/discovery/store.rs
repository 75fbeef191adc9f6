//! [`Store`]: the instances there are, as the sum of lists and events; and what each of them
//! changes. Pure: the time is passed in.
//!
//! # Self-preservation
//!
//! What etcd says is believed at once, except that a set does not shrink to less than half
//!
//! * by a list: an etcd that lost its data is empty until the servers are back;
//! * by deletions in the first seconds after etcd answered nothing for as long as a lease may
//!   take to run out: when it goes on it deletes the keys of whole fleets, before the servers have
//!   noticed.
//!
//! What is missing then is kept, each key until a deadline of its own that later cuts do not move.

use super::missing::Missing;
use crate::Instance;
use crate::deadline;
use crate::etcd::KeyMeta;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What is known of a key changed.
#[derive(Debug)]
pub(super) struct Update {
    pub(super) key: Arc<str>,
    /// `None`: there is no instance under it any more.
    pub(super) instance: Option<Arc<Instance>>,
    /// There was none before.
    pub(super) is_new: bool,
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Store {
    entries: BTreeMap<Arc<str>, Entry>,
    revision: i64,
    /// etcd does not have our history any more: only a list helps.
    history_lost: bool,
    readable: usize,
    /// What is kept, in bytes.
    bytes: usize,
    /// Keys passed over since the last list, because there was no room.
    passed_over: usize,
    /// Something was deleted since a key was passed over.
    has_room: bool,
    limits: Limits,
    /// When etcd last answered anything.
    last_answer: Option<Instant>,
    /// How many times self-preservation has begun because etcd was silent.
    epoch: u64,
    /// Until when deletions are subject to self-preservation.
    preserved_until: Option<Instant>,
    /// With fewer instances than this, what goes missing is kept.
    threshold: usize,
    missing: Missing,
    /// Most are back, and when nobody else comes until then, the others are gone.
    settled_at: Option<Instant>,
}

/// How much is kept, and for how long.
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
    /// When it was last seen: see [`Store::epoch`].
    epoch: u64,
    weight: usize,
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

/// After so long without an answer leases may have run out: etcd's shortest TTL.
pub(super) const SHORTEST_TTL: Duration = Duration::from_secs(2);
/// How long deletions are subject to self-preservation after etcd was silent: then the servers
/// know, or are gone.
const AFTER_SILENCE: Duration = Duration::from_secs(5);
/// Servers that look for etcd are back within a second of each other.
const STILL_MISSING_LIMIT: Duration = Duration::from_secs(1);
/// What a key costs besides its text and its instance, and a pair of metadata besides its texts.
const ENTRY_OVERHEAD: usize = 384;
const PAIR_OVERHEAD: usize = 96;

// === impl Store ===

impl Store {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            entries: BTreeMap::new(),
            revision: 0,
            history_lost: false,
            readable: 0,
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
        }
    }

    pub(super) fn instances(&self) -> impl Iterator<Item = (&Arc<str>, &Arc<Instance>)> {
        let entries = self.entries.iter();
        entries.filter_map(|(key, entry)| Some((key, entry.instance.as_ref()?)))
    }

    /// The revision up to which everything is in.
    pub(super) fn revision(&self) -> i64 {
        self.revision
    }

    pub(super) fn skipped(&self) -> usize {
        self.entries.len() - self.readable + self.passed_over
    }

    pub(super) fn missing(&self) -> usize {
        self.missing.len()
    }

    pub(super) fn passed_over(&self) -> usize {
        self.passed_over
    }

    /// Keys were passed over, and there may be room for them now.
    pub(super) fn has_room(&self) -> bool {
        self.has_room
    }

    /// How many keys etcd has as far as we know.
    pub(super) fn keys(&self) -> usize {
        self.entries.len() + self.passed_over - self.missing.len()
    }

    /// Everything that a reader could see besides the instances.
    pub(super) fn figures(&self) -> (bool, usize, usize) {
        (self.revision > 0, self.skipped(), self.missing())
    }

    /// A key that tells whether etcd still has the same history, with what is known of it.
    pub(super) fn history_probe(&self) -> Option<(Arc<str>, KeyMeta)> {
        if self.history_lost {
            return None;
        }
        let mut present = self
            .entries
            .iter()
            .filter(|(key, _)| !self.missing.contains(key));
        present.next().map(|(key, entry)| (key.clone(), entry.seen))
    }

    pub(super) fn lose_history(&mut self) {
        self.history_lost = true;
    }

    /// etcd answered something. Told before what the answer says.
    pub(super) fn on_answer(&mut self, now: Instant) {
        let silent = self.last_answer.replace(now).map(|last| now - last);
        let Some(silent) = silent.filter(|silent| *silent >= SHORTEST_TTL) else {
            return;
        };
        self.epoch += 1;
        self.set_threshold(now);
        let window = AFTER_SILENCE.min(self.limits.retention);
        self.preserved_until = Some(now + window);
        // Nobody could come back meanwhile.
        self.missing.postpone(silent);
        self.settled_at = self.settled_at.map(|at| deadline::after(at, silent));
    }

    /// Half of what there is; until self-preservation is over, of what there was before it.
    fn set_threshold(&mut self, now: Instant) {
        if self.missing.is_empty() && !self.is_preserving(now) {
            self.threshold = 0;
        }
        if !self.limits.retention.is_zero() {
            self.threshold = self.threshold.max(self.readable.div_ceil(2));
        }
    }

    /// When [`expire`](Self::expire) has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let deadlines = [self.missing.first_deadline(), self.settled_at];
        deadlines.into_iter().flatten().min()
    }

    /// Gives up on what is missing for too long, and says how many keys that were.
    pub(super) fn expire(&mut self, now: Instant, updates: &mut Vec<Update>) -> usize {
        let keys = match self.settled_at {
            Some(at) if at <= now => self.missing.take_all(),
            _ => self.missing.take_expired(now),
        };
        for key in &keys {
            self.remove(key, updates);
        }
        self.settle(false, now);
        keys.len()
    }

    /// Everything there is, at `revision`, but for `unread` keys that there was no room for.
    pub(super) fn list(
        &mut self,
        readings: Vec<Reading>,
        unread: usize,
        revision: i64,
        now: Instant,
        updates: &mut Vec<Update>,
    ) {
        self.set_threshold(now);
        let present: BTreeSet<&str> = readings.iter().map(|reading| &*reading.key).collect();
        let absent = self.entries.keys().filter(|key| !present.contains(&***key));
        let absent: Vec<_> = absent.cloned().collect();
        (self.passed_over, self.has_room) = (unread, false);
        for key in &absent {
            self.miss(key, now);
        }
        // Decided once those that came are in.
        for reading in readings {
            self.put(reading, now, updates);
        }
        if self.present() >= self.threshold {
            for key in self.missing.take_all() {
                self.remove(&key, updates);
            }
        }
        self.settle(false, now);
        // etcd may have lost its history: what counts is what it says now.
        self.revision = revision;
        self.history_lost = false;
    }

    /// A key was put.
    pub(super) fn put(&mut self, reading: Reading, now: Instant, updates: &mut Vec<Update>) {
        let Reading {
            key,
            seen,
            instance,
        } = reading;
        self.revision = self.revision.max(seen.revision);
        let mut is_back = self.missing.remove(&key);
        let weight = weight(&key, instance.as_ref());
        if !self.has_room_for(&key, weight) {
            self.passed_over += 1;
            self.remove(&key, updates);
            return;
        }
        // The same server under another key: one with its lease or its pid in it.
        let address = instance.as_ref().and_then(Instance::get_address);
        let formers = address.map_or(vec![], |address| self.missing.at(address));
        let known = self.entries.get_key_value(&*key);
        let key = known.map_or_else(|| key.into(), |(known, _)| known.clone());
        let instance = instance.map(Arc::new);
        let entry = Entry {
            seen,
            epoch: self.epoch,
            weight,
            instance: instance.clone(),
        };
        self.bytes += weight;
        self.readable += usize::from(instance.is_some());
        let before = self.entries.insert(key.clone(), entry);
        self.bytes -= before.as_ref().map_or(0, |before| before.weight);
        let before = before.and_then(|before| before.instance);
        self.readable -= usize::from(before.is_some());
        if before != instance {
            updates.push(Update {
                key,
                instance,
                is_new: before.is_none(),
            });
        }
        // After the new one, so that whoever counts by address keeps its connection.
        for former in formers {
            is_back |= self.missing.remove(&former);
            self.remove(&former, updates);
        }
        self.settle(is_back, now);
    }

    /// A key was deleted, at `revision`.
    pub(super) fn delete(
        &mut self,
        key: &str,
        revision: i64,
        now: Instant,
        updates: &mut Vec<Update>,
    ) {
        self.revision = self.revision.max(revision);
        self.has_room |= self.passed_over > 0;
        let Some((key, entry)) = self.entries.get_key_value(key) else {
            return;
        };
        let key = key.clone();
        // One that was seen since is known to etcd, and its deletion is believed.
        let is_unverified = entry.instance.is_some() && entry.epoch < self.epoch;
        if is_unverified && self.is_preserving(now) && self.present() <= self.threshold {
            self.miss(&key, now);
        } else {
            self.missing.remove(&key);
            self.remove(&key, updates);
        }
        self.settle(false, now);
    }

    fn is_preserving(&self, now: Instant) -> bool {
        self.preserved_until.is_some_and(|until| now < until)
    }

    fn has_room_for(&self, key: &str, weight: usize) -> bool {
        let known = self.entries.get(key);
        let others = self.bytes - known.map_or(0, |known| known.weight);
        (known.is_some() || self.entries.len() < self.limits.keys)
            && weight <= self.limits.bytes.saturating_sub(others)
    }

    fn miss(&mut self, key: &Arc<str>, now: Instant) {
        let entry = self
            .entries
            .get(key)
            .and_then(|entry| entry.instance.as_ref());
        let address = entry.map(|instance| instance.get_address().unwrap_or_default());
        let until = deadline::after(now, self.limits.retention);
        self.missing.insert(key, address, until);
    }

    /// How many instances etcd has, as far as is known.
    fn present(&self) -> usize {
        self.readable - self.missing.instances()
    }

    /// Once half are back, the others have a while from the last one that came.
    fn settle(&mut self, is_back: bool, now: Instant) {
        if self.missing.is_empty() || self.present() < self.threshold {
            self.settled_at = None;
        } else if is_back || self.settled_at.is_none() {
            self.settled_at = Some(now + STILL_MISSING_LIMIT);
        }
    }

    fn remove(&mut self, key: &str, updates: &mut Vec<Update>) {
        let Some((key, entry)) = self.entries.remove_entry(key) else {
            return;
        };
        self.bytes -= entry.weight;
        if entry.instance.is_some() {
            self.readable -= 1;
            updates.push(Update {
                key,
                instance: None,
                is_new: false,
            });
        }
    }
}

// === impl Reading ===

impl Reading {
    /// What it costs to keep it, in bytes, roughly.
    pub(super) fn weight(&self) -> usize {
        weight(&self.key, self.instance.as_ref())
    }
}

fn weight(key: &str, instance: Option<&Instance>) -> usize {
    let size = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let instance = instance.map_or(0, |instance| {
        let pairs = instance.metadata.iter();
        let pairs = pairs.map(|(name, value)| PAIR_OVERHEAD + name.len() + value.len());
        let texts = [&instance.address, &instance.version, &instance.value];
        instance.name.len()
            + instance.id.len()
            + texts.map(size).iter().sum::<usize>()
            + pairs.sum::<usize>()
    });
    ENTRY_OVERHEAD + key.len() + instance
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits {
        keys: 100,
        bytes: 1 << 20,
        retention: Duration::from_secs(30),
    };

    /// A store and its clock.
    struct World {
        store: Store,
        now: Instant,
    }

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

    fn listed(keys: &[&str]) -> World {
        limited(LIMITS, keys)
    }

    fn limited(limits: Limits, keys: &[&str]) -> World {
        let mut world = World {
            store: Store::new(limits),
            now: Instant::now(),
        };
        world.list(keys, 5);
        world
    }

    fn shown(updates: Vec<Update>) -> Vec<String> {
        let sign = |update: Update| match update.instance {
            Some(_) => format!("+{}", update.key),
            None => format!("-{}", update.key),
        };
        updates.into_iter().map(sign).collect()
    }

    impl World {
        fn list(&mut self, keys: &[&str], revision: i64) -> Vec<String> {
            let readings = keys.iter().map(|key| reading(key, revision)).collect();
            let mut updates = vec![];
            self.store.on_answer(self.now);
            self.store
                .list(readings, 0, revision, self.now, &mut updates);
            shown(updates)
        }

        fn put(&mut self, reading: Reading) -> Vec<String> {
            let mut updates = vec![];
            self.store.on_answer(self.now);
            self.store.put(reading, self.now, &mut updates);
            shown(updates)
        }

        fn delete(&mut self, key: &str) -> Vec<String> {
            let (mut updates, revision) = (vec![], self.store.revision() + 1);
            self.store.on_answer(self.now);
            self.store.delete(key, revision, self.now, &mut updates);
            shown(updates)
        }

        /// Time passes, and etcd answers all the time.
        fn passes(&mut self, time: Duration) -> Vec<String> {
            let (mut updates, until) = (vec![], self.now + time);
            while self.now < until {
                self.now = until.min(self.now + SEC);
                self.store.on_answer(self.now);
                self.store.expire(self.now, &mut updates);
            }
            shown(updates)
        }

        /// Time passes, and etcd answers at its end only.
        fn is_silent(&mut self, time: Duration) {
            self.now += time;
            self.store.on_answer(self.now);
        }
    }

    #[test]
    fn a_list_is_a_difference_and_never_a_flush() {
        let mut world = listed(&["a", "b", "c"]);
        assert_eq!(world.list(&["a", "b", "c"], 9), [""; 0]);
        assert_eq!(world.list(&["a", "c", "d"], 12), ["+d", "-b"]);
        assert_eq!((world.store.revision(), world.store.readable), (12, 3));
    }

    #[test]
    fn an_instance_that_is_written_again_as_it_was_is_no_change() {
        let mut world = listed(&["a"]);
        assert_eq!(world.put(reading("a", 9)), [""; 0]);
        assert_eq!(world.store.revision(), 9);
    }

    #[test]
    fn a_list_with_less_than_half_is_not_believed_before_the_retention() {
        let mut world = listed(&["a", "b", "c", "d"]);
        assert_eq!(world.list(&[], 2), [""; 0], "an etcd that was wiped");
        let store = &world.store;
        assert_eq!(
            (store.missing(), store.readable, store.revision()),
            (4, 4, 2)
        );
        assert_eq!(world.put(reading("a", 3)), [""; 0]);
        assert_eq!(world.passes(SEC * 29), [""; 0]);
        assert_eq!(world.passes(SEC), ["-b", "-c", "-d"]);
        assert_eq!((world.store.missing(), world.store.readable), (0, 1));
    }

    #[test]
    fn once_half_are_back_the_others_have_a_second_from_the_last_one() {
        let mut world = listed(&["a", "b", "c", "d"]);
        assert_eq!(world.list(&[], 2), [""; 0]);
        world.put(reading("a", 3));
        world.passes(SEC * 9);
        world.put(reading("b", 4));
        world.passes(SEC * 9 / 10);
        world.put(reading("c", 5));
        assert_eq!(world.passes(SEC * 9 / 10), [""; 0]);
        assert_eq!(world.passes(SEC / 10), ["-d"]);
    }

    #[test]
    fn after_a_silence_the_leases_of_a_fleet_may_end_at_once() {
        for (silent, believed) in [(SHORTEST_TTL - SEC / 1000, true), (SHORTEST_TTL, false)] {
            let mut world = listed(&["a", "b", "c", "d"]);
            world.is_silent(silent);
            assert_eq!(world.delete("a"), ["-a"], "one may always leave");
            assert_eq!(world.delete("b"), ["-b"]);
            assert_eq!(world.delete("c").is_empty(), !believed);
            assert_eq!(world.delete("d").is_empty(), !believed);
            let given_up = world.passes(SEC * 30);
            assert_eq!(given_up.is_empty(), believed);
        }
    }

    #[test]
    fn without_a_silence_the_last_one_leaves_at_once() {
        let mut world = listed(&["a"]);
        world.passes(SEC * 8);
        assert_eq!(world.delete("a"), ["-a"]);
    }

    #[test]
    fn who_was_seen_since_the_silence_leaves_at_once() {
        let mut world = listed(&["a"]);
        world.is_silent(SEC * 9);
        world.put(reading("a", 6));
        assert_eq!(world.delete("a"), ["-a"]);
    }

    #[test]
    fn some_seconds_after_a_silence_deletions_are_believed_again() {
        let mut world = listed(&["a", "b", "c"]);
        world.is_silent(SEC * 2);
        assert_eq!(world.delete("a"), ["-a"]);
        assert_eq!(world.delete("b"), [""; 0]);
        world.passes(AFTER_SILENCE);
        assert_eq!(world.delete("c"), ["-c"]);
        assert_eq!(world.store.missing(), 1);
        assert_eq!(world.passes(SEC * 25), ["-b"]);
    }

    #[test]
    fn a_deadline_is_not_moved_by_lists_but_by_silence() {
        let mut world = listed(&["a", "b"]);
        world.list(&[], 2);
        for _ in 0..14 {
            assert_eq!(world.passes(SEC), [""; 0]);
            // Another cut, after which the history is not known: there is no key to look at.
            assert_eq!(world.list(&[], 2), [""; 0]);
        }
        assert_eq!(world.passes(SEC * 15), [""; 0]);
        world.is_silent(SEC * 3600);
        assert_eq!(world.passes(SEC / 2), [""; 0], "nobody could come back");
        assert_eq!(world.passes(SEC / 2), ["-a", "-b"]);
    }

    #[test]
    fn a_retention_of_zero_believes_all_and_the_longest_nothing() {
        let with = |retention| {
            limited(
                Limits {
                    retention,
                    ..LIMITS
                },
                &["a", "b"],
            )
        };
        let mut never = with(Duration::ZERO);
        never.is_silent(SEC * 9);
        assert_eq!(never.delete("a"), ["-a"]);
        assert_eq!(never.list(&[], 2), ["-b"]);
        let mut for_ever = with(Duration::MAX);
        for_ever.is_silent(SEC * 9);
        assert_eq!(for_ever.list(&[], 2), [""; 0]);
        assert_eq!(for_ever.passes(SEC * 3600), [""; 0]);
        for_ever.is_silent(SEC * 3600);
        assert_eq!(for_ever.store.missing(), 2);
    }

    #[test]
    fn a_missing_server_that_is_back_under_another_key_is_one_and_not_two() {
        let mut world = listed(&["a", "b"]);
        assert_eq!(world.list(&[], 2), [""; 0]);
        let back = Reading {
            instance: Some(at("a", "a")),
            ..reading("a2", 3)
        };
        assert_eq!(world.put(back), ["+a2", "-a"]);
        assert_eq!((world.store.missing(), world.store.readable), (1, 2));
    }

    #[test]
    fn what_does_not_read_is_counted_and_the_rest_is_shown() {
        let mut world = listed(&["a"]);
        let bad = |key, revision| Reading {
            instance: None,
            ..reading(key, revision)
        };
        assert_eq!(world.put(bad("b", 6)), [""; 0]);
        assert_eq!(world.store.skipped(), 1);
        assert_eq!(world.put(bad("a", 7)), ["-a"]);
        assert_eq!(world.store.skipped(), 2);
        assert_eq!(world.delete("b"), [""; 0]);
        assert_eq!(world.store.skipped(), 1);
    }

    #[test]
    fn there_is_room_for_so_many_keys_and_the_others_are_counted() {
        let mut world = limited(Limits { keys: 2, ..LIMITS }, &["a"]);
        for key in ["b", "c", "d"] {
            world.put(reading(key, 6));
        }
        let store = &world.store;
        assert_eq!(
            (store.readable, store.skipped(), store.has_room()),
            (2, 2, false)
        );
        world.delete("d");
        assert!(world.store.has_room(), "one that was passed over is gone");
        world.list(&["a", "b"], 9);
        assert_eq!((world.store.skipped(), world.store.has_room()), (0, false));
    }

    #[test]
    fn there_is_room_for_so_many_bytes_and_they_are_given_back() {
        let bytes = 3 * reading("a", 5).weight();
        let mut world = limited(Limits { bytes, ..LIMITS }, &["a"]);
        let large = |key: &str| Reading {
            instance: Some(at(key, key).metadata("x", "x".repeat(bytes))),
            ..reading(key, 6)
        };
        assert_eq!(world.put(large("b")), [""; 0]);
        assert_eq!(
            world.put(large("a")),
            ["-a"],
            "what it was is not true any more"
        );
        assert_eq!((world.store.bytes, world.store.skipped()), (0, 2));
        for round in 0..100 {
            for key in ["c", "d", "e"] {
                assert_eq!(world.put(reading(key, 7 + round)), [format!("+{key}")]);
            }
            assert_eq!(world.store.bytes, bytes);
            assert_eq!(world.put(reading("f", 8)), [""; 0]);
            for key in ["c", "d", "e"] {
                world.delete(key);
            }
            assert_eq!(world.store.bytes, 0);
        }
    }

    #[test]
    fn the_history_is_known_by_a_key_that_etcd_should_have() {
        let mut world = listed(&["a", "b", "c"]);
        assert_eq!(world.list(&["c"], 9), [""; 0]);
        let (key, seen) = world.store.history_probe().unwrap();
        assert_eq!((&*key, seen.revision), ("c", 9));
        world.store.lose_history();
        assert!(world.store.history_probe().is_none());
    }
}
