//! [`Table`]: every key that should be in etcd, and what etcd is known to have. Pure.
//!
//! The keeper feeds it with what it learns (transactions applied, keys looked at, watch events)
//! and asks it what to do next: which keys to write, look at or watch. One lease, one table: a
//! new lease starts over, because every key under the old one is gone with it.

use super::on_conflict::OnConflict;
use crate::backoff::{Bucket, Rate};
use crate::etcd::{Event, EventKind, KeyMeta, Op};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

pub(crate) type Key = Arc<str>;
pub(crate) type EntryId = u64;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Table {
    lease: i64,
    on_conflict: OnConflict,
    slots: HashMap<Key, Slot>,
    /// The keys of each entry: those it wants, then those it wants no more.
    entries: BTreeMap<EntryId, Vec<Key>>,
    /// Keys that may have something to write.
    dirty: BTreeSet<Key>,
    /// Keys to look at before anything is known about them.
    doubtful: BTreeSet<Key>,
    to_watch: VecDeque<Key>,
    to_unwatch: VecDeque<i64>,
    next_watch: i64,
    /// Entries whose [`View`] may have changed.
    touched: BTreeSet<EntryId>,
}

/// One key.
#[derive(Debug)]
struct Slot {
    entry: EntryId,
    /// What should be there; `None`: nothing.
    want: Option<Arc<str>>,
    /// What is known to be there under our lease.
    have: Option<Have>,
    /// What is being written by a transaction that is not answered yet.
    writing: Option<Option<Arc<str>>>,
    /// A write of it was given up. etcd may apply it yet, for as long as the lease lives: the
    /// key is watched until then, also when nobody wants it any more.
    haunted: bool,
    /// Somebody else's change that was seen while we were writing.
    unsettled: Option<Box<Event>>,
    /// The foreign lease we leave it to.
    foreign: Option<i64>,
    watch: i64,
    watch_from: i64,
    repairs: Bucket,
    blocked: Option<Instant>,
    /// Written by itself: a transaction it was in was denied, and one denied key denies all.
    alone: bool,
}

#[derive(Debug, Clone)]
struct Have {
    revision: i64,
    /// `None`: it was found, and not read.
    value: Option<Arc<str>>,
}

/// How the keys of one entry stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct View {
    pub(crate) keys: Vec<Key>,
    /// Every key is there, under our lease.
    pub(crate) held: bool,
    /// The revision of the newest of them.
    pub(crate) revision: i64,
    /// A key is left to this foreign lease.
    pub(crate) foreign: Option<i64>,
    /// A key was rewritten by somebody so often that we wait.
    pub(crate) contested: bool,
}

/// etcd's own limit is 128 operations. A guarded one counts its guard as well.
const MAX_OPS: usize = 128;
const MAX_GUARDED_OPS: usize = 64;
/// etcd's own limit is 1.5 MiB for a request.
const MAX_BYTES: usize = 1024 * 1024;
/// Repairs of one key: enough at once for any mishap, few enough a minute for a tug-of-war.
const REPAIRS: Rate = Rate {
    burst: 24,
    refill: Duration::from_secs(10),
};

// === impl Table ===

impl Table {
    pub(crate) fn new(lease: i64, on_conflict: OnConflict) -> Self {
        Self {
            lease,
            on_conflict,
            slots: HashMap::new(),
            entries: BTreeMap::new(),
            dirty: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            to_watch: VecDeque::new(),
            to_unwatch: VecDeque::new(),
            next_watch: 1,
            touched: BTreeSet::new(),
        }
    }

    /// These keys, with these values, should be there for `entry`.
    ///
    /// Gives the first key that another entry has already; then nothing was changed.
    pub(crate) fn want(
        &mut self,
        entry: EntryId,
        records: Vec<(Key, Arc<str>)>,
    ) -> Result<(), Key> {
        let taken = |(key, _): &&(Key, Arc<str>)| {
            self.slots
                .get(key)
                .is_some_and(|slot| slot.entry != entry && slot.want.is_some())
        };
        if let Some((key, _)) = records.iter().find(taken) {
            return Err(key.clone());
        }
        let mut keys: Vec<Key> = records.iter().map(|(key, _)| key.clone()).collect();
        for key in self.entries.remove(&entry).unwrap_or_default() {
            if !keys.contains(&key) && self.retire(entry, &key) {
                keys.push(key);
            }
        }
        self.entries.insert(entry, keys);
        self.touched.insert(entry);
        for (key, value) in records {
            let next_watch = &mut self.next_watch;
            let slot = self.slots.entry(key.clone()).or_insert_with(|| {
                *next_watch += 1;
                Slot::new(entry, *next_watch - 1)
            });
            slot.entry = entry;
            slot.want = Some(value);
            slot.blocked = None;
            self.dirty.insert(key);
        }
        Ok(())
    }

