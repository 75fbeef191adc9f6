//! [`Members`]: from changes of keys to addresses that join and leave; pure.

use super::node::DEFAULT_WEIGHT;
use super::subset::{Subset, Swap};
use crate::discovery::Change;
use std::collections::HashMap;
use std::sync::Arc;

/// The addresses behind the keys, and which of them we are connected to.
#[derive(Debug)]
pub(super) struct Members {
    keys: HashMap<Arc<str>, Arc<str>>,
    addresses: HashMap<Arc<str>, Member>,
    subset: Subset,
}

/// One thing to do.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Connect to it.
    Join(Arc<str>, u32),
    /// Give it another weight, if it is connected to.
    Weigh(Arc<str>, u32),
    /// Connect to it no more.
    Leave(Arc<str>),
}

/// One address. Two keys may name the same one, as when a server has registered anew before its
/// former lease has run out.
#[derive(Debug)]
struct Member {
    keys: usize,
    weight: u32,
}

// === impl Members ===

impl Members {
    pub(super) fn new(subset: Subset) -> Self {
        Self {
            keys: HashMap::new(),
            addresses: HashMap::new(),
            subset,
        }
    }

    pub(super) fn apply(&mut self, change: &Change) -> Vec<Step> {
        let mut steps = Vec::new();
        let (key, now) = match change {
            Change::Remove { key } => (key, None),
            Change::Insert { key, instance } => {
                let weight = instance.get_weight().unwrap_or(DEFAULT_WEIGHT);
                (key, instance.get_address().map(|address| (address, weight)))
            }
        };
        let before = match now {
            None => self.keys.remove(key),
            Some((address, weight)) => {
                let before = self.keys.get(key).cloned();
                if before.as_deref() == Some(address) {
                    self.weigh(address, weight, &mut steps);
                    return steps;
                }
                let address = self.join(address, weight, &mut steps);
                self.keys.insert(key.clone(), address);
                before
            }
        };
        // After the one it moved to, so that there is always one of them.
        if let Some(before) = before {
            self.leave(&before, &mut steps);
        }
        steps
    }

    fn weigh(&mut self, address: &str, weight: u32, steps: &mut Vec<Step>) {
        let Some((address, _)) = self.addresses.get_key_value(address) else {
            return;
        };
        let address = address.clone();
        let Some(member) = self.addresses.get_mut(&address) else {
            return;
        };
        if std::mem::replace(&mut member.weight, weight) != weight {
            steps.push(Step::Weigh(address, weight));
        }
    }

    fn join(&mut self, address: &str, weight: u32, steps: &mut Vec<Step>) -> Arc<str> {
        if let Some((known, _)) = self.addresses.get_key_value(address) {
            let known = known.clone();
            if let Some(member) = self.addresses.get_mut(&known) {
                member.keys += 1;
            }
            self.weigh(address, weight, steps);
            return known;
        }
        let address: Arc<str> = address.into();
        let member = Member { keys: 1, weight };
        self.addresses.insert(address.clone(), member);
        let swap = self.subset.insert(&address);
        self.swap(swap, steps);
        address
    }

    fn leave(&mut self, address: &Arc<str>, steps: &mut Vec<Step>) {
        let Some(member) = self.addresses.get_mut(address) else {
            return;
        };
        member.keys -= 1;
        if member.keys == 0 {
            self.addresses.remove(address);
            let swap = self.subset.remove(address);
            self.swap(swap, steps);
        }
    }

    fn swap(&self, swap: Swap, steps: &mut Vec<Step>) {
        if let Some(address) = swap.joins {
            let member = self.addresses.get(&address);
            let weight = member.map_or(DEFAULT_WEIGHT, |member| member.weight);
            steps.push(Step::Join(address, weight));
        }
        steps.extend(swap.leaves.map(Step::Leave));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Instance;

    fn put(key: &str, address: &str, weight: u32) -> Change {
        Change::insert(
            key,
            Instance::new("greeter").address(address).weight(weight),
        )
    }

    fn join(address: &str, weight: u32) -> Step {
        Step::Join(address.into(), weight)
    }

    fn leave(address: &str) -> Step {
        Step::Leave(address.into())
    }

    fn members(limit: Option<usize>) -> Members {
        Members::new(Subset::new(limit, "client"))
    }

    #[test]
    fn another_weight_is_no_other_connection() {
        let mut all = members(None);
        assert_eq!(all.apply(&put("k", "a:1", 1)), [join("a:1", 1)]);
        assert_eq!(all.apply(&put("k", "a:1", 1)), []);
        assert_eq!(
            all.apply(&put("k", "a:1", 2)),
            [Step::Weigh("a:1".into(), 2)]
        );
        let unweighed = Change::insert("k", Instance::new("greeter").address("a:1"));
        assert_eq!(
            all.apply(&unweighed),
            [Step::Weigh("a:1".into(), DEFAULT_WEIGHT)]
        );
    }

    #[test]
    fn a_key_that_moves_takes_the_new_address_before_it_leaves_the_old_one() {
        let mut all = members(None);
        all.apply(&put("k", "a:1", 1));
        assert_eq!(
            all.apply(&put("k", "b:1", 1)),
            [join("b:1", 1), leave("a:1")]
        );
        assert_eq!(all.apply(&Change::remove("k")), [leave("b:1")]);
        assert_eq!(all.apply(&Change::remove("k")), []);
    }

    #[test]
    fn an_address_under_two_keys_is_one_and_stays_until_both_are_gone() {
        let mut all = members(None);
        all.apply(&put("k", "a:1", 1));
        assert_eq!(
            all.apply(&put("l", "a:1", 7)),
            [Step::Weigh("a:1".into(), 7)]
        );
        assert_eq!(all.apply(&Change::remove("k")), []);
        assert_eq!(all.apply(&Change::remove("l")), [leave("a:1")]);
    }

    #[test]
    fn one_without_an_address_is_as_good_as_gone() {
        let mut all = members(None);
        all.apply(&put("k", "a:1", 1));
        let nowhere = Change::insert("k", Instance::new("greeter"));
        assert_eq!(all.apply(&nowhere), [leave("a:1")]);
    }

    #[test]
    fn one_that_steps_in_brings_its_own_weight() {
        let mut all = members(Some(1));
        let mut steps = all.apply(&put("k1", "a:1", 1));
        steps.extend(all.apply(&put("k2", "b:1", 2)));
        let (first, second) = match steps.as_slice() {
            [Step::Join(_, 1)] => (1, join("b:1", 2)),
            _ => (2, join("a:1", 1)),
        };
        let gone = all.apply(&Change::remove(format!("k{first}")));
        assert!(gone.contains(&second), "{gone:?}");
    }
}
