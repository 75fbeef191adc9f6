//! [`Ownership`]: the holder of each key over time, from the changes, and the registrar of each lease.

use super::super::record::Record;
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;

/// See the [module](self).
pub struct Ownership {
    /// For each change, who held the key before it.
    pub before: Vec<Option<i64>>,
    /// For each key, the lease that held it from then on; `None`: no key.
    holders: BTreeMap<String, Vec<(Instant, Option<i64>)>>,
    /// The registrar that requested a lease.
    owners: HashMap<i64, usize>,
}

// === impl Ownership ===

impl Ownership {
    pub fn of(record: &Record) -> Self {
        let mut ownership = Self {
            before: vec![],
            holders: BTreeMap::new(),
            owners: HashMap::new(),
        };
        for registrar in 0..record.registrars.len() {
            let asked = record.ours(registrar).filter(|call| call.ttl > 0);
            ownership
                .owners
                .extend(asked.map(|call| (call.lease, registrar)));
        }
        let mut wipes = record.wipes.iter().peekable();
        for (index, change) in record.changes.iter().enumerate() {
            while let Some((_, at)) = wipes.next_if(|(until, _)| *until <= index) {
                ownership.wipe(*at);
            }
            let lease = change.put.as_ref().map(|(_, lease)| *lease);
            let holders = ownership.holders.entry(change.key.clone()).or_default();
            ownership
                .before
                .push(holders.last().and_then(|(_, lease)| *lease));
            holders.push((change.at, lease));
        }
        wipes.for_each(|(_, at)| ownership.wipe(*at));
        ownership
    }

    fn wipe(&mut self, at: Instant) {
        self.holders
            .values_mut()
            .for_each(|holders| holders.push((at, None)));
    }

    /// The registrar that a lease was granted to; `None`: another client's.
    pub fn owner(&self, lease: i64) -> Option<usize> {
        self.owners.get(&lease).copied()
    }

    /// The holder of each key at that instant, after all its changes.
    pub fn held_at(&self, at: Instant) -> impl Iterator<Item = (&str, i64)> {
        self.holders.iter().filter_map(move |(key, holders)| {
            let last = holders
                .partition_point(|(since, _)| *since <= at)
                .checked_sub(1)?;
            Some((key.as_str(), holders[last].1?))
        })
    }
}
