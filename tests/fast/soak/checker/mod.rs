//! Checks a [`Record`] against the invariants, independently of the library.
//!
//! The ids are those of the list in DESIGN.md. The checker reads the requests to etcd and the published
//! statuses. It calls no code of the library.
//!
//! | file | |
//! |---|---|
//! | `keys.rs` | I1, I2, and that no key is lost in a mild fault |
//! | `writes.rs` | I3, I4, I5, and of I8 that there is no write in a quiet period |
//! | `status.rs` | I6, I14, I16 |
//! | `leases.rs` | I7 |
//! | `rate.rs` | I8 |
//! | `ends.rs` | I10, I12 |
//! | `ownership.rs` | the holder of each key at any time; the registrar of each lease |
//! | `timeline.rs` | the events around a violation |

mod ends;
mod keys;
mod leases;
mod ownership;
mod rate;
mod status;
mod timeline;
mod writes;

use super::record::Record;
use ownership::Ownership;
use tokio::time::Instant;

/// A violation of an invariant.
#[derive(Debug, Clone)]
pub struct Violation {
    pub rule: &'static str,
    pub at: Instant,
    pub what: String,
}

pub const I1: &str = "I1: etcd reachable, no fault for a while => every wanted key is there, with the right value, under our live lease, and the status says so";
pub const MILD: &str = "I1: a mild fault costs no key, and no status";
pub const I2: &str = "I2: what has left, or is paused, is absent after its bound";
pub const I3: &str = "I3: every PUT carries a lease";
pub const I4: &str = "I4: what has ended is never written again";
pub const I5: &str = "I5: a key under a foreign lease is left alone";
pub const QUIET: &str = "I8: in a quiet period nothing is written";
pub const I6: &str = "I6: a status says held only until the last acknowledged renewal was sent plus the TTL, or a look at the lease plus what was left of it";
pub const I7: &str = "I7: at most one live lease for a registrar, and none for one that is gone";
pub const I8: &str = "I8: attempts are bounded";
pub const I10: &str = "I10: a stop returns within the revoke timeout";
pub const I12: &str = "I12: tasks and connections return to their base";
pub const WORDS: &str = "I16: what a peer says is shown in one short line";
pub const BUG: &str = "I14: no task of ours panics";

/// All violations of a run, in the order of their times.
pub fn violations(record: &Record) -> Vec<Violation> {
    let ownership = Ownership::of(record);
    let mut found = vec![];
    keys::check(record, &ownership, &mut found);
    writes::check(record, &ownership, &mut found);
    status::check(record, &mut found);
    leases::check(record, &ownership, &mut found);
    rate::check(record, &mut found);
    ends::check(record, &mut found);
    found.sort_by_key(|violation| violation.at);
    found
}

fn found(rule: &'static str, at: Instant, what: impl Into<String>) -> Violation {
    Violation {
        rule,
        at,
        what: what.into(),
    }
}

/// A violation with the details to find its cause.
pub fn report(record: &Record, violation: &Violation) -> String {
    let seconds = violation.at.saturating_duration_since(record.start);
    let (seed, seconds) = (record.seed, seconds.as_secs_f64());
    let Violation { rule, what, at } = violation;
    let (terms, count) = (&record.terms, record.entries.len());
    let around = timeline::around(record, *at);
    format!(
        "seed {seed}, after {seconds:.3} s: {rule}\n  {what}\n  {terms:?}, {count} registrations\n\
         {around}  again: make soak HOURS=0 SEED={seed}"
    )
}
