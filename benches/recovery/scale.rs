//! Many names in one process, and the load of an idle process on etcd.

use crate::memory::resident;
use crate::pages;
use crate::table::{Stat, Table};
use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::observer::Observer;
use test_support::proxy::Proxy;
use test_support::server::{ServerProcess, ms};
use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::{Instance, Registrar};

const SEC: Duration = Duration::from_secs(1);
/// Six TTLs.
const IDLE: Duration = Duration::from_secs(30);

pub async fn all(table: &Table) {
    idle(table, 1).await;
    idle(table, 500).await;
    for count in [128, 129, 1000] {
        many(table, count).await;
    }
    ten_thousand(table).await;
}

fn names(count: usize) -> String {
    (0..count)
        .map(|n| format!("service-{n}"))
        .collect::<Vec<_>>()
        .join(",")
}

async fn idle(table: &Table, count: usize) {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to_port(etcd.client_port()).await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let server = ServerProcess::start(&proxy.endpoint(), &["--name", &names(count)]);
    observer.wait_for_count(count, SEC * 20).await;
    sleep(SEC).await;
    let renewals = etcd.messages("LeaseKeepAlive").await;
    let bytes = proxy.bytes_up() + proxy.bytes_down();
    sleep(IDLE).await;
    let renewals = renewals_a_ttl(&etcd, renewals).await;
    let bytes = (proxy.bytes_up() + proxy.bytes_down() - bytes) / 6;
    let connections = proxy.accepted();
    let seen = format!("{connections} connection, {renewals:.1} renewals and {bytes} B a TTL");
    let holds = connections == 1 && (2.5..=3.5).contains(&renewals);
    let what = format!("idle with {count} names: 1 connection, 3 renewals a TTL");
    table.holds(&what, holds, &seen);
    drop(server);
}

/// How many renewals etcd has received in a TTL since it had received so many.
async fn renewals_a_ttl(etcd: &Etcd, before: usize) -> f64 {
    (etcd.messages("LeaseKeepAlive").await - before) as f64 / 6.0
}

/// Ten thousand registrations of one registrar in this process, which has little else in it.
async fn ten_thousand(table: &Table) {
    const COUNT: usize = 10_000;
    let mut etcd = Etcd::start().await;
    let registrar = Registrar::builder(tonic_etcd::Etcd::new([etcd.endpoint()]));
    let registrar = registrar.build().unwrap();
    let mut client = etcd.client().await;
    let before = resident();
    let registrations: Vec<_> = (0..COUNT)
        .map(|n| {
            let instance = Instance::new(format!("service-{n}"));
            let registration = registrar.register(instance).unwrap();
            let address = ([127, 0, 0, 1], 9000).into();
            registration.announce(address).unwrap();
            registration
        })
        .collect();
    let start = Instant::now();
    count_reaches(&mut client, COUNT, start).await;
    let registered = ms(start, Instant::now());
    sleep(SEC * 2).await;
    let mib = (resident() - before) as f64 / 1024.0;
    let what = "10,000 registrations: memory";
    table.at_most(what, "MiB", 20.0, Stat::Each, &[mib]);
    table.each_ms("10,000 registrations: registered", 3000.0, &[registered]);
    let pages = pages::all(&registrar).await;
    let what = "10,000 registrations: a page of 1,000 of introspection";
    table.each_ms(what, 50.0, &pages);
    let renewed = etcd.messages("LeaseKeepAlive").await;
    sleep(IDLE).await;
    let renewed = renewals_a_ttl(&etcd, renewed).await;
    let what = "10,000 registrations: renewals a TTL";
    table.at_most(what, "", 3.5, Stat::Each, &[renewed]);
    let serving = etcd.lose_data(Duration::ZERO).await;
    let mut client = etcd.client().await;
    count_reaches(&mut client, COUNT, serving).await;
    let back = ms(serving, Instant::now());
    table.each_ms("10,000 registrations: back after a wipe", 3000.0, &[back]);
    registrar.shutdown();
    for registration in &registrations {
        registration.ended().await;
    }
}

pub async fn count_reaches(client: &mut etcd_client::Client, wanted: usize, start: Instant) {
    let mut there = 0;
    while there != wanted {
        there = count_keys(client).await.unwrap_or_default();
        assert!(start.elapsed() < SEC * 20, "{there} of {wanted}");
    }
}

/// How many keys there are. With a limit, because etcd may be overloaded.
pub async fn count_keys(client: &mut etcd_client::Client) -> Option<usize> {
    let options = etcd_client::GetOptions::new().with_prefix();
    let options = options.with_count_only();
    let found = client.get("/services/", Some(options));
    let found = timeout(SEC * 5, found).await.ok()?.ok()?;
    Some(found.count() as usize)
}

async fn many(table: &Table, count: usize) {
    let mut etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let flags = ["--name", &names(count), "--deregistration-delay", "0s"];
    let server = ServerProcess::start(&etcd.endpoint(), &flags);
    observer.wait_for_count(count, SEC * 20).await;
    let serving = etcd.lose_data(Duration::ZERO).await;
    let mut client = etcd.client().await;
    count_reaches(&mut client, count, serving).await;
    let back = ms(serving, Instant::now());
    server.signal("TERM");
    assert_eq!(server.exit(SEC * 5).await, 0);
    let keys = count_keys(&mut client).await.unwrap();
    let leases = client.leases().await.unwrap().leases().len();
    table.each_ms(
        &format!("{count} keys: all back after a wipe"),
        3000.0,
        &[back],
    );
    let seen = format!("{keys} keys, {leases} leases");
    let holds = keys == 0 && leases == 0;
    let what = format!("{count} keys: nothing is left behind by a stop");
    table.holds(&what, holds, &seen);
}
