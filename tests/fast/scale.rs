//! Many keys in one process: one lease, one connection, as few transactions as etcd allows.

use crate::setup::{SEC, Setup, all_registered, announced_by};
use crate::support::fake::{Call, Rpc};
use tokio::time::sleep;
use tonic_etcd::{Ended, Instance, Registration};

fn register(setup: &Setup, count: usize) -> Vec<Registration> {
    let registrar = setup.builder().build().unwrap();
    let instances = (0..count).map(|n| Instance::new(format!("service-{n}")));
    instances.map(|it| announced_by(&registrar, it)).collect()
}

#[tokio::test(start_paused = true)]
async fn many_keys_register_survive_a_wipe_and_leave_nothing_behind() {
    for (count, transactions) in [(127, 1), (128, 1), (129, 2), (1000, 8)] {
        let setup = Setup::new();
        let registrations = register(&setup, count);
        all_registered(&registrations).await;
        assert_eq!(setup.fake.keys().len(), count);
        assert_eq!(setup.count(Rpc::Txn), transactions);
        assert_eq!(setup.counts([Rpc::LeaseGrant, Rpc::Connect]), [1, 1]);
        sleep(SEC).await;
        setup.fake.wipe();
        setup.keys_are(count, SEC * 3).await;
        setup.shutdown.cancel();
        for registration in &registrations {
            assert_eq!(registration.ended().await, Ended::Deregistered);
        }
        assert!(setup.fake.keys().is_empty() && setup.fake.leases().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn five_hundred_names_cost_no_more_than_one_when_idle() {
    let setup = Setup::new();
    let registrations = register(&setup, 500);
    all_registered(&registrations).await;
    sleep(SEC * 10).await;
    let before = setup.fake.history().len();
    sleep(SEC * 60).await;
    let history = setup.fake.history().split_off(before);
    let renews = |call: &&Call| call.rpc == Rpc::LeaseKeepAlive;
    let a_minute = history.iter().filter(renews).count();
    // Of the watched keys: 128 at once.
    let checks = history.len() - a_minute;
    assert!((1..=4).contains(&checks), "{checks}: {history:?}");
    assert!((34..=38).contains(&a_minute), "{a_minute}");
    assert_eq!(setup.fake.connections_open(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_of_many_keys_is_watched() {
    let setup = Setup::new();
    let registrations = register(&setup, 300);
    all_registered(&registrations).await;
    sleep(SEC).await;
    for key in setup.fake.keys().into_keys().collect::<Vec<_>>() {
        setup.fake.delete(&key);
    }
    setup.keys_are(300, SEC).await;
}