    /// The keys of `entry` should not be there any more.
    pub(crate) fn unwant(&mut self, entry: EntryId) {
        for key in self.entries.get(&entry).cloned().unwrap_or_default() {
            self.retire(entry, &key);
        }
        self.touched.insert(entry);
    }

    /// A key of `entry` should not be there any more. Tells whether it still may be.
    fn retire(&mut self, entry: EntryId, key: &Key) -> bool {
        let Some(slot) = self.slots.get_mut(key).filter(|slot| slot.entry == entry) else {
            return false;
        };
        slot.want = None;
        slot.blocked = None;
        self.dirty.insert(key.clone());
        self.drop_if_done(key);
        self.slots.contains_key(key)
    }

    /// Whether nothing of `entry` is left, and nothing of it can still be written.
    pub(crate) fn is_gone(&self, entry: EntryId) -> bool {
        let keys = self.entries.get(&entry).map_or(&[][..], Vec::as_slice);
        !keys.iter().any(|key| {
            let slot = self.slots.get(key).filter(|slot| slot.entry == entry);
            slot.is_some_and(|slot| !slot.is_done() || self.doubtful.contains(key))
        })
    }

    /// Forgets an entry that is gone.
    pub(crate) fn forget(&mut self, entry: EntryId) {
        self.entries.remove(&entry);
        self.touched.remove(&entry);
    }

    /// How `entry` stands.
    pub(crate) fn view(&self, entry: EntryId) -> View {
        let wanted = |key: &&Key| {
            self.slots
                .get(*key)
                .is_some_and(|slot| slot.entry == entry && slot.want.is_some())
        };
        let keys = self.entries.get(&entry).into_iter().flatten();
        let keys: Vec<Key> = keys.filter(wanted).cloned().collect();
        let held = !keys.is_empty();
        let mut view = View {
            keys,
            held,
            revision: 0,
            foreign: None,
            contested: false,
        };
        for key in &view.keys {
            let Some(slot) = self.slots.get(key) else {
                continue;
            };
            view.held &= slot.have.is_some();
            view.revision = view
                .revision
                .max(slot.have.as_ref().map_or(0, |have| have.revision));
            view.foreign = view.foreign.or(slot.foreign);
            view.contested |= slot.blocked.is_some() && !slot.alone;
        }
        view
    }

    /// The entry that a key belongs to.
    pub(crate) fn owner(&self, key: &Key) -> Option<EntryId> {
        self.slots.get(key).map(|slot| slot.entry)
    }

    /// The entries whose view may have changed since this was last asked.
    pub(crate) fn take_touched(&mut self) -> BTreeSet<EntryId> {
        std::mem::take(&mut self.touched)
    }

    /// The next transaction: as many changes as etcd takes at once. Empty: nothing to do now.
    pub(crate) fn next_writes(&mut self, now: Instant) -> Vec<Op> {
        let (mut ops, mut bytes): (Vec<Op>, usize) = (vec![], 0);
        let mut settled = vec![];
        for key in &self.dirty {
            let Some(slot) = self.slots.get_mut(key) else {
                settled.push(key.clone());
                continue;
            };
            if slot.blocked.is_some_and(|until| until > now) || self.doubtful.contains(key) {
                continue;
            }
            let Some(op) = slot.op(key, self.on_conflict) else {
                settled.push(key.clone());
                continue;
            };
            bytes += op.weight();
            let guarded =
                !matches!(op, Op::Put { .. }) || ops.iter().any(|op| !matches!(op, Op::Put { .. }));
            let most = if guarded { MAX_GUARDED_OPS } else { MAX_OPS };
            if ops.len() >= most || ((bytes > MAX_BYTES || slot.alone) && !ops.is_empty()) {
                break;
            }
            slot.blocked = None;
            slot.writing = Some(slot.want.clone());
            settled.push(key.clone());
            ops.push(op);
            if slot.alone {
                break;
            }
        }
        for key in settled {
            self.dirty.remove(&key);
        }
        ops
    }

