//! [`Deleted`]: keys that we have deleted under the lease that we still have.
//!
//! An etcd that is restored from an older copy has them again, and our renewals would keep them: a server that was
//! deregistered, or is paused, would be called until the process ends. So they are read again with the others after
//! each lost connection.

use crate::registrar::ids::{EntryId, Key};
use std::collections::VecDeque;

/// See the [module](self). The last one is the newest.
#[derive(Debug, Default)]
pub(super) struct Deleted(VecDeque<(Key, EntryId)>);

/// So many are read with at most one request more; the oldest ones are forgotten.
const MOST: usize = 100;

// === impl Deleted ===

impl Deleted {
    pub(super) fn add(&mut self, key: &Key, entry: EntryId) {
        self.0.retain(|(other, _)| other != key);
        if self.0.len() == MOST {
            self.0.pop_front();
        }
        self.0.push_back((key.clone(), entry));
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.0.iter().map(|(key, _)| key)
    }

    pub(super) fn entry_of(&self, key: &Key) -> Option<EntryId> {
        let mut all = self.0.iter();
        all.find(|(other, _)| other == key).map(|(_, entry)| *entry)
    }
}
