//! Many registrars on one etcd: a fleet after a wipe, and a thousand stops at random times.

use crate::table::Table;
use std::collections::BTreeMap;
use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::observer::{Event, Kind, Observer};
use test_support::proxy::{Mode, Proxy};
use test_support::server::{ServerProcess, ms};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tonic_etcd::{Ended, Instance, Registrar};

const SEC: Duration = Duration::from_secs(1);
const FLEET: usize = 200;
/// Stops of one round, at one etcd.
const STOPS: usize = 50;
const ROUNDS: usize = 5;
const TTL: Duration = Duration::from_secs(2);

/// What etcd is doing while registrars stop.
#[derive(Clone, Copy, Debug)]
enum Fault {
    None,
    Killed,
    Stopped,
    BlackHole,
}

pub async fn all(table: &Table) {
    fleet(table).await;
    for fault in [Fault::None, Fault::Killed, Fault::Stopped, Fault::BlackHole] {
        stops(table, fault).await;
    }
}

/// Two hundred processes, and one etcd that loses its data.
async fn fleet(table: &Table) {
    let mut etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    // Each has its own name: on one machine only the pid would differ otherwise.
    let servers: Vec<_> = (0..FLEET)
        .map(|n| ServerProcess::start(&etcd.endpoint(), &["--name", &format!("service-{n}")]))
        .collect();
    observer.wait_for_count(FLEET, SEC * 120).await;
    let mark = observer.mark();
    let serving = etcd.lose_data(SEC).await;
    let back = first_puts(&observer, mark, FLEET, serving).await;
    table.each_ms("200 processes: each back after a wipe", 3000.0, &back);
    let at = |share: f64| back[((back.len() - 1) as f64 * share) as usize];
    let seen = format!(
        "first {:.0} ms, half {:.0} ms, 90 % {:.0} ms, last {:.0} ms",
        at(0.0),
        at(0.5),
        at(0.9),
        at(1.0)
    );
    table.holds("200 processes: how their writes are spread", true, &seen);
    sleep(SEC * 2).await;
    let grants = etcd.calls("LeaseGrant").await;
    let seen = format!("{grants} grants for {FLEET} processes");
    let holds = (FLEET..=FLEET + FLEET / 10).contains(&grants);
    table.holds("200 processes: about one grant each", holds, &seen);
    drop(servers);
}

/// When so many keys were each put for the first time since `mark`, in milliseconds after `start` and in their order.
pub async fn first_puts(observer: &Observer, mark: usize, keys: usize, start: Instant) -> Vec<f64> {
    let all_there = |events: &[Event]| {
        let mut first = BTreeMap::new();
        for put in events.iter().skip(mark).filter(|e| e.kind == Kind::Put) {
            first.entry(put.key.clone()).or_insert(ms(start, put.at));
        }
        (first.len() >= keys).then(|| Vec::from_iter(first.into_values()))
    };
    let what = format!("{keys} keys are put");
    let mut times = observer.wait_for(&what, SEC * 120, all_there).await;
    times.sort_by(f64::total_cmp);
    times
}

/// Registrars that are stopped at random moments, while etcd may have a fault that begins at
/// another random moment.
async fn stops(table: &Table, fault: Fault) {
    let (mut took, mut left_to_expire) = (vec![], 0);
    let (mut orphans, mut late_writes) = (0, 0);
    for _ in 0..ROUNDS {
        let mut etcd = Etcd::start().await;
        let proxy = Proxy::to_port(etcd.client_port()).await;
        let observer = Observer::start(etcd.endpoint(), "/services/").await;
        let mut registrars = JoinSet::new();
        for n in 0..STOPS {
            registrars.spawn(one(proxy.endpoint(), n));
        }
        sleep(Duration::from_millis(fastrand::u64(0..400))).await;
        match fault {
            Fault::None => {}
            Fault::Killed => etcd.kill().await,
            Fault::Stopped => etcd.stop_signal(),
            Fault::BlackHole => proxy.set(Mode::BlackHole),
        }
        for (_, ended, time) in registrars.join_all().await {
            left_to_expire += usize::from(ended != Ended::Deregistered);
            took.push(time);
        }
        match fault {
            Fault::None => {}
            Fault::Killed => etcd.start_again(),
            Fault::Stopped => etcd.cont_signal(),
            Fault::BlackHole => proxy.set(Mode::Forward),
        }
        etcd.wait_serving().await;
        // Requests from before a stop may be applied when etcd continues; there are none after that.
        sleep(SEC).await;
        let mark = observer.mark();
        // Leases that were not revoked expire: etcd gives each lease a full TTL when it starts.
        sleep(TTL * 2 + SEC * 2).await;
        late_writes += observer.puts_since(mark).len();
        orphans += observer.keys().len();
        let mut client = etcd.client().await;
        orphans += client.leases().await.unwrap().leases().len();
    }
    let what = format!("{} stops, etcd: {fault:?}", took.len());
    table.each_ms(&format!("{what}: took"), 1100.0, &took);
    let seen = format!(
        "{orphans} keys or leases, {late_writes} later writes, {left_to_expire} left to expire"
    );
    let holds = orphans == 0 && late_writes == 0;
    table.holds(
        &format!("{what}: nothing is left a TTL later, and nothing comes back"),
        holds,
        &seen,
    );
}

/// Registers, stays for a random time, stops. Returns how it ended, and how long that took in milliseconds.
async fn one(endpoint: String, n: usize) -> (usize, Ended, f64) {
    sleep(Duration::from_millis(fastrand::u64(0..300))).await;
    let registrar = Registrar::builder(tonic_etcd::Etcd::new([endpoint])).ttl(TTL);
    let registrar = registrar.build().unwrap();
    let instance = Instance::new(format!("service-{n}")).with_address("127.0.0.1:9000");
    let registration = registrar.register(instance).unwrap();
    registration
        .announce("127.0.0.1:9000".parse().unwrap())
        .unwrap();
    // Some stop at once, in the middle of registering; some later.
    let life = if fastrand::bool() { 20 } else { 1500 };
    sleep(Duration::from_millis(fastrand::u64(0..life))).await;
    let start = Instant::now();
    match fastrand::u8(0..3) {
        0 => registrar.shutdown(),
        1 => registration.deregister(),
        _ => registration.deregister_now(),
    }
    let ended = registration.ended().await;
    (n, ended, ms(start, Instant::now()))
}
