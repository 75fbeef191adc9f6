//! [`ReadySet`]: the connections that can be called now, and the choice among them.
//!
//! The choice is power of two choices: it draws two different connections in proportion to their weights,
//! and picks the one with less load for its weight. That spreads load nearly as well as comparing
//! all connections, and many clients do not all pick the same idle server. While
//! nothing is in flight it picks the first one drawn, so that calls follow the weights exactly.

use super::weighted_index::WeightedIndex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// The connections that can be called now. Each change takes log₂ n steps, and never a copy.
#[derive(Debug)]
pub(super) struct ReadySet<C> {
    members: RwLock<Members<C>>,
    inserted: Notify,
}

/// A connection that can be called.
pub(super) trait Candidate {
    fn weight(&self) -> u32;
    /// The calls in flight on it.
    fn load(&self) -> usize;
    /// Where the set keeps its position.
    fn position(&self) -> &Position;
}

/// The position of a candidate in its set. Only the set writes it, under its lock.
#[derive(Debug)]
pub(super) struct Position(AtomicUsize);

#[derive(Debug)]
struct Members<C> {
    items: Vec<Arc<C>>,
    weights: WeightedIndex,
}

/// How often two are drawn. If none of them may be picked, few may, and all are searched.
const DRAWS: usize = 4;

// === impl ReadySet ===

impl<C: Candidate> ReadySet<C> {
    /// Adds a candidate that is not in the set.
    pub(super) fn insert(&self, candidate: Arc<C>) {
        let mut members = self.write();
        candidate.position().0.store(members.items.len(), Relaxed);
        members.weights.push(candidate.weight());
        members.items.push(candidate);
        drop(members);
        self.inserted.notify_waiters();
    }

    /// Removes a candidate, if it is in the set.
    pub(super) fn remove(&self, candidate: &Arc<C>) {
        let mut members = self.write();
        let Some(at) = members.position_of(candidate) else {
            return;
        };
        members.items.swap_remove(at);
        members.weights.swap_remove(at);
        if let Some(moved) = members.items.get(at) {
            moved.position().0.store(at, Relaxed);
        }
        candidate.position().0.store(Position::NONE, Relaxed);
    }

    /// Reads the weight of a candidate again.
    pub(super) fn update_weight(&self, candidate: &Arc<C>) {
        let mut members = self.write();
        if let Some(at) = members.position_of(candidate) {
            members.weights.set(at, candidate.weight());
        }
    }

    /// Picks a candidate for which `may` is true.
    pub(super) fn pick(
        &self,
        rng: &mut fastrand::Rng,
        may: impl Fn(&Arc<C>) -> bool,
    ) -> Option<Arc<C>> {
        let members = self.read();
        for _ in 0..DRAWS {
            let (first, second) = members.weights.draw(rng)?;
            let get = |index| members.items.get(index).filter(|candidate| may(candidate));
            match (get(first), second.and_then(get)) {
                (Some(first), Some(second)) => return Some(better(first, second).clone()),
                (Some(only), None) | (None, Some(only)) => return Some(only.clone()),
                (None, None) => {}
            }
        }
        members.search(rng, may)
    }

