//! A server whose handlers block every thread of its runtime for longer than a TTL.

use crate::setup::{LONG, SEC};
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::observer::{Kind, Observer};
use std::time::Duration;
use tonic_etcd::{Instance, Registrar};

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
        let registrar =
            Registrar::builder(crate::setup::etcd([endpoint])).dedicated_thread(dedicated);
        let registration = registrar
            .build()
            .unwrap()
            .register(Instance::new("greeter"))
            .unwrap();
        registration
            .announce("127.0.0.1:9000".parse().unwrap())
            .unwrap();
        registration.registered().await.unwrap();
        registration
    });
    let registration = tokio::time::timeout(LONG, registration)
        .await
        .unwrap()
        .unwrap();
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
    let seen = observer.events()[mark..]
        .iter()
        .map(|event| event.kind)
        .collect();
    registration.deregister();
    observer.wait_for_no_key(&key, LONG).await;
    runtime.shutdown_background();
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dedicated_thread_keeps_the_lease_while_every_worker_is_blocked() {
    let (with, without) = tokio::join!(seen_while_blocked(true), seen_while_blocked(false));
    assert_eq!(with, []);
    assert_eq!(
        without,
        [Kind::Delete, Kind::Put],
        "without it, the lease is lost and regained"
    );
}
