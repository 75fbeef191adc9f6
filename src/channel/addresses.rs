//! [`Addresses`]: computes from changes of keys the addresses to connect to; pure.

use super::origin::Origin;
use super::subset::{Subset, SubsetChange};
use crate::change::Change;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

/// The addresses of the keys, and the ones to connect to.
#[derive(Debug)]
pub(super) struct Addresses {
    by_key: HashMap<Arc<str>, Origin>,
    known: HashMap<Origin, Address>,
    subset: Subset,
}

/// The change of one address that follows from the change of a key.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AddressChange {
    /// Connect to it.
    Add(Origin, u32),
    /// Set its weight, if it is one to connect to.
    SetWeight(Origin, u32),
    /// Close the connection to it.
    Remove(Origin),
}

/// One address. Two keys may have the same one: a server that registered again before its former lease
/// expired.
#[derive(Debug)]
struct Address {
    keys: usize,
    weight: u32,
}

/// The weight of an instance without one, as in go-zero and kratos.
const DEFAULT_WEIGHT: u32 = 100;

// === impl Addresses ===

impl Addresses {
    pub(super) fn new(subset: Subset) -> Self {
        Self {
            by_key: HashMap::new(),
            known: HashMap::new(),
            subset,
        }
    }

    /// An instance without an address counts as removed.
    pub(super) fn apply(&mut self, change: &Change) -> Vec<AddressChange> {
        let (key, instance) = match change {
            Change::Remove { key } => (key, None),
            Change::Insert { key, instance } => (key, Some(instance)),
        };
        let mut changes = Vec::new();
        let address = instance.and_then(|it| Origin::of(it));
        let former = match &address {
            None => self.by_key.remove(key),
            Some(address) => self.by_key.insert(key.clone(), address.clone()),
        };
        // The new address is added before the former one is removed, so that there is always
        // an address when a key changes its own.
        if let Some(address) = address {
            let weight = instance.and_then(|it| it.weight());
            self.add(address, weight.unwrap_or(DEFAULT_WEIGHT), &mut changes);
        }
        if let Some(former) = former {
            self.remove(former, &mut changes);
        }
        changes
    }

    fn add(&mut self, address: Origin, weight: u32, changes: &mut Vec<AddressChange>) {
        match self.known.entry(address.clone()) {
            Entry::Occupied(mut known) => {
                let known = known.get_mut();
                known.keys += 1;
                if std::mem::replace(&mut known.weight, weight) != weight {
                    changes.push(AddressChange::SetWeight(address, weight));
                }
            }
            Entry::Vacant(unknown) => {
                unknown.insert(Address { keys: 1, weight });
                let change = self.subset.insert(&address);
                self.pass_on(change, changes);
            }
        }
    }

    fn remove(&mut self, address: Origin, changes: &mut Vec<AddressChange>) {
        let Entry::Occupied(mut known) = self.known.entry(address.clone()) else {
            return;
        };
        known.get_mut().keys -= 1;
        if known.get().keys == 0 {
            known.remove();
            let change = self.subset.remove(&address);
            self.pass_on(change, changes);
        }
    }

    fn pass_on(&self, change: SubsetChange, changes: &mut Vec<AddressChange>) {
        if let Some(address) = change.added {
            let known = self.known.get(&address);
            let weight = known.map_or(DEFAULT_WEIGHT, |known| known.weight);
            changes.push(AddressChange::Add(address, weight));
        }
        changes.extend(change.removed.map(AddressChange::Remove));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::instance::Instance;

    fn insert(key: &str, address: &str, weight: u32) -> Change {
        Change::insert(
            key,
            Instance::new("greeter")
                .with_address(address)
                .with_weight(weight),
        )
    }

    fn add(address: &str, weight: u32) -> AddressChange {
        AddressChange::Add(address.into(), weight)
    }

    fn remove(address: &str) -> AddressChange {
        AddressChange::Remove(address.into())
    }

    fn addresses(limit: Option<usize>) -> Addresses {
        Addresses::new(Subset::new(limit, "client"))
    }

    #[test]
    fn a_new_weight_is_no_new_connection() {
        let mut all = addresses(None);
        assert_eq!(all.apply(&insert("k", "a:1", 1)), [add("a:1", 1)]);
        assert_eq!(all.apply(&insert("k", "a:1", 1)), []);
        assert_eq!(
            all.apply(&insert("k", "a:1", 2)),
            [AddressChange::SetWeight("a:1".into(), 2)]
        );
        let unweighed = Change::insert("k", Instance::new("greeter").with_address("a:1"));
        assert_eq!(
            all.apply(&unweighed),
            [AddressChange::SetWeight("a:1".into(), DEFAULT_WEIGHT)]
        );
    }

    #[test]
    fn a_key_that_moves_adds_the_new_address_before_it_removes_the_old() {
        let mut all = addresses(None);
        all.apply(&insert("k", "a:1", 1));
        assert_eq!(
            all.apply(&insert("k", "b:1", 1)),
            [add("b:1", 1), remove("a:1")]
        );
        assert_eq!(all.apply(&Change::remove("k")), [remove("b:1")]);
        assert_eq!(all.apply(&Change::remove("k")), []);
    }

    #[test]
    fn an_address_under_two_keys_stays_until_both_are_removed() {
        let mut all = addresses(None);
        all.apply(&insert("k", "a:1", 1));
        assert_eq!(
            all.apply(&insert("l", "a:1", 7)),
            [AddressChange::SetWeight("a:1".into(), 7)]
        );
        assert_eq!(all.apply(&Change::remove("k")), []);
        assert_eq!(all.apply(&Change::remove("l")), [remove("a:1")]);
    }

    #[test]
    fn an_instance_that_changes_to_tls_is_dialled_again() {
        let mut all = addresses(None);
        all.apply(&insert("k", "a:1", 1));
        let instance = Instance::new("greeter").with_address("a:1").with_weight(1);
        let secure = instance.with_secure(true);
        let origin = Origin::of(&secure).unwrap();
        assert_eq!(origin.to_string(), "https://a:1");
        assert_eq!(
            all.apply(&Change::insert("k", secure)),
            [AddressChange::Add(origin.clone(), 1), remove("a:1")]
        );
        let gone = all.apply(&Change::remove("k"));
        assert_eq!(gone, [AddressChange::Remove(origin)]);
    }

    #[test]
    fn an_instance_without_an_address_counts_as_removed() {
        let mut all = addresses(None);
        all.apply(&insert("k", "a:1", 1));
        let no_address = Change::insert("k", Instance::new("greeter"));
        assert_eq!(all.apply(&no_address), [remove("a:1")]);
    }

    #[test]
    fn one_that_changes_in_brings_its_own_weight() {
        let mut all = addresses(Some(1));
        let mut changes = all.apply(&insert("k1", "a:1", 1));
        changes.extend(all.apply(&insert("k2", "b:1", 2)));
        let (first, second) = match changes.as_slice() {
            [AddressChange::Add(_, 1)] => (1, add("b:1", 2)),
            _ => (2, add("a:1", 1)),
        };
        let gone = all.apply(&Change::remove(format!("k{first}")));
        assert!(gone.contains(&second), "{gone:?}");
    }
}
