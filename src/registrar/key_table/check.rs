//! Which keys are read although their watches are silent, and whether they are as the watches say.

use super::KeyTable;
use super::key_state::{KeyState, Observed};
use super::limits::Size;
use crate::etcd::KeyMeta;
use crate::registrar::ids::Key;

// === impl KeyTable ===

impl KeyTable {
    /// The keys that were not checked for the longest time, as many as etcd accepts at once; and how many such reads
    /// there are for all keys.
    pub(crate) fn next_check(&mut self) -> (Vec<Key>, u32) {
        let all: Vec<&Key> = self.entries.values().flatten().collect();
        let start = self.next_checked.min(all.len());
        let (before, after) = all.split_at(start);
        let (mut keys, mut size, mut seen) = (vec![], Size::default(), 0);
        for key in after.iter().chain(before) {
            let state = self.keys.get(*key);
            if state.is_some_and(|state| self.is_settled(key, state)) {
                size.add_read(key);
                if !self.limits.allows(size) && !keys.is_empty() {
                    break;
                }
                keys.push((*key).clone());
            }
            seen += 1;
        }
        let requests = all.len().div_ceil(seen.max(1));
        self.next_checked = match all.len() {
            0 => 0,
            len => (start + seen) % len,
        };
        (keys, u32::try_from(requests).unwrap_or(u32::MAX))
    }

    /// Those of `keys` that differ from what is known, though no watch reported it. They were read at `revision`.
    pub(crate) fn differing(
        &self,
        keys: &[Key],
        revision: i64,
        found: &[Option<KeyMeta>],
    ) -> Vec<Key> {
        let differs = |(key, found): &(&Key, &Option<KeyMeta>)| {
            let Some(state) = self.keys.get(*key) else {
                return false;
            };
            if !self.is_settled(key, state) {
                return false;
            }
            match &state.observed {
                Observed::Ours(observed) => {
                    let is_known = |found: KeyMeta| found.revision <= observed.revision;
                    revision >= observed.revision && !found.is_some_and(is_known)
                }
                Observed::Theirs { lease } => found.is_none_or(|found| found.lease != *lease),
                Observed::Unknown | Observed::Absent => false,
            }
        };
        let all = keys.iter().zip(found).filter(differs);
        all.map(|(key, _)| key.clone()).collect()
    }

    /// Whether only its watch can change what is known of it.
    fn is_settled(&self, key: &Key, state: &KeyState) -> bool {
        state.is_observed() && state.writing.is_none() && !self.unverified.contains(key)
    }
}
