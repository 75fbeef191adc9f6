//! [`WeightedIndex`]: draws indices in proportion to their weights; pure.
//!
//! A Fenwick tree: a change and a draw each take log₂ n steps, 14 of them for 10,000 indices. Rejection
//! sampling against the greatest weight would be faster with equal weights. But with one weight of 10,000 among
//! weights of 1 it would try for very long, or give up and be unfair.

/// The weights of consecutive indices.
#[derive(Debug, Default)]
pub(super) struct WeightedIndex {
    each: Vec<u32>,
    /// `sums[i]` is the sum of the `lowest_bit(i + 1)` weights that end at index `i`.
    sums: Vec<u64>,
    total: u64,
    /// How many weights are not 0.
    nonzero: usize,
}

// === impl WeightedIndex ===

impl WeightedIndex {
    pub(super) fn len(&self) -> usize {
        self.each.len()
    }

    /// Whether the index may be drawn: an index of weight 0 only while all weights are 0.
    pub(super) fn may_be_drawn(&self, index: usize) -> bool {
        self.nonzero == 0 || self.each.get(index).is_some_and(|weight| *weight > 0)
    }

    /// Adds an index at the end.
    pub(super) fn push(&mut self, weight: u32) {
        let end = self.each.len() + 1;
        let covered = end - lowest_bit(end);
        let sum = self.sum_before(end - 1) - self.sum_before(covered);
        self.sums.push(sum);
        self.each.push(0);
        self.set(end - 1, weight);
    }

    /// Removes an index; the last one moves to it.
    pub(super) fn swap_remove(&mut self, index: usize) {
        let Some(last) = self.each.last().copied() else {
            return;
        };
        self.set(index, last);
        self.set(self.each.len() - 1, 0);
        self.each.pop();
        self.sums.pop();
    }

    pub(super) fn set(&mut self, index: usize, weight: u32) {
        let Some(each) = self.each.get_mut(index) else {
            return;
        };
        let old = std::mem::replace(each, weight);
        self.nonzero += usize::from(weight > 0);
        self.nonzero -= usize::from(old > 0);
        let change = |sum: &mut u64| *sum = *sum + u64::from(weight) - u64::from(old);
        change(&mut self.total);
        let mut at = index + 1;
        while let Some(sum) = self.sums.get_mut(at - 1) {
            change(sum);
            at += lowest_bit(at);
        }
    }

    /// Two different indices in proportion to their weights, or one if there is no other.
    pub(super) fn draw(&self, rng: &mut fastrand::Rng) -> Option<(usize, Option<usize>)> {
        if self.nonzero == 0 {
            return draw_evenly(self.each.len(), rng);
        }
        let first = self.index_of(rng.u64(..self.total));
        let weight = u64::from(self.each.get(first).copied()?);
        if self.nonzero == 1 {
            return Some((first, None));
        }
        // Draw the second one as if the first were not there.
        let mut at = rng.u64(..self.total - weight);
        if at >= self.sum_before(first) {
            at += weight;
        }
        Some((first, Some(self.index_of(at))))
    }

    fn sum_before(&self, index: usize) -> u64 {
        let (mut sum, mut at) = (0, index);
        while at > 0 {
            sum += self.sums.get(at - 1).copied().unwrap_or_default();
            at -= lowest_bit(at);
        }
        sum
    }

    /// The index that holds the `at`th unit of all the weight there is.
    fn index_of(&self, mut at: u64) -> usize {
        let mut index = 0;
        let mut step = self.sums.len().next_power_of_two();
        while step > 0 {
            match self.sums.get(index + step - 1) {
                Some(sum) if *sum <= at => {
                    at -= sum;
                    index += step;
                }
                _ => {}
            }
            step /= 2;
        }
        index
    }
}

fn draw_evenly(len: usize, rng: &mut fastrand::Rng) -> Option<(usize, Option<usize>)> {
    match len {
        0 => None,
        1 => Some((0, None)),
        _ => {
            let first = rng.usize(..len);
            let second = (first + rng.usize(1..len)) % len;
            Some((first, Some(second)))
        }
    }
}

fn lowest_bit(n: usize) -> usize {
    n & n.wrapping_neg()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(weights: &[u32]) -> WeightedIndex {
        let mut all = WeightedIndex::default();
        weights.iter().for_each(|weight| all.push(*weight));
        all
    }

    #[test]
    fn indices_are_drawn_in_proportion() {
        let mut rng = fastrand::Rng::with_seed(7);
        let weights = [1, 0, 10_000, 300, 300, 99];
        let all = of(&weights);
        let mut drawn = [0_u32; 6];
        for _ in 0..1_000_000 {
            let (first, second) = all.draw(&mut rng).unwrap();
            assert_ne!(Some(first), second);
            assert_ne!(second, Some(1));
            drawn[first] += 1;
        }
        for (drawn, weight) in drawn.iter().zip(weights) {
            let expected = f64::from(weight) / 10_700.0 * 1e6;
            let off = (f64::from(*drawn) - expected).abs();
            assert!(off <= 5.0 * expected.sqrt(), "{drawn} {expected}");
        }
    }

    #[test]
    fn indices_of_weight_0_are_drawn_only_among_themselves() {
        let mut rng = fastrand::Rng::with_seed(7);
        assert_eq!(of(&[]).draw(&mut rng), None);
        assert_eq!(of(&[0]).draw(&mut rng), Some((0, None)));
        assert_eq!(of(&[0, 3, 0]).draw(&mut rng), Some((1, None)));
        let mut seen = [0; 3];
        for _ in 0..300 {
            let (first, second) = of(&[0, 0, 0]).draw(&mut rng).unwrap();
            seen[first] += 1;
            seen[second.unwrap()] += 1;
        }
        assert!(seen.iter().all(|seen| *seen > 150), "{seen:?}");
    }

    proptest! {
        #[test]
        fn any_changes_leave_the_same_sums_as_a_new_index(
            acts in prop::collection::vec((0..3_u8, 0..50_usize, 0..5_u32), 0..80)
        ) {
            let mut model: Vec<u32> = vec![];
            let mut all = WeightedIndex::default();
            for (act, index, weight) in acts {
                match act {
                    0 => { model.push(weight); all.push(weight); }
                    1 if index < model.len() => { model[index] = weight; all.set(index, weight); }
                    2 if index < model.len() => { model.swap_remove(index); all.swap_remove(index); }
                    _ => {}
                }
            }
            let anew = of(&model);
            prop_assert_eq!(&all.each, &anew.each);
            prop_assert_eq!(&all.sums, &anew.sums);
            prop_assert_eq!((all.total, all.nonzero), (anew.total, anew.nonzero));
            let owners = model.iter().enumerate().flat_map(|(index, weight)| vec![index; *weight as usize]);
            for (at, owner) in owners.enumerate() {
                prop_assert_eq!(all.index_of(at as u64), owner);
            }
        }
    }
}
