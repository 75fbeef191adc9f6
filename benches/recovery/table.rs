//! The table that is printed: what, its bound, what was measured.

use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Default)]
pub struct Table {
    missed: AtomicUsize,
}

impl Table {
    pub const HEAD: &str = "what | bound | median | worst | runs |";

    /// Values in one unit that must not exceed `bound` in their median, or all of them.
    pub fn at_most(&self, what: &str, unit: &str, bound: f64, stat: Stat, values: &[f64]) {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (median, worst) = (sorted[sorted.len() / 2], sorted[sorted.len() - 1]);
        let (value, how) = match stat {
            Stat::Median => (median, "median"),
            Stat::Each => (worst, "each"),
        };
        let row = format!(
            "{what} | {how} <= {bound} {unit} | {median:.1} {unit} | {worst:.1} {unit} | {} |",
            values.len()
        );
        self.row(value <= bound, row);
    }

    /// Something that holds or not.
    pub fn holds(&self, what: &str, seen: Result<String, String>) {
        let holds = seen.is_ok();
        self.row(
            holds,
            format!("{what} | holds | {} |", seen.unwrap_or_else(|seen| seen)),
        );
    }

    pub fn missed(&self) -> usize {
        self.missed.load(Ordering::Relaxed)
    }

    fn row(&self, holds: bool, row: String) {
        if !holds {
            self.missed.fetch_add(1, Ordering::Relaxed);
        }
        println!("{row} {}", if holds { "ok" } else { "MISSED" });
    }
}

#[derive(Clone, Copy)]
pub enum Stat {
    Median,
    Each,
}