    /// When a key that is blocked may be written again.
    pub(crate) fn next_unblocked(&self) -> Option<Instant> {
        self.dirty
            .iter()
            .filter_map(|key| self.slots.get(key)?.blocked)
            .min()
    }

    /// The transaction of `ops` was applied.
    pub(crate) fn written(
        &mut self,
        ops: &[Op],
        revision: i64,
        refused_by: &[Option<i64>],
        now: Instant,
    ) {
        for (index, op) in ops.iter().enumerate() {
            let key = op.key();
            let Some(slot) = self.slots.get_mut(key) else {
                continue;
            };
            self.touched.insert(slot.entry);
            let unsettled = slot.unsettled.take();
            match (
                slot.writing.take().flatten(),
                refused_by.get(index).copied().flatten(),
            ) {
                (Some(_), Some(lease)) => {
                    slot.have = None;
                    slot.foreign = Some(lease);
                }
                (Some(value), None) => {
                    slot.have = Some(Have::read(revision, value));
                    slot.foreign = None;
                    slot.alone = false;
                }
                (None, _) => slot.have = None,
            }
            if slot.watch_from == 0 {
                slot.watch_from = revision + 1;
                self.to_watch.push_back(key.clone());
            }
            if !slot.is_current() && slot.foreign.is_none() {
                self.dirty.insert(key.clone());
            }
            if let Some(event) = unsettled.filter(|event| event.revision > revision) {
                self.happened(*event, now);
            }
            self.drop_if_done(&op.key().clone());
        }
    }

    /// The transaction of `ops` was not applied, for certain.
    pub(crate) fn refused(&mut self, ops: &[Op], now: Instant) {
        for op in ops {
            let Some(slot) = self.slots.get_mut(op.key()) else {
                continue;
            };
            slot.writing = None;
            self.dirty.insert(op.key().clone());
            if let Some(event) = slot.unsettled.take() {
                self.happened(*event, now);
            }
            self.drop_if_done(&op.key().clone());
        }
    }

    /// The transaction of `ops` was denied. Which of its keys may not be written is found out
    /// one by one; those wait until `again`.
    pub(crate) fn denied(&mut self, ops: &[Op], now: Instant, again: Instant) {
        self.refused(ops, now);
        for op in ops {
            let Some(slot) = self.slots.get_mut(op.key()) else {
                continue;
            };
            slot.alone = true;
            if ops.len() == 1 {
                slot.blocked = Some(again);
            }
        }
    }

    /// `keys` may not be looked at: what may not be read is written again.
    pub(crate) fn unseen(&mut self, keys: &[Key]) {
        for key in keys {
            self.doubtful.remove(key);
            let Some(slot) = self.slots.get_mut(key) else {
                continue;
            };
            // It may be there all the same: what nobody wants is deleted unseen.
            slot.have = slot.want.is_none().then(|| Have::unread(0));
            self.touched.insert(slot.entry);
            self.dirty.insert(key.clone());
        }
    }

    /// The session ended: nothing is being written or watched any more, and what is known may be
    /// out of date.
    pub(crate) fn doubt(&mut self) {
        self.to_watch.clear();
        self.to_unwatch.clear();
        for (key, slot) in &mut self.slots {
            slot.watch_from = 0;
            slot.unsettled = None;
            let written = slot.writing.take();
            slot.haunted |= written.as_ref().is_some_and(Option::is_some);
            if slot.haunted || written.is_some() || slot.have.is_some() || slot.foreign.is_some() {
                self.doubtful.insert(key.clone());
            }
        }
    }

    /// The next keys to look at, as many as etcd takes at once.
    pub(crate) fn next_looks(&self) -> Vec<Key> {
        self.doubtful.iter().take(MAX_OPS).cloned().collect()
    }

