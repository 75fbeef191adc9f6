//! [`Roster`]: those that can be called now, and the choice among them.
//!
//! The choice is the better of two: two different ones are drawn in proportion to their weights,
//! and the one with less load for its weight is taken. It evens out load nearly as well as asking
//! all of them, and it is what keeps many clients from all running to the same idle server. While
//! nothing is in flight the first one drawn is taken, so that the weights are kept exactly.

use super::weights::Weights;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

/// Those that can be called now. Each change costs log₂ n, and never a copy.
#[derive(Debug)]
pub(super) struct Roster<C> {
    seats: RwLock<Seats<C>>,
    arrived: Notify,
}

/// One that can be called.
pub(super) trait Candidate {
    fn weight(&self) -> u32;
    /// The calls that are in flight on it.
    fn load(&self) -> usize;
    /// Where the roster keeps its place.
    fn place(&self) -> &Place;
}

/// The place of a candidate in a roster. Only the roster writes it, under its lock.
#[derive(Debug)]
pub(super) struct Place(AtomicUsize);

#[derive(Debug)]
struct Seats<C> {
    taken: Vec<Arc<C>>,
    weights: Weights,
}

/// So often two are drawn; then those that may be taken are few, and are looked for.
const DRAWS: usize = 4;

// === impl Roster ===

impl<C: Candidate> Roster<C> {
    /// Adds one that is not in it. Gives how many there are then.
    pub(super) fn insert(&self, candidate: Arc<C>) -> usize {
        let mut seats = self.write();
        candidate.place().0.store(seats.taken.len(), Relaxed);
        seats.weights.push(candidate.weight());
        seats.taken.push(candidate);
        let len = seats.taken.len();
        drop(seats);
        self.arrived.notify_waiters();
        len
    }

    /// Takes one out. Gives how many are left, or `None` if it was not in it.
    pub(super) fn remove(&self, candidate: &Arc<C>) -> Option<usize> {
        let mut seats = self.write();
        let at = seats.place_of(candidate)?;
        seats.taken.swap_remove(at);
        seats.weights.swap_remove(at);
        if let Some(moved) = seats.taken.get(at) {
            moved.place().0.store(at, Relaxed);
        }
        candidate.place().0.store(Place::NONE, Relaxed);
        Some(seats.taken.len())
    }

    /// The weight of one may have changed.
    pub(super) fn reweigh(&self, candidate: &Arc<C>) {
        let mut seats = self.write();
        if let Some(at) = seats.place_of(candidate) {
            seats.weights.set(at, candidate.weight());
        }
    }

    pub(super) fn len(&self) -> usize {
        self.read().taken.len()
    }

    /// Chooses one for which `may` holds.
    pub(super) fn pick(
        &self,
        rng: &mut fastrand::Rng,
        may: impl Fn(&Arc<C>) -> bool,
    ) -> Option<Arc<C>> {
        let seats = self.read();
        for _ in 0..DRAWS {
            let (first, second) = seats.weights.draw(rng)?;
            let get = |place| seats.taken.get(place).filter(|candidate| may(candidate));
            match (get(first), second.and_then(get)) {
                (Some(first), Some(second)) => return Some(better(first, second).clone()),
                (Some(only), None) | (None, Some(only)) => return Some(only.clone()),
                (None, None) => {}
            }
        }
        seats.search(rng, may)
    }

