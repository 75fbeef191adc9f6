//! A pause and its end, compared with a client that deletes and puts the key.

use crate::table::{Stat, Table, median};
use etcd_client::Client;
use std::time::Duration;
use test_support::etcd::{Etcd, users};
use test_support::observer::{Kind, Observer};
use test_support::server::ms;
use tokio::time::{Instant, sleep};
use tonic_etcd::{Instance, Registrar, Registration};

const LIMIT: Duration = Duration::from_secs(10);
const ROUNDS: usize = 100;
const BARE: &str = "/services/bare/1";

pub async fn all(table: &Table) {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let mut client = users::connect(&etcd.endpoint()).await.unwrap();
    let registrar = Registrar::builder(tonic_etcd::Etcd::new([etcd.endpoint()]));
    let registrar = registrar.build().unwrap();
    let registration = registrar.register(Instance::new("greeter")).unwrap();
    // A pause waits for what this reports.
    let health = registration.health_service();
    registration
        .announce(([127, 0, 0, 1], 9000).into())
        .unwrap();
    registration.registered().await.unwrap();
    let value = r#"{"name":"greeter","id":"444af9e3985d8032","address":"127.0.0.1:9000"}"#;

    let (mut bare, mut ours) = (vec![], vec![]);
    for _ in 0..ROUNDS {
        bare.push(bare_round(&observer, &mut client, value).await);
        ours.push(our_round(&observer, &registration).await);
    }
    for (index, what) in [
        "pause: DELETE seen, as a multiple of a bare delete",
        "its end: PUT seen, as a multiple of a bare put",
    ]
    .into_iter()
    .enumerate()
    {
        let [bare, ours] = [&bare, &ours].map(|rounds| {
            let times: Vec<f64> = rounds.iter().map(|round| round[index]).collect();
            median(&times)
        });
        println!("{what}: {ours:.2} ms, {bare:.2} ms");
        table.at_most(what, "x", 1.5, Stat::Median, &[ours / bare]);
    }
    drop(health);
}

/// Milliseconds from `start` until the next event of that kind is seen.
async fn seen(observer: &Observer, mark: usize, kind: Kind, start: Instant) -> f64 {
    let at = observer
        .wait_for("the event", LIMIT, |events| {
            let next = events[mark..].iter().find(|event| event.kind == kind);
            next.map(|event| event.at)
        })
        .await;
    // Let background work finish before the next request.
    sleep(Duration::from_millis(5)).await;
    ms(start, at)
}

async fn bare_round(observer: &Observer, client: &mut Client, value: &str) -> [f64; 2] {
    let (mark, start) = (observer.mark(), Instant::now());
    client.put(BARE, value, None).await.unwrap();
    let put = seen(observer, mark, Kind::Put, start).await;
    let (mark, start) = (observer.mark(), Instant::now());
    client.delete(BARE, None).await.unwrap();
    [seen(observer, mark, Kind::Delete, start).await, put]
}

async fn our_round(observer: &Observer, registration: &Registration) -> [f64; 2] {
    let (mark, start) = (observer.mark(), Instant::now());
    let pause = registration.pause("measure").unwrap();
    let delete = seen(observer, mark, Kind::Delete, start).await;
    let (mark, start) = (observer.mark(), Instant::now());
    drop(pause);
    [delete, seen(observer, mark, Kind::Put, start).await]
}
