//! [`Timeline`]: prints lines, with the time since the start.

use std::env;
use std::fmt::Display;
use std::io::{IsTerminal, Write, stdout};
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// Prints a line; the demo continues if stdout is closed.
macro_rules! say {
    ($($text:tt)*) => {{
        let _ = writeln!(stdout(), $($text)*);
    }};
}

/// Prints, and counts the checks that held.
#[derive(Debug)]
pub(crate) struct Timeline {
    began: Instant,
    colours: bool,
    /// Lines that were written can be written over.
    rewrites: bool,
    held: usize,
    failed: usize,
    skipped: usize,
}

/// A table that is written over itself for as long as it changes.
#[derive(Debug, Default)]
pub(crate) struct Board {
    lines: usize,
}

/// What was expected, and what was seen instead.
#[derive(Debug)]
pub(crate) struct Fail {
    expected: String,
    seen: String,
}

const BOLD: &str = "1";
const DIM: &str = "2";
const RED: &str = "31";
const GREEN: &str = "32";
const YELLOW: &str = "33";

// === impl Timeline ===

impl Timeline {
    /// Begins now. Colours are only for terminals, and not with `NO_COLOR`.
    pub(crate) fn start() -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            began: Instant::now(),
            colours: stdout().is_terminal() && !set("NO_COLOR") && !dumb,
            rewrites: stdout().is_terminal() && !dumb,
            held: 0,
            failed: 0,
            skipped: 0,
        }
    }

    /// A new step.
    pub(crate) fn step(&self, number: usize, title: &str) {
        say!("\n{}", self.paint(BOLD, format!("{number}  {title}")));
    }

    /// Something that was done, or is worth knowing.
    pub(crate) fn note(&self, text: &str) {
        self.line(&self.paint(DIM, "·"), text);
    }

    /// A check that held.
    pub(crate) fn held(&mut self, text: &str) {
        self.held += 1;
        self.line(&self.paint(GREEN, "✓"), text);
    }

    /// More about the line before.
    pub(crate) fn detail(&self, name: &str, value: impl Display) {
        say!(
            "              {} {value}",
            self.paint(DIM, format!("{name:<6}"))
        );
    }

    /// A table as it is now. Where lines cannot be written over, only the last one is shown.
    pub(crate) fn board(&self, board: &mut Board, rows: &[String], last: bool) {
        if !self.rewrites && !last {
            return;
        }
        if board.lines > 0 {
            say!("\x1b[{}A\x1b[J\x1b[1A", board.lines);
        }
        rows.iter().for_each(|row| say!("              {row}"));
        board.lines = rows.len();
    }

    /// A check that did not hold.
    pub(crate) fn failed(&mut self, fail: &Fail) {
        self.failed += 1;
        self.line(&self.paint(RED, "✗ expected:"), &fail.expected);
        say!("              {} {}", self.paint(RED, "seen:"), fail.seen);
    }

    /// A step that cannot run after a failure.
    pub(crate) fn skipped(&mut self, why: &Fail) {
        self.skipped += 1;
        self.line(
            &self.paint(YELLOW, "- skipped:"),
            &format!("it requires {}", why.expected),
        );
        say!("              {} {}", self.paint(YELLOW, "but:"), why.seen);
    }

    /// Prints the last line. Returns whether all checks held.
    pub(crate) fn curtain(&self) -> bool {
        let took = format!("{:.1} s", self.began.elapsed().as_secs_f64());
        let all_held = self.failed == 0 && self.skipped == 0;
        if all_held {
            let verdict = format!("All {} checks held, in {took}.", self.held);
            say!("\n{}", self.paint(GREEN, verdict));
        } else {
            let verdict = format!(
                "{} checks held, {} failed and {} steps were skipped, in {took}.",
                self.held, self.failed, self.skipped
            );
            say!("\n{}", self.paint(RED, verdict));
        }
        all_held
    }

    fn line(&self, sign: &str, text: &str) {
        let elapsed = format!("{:>8.3} s", self.began.elapsed().as_secs_f64());
        say!("{}  {sign} {text}", self.paint(DIM, elapsed));
    }

    fn paint(&self, colour: &str, text: impl Display) -> String {
        match self.colours {
            true => format!("\x1b[{colour}m{text}\x1b[0m"),
            false => text.to_string(),
        }
    }
}

// === impl Fail ===

impl Fail {
    pub(crate) fn new(expected: impl Into<String>, seen: impl Into<String>) -> Self {
        Self {
            expected: expected.into(),
            seen: seen.into(),
        }
    }

    /// What a future gives, if it does so without an error and within `limit`.
    pub(crate) async fn within<T, E: Display>(
        limit: Duration,
        expected: &str,
        waits: impl Future<Output = Result<T, E>>,
    ) -> Result<T, Self> {
        match timeout(limit, waits).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => Err(Self::new(expected, error.to_string())),
            Err(_) => Err(Self::new(expected, format!("nothing within {limit:?}"))),
        }
    }

    pub(crate) fn seen(&self) -> &str {
        &self.seen
    }

    /// `Ok` if it is true.
    pub(crate) fn unless(
        holds: bool,
        expected: impl Into<String>,
        seen: impl FnOnce() -> String,
    ) -> Result<(), Self> {
        match holds {
            true => Ok(()),
            false => Err(Self::new(expected, seen())),
        }
    }
}

/// A duration as people read it.
pub(crate) fn time(time: Duration) -> String {
    match time.as_secs_f64() {
        seconds if seconds < 0.01 => format!("{:.1} ms", seconds * 1e3),
        seconds if seconds < 1.0 => format!("{:.0} ms", seconds * 1e3),
        seconds => format!("{seconds:.2} s"),
    }
}