    /// Resolves when one is added after this call.
    pub(super) fn arrival(&self) -> Notified<'_> {
        self.arrived.notified()
    }

    fn read(&self) -> RwLockReadGuard<'_, Seats<C>> {
        self.seats.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Seats<C>> {
        self.seats.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Default for Roster<C> {
    fn default() -> Self {
        Self {
            seats: RwLock::new(Seats {
                taken: Vec::new(),
                weights: Weights::default(),
            }),
            arrived: Notify::new(),
        }
    }
}

/// The one with fewer calls in flight for its weight; the first one if they are even.
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

// === impl Seats ===

impl<C: Candidate> Seats<C> {
    fn place_of(&self, candidate: &Arc<C>) -> Option<usize> {
        let at = candidate.place().0.load(Relaxed);
        let there = self.taken.get(at)?;
        Arc::ptr_eq(there, candidate).then_some(at)
    }

    fn search(&self, rng: &mut fastrand::Rng, may: impl Fn(&Arc<C>) -> bool) -> Option<Arc<C>> {
        let len = self.weights.len();
        let start = rng.usize(..len.max(1));
        (0..len)
            .map(|n| (start + n) % len)
            .filter(|place| self.weights.may_be_drawn(*place))
            .filter_map(|place| self.taken.get(place))
            .find(|candidate| may(candidate))
            .cloned()
    }
}

// === impl Place ===

impl Place {
    const NONE: usize = usize::MAX;
}

impl Default for Place {
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
        place: Place,
    }

    impl Candidate for Fake {
        fn weight(&self) -> u32 {
            self.weight.load(Relaxed)
        }
        fn load(&self) -> usize {
            self.load.load(Relaxed)
        }
        fn place(&self) -> &Place {
            &self.place
        }
    }

    fn filled(weights: &[u32]) -> (Roster<Fake>, Vec<Arc<Fake>>) {
        let roster = Roster::default();
        let fake = |(name, weight): (usize, &u32)| {
            Arc::new(Fake {
                name,
                weight: AtomicU32::new(*weight),
                load: AtomicUsize::new(0),
                place: Place::default(),
            })
        };
        let fakes: Vec<_> = weights.iter().enumerate().map(fake).collect();
        for fake in &fakes {
            roster.insert(fake.clone());
        }
        (roster, fakes)
    }

    fn picks(roster: &Roster<Fake>, of: usize, times: usize) -> Vec<f64> {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut picked = vec![0.0; of];
        for _ in 0..times {
            picked[roster.pick(&mut rng, |_| true).unwrap().name] += 1.0;
        }
        picked
    }

    #[test]
    fn without_load_the_weights_are_kept_exactly() {
        let weights = [100, 50, 300, 0, 1];
        let (roster, _) = filled(&weights);
        let picked = picks(&roster, 5, 451_000);
        for (picked, weight) in picked.iter().zip(weights) {
            let expected = f64::from(weight) * 1000.0;
            let off = (picked - expected).abs();
            assert!(off <= 5.0 * expected.sqrt(), "{picked} {expected}");
        }
    }

    #[test]
    fn under_load_the_less_loaded_of_the_two_is_taken() {
        let (roster, fakes) = filled(&[100, 100]);
        fakes[0].load.store(1, Relaxed);
        assert_eq!(picks(&roster, 2, 100), [0.0, 100.0]);
        // Twice the load on twice the weight is even.
        fakes[0].load.store(2, Relaxed);
        fakes[1].load.store(1, Relaxed);
        fakes[0].weight.store(200, Relaxed);
        roster.reweigh(&fakes[0]);
        let picked = picks(&roster, 2, 3000);
        assert!((picked[0] - 2000.0).abs() < 150.0, "{picked:?}");
    }

    #[test]
    fn calls_that_stay_spread_by_weight() {
        let (roster, fakes) = filled(&[100, 300]);
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..4000 {
            let picked = roster.pick(&mut rng, |_| true).unwrap();
            picked.load.fetch_add(1, Relaxed);
        }
        let load = fakes[0].load();
        assert!((990..=1010).contains(&load), "{load}");
    }

    #[test]
    fn whatever_is_refused_another_one_is_found_if_there_is_any() {
        let (roster, fakes) = filled(&[1_000_000, 1, 1, 0]);
        let mut rng = fastrand::Rng::with_seed(3);
        let found = roster.pick(&mut rng, |c| c.name == 1).unwrap();
        assert_eq!(found.name, 1);
        assert!(roster.pick(&mut rng, |c| c.name == 3).is_none());
        for fake in &fakes[..3] {
            roster.remove(fake);
        }
        assert_eq!(roster.pick(&mut rng, |_| true).unwrap().name, 3);
        assert_eq!(roster.remove(&fakes[3]), Some(0));
        assert_eq!(roster.remove(&fakes[3]), None);
        assert!(roster.pick(&mut rng, |_| true).is_none());
    }

    #[test]
    fn one_change_among_ten_thousand_leaves_the_others_where_they_are() {
        let (roster, fakes) = filled(&[100; 10_000]);
        roster.remove(&fakes[17]);
        let moved = fakes
            .iter()
            .filter(|f| f.place.0.load(Relaxed) != f.name)
            .count();
        assert_eq!(moved, 2, "the one that left and the last one, in its place");
        assert_eq!(roster.len(), 9_999);
        assert_eq!(roster.insert(fakes[17].clone()), 10_000);
        for fake in &fakes {
            assert!(roster.remove(fake).is_some());
        }
        assert_eq!(roster.len(), 0);
    }
}
