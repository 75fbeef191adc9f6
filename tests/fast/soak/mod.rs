//! Randomised runs in virtual time: a seed decides the configuration, the faults, other clients,
//! and the operations. A checker that is independent of the library checks the results.
//!
//! ```text
//! seed -> Plan (plan.rs, acts.rs) and its Conditions (conditions.rs)
//!      -> World on the fake etcd (world.rs, registrar.rs, perform.rs), driven through faults and quiet periods (drive.rs)
//!      -> Record: what was seen from outside (record.rs)
//!      -> Violations of the invariants (checker/), with allowed delays (allowance.rs)
//! ```
//!
//! `make soak HOURS=1000` runs many seeds (long.rs); `make soak HOURS=0 SEED=7` runs one seed again.
//! checker_tests.rs tests the checker.

mod acts;
mod allowance;
mod checker;
mod checker_tests;
mod conditions;
mod drive;
mod long;
mod perform;
mod plan;
mod record;
mod registrar;
mod world;

use plan::Plan;
use std::collections::BTreeSet;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Seeds that once failed, with the simulated seconds until then, and the cause. There were no conditions then.
const REGRESSIONS: [(u64, u64, &str); 11] = [
    (
        6,
        20,
        "one that left early waited for the revoke of those that left later",
    ),
    (
        265,
        40,
        "a stop in the middle of a grant took half a revoke timeout more",
    ),
    (
        347,
        450,
        "a write given up, and applied late, brought a key back for good",
    ),
    (
        552,
        830,
        "a rewrite due before the lease was confirmed kept the worker busy",
    ),
    (
        70,
        940,
        "a lease that existed already counted as granted just now",
    ),
    (
        928,
        1440,
        "the first renewal's answer named another lease, which was then renewed",
    ),
    (
        100_755,
        1600,
        "a key that may not be looked at was forgotten instead of deleted",
    ),
    (
        107,
        1760,
        "a key at an unknown revision was forgotten instead of deleted",
    ),
    (
        796_429_154_584,
        2400,
        "a key whose write was not answered was called lost until it was written again",
    ),
    (
        796_429_154_646,
        2400,
        "a lease revoked again and again cost a connection each time",
    ),
    (
        900_000_692,
        800,
        "whoever came after all had left met his own former lease, and yielded to it",
    ),
];

/// The seeds that fail later than this are run again by `make soak` only.
const QUICK: u64 = 900;

/// How much real time the ordinary test may take for runs that never failed.
const TIMEOUT: Duration = Duration::from_secs(1);

/// However long the plan is.
const WHOLE: Duration = Duration::MAX;

/// A run takes a fraction of a second. A run that does not end has a busy task, so that
/// the paused clock does not advance.
const ENDLESS: Duration = Duration::from_secs(60);

/// Runs one plan, for about `length`. Returns the simulated time, or the violations.
fn check(plan: Plan, length: Duration) -> Result<Duration, String> {
    let (tell, told) = mpsc::channel();
    let seed = plan.seed;
    thread::spawn(move || tell.send(run_and_check(plan, length)));
    told.recv_timeout(ENDLESS).unwrap_or_else(|ended| {
        Err(format!(
            "seed {seed}: I8: no task spins\n  it does not end, or panicked: {ended}\n  \
             again: make soak HOURS=0 SEED={seed}"
        ))
    })
}

fn run_and_check(plan: Plan, length: Duration) -> Result<Duration, String> {
    let record = drive::run(plan, length);
    let mut violations = checker::violations(&record);
    if violations.is_empty() {
        return Ok(record.end - record.start);
    }
    let count = violations.len();
    // The first violation of each rule: later ones often have the same cause.
    let mut rules = BTreeSet::new();
    violations.retain(|violation| rules.insert(violation.rule));
    let reports = violations.iter().map(|it| checker::report(&record, it));
    let reports = reports.collect::<Vec<_>>().join("\n");
    Err(format!(
        "{count} violations, the first of each kind:\n{reports}"
    ))
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how much fits in real time")]
fn whatever_happens_the_invariants_hold() {
    thread::scope(|scope| {
        for (seed, seconds, what) in REGRESSIONS.into_iter().filter(|r| r.1 <= QUICK) {
            let length = Duration::from_secs(seconds);
            let again = move |report| panic!("again: {what}\n{report}");
            scope.spawn(move || check(Plan::alone(seed), length).unwrap_or_else(again));
        }
    });
    let start = Instant::now();
    let (mut seed, mut simulated) = (0, Duration::ZERO);
    while start.elapsed() < TIMEOUT {
        simulated += check(Plan::new(seed), WHOLE).unwrap_or_else(|report| panic!("{report}"));
        seed += 1;
    }
    println!(
        "{seed} runs, {} simulated minutes",
        simulated.as_secs() / 60
    );
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [1, 2] {
        let [first, second] = [(); 2]
            .map(|()| long::fingerprint(&drive::run(Plan::new(seed), Duration::from_secs(600))));
        let differs = first.iter().zip(&second).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}
