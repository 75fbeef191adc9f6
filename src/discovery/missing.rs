//! [`Missing`]: keys that are kept although etcd does not have them, each until its deadline. Pure.

use crate::runtime::deadline;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct Missing {
    keys: BTreeMap<Arc<str>, Gone>,
    /// The addresses with their keys: one for each missing instance.
    addresses: BTreeSet<(Arc<str>, Arc<str>)>,
    deadlines: BTreeSet<(Instant, Arc<str>)>,
}

#[derive(Debug)]
struct Gone {
    /// Where it was dialled; `None`: there is no instance under the key.
    address: Option<Arc<str>>,
    until: Instant,
}

// === impl Missing ===

impl Missing {
    pub(super) fn len(&self) -> usize {
        self.keys.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many of the keys have an instance.
    pub(super) fn instances(&self) -> usize {
        self.addresses.len()
    }

    pub(super) fn contains(&self, key: &str) -> bool {
        self.keys.contains_key(key)
    }

    /// Keeps the key until `until`; a key that is missing already keeps its deadline.
    pub(super) fn insert(&mut self, key: &Arc<str>, address: Option<&str>, until: Instant) {
        if self.contains(key) {
            return;
        }
        let address: Option<Arc<str>> = address.map(Into::into);
        let there = address.clone().map(|address| (address, key.clone()));
        self.addresses.extend(there);
        self.deadlines.insert((until, key.clone()));
        self.keys.insert(key.clone(), Gone { address, until });
    }

    /// Removes a key. Returns whether it was missing.
    pub(super) fn remove(&mut self, key: &str) -> bool {
        let Some((key, Gone { address, until })) = self.keys.remove_entry(key) else {
            return false;
        };
        self.deadlines.remove(&(until, key.clone()));
        if let Some(address) = address {
            self.addresses.remove(&(address, key));
        }
        true
    }

    pub(super) fn first_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(until, _)| *until)
    }

    pub(super) fn take_expired(&mut self, now: Instant) -> Vec<Arc<str>> {
        let expired = self.deadlines.iter().take_while(|(until, _)| *until <= now);
        let expired: Vec<_> = expired.map(|(_, key)| key.clone()).collect();
        for key in &expired {
            self.remove(key);
        }
        expired
    }

    pub(super) fn take_all(&mut self) -> Vec<Arc<str>> {
        std::mem::take(self).keys.into_keys().collect()
    }

    /// Moves every deadline.
    pub(super) fn postpone(&mut self, by: Duration) {
        for gone in self.keys.values_mut() {
            gone.until = deadline::after(gone.until, by);
        }
        let deadlines = self.keys.iter();
        self.deadlines = deadlines
            .map(|(key, gone)| (gone.until, key.clone()))
            .collect();
    }

    /// The keys whose instances are dialled there.
    pub(super) fn at(&self, address: &str) -> Vec<Arc<str>> {
        if self.addresses.is_empty() {
            return vec![];
        }
        let from: (Arc<str>, Arc<str>) = (address.into(), "".into());
        let there = self.addresses.range(from..);
        let there = there.take_while(|(at, _)| **at == *address);
        there.map(|(_, key)| key.clone()).collect()
    }
}
