//! One registrar with more keys than fit a transaction, on a real etcd.

use crate::setup::{LONG, SEC};
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::eventually;
use crate::support::observer::Observer;
use std::collections::BTreeSet;
use tonic_etcd::{Closed, Instance, Registrar};

#[tokio::test]
async fn a_thousand_keys_register_survive_a_wipe_and_leave_nothing_behind() {
    let mut etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let registrar = Registrar::builder(crate::setup::etcd([etcd.endpoint()]))
        .build()
        .unwrap();
    let registrations: Vec<_> = (0..1000)
        .map(|n| {
            let registration = registrar
                .register(Instance::new(format!("service-{n}")))
                .unwrap();
            registration
                .announce("127.0.0.1:9000".parse().unwrap())
                .unwrap();
            registration
        })
        .collect();
    let all_there = || match observer.keys().len() {
        1000 => Ok(()),
        there => Err(format!("{there} of 1000")),
    };
    eventually("all keys are there", LONG, all_there).await;
    let leases: BTreeSet<_> = observer.keys().values().map(|held| held.lease).collect();
    assert_eq!(leases.len(), 1);

    etcd.kill().await;
    etcd.wipe();
    etcd.start_again();
    etcd.wait_serving().await;
    let fresh = || match observer.keys().values().next() {
        Some(held) if !leases.contains(&held.lease) => all_there(),
        other => Err(format!("{other:?}")),
    };
    eventually("all keys are back under a fresh lease", LONG, fresh).await;

    registrar.shutdown();
    for registration in &registrations {
        assert_eq!(registration.closed().await, Closed::Deregistered);
    }
    eventually("no key is left", SEC * 5, || match observer.keys().len() {
        0 => Ok(()),
        left => Err(format!("{left} left")),
    })
    .await;
    assert_eq!(
        etcd.client().await.leases().await.unwrap().leases().len(),
        0
    );
}
