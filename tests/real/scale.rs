//! One registrar with more keys than fit a transaction, on a real etcd.

use crate::setup::{LONG, SEC};
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::eventually;
use crate::support::observer::Observer;
use std::collections::BTreeSet;
use tonic_etcd::{Closed, Etcd, Instance, OnConflict, Registrar, Status};

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

/// Transactions that were too long counted as denied, and each reconnect wrote all keys again.
#[tokio::test]
async fn forty_keys_on_an_etcd_with_16_operations_outlive_its_restart() {
    for policy in [OnConflict::TakeOver, OnConflict::Yield] {
        let mut etcd = EtcdProcess::start_with(&["--max-txn-ops=16"]).await;
        let observer = Observer::start(etcd.endpoint(), "/services/").await;
        let registrar = Registrar::builder(Etcd::new([etcd.endpoint()]))
            .on_conflict(policy)
            .build()
            .unwrap();
        let registrations: Vec<_> = (0..40)
            .map(|n| {
                let instance = Instance::new(format!("service-{n}"));
                let registration = registrar.register(instance).unwrap();
                registration
                    .announce("127.0.0.1:9000".parse().unwrap())
                    .unwrap();
                registration
            })
            .collect();
        eventually("all keys are there", LONG, || match observer.keys().len() {
            40 => Ok(()),
            there => Err(format!("{there} of 40")),
        })
        .await;
        let revisions: BTreeSet<_> = observer.events().iter().map(|e| e.revision).collect();
        assert!(revisions.len() <= 6, "{} transactions", revisions.len());

        for registration in &registrations {
            registration.registered().await.unwrap();
        }
        let mark = observer.mark();
        etcd.kill().await;
        let suspect = |status: &Status| matches!(status, Status::Suspect { .. });
        let mut watch = registrations[0].watch();
        let noticed = tokio::time::timeout(LONG, watch.wait_for(suspect)).await;
        noticed.unwrap().unwrap();
        etcd.start_again();
        etcd.wait_serving().await;
        for registration in &registrations {
            let held = |status: &Status| matches!(status, Status::Registered(_));
            let mut watch = registration.watch();
            let held = tokio::time::timeout(LONG, watch.wait_for(held)).await;
            held.unwrap().unwrap();
        }
        // A key of another client says that the observer has seen all that came before it.
        let mut client = etcd.client().await;
        client.put("/services/end", "", None).await.unwrap();
        observer.wait_for_key("/services/end", LONG).await;
        let puts = observer.puts_since(mark);
        assert_eq!(puts.len(), 1, "{policy:?}: {puts:?}");
        assert_eq!(observer.deletes_since(mark).len(), 0, "{policy:?}");
        registrar.shutdown();
        for registration in &registrations {
            assert_eq!(registration.closed().await, Closed::Deregistered);
        }
    }
}
