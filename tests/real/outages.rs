//! A real etcd that is killed, hangs, loses its data, or cannot be reached.

use crate::setup::{Greeter, LONG, SEC, is_lost};
use crate::support::etcd::Etcd;
use crate::support::observer::Observer;
use crate::support::proxy::{Mode, Proxy};
use crate::support::server::{ServerProcess, health_client, health_request};
use crate::support::{eventually, registered_within, status_within};
use tokio::time::sleep;

#[tokio::test]
async fn etcd_killed_and_back_with_its_data_shows_watchers_nothing() {
    for away in [1, 8] {
        let mut etcd = Etcd::start().await;
        let observer = Observer::start(etcd.endpoint(), "/services/").await;
        let greeter = Greeter::start(&etcd, |builder| builder).await;
        let before = observer.wait_for_key(&greeter.key(), LONG).await;
        let mark = observer.mark();
        etcd.restart(SEC * away).await;
        sleep(SEC * 7).await;
        greeter.registration.registered().await.unwrap();
        assert_eq!(observer.events()[mark..], [], "away for {away} s");
        assert_eq!(observer.keys()[&greeter.key()], before);
    }
}

#[tokio::test]
async fn etcd_back_without_its_data_has_the_key_again_under_a_fresh_lease() {
    let mut etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let greeter = Greeter::start(&etcd, |builder| builder).await;
    let key = greeter.key();
    let before = observer.wait_for_key(&key, LONG).await;
    etcd.lose_data(SEC).await;
    let mut client = etcd.client().await;
    let serving = tokio::time::Instant::now();
    let lease = loop {
        let found = client.get(&*key, None).await.unwrap();
        if let Some(kv) = found.kvs().first() {
            break kv.lease();
        }
        let status = greeter.registration.status();
        assert!(serving.elapsed() < SEC * 5, "{status:?}");
    };
    assert_ne!(lease, before.lease);
    sleep(SEC * 7).await;
    assert_eq!(client.get(&*key, None).await.unwrap().count(), 1);
    assert_eq!(client.leases().await.unwrap().leases().len(), 1);
}

#[tokio::test]
async fn what_others_do_to_key_and_lease_is_undone() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let greeter = Greeter::start(&etcd, |builder| builder).await;
    let key = greeter.key();
    let mut client = etcd.client().await;
    let right = observer.wait_for_key(&key, LONG).await;
    for round in 0..6 {
        let before = observer.keys()[&key].clone();
        match round % 3 {
            0 => drop(client.lease_revoke(before.lease).await.unwrap()),
            1 => drop(client.delete(&*key, None).await.unwrap()),
            _ => drop(client.put(&*key, "theirs", None).await.unwrap()),
        }
        eventually("the key is right again", SEC * 5, || {
            match observer.keys().get(&key) {
                Some(now) if now.value == right.value && now.revision > before.revision => Ok(()),
                other => Err(format!("{other:?}")),
            }
        })
        .await;
        let same_lease = observer.keys()[&key].lease == before.lease;
        assert_eq!(same_lease, round % 3 != 0, "round {round}");
    }
}

#[tokio::test]
async fn an_etcd_that_was_stopped_for_longer_than_the_ttl_has_it_again() {
    let etcd = Etcd::start().await;
    let greeter = Greeter::start(&etcd, |builder| builder).await;
    let key = greeter.key();
    etcd.stop_signal();
    status_within(LONG, &greeter.registration, is_lost).await;
    sleep(SEC * 3).await;
    etcd.cont_signal();
    registered_within(SEC * 5, &greeter.registration).await;
    sleep(SEC * 7).await;
    let found = etcd.client().await.get(&*key, None).await.unwrap();
    assert_eq!(found.count(), 1);
}

#[tokio::test]
async fn an_etcd_that_was_stopped_for_less_than_the_ttl_never_lost_it() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let greeter = Greeter::start(&etcd, |builder| builder).await;
    observer.wait_for_key(&greeter.key(), LONG).await;
    let mark = observer.mark();
    for _ in 0..2 {
        etcd.stop_signal();
        sleep(SEC * 2).await;
        etcd.cont_signal();
        registered_within(SEC * 5, &greeter.registration).await;
        sleep(SEC).await;
    }
    assert_eq!(observer.events()[mark..], []);
}

#[tokio::test]
async fn a_black_hole_longer_than_the_ttl_is_survived() {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to_port(etcd.client_port()).await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let server = ServerProcess::start(&proxy.endpoint(), &[]);
    let key = server.registered().await;
    proxy.set(Mode::BlackHole);
    observer.wait_for_no_key(&key, LONG).await;
    sleep(SEC * 3).await;
    proxy.set(Mode::Forward);
    observer.wait_for_key(&key, SEC * 5).await;
    let mark = observer.mark();
    sleep(SEC * 7).await;
    assert_eq!(observer.events()[mark..], [], "and it stays");
}

#[tokio::test]
async fn a_server_that_is_there_before_etcd_serves_at_once_and_registers_later() {
    let mut etcd = Etcd::start().await;
    etcd.kill().await;
    etcd.wipe();
    let server = ServerProcess::start(&etcd.endpoint(), &[]);
    let mut health = health_client(&server.url().await).await.unwrap();
    health.check(health_request("")).await.unwrap();
    sleep(SEC * 2).await;
    let output = server.output();
    assert!(!output.contains("registered "), "{output}");
    etcd.start_again();
    etcd.wait_serving().await;
    server.registered().await;
}

/// etcd answers a takeover with the value that another process wrote.
#[tokio::test]
async fn a_takeover_is_logged_with_the_rival_on_both_sides() {
    let etcd = Etcd::start().await;
    let flags = ["--key", "{prefix}/{name}/{ip}"];
    let first = ServerProcess::start(&etcd.endpoint(), &flags);
    first.registered().await;
    let second = ServerProcess::start(&etcd.endpoint(), &flags);
    second.registered().await;
    let addresses = [first.listening().await, second.listening().await];
    let addresses = addresses.map(|addr| addr.to_string());
    let takes = "took the key over from another client";
    let takes_back = "another client took the key over, taking it back";
    for (server, message, rival) in [
        (&second, takes, &addresses[0]),
        (&first, takes_back, &addresses[1]),
    ] {
        eventually("it says from whom", LONG, || {
            let said = server.output();
            let is_it = |line: &str| line.contains(message) && line.contains(&**rival);
            said.lines().any(is_it).then_some(()).ok_or(said)
        })
        .await;
    }
}
