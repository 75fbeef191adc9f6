//! The table that is printed: what, its bound, what was measured.

use std::sync::atomic::{AtomicUsize, Ordering};

#[derive(Default)]
pub struct Table {
    missed: AtomicUsize,
}

impl Table {
    pub const HEAD: &str = "what | bound | median | worst | runs |";

    /// Milliseconds, none of which may exceed `bound`.
    pub fn each_ms(&self, what: &str, bound: f64, values: &[f64]) {
        self.at_most(what, "ms", bound, Stat::Each, values);
    }

    /// Milliseconds whose median may not exceed `bound`.
    pub fn median_ms(&self, what: &str, bound: f64, values: &[f64]) {
        self.at_most(what, "ms", bound, Stat::Median, values);
    }

    /// Values in one unit that must not exceed `bound` in their median, or all of them.
    pub fn at_most(&self, what: &str, unit: &str, bound: f64, stat: Stat, values: &[f64]) {
        let worst = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let median = median(values);
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
    pub fn holds(&self, what: &str, holds: bool, seen: &str) {
        self.row(holds, format!("{what} | holds | {seen} |"));
    }

    /// Something that holds, or does not because of that.
    pub fn result(&self, what: &str, seen: Result<String, String>) {
        self.holds(what, seen.is_ok(), &seen.unwrap_or_else(|seen| seen));
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

pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
