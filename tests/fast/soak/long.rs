//! Many hours on all cores, on demand: `make soak HOURS=1000 SEED=0`.

use super::plan::Plan;
use super::record::Record;
use super::{REGRESSIONS, WHOLE, check};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Everything that happened, in order, with times relative to the start.
pub fn fingerprint(record: &Record) -> Vec<String> {
    let since = |at: tokio::time::Instant| at.saturating_duration_since(record.start);
    let calls = record.calls.iter().map(|c| {
        let applied = c.applied;
        format!(
            "{:?} {:?} {} {} {:?} {applied}",
            since(c.at),
            c.rpc,
            c.connection,
            c.lease,
            c.puts
        )
    });
    let changes = record
        .changes
        .iter()
        .map(|c| format!("{:?} {:?} {}", since(c.at), c.put, c.key));
    calls.chain(changes).collect()
}

fn number(name: &str, default: u64) -> u64 {
    let set = std::env::var(name).ok().filter(|value| !value.is_empty());
    set.map_or(default, |value| {
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value}: a number"))
    })
}

#[test]
#[allow(clippy::disallowed_methods, reason = "how fast we are in real time")]
#[ignore = "takes as long as configured: make soak"]
fn for_hours() {
    let wanted = Duration::from_secs(3600 * number("HOURS", 100));
    let first = number("SEED", fastrand::u64(..1 << 40));
    let most_failures = number("FAILURES", 5);
    for (seed, seconds, what) in REGRESSIONS {
        let again = |report| panic!("again: {what}\n{report}");
        check(Plan::alone(seed), Duration::from_secs(seconds)).unwrap_or_else(again);
    }
    let (next, simulated, failures) = (AtomicU64::new(first), AtomicU64::new(0), AtomicU64::new(0));
    let start = Instant::now();
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    println!("from seed {first} on {threads} threads");
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    let done = Duration::from_millis(simulated.load(Ordering::Relaxed));
                    let enough = done >= wanted && seed > first;
                    if enough || failures.load(Ordering::Relaxed) >= most_failures {
                        return;
                    }
                    let passed = match check(Plan::new(seed), WHOLE) {
                        Ok(passed) => passed,
                        Err(report) => {
                            failures.fetch_add(1, Ordering::Relaxed);
                            println!("{report}\n");
                            Duration::from_secs(600)
                        }
                    };
                    let passed = u64::try_from(passed.as_millis()).unwrap_or(u64::MAX);
                    simulated.fetch_add(passed, Ordering::Relaxed);
                }
            });
        }
    });
    let (runs, took) = (next.into_inner() - first, start.elapsed());
    let hours = simulated.into_inner() as f64 / 3_600_000.0;
    println!(
        "{runs} runs, {hours:.1} simulated hours in {took:.1?}: {:.1} hours a minute",
        hours * 60.0 / took.as_secs_f64()
    );
    assert_eq!(failures.into_inner(), 0, "runs failed: see above");
}
