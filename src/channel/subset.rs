//! [`Subset`]: which of many addresses one client connects to; pure.
//!
//! Rendezvous hashing: a client computes a score for every address, and uses those with the highest scores.
//! It is deterministic, so that a restart with the same id gets the same servers. The scores of
//! two clients are independent, so that all servers are used evenly. A
//! change of the fleet changes at most one address of the subset.

use super::origin::Origin;
use std::collections::BTreeSet;

/// All addresses, and those that are chosen.
#[derive(Debug)]
pub(super) struct Subset {
    /// `None`: all of them.
    limit: Option<usize>,
    client: u64,
    chosen: BTreeSet<Scored>,
    others: BTreeSet<Scored>,
}

/// The change of the subset that follows from a change of the fleet.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct SubsetChange {
    pub(super) added: Option<Origin>,
    pub(super) removed: Option<Origin>,
}

type Scored = (u64, Origin);

// === impl Subset ===

impl Subset {
    pub(super) fn new(limit: Option<usize>, client: &str) -> Self {
        Self {
            limit,
            client: hash(FNV_OFFSET, client.as_bytes()),
            chosen: BTreeSet::new(),
            others: BTreeSet::new(),
        }
    }

    /// A new address.
    pub(super) fn insert(&mut self, address: &Origin) -> SubsetChange {
        let added = Some(address.clone());
        let removed = None;
        // Without a limit there is nothing to score.
        let Some(limit) = self.limit else {
            return SubsetChange { added, removed };
        };
        self.chosen.insert(self.scored(address));
        if self.chosen.len() <= limit {
            return SubsetChange { added, removed };
        }
        let Some(worst) = self.chosen.pop_first() else {
            return SubsetChange::default();
        };
        let removed = worst.1.clone();
        self.others.insert(worst);
        if removed == *address {
            return SubsetChange::default();
        }
        SubsetChange {
            added,
            removed: Some(removed),
        }
    }

    /// An address that was removed.
    pub(super) fn remove(&mut self, address: &Origin) -> SubsetChange {
        let removed = Some(address.clone());
        if self.limit.is_none() {
            let added = None;
            return SubsetChange { added, removed };
        }
        let scored = self.scored(address);
        if !self.chosen.remove(&scored) {
            self.others.remove(&scored);
            return SubsetChange::default();
        }
        let best = self.others.pop_last();
        let added = best.as_ref().map(|(_, address)| address.clone());
        self.chosen.extend(best);
        SubsetChange { added, removed }
    }

    fn scored(&self, address: &Origin) -> Scored {
        let score = finalize(hash(self.client, address.to_string().as_bytes()));
        (score, address.clone())
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// FNV-1a. Not the hash of `std`, which may change in a later release: a client that is
/// rebuilt would then change all its servers at once.
fn hash(start: u64, bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME);
    bytes.iter().fold(start, step)
}

/// Spreads the low bits over all bits (the finalizer of `MurmurHash3`). The addresses of a fleet differ in their
/// last bytes, and FNV mixes these only into the low bits.
fn finalize(mut hash: u64) -> u64 {
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn address(n: usize) -> Origin {
        let address = format!("10.0.{}.{}:9000", n / 256, n % 256);
        address.as_str().into()
    }

    fn members(subset: &Subset) -> BTreeSet<Origin> {
        let chosen = subset.chosen.iter();
        chosen.map(|(_, address)| address.clone()).collect()
    }

    #[test]
    fn the_hash_is_the_one_that_was_published() {
        assert_eq!(hash(FNV_OFFSET, b"foobar"), 0x8594_4171_f739_67e8);
        let mut subset = Subset::new(Some(2), "client-1");
        (0..10).for_each(|n| drop(subset.insert(&address(n))));
        let chosen: Vec<_> = members(&subset).into_iter().collect();
        // A change of this value changes the servers of every client that upgrades.
        assert_eq!(chosen, ["10.0.0.3:9000".into(), "10.0.0.9:9000".into()]);
    }

    #[test]
    fn without_a_limit_all_addresses_are_chosen() {
        let mut subset = Subset::new(None, "");
        let change = subset.insert(&address(1));
        assert_eq!((change.added, change.removed), (Some(address(1)), None));
        let change = subset.remove(&address(1));
        assert_eq!((change.added, change.removed), (None, Some(address(1))));
    }

    #[test]
    fn many_clients_use_the_servers_evenly() {
        let (servers, clients, limit) = (100, 1000, 10);
        let mut used = HashMap::<_, u32>::new();
        for client in 0..clients {
            let mut subset = Subset::new(Some(limit), &format!("pod-{client}"));
            (0..servers).for_each(|n| drop(subset.insert(&address(n))));
            for member in members(&subset) {
                *used.entry(member).or_default() += 1;
            }
        }
        // 100 each; five standard deviations of a binomial are 47.
        assert_eq!(used.len(), servers);
        assert!(used.values().all(|n| (53..=147).contains(n)), "{used:?}");
    }

    proptest! {
        #[test]
        fn a_change_replaces_one_address_at_most_in_whatever_order(
            client in "[a-z]{1,8}",
            limit in 1..8_usize,
            toggles in prop::collection::vec(0..40_usize, 1..120),
        ) {
            let mut subset = Subset::new(Some(limit), &client);
            let mut fleet = BTreeSet::new();
            for n in toggles {
                let before = members(&subset);
                let change = if fleet.insert(n) {
                    subset.insert(&address(n))
                } else {
                    fleet.remove(&n);
                    subset.remove(&address(n))
                };
                let mut told = before.clone();
                told.extend(change.added.clone());
                if let Some(removed) = &change.removed {
                    prop_assert!(told.remove(removed));
                }
                let after = members(&subset);
                prop_assert_eq!(&told, &after);
                prop_assert!(after.difference(&before).count() <= 1);
                prop_assert_eq!(after.len(), fleet.len().min(limit));
            }
            let mut anew = Subset::new(Some(limit), &client);
            fleet.iter().rev().for_each(|n| drop(anew.insert(&address(*n))));
            prop_assert_eq!(members(&anew), members(&subset));
        }
    }
}