    /// Resolves when a candidate is inserted after this call.
    pub(super) fn insertion(&self) -> Notified<'_> {
        self.inserted.notified()
    }

    fn read(&self) -> RwLockReadGuard<'_, Members<C>> {
        self.members.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Members<C>> {
        self.members.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Default for ReadySet<C> {
    fn default() -> Self {
        Self {
            members: RwLock::new(Members {
                items: Vec::new(),
                weights: WeightedIndex::default(),
            }),
            inserted: Notify::new(),
        }
    }
}

/// The one with fewer calls in flight for its weight; the first one if both are equal.
fn better<'a, C: Candidate>(first: &'a Arc<C>, second: &'a Arc<C>) -> &'a Arc<C> {
    let cost = |loaded: &Arc<C>, other: &Arc<C>| {
        u128::from(other.weight().max(1)) * u128::try_from(loaded.load()).unwrap_or(u128::MAX >> 32)
    };
    if cost(first, second) <= cost(second, first) {
        first
    } else {
        second
    }
}

// === impl Members ===

impl<C: Candidate> Members<C> {
    fn position_of(&self, candidate: &Arc<C>) -> Option<usize> {
        let at = candidate.position().0.load(Relaxed);
        let there = self.items.get(at)?;
        Arc::ptr_eq(there, candidate).then_some(at)
    }

    fn search(&self, rng: &mut fastrand::Rng, may: impl Fn(&Arc<C>) -> bool) -> Option<Arc<C>> {
        let len = self.weights.len();
        let start = rng.usize(..len.max(1));
        (0..len)
            .map(|n| (start + n) % len)
            .filter(|index| self.weights.may_be_drawn(*index))
            .filter_map(|index| self.items.get(index))
            .find(|candidate| may(candidate))
            .cloned()
    }
}

// === impl Position ===

impl Position {
    const NONE: usize = usize::MAX;
}

impl Default for Position {
    fn default() -> Self {
        Self(AtomicUsize::new(Self::NONE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicU32;

    #[derive(Debug)]
    struct Fake {
        name: usize,
        weight: AtomicU32,
        load: AtomicUsize,
        position: Position,
    }

    impl Candidate for Fake {
        fn weight(&self) -> u32 {
            self.weight.load(Relaxed)
        }
        fn load(&self) -> usize {
            self.load.load(Relaxed)
        }
        fn position(&self) -> &Position {
            &self.position
        }
    }

    fn filled(weights: &[u32]) -> (ReadySet<Fake>, Vec<Arc<Fake>>) {
        let ready = ReadySet::default();
        let fake = |(name, weight): (usize, &u32)| {
            Arc::new(Fake {
                name,
                weight: AtomicU32::new(*weight),
                load: AtomicUsize::new(0),
                position: Position::default(),
            })
        };
        let fakes: Vec<_> = weights.iter().enumerate().map(fake).collect();
        for fake in &fakes {
            ready.insert(fake.clone());
        }
        (ready, fakes)
    }

    fn picks(ready: &ReadySet<Fake>, of: usize, times: usize) -> Vec<f64> {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut picked = vec![0.0; of];
        for _ in 0..times {
            picked[ready.pick(&mut rng, |_| true).unwrap().name] += 1.0;
        }
        picked
    }

    #[test]
    fn without_load_the_weights_are_kept_exactly() {
        let weights = [100, 50, 300, 0, 1];
        let (ready, _) = filled(&weights);
        let picked = picks(&ready, 5, 451_000);
        for (picked, weight) in picked.iter().zip(weights) {
            let expected = f64::from(weight) * 1000.0;
            let off = (picked - expected).abs();
            assert!(off <= 5.0 * expected.sqrt(), "{picked} {expected}");
        }
    }

    #[test]
    fn under_load_the_less_loaded_of_the_two_is_items() {
        let (ready, fakes) = filled(&[100, 100]);
        fakes[0].load.store(1, Relaxed);
        assert_eq!(picks(&ready, 2, 100), [0.0, 100.0]);
        // Twice the load on twice the weight is equal.
        fakes[0].load.store(2, Relaxed);
        fakes[1].load.store(1, Relaxed);
        fakes[0].weight.store(200, Relaxed);
        ready.update_weight(&fakes[0]);
        let picked = picks(&ready, 2, 3000);
        assert!((picked[0] - 2000.0).abs() < 150.0, "{picked:?}");
    }

    #[test]
    fn calls_that_stay_spread_by_weight() {
        let (ready, fakes) = filled(&[100, 300]);
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..4000 {
            let picked = ready.pick(&mut rng, |_| true).unwrap();
            picked.load.fetch_add(1, Relaxed);
        }
        let load = fakes[0].load();
        assert!((990..=1010).contains(&load), "{load}");
    }

    #[test]
    fn whatever_is_refused_another_one_is_found_if_there_is_any() {
        let (ready, fakes) = filled(&[1_000_000, 1, 1, 0]);
        let mut rng = fastrand::Rng::with_seed(3);
        let found = ready.pick(&mut rng, |c| c.name == 1).unwrap();
        assert_eq!(found.name, 1);
        assert!(ready.pick(&mut rng, |c| c.name == 3).is_none());
        for fake in &fakes[..3] {
            ready.remove(fake);
        }
        assert_eq!(ready.pick(&mut rng, |_| true).unwrap().name, 3);
        ready.remove(&fakes[3]);
        ready.remove(&fakes[3]);
        assert!(ready.pick(&mut rng, |_| true).is_none());
    }

    #[test]
    fn one_change_among_ten_thousand_leaves_the_others_where_they_are() {
        let (ready, fakes) = filled(&[100; 10_000]);
        ready.remove(&fakes[17]);
        let moved = fakes
            .iter()
            .filter(|f| f.position.0.load(Relaxed) != f.name)
            .count();
        assert_eq!(moved, 2, "the one that left and the last one, in its place");
        assert_eq!(ready.read().items.len(), 9_999);
        ready.insert(fakes[17].clone());
        for (fake, left) in fakes.iter().zip((0..10_000).rev()) {
            ready.remove(fake);
            assert_eq!(ready.read().items.len(), left);
        }
    }
}
