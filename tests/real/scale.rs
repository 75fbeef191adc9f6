//! One registrar with more keys than fit a transaction, on a real etcd.

use crate::setup::{LONG, SEC, announced_by, is_registered};
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::observer::Observer;
use crate::support::{eventually, library_etcd, status_within};
use std::collections::BTreeSet;
use std::time::Duration;
use tonic_etcd::{Ended, Etcd, OnConflict, Registrar, RegistrationStatus};

#[tokio::test]
async fn a_thousand_keys_register_survive_a_wipe_and_leave_nothing_behind() {
    let mut etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let registrar = Registrar::builder(library_etcd([etcd.endpoint()]));
    let registrar = registrar.build().unwrap();
    let names = (0..1000).map(|n| format!("service-{n}"));
    let registrations: Vec<_> = names.map(|name| announced_by(&registrar, &name)).collect();
    observer.wait_for_count(1000, LONG).await;
    let leases: BTreeSet<_> = observer.keys().values().map(|held| held.lease).collect();
    assert_eq!(leases.len(), 1);

    etcd.lose_data(Duration::ZERO).await;
    let fresh = || match observer.keys().values().next() {
        Some(held) if !leases.contains(&held.lease) => Ok(()),
        other => Err(format!("{other:?}")),
    };
    eventually("a key is back under a fresh lease", LONG, fresh).await;
    observer.wait_for_count(1000, LONG).await;

    registrar.shutdown();
    for registration in &registrations {
        assert_eq!(registration.ended().await, Ended::Deregistered);
    }
    observer.wait_for_count(0, SEC * 5).await;
    let leases = etcd.client().await.leases().await.unwrap();
    assert_eq!(leases.leases().len(), 0);
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
        let names = (0..40).map(|n| format!("service-{n}"));
        let registrations: Vec<_> = names.map(|name| announced_by(&registrar, &name)).collect();
        observer.wait_for_count(40, LONG).await;
        let revisions: BTreeSet<_> = observer.events().iter().map(|e| e.revision).collect();
        assert!(revisions.len() <= 6, "{} transactions", revisions.len());

        for registration in &registrations {
            registration.registered().await.unwrap();
        }
        let mark = observer.mark();
        etcd.kill().await;
        let suspect =
            |status: &RegistrationStatus| matches!(status, RegistrationStatus::Suspect { .. });
        status_within(LONG, &registrations[0], suspect).await;
        etcd.start_again();
        etcd.wait_serving().await;
        for registration in &registrations {
            status_within(LONG, registration, is_registered).await;
        }
        // A key of another client shows that the observer has seen all earlier events.
        let mut client = etcd.client().await;
        client.put("/services/end", "", None).await.unwrap();
        observer.wait_for_key("/services/end", LONG).await;
        let puts = observer.puts_since(mark);
        assert_eq!(puts.len(), 1, "{policy:?}: {puts:?}");
        assert_eq!(observer.deletes_since(mark).len(), 0, "{policy:?}");
        registrar.shutdown();
        for registration in &registrations {
            assert_eq!(registration.ended().await, Ended::Deregistered);
        }
    }
}
