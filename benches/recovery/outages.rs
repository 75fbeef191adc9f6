//! Times of recovery after etcd, the network or the server itself has stopped.

use crate::scale::count_reaches;
use crate::table::Table;
use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::observer::{Event, Kind, Observer};
use test_support::proxy::{Mode, Proxy};
use test_support::server::{ServerProcess, health_client, health_request, ms};
use tokio::time::{Instant, sleep};
use tonic_etcd::HEALTH_NAME;
use tonic_health::pb::health_check_response::ServingStatus;

const SEC: Duration = Duration::from_secs(1);
/// How long a registration has to stay registered after the recovery.
const STAYS: Duration = Duration::from_secs(12);

/// A server, its key and a watcher.
struct Setup {
    etcd: Etcd,
    server: ServerProcess,
    observer: Observer,
    key: String,
}

impl Setup {
    async fn new() -> Self {
        let etcd = Etcd::start().await;
        let endpoint = etcd.endpoint();
        Self::through(etcd, &endpoint).await
    }

    async fn through(etcd: Etcd, endpoint: &str) -> Self {
        let observer = Observer::start(etcd.endpoint(), "/services/").await;
        let (server, key) = ServerProcess::start_seen(endpoint, &[], &observer).await;
        Self {
            etcd,
            server,
            observer,
            key,
        }
    }

    /// When our key was put again after `mark`.
    async fn put_at(&self, mark: usize) -> Instant {
        let is_ours = |e: &&Event| e.kind == Kind::Put && e.value.starts_with(b"{");
        let put = |events: &[Event]| {
            let put = events.iter().skip(mark).find(is_ours);
            put.map(|put| put.at)
        };
        self.observer
            .wait_for("the key is put again", SEC * 60, put)
            .await
    }