    /// `keys` were looked at, at `revision`.
    pub(crate) fn looked(&mut self, keys: &[Key], revision: i64, seen: &[Option<KeyMeta>]) {
        for (key, seen) in keys.iter().zip(seen) {
            self.doubtful.remove(key);
            let Some(slot) = self.slots.get_mut(key) else {
                continue;
            };
            self.touched.insert(slot.entry);
            slot.foreign = None;
            let intact = matches!((seen, &slot.have), (Some(seen), Some(have))
                if seen.lease == self.lease && seen.revision == have.revision);
            if !intact {
                let theirs = seen.filter(|seen| seen.lease != self.lease);
                // Under our lease but at another revision: a write of ours whose reply was lost,
                // most likely. Writing it again is harmless; reading every value back is not.
                // It is held all the same: to call it lost until then made the status flicker.
                let ours = seen.filter(|seen| seen.lease == self.lease);
                slot.have = ours.map(|seen| Have::unread(seen.revision));
                slot.foreign = match (theirs, self.on_conflict) {
                    (Some(seen), OnConflict::Yield) => Some(seen.lease),
                    _ => None,
                };
                if seen.is_none() && slot.want.is_none() && !slot.haunted {
                    self.slots.remove(key);
                    continue;
                }
            }
            slot.watch_from = revision + 1;
            self.to_watch.push_back(key.clone());
            if slot.foreign.is_none() || slot.want.is_none() {
                self.dirty.insert(key.clone());
            }
            self.drop_if_done(key);
        }
    }

    /// Somebody, perhaps we, changed a key.
    pub(crate) fn happened(&mut self, event: Event, now: Instant) {
        let Some((key, slot)) = self.slots.get_key_value(event.key.as_str()) else {
            return;
        };
        let key = key.clone();
        if slot
            .have
            .as_ref()
            .is_some_and(|have| event.revision <= have.revision)
        {
            return;
        }
        let Some(slot) = self.slots.get_mut(&key) else {
            return;
        };
        if slot.writing.is_some() {
            // Ours or not cannot be told before the revision of our own write is known.
            slot.unsettled = Some(Box::new(event));
            return;
        }
        self.touched.insert(slot.entry);
        let (ours, theirs) = match (&event.kind, &slot.want) {
            (EventKind::Put { lease, value }, Some(want)) => (
                *lease == self.lease && **value == *want.as_bytes(),
                Some(*lease),
            ),
            (EventKind::Put { lease, .. }, None) => (false, Some(*lease)),
            (EventKind::Delete, _) => (false, None),
        };
        if let (true, Some(value)) = (ours, slot.want.clone()) {
            slot.have = Some(Have::read(event.revision, value));
            return;
        }
        if let (EventKind::Put { lease, .. }, None) = (&event.kind, &slot.want)
            && *lease == self.lease
        {
            // A write of ours that came late: to be deleted like the one before.
            slot.have = Some(Have::unread(event.revision));
            self.dirty.insert(key);
            return;
        }
        slot.have = None;
        slot.foreign = match self.on_conflict {
            OnConflict::Yield => theirs.filter(|lease| *lease != self.lease),
            OnConflict::TakeOver => None,
        };
        if slot.want.is_some() && slot.foreign.is_none() {
            slot.blocked = slot.repairs.take(REPAIRS, now).err();
            self.dirty.insert(key.clone());
        }
        self.drop_if_done(&key);
    }

    /// The next key to watch, with the id and the revision to watch it from.
    pub(crate) fn next_watch(&self) -> Option<(Key, i64, i64)> {
        self.to_watch.iter().find_map(|key| {
            let slot = self.slots.get(key)?;
            Some((key.clone(), slot.watch, slot.watch_from))
        })
    }

    /// The watch that was next has been asked for.
    pub(crate) fn watch_asked(&mut self, key: &Key) {
        while let Some(front) = self.to_watch.pop_front() {
            if front == *key {
                break;
            }
        }
    }

    /// The next watch to let go.
    pub(crate) fn next_unwatch(&self) -> Option<i64> {
        self.to_unwatch.front().copied()
    }

    /// The watch that was next has been let go.
    pub(crate) fn unwatched(&mut self) -> Option<i64> {
        self.to_unwatch.pop_front()
    }

