//! A server whose handlers block every thread of its runtime for longer than a TTL.

use crate::setup::{LONG, SEC, announced};
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::observer::{Kind, Observer};
use crate::support::{library_etcd, registered_within};
use std::time::Duration;
use tonic_etcd::Registrar;

/// Registers from a runtime with one worker, blocks that for 9 s, and gives what a watcher saw.
async fn seen_while_blocked(dedicated: bool) -> Vec<Kind> {
    let etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let endpoint = etcd.endpoint();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let registration = runtime.spawn(async move {
        let builder = Registrar::builder(library_etcd([endpoint]));
        let registration = announced(builder.dedicated_thread(dedicated));
        registered_within(LONG, &registration).await;
        registration
    });
    let registration = registration.await.unwrap();
    let key = registration.status().registered().unwrap().keys[0].to_string();
    observer.wait_for_key(&key, LONG).await;
    let mark = observer.mark();
    #[expect(
        clippy::disallowed_methods,
        reason = "to block the runtime is what this is about"
    )]
    let blocked = runtime.spawn(async { std::thread::sleep(Duration::from_secs(9)) });
    blocked.await.unwrap();
    observer.wait_for_key(&key, LONG).await;
    tokio::time::sleep(SEC).await;
    let seen = observer.kinds_since(mark);
    registration.deregister();
    observer.wait_for_no_key(&key, LONG).await;
    runtime.shutdown_background();
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dedicated_thread_keeps_the_lease_while_every_worker_is_blocked() {
    let (with, without) = tokio::join!(seen_while_blocked(true), seen_while_blocked(false));
    assert_eq!(with, []);
    // Without it, the lease is lost and regained.
    assert_eq!(without, [Kind::Delete, Kind::Put]);
}