    /// Whether each read finds the key, for a while.
    async fn stays(&self) -> Result<(), String> {
        let mut client = self.etcd.client().await;
        let start = Instant::now();
        while start.elapsed() < STAYS {
            let found = client
                .get(&*self.key, None)
                .await
                .map_err(|e| e.to_string())?;
            if found.kvs().len() != 1 {
                return Err(format!("missing {:?} later", start.elapsed()));
            }
            sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

/// Faults that need no waiting, one after the other on one server.
pub async fn quick(table: &Table) {
    let setup = Setup::new().await;
    let mut client = setup.etcd.client().await;
    let mut times: [Vec<f64>; 3] = Default::default();
    for round in 0..60 {
        let mark = setup.observer.mark();
        let lease = setup.observer.keys()[&setup.key].lease;
        let start = Instant::now();
        match round % 3 {
            0 => drop(client.lease_revoke(lease).await.unwrap()),
            1 => drop(client.delete(&*setup.key, None).await.unwrap()),
            _ => drop(client.put(&*setup.key, "theirs", None).await.unwrap()),
        }
        times[round % 3].push(ms(start, setup.put_at(mark).await));
        // Not too fast: repeated overwrites are slowed down on purpose.
        sleep(Duration::from_millis(1200)).await;
    }
    for (what, times) in ["lease revoked", "key deleted", "key overwritten"]
        .iter()
        .zip(&times)
    {
        let what = format!("{what} by another client: registered again");
        table.median_ms(&what, 50.0, times);
    }
}

pub async fn long(table: &Table) {
    tokio::join!(
        kept(table, 1),
        kept(table, 12),
        kept(table, 61),
        wiped(table, 1),
        wiped(table, 12),
        etcd_stopped(table),
        black_hole(table),
        server_frozen(table),
        server_first(table),
    );
}

async fn kept(table: &Table, away: u32) {
    let mut setup = Setup::new().await;
    let (mark, before) = (
        setup.observer.mark(),
        setup.observer.keys()[&setup.key].clone(),
    );
    setup.etcd.restart(SEC * away).await;
    let seen = async {
        setup.stays().await?;
        match setup.observer.events().len() - mark {
            0 if setup.observer.keys()[&setup.key] == before => {
                Ok("0 PUT, 0 DELETE, the same lease".to_owned())
            }
            _ => Err(format!("{:?}", &setup.observer.events()[mark..])),
        }
    };
    let what = format!("etcd killed, back with its data after {away} s, and 12 s on");
    table.result(&what, seen.await);
}

async fn wiped(table: &Table, away: u32) {
    let mut times = vec![];
    let mut setup = Setup::new().await;
    let mut stays = Ok(());
    for round in 0..5 {
        let mark = setup.observer.mark();
        let serving = setup.etcd.lose_data(SEC * away).await;
        count_reaches(&mut setup.etcd.client().await, 1, serving).await;
        times.push(ms(serving, Instant::now()));
        if round == 4 {
            stays = setup.stays().await;
        }
        setup.put_at(mark).await;
    }
    let what = format!("etcd killed, back empty after {away} s: key back");
    table.median_ms(&what, 300.0, &times);
    let what = format!("{what}, and stays");
    table.result(&what, stays.map(|()| "12 s".to_owned()));
}

async fn etcd_stopped(table: &Table) {
    let setup = Setup::new().await;
    let mut times = vec![];
    for _ in 0..3 {
        setup.etcd.stop_signal();
        sleep(SEC * 15).await;
        let start = Instant::now();
        setup.etcd.cont_signal();
        times.push(back_for_good(&setup, start).await);
    }
    let what = "etcd stopped (SIGSTOP) for 15 s: registered again, for the next 12 s";
    table.each_ms(what, 1000.0, &times);
}

async fn black_hole(table: &Table) {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to_port(etcd.client_port()).await;
    let setup = Setup::through(etcd, &proxy.endpoint()).await;
    let mut times = vec![];
    for _ in 0..3 {
        proxy.set(Mode::BlackHole);
        sleep(SEC * 15).await;
        let start = Instant::now();
        proxy.set(Mode::Forward);
        times.push(back_for_good(&setup, start).await);
    }
    let what = "black hole for 15 s: registered again, for the next 12 s";
    table.each_ms(what, 1000.0, &times);
}

/// Milliseconds until the key is back for good.
///
/// An etcd that was stopped still has the key at first, and expires the lease a moment later.
async fn back_for_good(setup: &Setup, start: Instant) -> f64 {
    let mut client = setup.etcd.client().await;
    let mut missing = start;
    while start.elapsed() < STAYS {
        let found = client.get(&*setup.key, None).await;
        if !found.is_ok_and(|found| found.count() == 1) {
            missing = Instant::now();
        }
        sleep(Duration::from_millis(1)).await;
    }
    ms(start, missing)
}

async fn server_frozen(table: &Table) {
    let setup = Setup::new().await;
    let url = setup.server.url().await;
    let mut times = vec![];
    let mut flapped = vec![];
    for _ in 0..3 {
        let mut health = health_client(&url).await.unwrap();
        let watch = health.watch(health_request(HEALTH_NAME)).await;
        let mut watch = watch.unwrap().into_inner();
        let mark = setup.observer.mark();
        setup.server.signal("STOP");
        sleep(SEC * 9).await;
        let start = Instant::now();
        setup.server.signal("CONT");
        times.push(ms(start, setup.put_at(mark).await));
        let mut statuses = vec![];
        while statuses.len() < 3 {
            match tokio::time::timeout(SEC * 2, watch.message()).await {
                Ok(Ok(Some(reply))) => statuses.push(reply.status),
                _ => break,
            }
        }
        flapped.push(statuses);
    }
    table.each_ms("server frozen for 9 s: registered again", 300.0, &times);
    let honest = [
        ServingStatus::Serving,
        ServingStatus::NotServing,
        ServingStatus::Serving,
    ];
    let honest = honest.map(|status| status as i32);
    let seen = format!("{flapped:?}");
    let holds = flapped.iter().all(|statuses| *statuses == honest);
    let what = "server frozen for 9 s: health says SERVING, NOT_SERVING, SERVING (1, 2, 1)";
    table.holds(what, holds, &seen);
}

async fn server_first(table: &Table) {
    let mut times = vec![];
    let mut served = Ok("a health check was answered while etcd was down".to_owned());
    for _ in 0..5 {
        let mut etcd = Etcd::start().await;
        etcd.kill().await;
        etcd.wipe();
        let server = ServerProcess::start(&etcd.endpoint(), &[]);
        let url = server.url().await;
        sleep(SEC * 3).await;
        let health = health_client(&url).await.map_err(|e| e.to_string());
        let checked = match health {
            Ok(mut health) => {
                let checked = health.check(health_request("")).await;
                checked.map(drop).map_err(|status| status.to_string())
            }
            Err(error) => Err(error),
        };
        served = checked.and(served);
        etcd.start_again();
        let serving = etcd.wait_serving().await;
        count_reaches(&mut etcd.client().await, 1, serving).await;
        times.push(ms(serving, Instant::now()));
    }
    table.each_ms("server started 3 s before etcd: registered", 300.0, &times);
    table.result("server started 3 s before etcd: serves at once", served);
}
