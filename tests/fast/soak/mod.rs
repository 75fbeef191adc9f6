//! Randomised runs in virtual time: a seed decides the configuration, the faults, other clients,
//! and the operations. The results are checked from outside.
//!
//! ```text
//! seed -> Plan (plan.rs)
//!      -> World on the fake etcd (world.rs, perform.rs), driven through faults and quiet periods (drive.rs)
//!      -> Violations of the invariants (check.rs), with allowed delays (allowance.rs)
//! ```
//!
//! The simulation (`src/registrar/simulation/`) checks what the reconciler decides. The soak has what that leaves out:
//! the worker, the streams and the connections, tokens, and several members.
//!
//! `make soak HOURS=1000` runs many seeds; `make soak HOURS=0 SEED=7` runs one seed again.

mod allowance;
mod check;
mod check_tests;
mod drive;
mod perform;
mod plan;
mod timeline;
mod world;

use crate::setup::number;
use plan::Plan;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};
use world::World;

/// How much real time the ordinary test may take.
const TIMEOUT: Duration = Duration::from_secs(1);

/// A run takes a fraction of a second. A run that does not end has a busy task, so that
/// the paused clock does not advance.
const ENDLESS: Duration = Duration::from_secs(60);

/// Runs one plan. Returns the simulated time, or the violations.
fn check(seed: u64) -> Result<Duration, String> {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let checked = drive::run(Plan::new(seed), |mut world| {
            world.check();
            match world.violations.is_empty() {
                true => Ok(world.end - world.start),
                false => Err(world.report()),
            }
        });
        tell.send(checked)
    });
    told.recv_timeout(ENDLESS).unwrap_or_else(|ended| {
        Err(format!(
            "seed {seed}: I8: no task spins\n  it does not end, or panicked: {ended}\n  \
             again: make soak HOURS=0 SEED={seed}"
        ))
    })
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how much fits in real time")]
fn whatever_happens_the_invariants_hold() {
    let start = Instant::now();
    let (mut seed, mut simulated) = (0, Duration::ZERO);
    while start.elapsed() < TIMEOUT {
        simulated += check(seed).unwrap_or_else(|report| panic!("{report}"));
        seed += 1;
    }
    let minutes = simulated.as_secs() / 60;
    println!("{seed} runs, {minutes} simulated minutes");
}

/// Everything that happened, in order, with times relative to the start.
fn history(world: World) -> Vec<String> {
    let calls = world.calls.iter().map(|c| {
        let (rpc, connection, applied) = (c.rpc, c.connection, c.applied);
        let at = c.at - world.start;
        format!(
            "{at:?} {rpc:?} {connection} {} {:?} {applied}",
            c.lease, c.puts
        )
    });
    let changes = world.changes.iter();
    let changes = changes.map(|c| format!("{:?} {:?} {}", c.at - world.start, c.put, c.key));
    calls.chain(changes).collect()
}

#[test]
fn the_same_seed_gives_the_same_history() {
    for seed in [1, 2] {
        let [first, second] = [(); 2].map(|()| {
            let mut plan = Plan::new(seed);
            plan.episodes.truncate(10);
            drive::run(plan, history)
        });
        let differs = first.iter().zip(&second).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how fast we are in real time")]
#[ignore = "takes as long as configured: make soak"]
fn for_hours() {
    let wanted = Duration::from_secs(3600 * number("HOURS").unwrap_or(100));
    let first = number("SEED").unwrap_or_else(|| fastrand::u64(..1 << 40));
    let most_failures = number("FAILURES").unwrap_or(5);
    let [next, simulated, failures] = [first, 0, 0].map(AtomicU64::new);
    let start = Instant::now();
    let threads = thread::available_parallelism().map_or(1, usize::from);
    println!("from seed {first} on {threads} threads");
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let done = Duration::from_millis(simulated.load(Ordering::Relaxed));
                    let is_enough = done >= wanted && seed > first;
                    if is_enough || failures.load(Ordering::Relaxed) >= most_failures {
                        return;
                    }
                    let passed = check(seed).unwrap_or_else(|report| {
                        failures.fetch_add(1, Ordering::Relaxed);
                        println!("{report}\n");
                        Duration::from_secs(600)
                    });
                    simulated.fetch_add(passed.as_millis() as u64, Ordering::Relaxed);
                }
            });
        }
    });
    let (runs, took) = (next.into_inner() - first, start.elapsed());
    let hours = simulated.into_inner() as f64 / 3_600_000.0;
    let rate = hours * 60.0 / took.as_secs_f64();
    println!("{runs} runs, {hours:.1} simulated hours in {took:.1?}: {rate:.1} hours a minute");
    assert_eq!(failures.into_inner(), 0, "runs failed: see above");
}
