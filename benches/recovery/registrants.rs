//! Thousands of registrants of one etcd, each with a lease and a connection of its own, beside as many bare clients.
//!
//! All are in this process. A change of the machine affects both kinds, so compare their ratio. `REGISTRANTS=1000` chooses
//! how many there are. `RUNS=5` repeats each measurement, alternately ours and bare.

use crate::bare;
use crate::cost::{Cost, Cpu, Mark};
use crate::scale::count_keys;
use crate::table::{Stat, Table, median};
use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::server::ms;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic_etcd::{Instance, Registrar, Registration};

const SEC: Duration = Duration::from_secs(1);
const TTL: Duration = Duration::from_secs(5);
/// For how long CPU time is counted, and the pause before.
const REST: Duration = Duration::from_secs(10);
/// A fleet that is not there by then counts as lost.
const LONGEST: Duration = Duration::from_secs(90);
/// The time between two counts of the keys. A count takes etcd less than a millisecond.
const POLL: Duration = Duration::from_millis(10);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Ours,
    /// Those that started together renew together for as long as they live: etcd gets a burst every third of a TTL, which
    /// costs it half as much as the same renewals one by one.
    Bare,
    /// They renew at different times, as those do that were not started together, or whose waits have jitter.
    Spread,
}

/// Keeps the registrants there.
enum Fleet {
    Ours(Vec<(Registrar, Registration)>),
    Bare(#[allow(dead_code)] JoinSet<()>),
}

/// What a fleet did.
#[derive(Default)]
struct Seen {
    /// From the common start until all keys were there, in milliseconds.
    start: f64,
    start_cost: Cost,
    rest: Cpu,
    /// From when the empty etcd was ready until all keys were there.
    wiped: f64,
    wiped_cost: Cost,
    rest_after_wipe: Cpu,
    /// The fewest keys after a restart with data.
    fewest: usize,
    restart_cost: Cost,
    rest_after_restart: Cpu,
}

pub async fn all(table: &Table) {
    let sizes = std::env::var("REGISTRANTS").unwrap_or_else(|_| "1000,5000".to_owned());
    let runs = std::env::var("RUNS").map_or(1, |runs| runs.parse().expect("a number of runs"));
    for size in sizes.split(',') {
        let size: usize = size.parse().expect("numbers of registrants");
        match descriptors() {
            // One for each connection, and some.
            Some(most) if most < size + 200 => {
                let seen = format!("{most} file descriptors: raise `ulimit -n`");
                table.holds(&format!("{size} registrants"), false, &seen);
            }
            _ => compare(table, size, runs).await,
        }
    }
}

async fn compare(table: &Table, size: usize, runs: usize) {
    let (mut ours, mut bare, mut spread) = (vec![], vec![], vec![]);
    for _ in 0..runs {
        spread.push(seen(Kind::Spread, size).await);
        bare.push(seen(Kind::Bare, size).await);
        ours.push(seen(Kind::Ours, size).await);
    }
    let of = |seen: &[Seen], value: fn(&Seen) -> f64| {
        median(&seen.iter().map(value).collect::<Vec<_>>())
    };
    let row = |what: &str, unit: &str, bound: f64, value: &dyn Fn(&Seen) -> f64| {
        let what = format!("{size} registrants: {what}");
        let values: Vec<_> = ours.iter().map(value).collect();
        table.at_most(&what, unit, bound, Stat::Median, &values);
    };
    let times = |what: &str, bound: f64, value: fn(&Seen) -> f64, beside: f64| {
        row(what, "times", bound, &|seen| value(seen) / beside);
    };
    let start = of(&bare, |seen| seen.start);
    let what = format!(
        "all registered from a common start ({:.0} ms), beside bare clients ({start:.0} ms)",
        of(&ours, |seen| seen.start)
    );
    times(&what, 1.5, |seen| seen.start, start);
    let requests = "requests for that, each";
    row(requests, "", 4.0, &|seen| seen.start_cost.requests);
    // The connections of this benchmark itself, and of other processes, are among them.
    let connections = "connections for that, each";
    row(connections, "", 1.1, &|seen| seen.start_cost.connections);
    let rest = of(&spread, |seen| seen.rest.etcd);
    let before = of(&ours, |seen| seen.rest.etcd);
    let what = format!(
        "CPU of etcd at rest ({before:.3} of a core), beside bare clients that renew at different times ({rest:.3}; in step {:.3})",
        of(&bare, |seen| seen.rest.etcd)
    );
    times(&what, 1.3, |seen| seen.rest.etcd, rest);
    let what = format!(
        "back after a wipe ({:.0} ms), beside the start of bare clients (their wipe: {:.0} ms)",
        of(&ours, |seen| seen.wiped),
        of(&bare, |seen| seen.wiped)
    );
    times(&what, 3.0, |seen| seen.wiped, start);
    row(requests, "", 5.0, &|seen| seen.wiped_cost.requests);
    let what = "CPU of etcd 10 s after that, beside before";
    times(what, 1.2, |seen| seen.rest_after_wipe.etcd, before);
    let lost = "keys lost in a restart with data";
    row(lost, "", 0.0, &|seen| (size - seen.fewest) as f64);
    row(requests, "", 4.0, &|seen| seen.restart_cost.requests);
    let what = "CPU of etcd after that, beside before";
    times(what, 1.2, |seen| seen.rest_after_restart.etcd, before);
    for (kind, all) in [("ours", &ours), ("bare", &bare), ("bare, spread", &spread)] {
        for seen in all {
            println!("  {size} {kind}: {}", seen.in_words());
        }
    }
}

impl Seen {
    fn in_words(&self) -> String {
        let part = |what: &str, took: String, cost: &Cost, rest: &Cpu| {
            format!(
                "{what} {took}: {:.2} requests ({:.2} failed) and {:.2} connections each, {}; \
                 at rest etcd {:.3}, the fleet {:.3} of a core",
                cost.requests, cost.failed, cost.connections, cost.methods, rest.etcd, rest.fleet
            )
        };
        let ms = |ms: f64| format!("{ms:.0} ms");
        let fewest = format!("{} keys at least", self.fewest);
        let wiped = (&self.wiped_cost, &self.rest_after_wipe);
        let restarted = (&self.restart_cost, &self.rest_after_restart);
        [
            part("start", ms(self.start), &self.start_cost, &self.rest),
            part("wipe", ms(self.wiped), wiped.0, wiped.1),
            part("restart", fewest, restarted.0, restarted.1),
        ]
        .join("\n    ")
    }
}

async fn seen(kind: Kind, size: usize) -> Seen {
    let mut seen = Seen::default();
    let mut etcd = Etcd::start_with(&[]).await;
    let mark = Mark::of(&etcd).await;
    let (start, fleet) = (Instant::now(), Fleet::start(kind, size, &etcd.endpoint()));
    (seen.start, seen.start_cost) = there(&etcd, size, start, &mark).await;
    sleep(SEC * 5).await;
    seen.rest = Cpu::over(REST, &etcd).await;
    if kind == Kind::Spread {
        return seen;
    }

    etcd.kill().await;
    etcd.wipe();
    sleep(SEC).await;
    let (serving, mark) = started_again(&mut etcd).await;
    (seen.wiped, seen.wiped_cost) = there(&etcd, size, serving, &mark).await;
    sleep(REST).await;
    seen.rest_after_wipe = Cpu::over(REST, &etcd).await;

    etcd.kill().await;
    sleep(SEC).await;
    let (_, mark) = started_again(&mut etcd).await;
    seen.fewest = fewest(&etcd).await;
    seen.restart_cost = Cost::since(&etcd, &mark, size).await;
    seen.rest_after_restart = Cpu::over(REST, &etcd).await;
    fleet.stop().await;
    seen
}

impl Fleet {
    fn start(kind: Kind, size: usize, endpoint: &str) -> Self {
        match kind {
            Kind::Bare | Kind::Spread => {
                let spread = kind == Kind::Spread;
                let one = |n| bare::hold(endpoint.to_owned(), n, TTL, spread);
                Self::Bare((0..size).map(one).collect())
            }
            Kind::Ours => Self::Ours((0..size).map(|n| registered(endpoint, n)).collect()),
        }
    }

