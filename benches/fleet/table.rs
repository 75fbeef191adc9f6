//! [`Table`]: a row for each scenario and client, in Markdown.

use crate::args::{Scenario, Who};
use crate::problem::Problem;
use std::io::Write as _;
use std::time::Duration;
use test_support::load::{Summary, Verdict, time};

/// Prints rows, and records whether all bounds held.
#[derive(Debug, Default)]
pub(crate) struct Table {
    missed: usize,
    headed: bool,
}

const HEAD: &str = "
| scenario | client | calls | streams | failed | p50 | p99 | slowest | no answer for | no endpoint for | bar |
|---|---|---|---|---|---|---|---|---|---|---|";

// === impl Table ===

impl Table {
    /// The clients of one kind, in one scenario.
    pub(crate) fn row(
        &mut self,
        scenario: Scenario,
        who: Who,
        summary: &Summary,
        blind: Duration,
        verdicts: &[Verdict],
    ) {
        let held = verdicts.iter().all(|verdict| verdict.held);
        // The other client is only for comparison.
        let counts = who == Who::Balanced;
        self.missed += usize::from(counts && !held);
        if !std::mem::replace(&mut self.headed, true) {
            say(HEAD);
        }
        let codes: Vec<_> = summary
            .codes
            .iter()
            .map(|(code, n)| format!("{n} {code}"))
            .collect();
        let failed = match &*codes {
            [] => "0".to_owned(),
            codes => format!("{}: {}", summary.failed, codes.join(", ")),
        };
        let seen: Vec<_> = verdicts.iter().map(|verdict| &*verdict.seen).collect();
        let [p50, p99, max] = summary.latency.map(time);
        say(&format!(
            "| {} | {} | {} | {} | {failed} | {p50} | {p99} | {max} | {} | {} | {}: {} |",
            scenario.name(),
            if counts { "balanced" } else { "naive" },
            summary.calls,
            summary.streams,
            time(summary.silence),
            time(blind),
            if held { "held" } else { "missed" },
            seen.join("; "),
        ));
    }

    /// A measurement without a bound.
    pub(crate) fn line(&mut self, text: &str) {
        self.headed = false;
        say(text);
    }

    /// A scenario could not be finished.
    pub(crate) fn broke(&mut self, scenario: Scenario, problem: &Problem) {
        self.missed += 1;
        eprintln!("{} failed: {problem}", scenario.name());
    }

    pub(crate) fn held(&self) -> bool {
        self.missed == 0
    }
}

/// Prints a line; the run continues if stdout is closed.
fn say(text: &str) {
    let _ = writeln!(std::io::stdout(), "{text}");
}