    /// A slot that is neither wanted nor there, and that no write can bring back, is done.
    fn drop_if_done(&mut self, key: &Key) {
        let Some(slot) = self.slots.get(key) else {
            return;
        };
        if !slot.is_done() || self.doubtful.contains(key) {
            return;
        }
        if slot.haunted {
            self.touched.insert(slot.entry);
            return;
        }
        if slot.watch_from != 0 {
            self.to_unwatch.push_back(slot.watch);
        }
        self.touched.insert(slot.entry);
        self.slots.remove(key);
        self.dirty.remove(key);
    }
}

// === impl Have ===

impl Have {
    fn read(revision: i64, value: Arc<str>) -> Self {
        let value = Some(value);
        Self { revision, value }
    }

    /// Ours, with a value that is not known: written again if it is wanted, else deleted.
    fn unread(revision: i64) -> Self {
        let value = None;
        Self { revision, value }
    }
}

// === impl Slot ===

impl Slot {
    fn new(entry: EntryId, watch: i64) -> Self {
        Self {
            entry,
            want: None,
            have: None,
            writing: None,
            haunted: false,
            unsettled: None,
            foreign: None,
            watch,
            watch_from: 0,
            repairs: Bucket::default(),
            blocked: None,
            alone: false,
        }
    }

    /// Neither wanted nor there, and nothing is being written.
    fn is_done(&self) -> bool {
        self.want.is_none() && self.have.is_none() && self.writing.is_none()
    }

    fn is_current(&self) -> bool {
        match (&self.want, &self.have) {
            (Some(want), Some(have)) => have.value.as_ref() == Some(want),
            (None, None) => true,
            _ => false,
        }
    }