    async fn stop(self) {
        if let Self::Ours(fleet) = self {
            for (registrar, _) in &fleet {
                registrar.shutdown();
            }
            for (_, registration) in &fleet {
                registration.ended().await;
            }
        }
    }
}

fn registered(endpoint: &str, n: usize) -> (Registrar, Registration) {
    let registrar = Registrar::builder(tonic_etcd::Etcd::new([endpoint])).ttl(TTL);
    let registrar = registrar.build().unwrap();
    // By name: with an IP address, this process would list its interfaces thousands of times, which a server does once.
    let instance = Instance::new(format!("service-{n}")).with_address("server.example:9000");
    let registration = registrar.register(instance).unwrap();
    let announced = registration.announce(([127, 0, 0, 1], 9000).into());
    announced.unwrap();
    (registrar, registration)
}

/// Starts it again, and returns when it was ready by its own log. A probe of ours would wait its turn among the requests
/// of the fleet. The counts of an etcd that has just started are zero.
async fn started_again(etcd: &mut Etcd) -> (Instant, Mark) {
    const READY: &str = "ready to serve client requests";
    let mark = Mark::of_a_new_etcd();
    let starts = etcd.log().matches(READY).count();
    etcd.start_again();
    while etcd.log().matches(READY).count() == starts {
        sleep(POLL).await;
    }
    (Instant::now(), mark)
}

/// How long after `start` all keys are there, and what they cost since `mark`.
async fn there(etcd: &Etcd, size: usize, start: Instant, mark: &Mark) -> (f64, Cost) {
    let mut client = etcd.client().await;
    while start.elapsed() < LONGEST && count_keys(&mut client).await != Some(size) {
        sleep(POLL).await;
    }
    let took = ms(start, Instant::now());
    // Streams that are opened after the keys are there belong to it.
    sleep(SEC).await;
    (took, Cost::since(etcd, mark, size).await)
}

/// The fewest keys in three TTLs.
async fn fewest(etcd: &Etcd) -> usize {
    let (start, mut fewest) = (Instant::now(), usize::MAX);
    let mut client = etcd.client().await;
    while start.elapsed() < TTL * 3 {
        fewest = fewest.min(count_keys(&mut client).await.unwrap_or(usize::MAX));
        sleep(POLL * 10).await;
    }
    fewest
}

/// How many file descriptors this process may have.
fn descriptors() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}
