//! A pause, seen by another client of a real etcd, and by callers.

use crate::setup::{Greeter, LONG, SEC};
use crate::support::etcd::Etcd;
use crate::support::observer::{Kind, Observer};
use crate::support::server::ServerProcess;
use crate::support::status_within;
use greeter::pb::HelloRequest;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::time::sleep;
use tonic_etcd::{Readiness, RegistrationStatus};

#[tokio::test]
async fn a_watcher_sees_one_delete_and_one_put_under_the_same_lease() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let server = Greeter::start(&etcd, |builder| builder).await;
    let key = server.key();
    let before = observer.wait_for_key(&key, LONG).await;

    let pause = server.registration.pause("warming cache").unwrap();
    observer.wait_for_no_key(&key, LONG).await;
    let is_paused =
        |status: &RegistrationStatus| matches!(status, RegistrationStatus::Paused { .. });
    status_within(LONG, &server.registration, is_paused).await;
    let mut client = server.client().await;
    let reply = client.say_hello(HelloRequest::default()).await;
    reply.expect("it serves on");
    // Two renewals at least.
    sleep(SEC * 4).await;

    drop(pause);
    let after = observer.wait_for_key(&key, LONG).await;
    assert_eq!((before.lease, before.value), (after.lease, after.value));
    sleep(SEC).await;
    assert_eq!(
        observer.kinds_since(0),
        [Kind::Put, Kind::Delete, Kind::Put]
    );
    server.shutdown.cancel();
    server.ended().await;
}

#[tokio::test]
async fn a_server_that_is_not_ready_serves_unseen_until_it_is() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let is_ready = Arc::new(AtomicBool::new(true));
    let asked = is_ready.clone();
    let readiness = Readiness::every(SEC / 10, move || {
        let is_ready = asked.load(Ordering::SeqCst);
        async move { is_ready.then_some(()).ok_or("cold cache") }
    });
    let server = Greeter::start(&etcd, |builder| builder.ready_when(readiness)).await;
    let key = server.key();
    observer.wait_for_key(&key, LONG).await;
    is_ready.store(false, Ordering::SeqCst);
    observer.wait_for_no_key(&key, LONG).await;
    let mut client = server.client().await;
    let reply = client.say_hello(HelloRequest::default()).await;
    reply.expect("it serves on");
    server.shutdown.cancel();
    server.ended().await;
    assert_eq!(observer.events().len(), 2);
}

#[tokio::test]
async fn the_server_example_steps_aside_on_sigusr1_and_returns_on_sigusr2() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let (server, key) = ServerProcess::start_seen(&etcd.endpoint(), &[], &observer).await;
    server.signal("USR1");
    observer.wait_for_no_key(&key, LONG).await;
    server.signal("USR2");
    observer.wait_for_key(&key, LONG).await;
    server.signal("USR1");
    observer.wait_for_no_key(&key, LONG).await;
    server.signal("TERM");
    assert_eq!(server.exit(LONG).await, 0, "{}", server.output());
}