    /// The change that would make it right, if one is needed and none is under way.
    fn op(&self, key: &Key, on_conflict: OnConflict) -> Option<Op> {
        if self.writing.is_some() || self.is_current() {
            return None;
        }
        let key = key.clone();
        Some(match (&self.want, on_conflict) {
            (None, _) => Op::Delete { key },
            (Some(_), OnConflict::Yield) if self.foreign.is_some() => return None,
            (Some(value), OnConflict::Yield) => Op::PutIfFree {
                key,
                value: value.clone(),
            },
            (Some(value), OnConflict::TakeOver) => Op::Put {
                key,
                value: value.clone(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: i64 = 7;
    const THEIRS: i64 = 8;

    fn table(policy: OnConflict, keys: &[&str]) -> Table {
        let mut table = Table::new(OURS, policy);
        for (entry, key) in (1..).zip(keys) {
            table
                .want(entry, vec![((*key).into(), "v".into())])
                .unwrap();
        }
        table
    }

    /// Writes all there is to write, at `revision`; gives how many operations that took.
    fn write(table: &mut Table, revision: i64) -> Vec<Op> {
        let now = Instant::now();
        let ops = table.next_writes(now);
        table.written(&ops, revision, &vec![None; ops.len()], now);
        ops
    }

    fn put(key: &str, revision: i64, lease: i64, value: &str) -> Event {
        let kind = EventKind::Put {
            lease,
            value: value.into(),
        };
        Event {
            key: key.into(),
            revision,
            kind,
        }
    }

    fn delete(key: &str, revision: i64) -> Event {
        Event {
            key: key.into(),
            revision,
            kind: EventKind::Delete,
        }
    }

    fn op(key: &str) -> Vec<Op> {
        vec![Op::Put {
            key: key.into(),
            value: "v".into(),
        }]
    }

    #[test]
    fn what_is_wanted_is_written_once_and_then_watched_from_the_next_revision() {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        assert!(!table.view(1).held);
        assert_eq!(write(&mut table, 5), op("a"));
        assert!(table.view(1).held);
        assert_eq!(write(&mut table, 6), []);
        assert_eq!(table.next_watch(), Some(("a".into(), 1, 6)));
    }

    #[test]
    fn a_transaction_takes_128_puts_and_no_more() {
        let keys: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
        let mut table = table(
            OnConflict::TakeOver,
            &keys.iter().map(|k| &**k).collect::<Vec<_>>(),
        );
        let sizes: Vec<_> = (1..5)
            .map(|revision| write(&mut table, revision).len())
            .collect();
        assert_eq!(sizes, [128, 128, 44, 0]);
    }

    #[test]
    fn a_transaction_stays_below_the_size_etcd_takes() {
        let mut table = Table::new(OURS, OnConflict::TakeOver);
        let large: Arc<str> = "x".repeat(400 * 1024).into();
        for entry in 1..=5 {
            table
                .want(entry, vec![(format!("{entry}").into(), large.clone())])
                .unwrap();
        }
        let sizes: Vec<_> = (1..5)
            .map(|revision| write(&mut table, revision).len())
            .collect();
        assert_eq!(sizes, [2, 2, 1, 0]);
    }

    #[test]
    fn a_key_that_somebody_deletes_is_put_again() {
        let mut table = table(OnConflict::TakeOver, &["a", "b"]);
        write(&mut table, 5);
        table.happened(delete("a", 6), Instant::now());
        assert!(!table.view(1).held && table.view(2).held);
        assert_eq!(write(&mut table, 7), op("a"));
    }

    #[test]
    fn the_echo_of_our_own_write_changes_nothing_whenever_it_comes() {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        let ops = table.next_writes(Instant::now());
        table.happened(put("a", 5, OURS, "v"), Instant::now());
        table.written(&ops, 5, &[None], Instant::now());
        table.happened(put("a", 5, OURS, "v"), Instant::now());
        assert!(table.view(1).held);
        assert_eq!(write(&mut table, 6), []);
    }

    #[test]
    fn what_others_did_while_we_were_writing_is_judged_by_its_revision() {
        for (theirs, rewritten) in [(4, false), (6, true)] {
            let mut table = table(OnConflict::TakeOver, &["a"]);
            let ops = table.next_writes(Instant::now());
            table.happened(put("a", theirs, THEIRS, "x"), Instant::now());
            table.written(&ops, 5, &[None], Instant::now());
            assert_eq!(
                write(&mut table, 7) == op("a"),
                rewritten,
                "theirs at {theirs}"
            );
        }
    }

    #[test]
    fn an_update_is_written_in_place_and_the_key_counts_as_held_meanwhile() {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        write(&mut table, 5);
        table.want(1, vec![("a".into(), "new".into())]).unwrap();
        assert!(table.view(1).held);
        let ops = write(&mut table, 6);
        assert_eq!(
            ops,
            [Op::Put {
                key: "a".into(),
                value: "new".into()
            }]
        );
        assert_eq!(table.view(1).revision, 6);
    }

    #[test]
    fn after_a_cut_intact_keys_are_not_written_again() {
        let mut table = table(OnConflict::TakeOver, &["gone", "intact", "other", "taken"]);
        write(&mut table, 5);
        table.doubt();
        let looks = table.next_looks();
        assert_eq!(looks.len(), 4);
        assert_eq!(write(&mut table, 6), [], "nothing before it was looked at");
        let seen = |lease, revision| Some(KeyMeta { lease, revision });
        let there = [None, seen(OURS, 5), seen(OURS, 6), seen(THEIRS, 5)];
        table.looked(&looks, 9, &there);
        let written: Vec<_> = write(&mut table, 10)
            .iter()
            .map(|op| op.key().to_string())
            .collect();
        assert_eq!(written, ["gone", "other", "taken"]);
    }

    #[test]
    fn a_write_whose_answer_was_lost_is_looked_up_first() {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        table.next_writes(Instant::now());
        table.doubt();
        assert_eq!(table.next_looks(), ["a".into()]);
        let seen = |lease| {
            let revision = 5;
            [Some(KeyMeta { lease, revision })]
        };
        table.looked(&["a".into()], 6, &seen(OURS));
        assert!(table.view(1).held, "it is there, whatever its value");
        assert_eq!(write(&mut table, 7), op("a"));
    }

    #[test]
    fn one_of_several_leaves_by_a_guarded_delete_and_is_never_put_again() {
        let mut table = table(OnConflict::TakeOver, &["a", "b"]);
        write(&mut table, 5);
        table.unwant(1);
        assert!(!table.is_gone(1));
        assert_eq!(write(&mut table, 6), [Op::Delete { key: "a".into() }]);
        assert!(table.is_gone(1) && table.view(2).held);
        table.happened(delete("a", 6), Instant::now());
        table.doubt();
        assert_eq!(table.next_looks(), ["b".into()]);
    }

    #[test]
    fn a_write_under_way_when_its_entry_leaves_is_undone() {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        let ops = table.next_writes(Instant::now());
        table.unwant(1);
        assert!(!table.is_gone(1), "it may still be written");
        table.written(&ops, 5, &[None], Instant::now());
        assert_eq!(write(&mut table, 6), [Op::Delete { key: "a".into() }]);
        assert!(table.is_gone(1));
    }

    #[test]
    fn an_entry_that_was_never_written_is_gone_at_once() {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        table.unwant(1);
        assert!(table.is_gone(1));
        assert_eq!(write(&mut table, 5), []);
    }

    #[test]
    fn yielding_leaves_a_foreign_key_until_it_is_free() {
        let mut table = table(OnConflict::Yield, &["a"]);
        let ops = table.next_writes(Instant::now());
        assert_eq!(
            ops,
            [Op::PutIfFree {
                key: "a".into(),
                value: "v".into()
            }]
        );
        table.written(&ops, 5, &[Some(THEIRS)], Instant::now());
        assert_eq!(table.view(1).foreign, Some(THEIRS));
        assert_eq!(write(&mut table, 6), []);
        table.happened(delete("a", 7), Instant::now());
        assert_eq!(write(&mut table, 8).len(), 1);
        assert!(table.view(1).held);
        table.happened(put("a", 9, THEIRS, "x"), Instant::now());
        assert_eq!(
            (table.view(1).foreign, table.view(1).held),
            (Some(THEIRS), false)
        );
        assert_eq!(write(&mut table, 10), []);
    }

    #[test]
    fn a_tug_of_war_ends_in_a_few_rewrites_a_minute() {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        write(&mut table, 1);
        let start = Instant::now();
        let mut rewrites = 0;
        for step in 0..600 {
            let now = start + Duration::from_millis(100) * step;
            let revision = 10 + 2 * i64::from(step);
            table.happened(put("a", revision, THEIRS, "x"), now);
            let ops = table.next_writes(now);
            rewrites += ops.len();
            table.written(&ops, revision + 1, &vec![None; ops.len()], now);
        }
        assert!(
            (28..=30).contains(&rewrites),
            "{rewrites} in the first minute"
        );
        assert!(table.view(1).contested);
    }

    #[test]
    fn an_entry_that_moves_to_another_key_leaves_none_behind() {
        let mut table = table(OnConflict::TakeOver, &["old"]);
        write(&mut table, 5);
        table.want(1, vec![("new".into(), "v".into())]).unwrap();
        assert_eq!(table.view(1).keys, ["new".into()]);
        assert_eq!(write(&mut table, 6).len(), 2);
        assert!(table.view(1).held);
        table.unwant(1);
        assert_eq!(write(&mut table, 7), [Op::Delete { key: "new".into() }]);
        assert!(table.is_gone(1));
    }

    #[test]
    fn two_entries_never_share_a_key() {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        assert_eq!(
            table.want(2, vec![("a".into(), "x".into())]),
            Err("a".into())
        );
        table.unwant(1);
        assert_eq!(table.want(2, vec![("a".into(), "x".into())]), Ok(()));
    }

    #[test]
    fn one_denied_key_does_not_hold_up_the_others() {
        let mut table = table(OnConflict::TakeOver, &["a", "b", "c"]);
        let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(30));
        let ops = table.next_writes(now);
        table.denied(&ops, now, later);
        for (key, denied) in [("a", false), ("b", true), ("c", false)] {
            let ops = table.next_writes(now);
            assert_eq!(ops, op(key), "one by one");
            match denied {
                true => table.denied(&ops, now, later),
                false => table.written(&ops, 5, &[None], now),
            }
        }
        assert_eq!(table.next_writes(now), []);
        assert!(table.view(1).held && !table.view(2).held && table.view(3).held);
        assert_eq!(table.next_unblocked(), Some(later));
        assert_eq!(table.next_writes(later), op("b"));
    }

    #[test]
    fn a_refused_write_is_repeated() {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        let ops = table.next_writes(Instant::now());
        table.refused(&ops, Instant::now());
        assert_eq!(write(&mut table, 5), op("a"));
    }
}
