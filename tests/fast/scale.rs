//! Many keys in one process: one lease, one connection, as few transactions as etcd allows.

use crate::setup::{SEC, Setup, announce};
use crate::support::eventually;
use crate::support::fake::Rpc;
use tokio::time::sleep;
use tonic_etcd::{Closed, Instance, Registration};

fn register(setup: &Setup, count: usize) -> Vec<Registration> {
    let registrar = setup.builder().build().unwrap();
    let register = |n| {
        let registration = registrar
            .register(Instance::new(format!("service-{n}")))
            .unwrap();
        announce(&registration);
        registration
    };
    (0..count).map(register).collect()
}

#[tokio::test(start_paused = true)]
async fn many_keys_register_survive_a_wipe_and_leave_nothing_behind() {
    for (count, transactions) in [(127, 1), (128, 1), (129, 2), (1000, 8)] {
        let setup = Setup::new();
        let registrations = register(&setup, count);
        for registration in &registrations {
            registration.registered().await.unwrap();
        }
        assert_eq!(setup.fake.keys().len(), count);
        assert_eq!(setup.count(Rpc::Txn), transactions);
        assert_eq!(
            (setup.count(Rpc::LeaseGrant), setup.count(Rpc::Connect)),
            (1, 1)
        );
        sleep(SEC).await;
        setup.fake.wipe();
        eventually("all keys are back", SEC * 3, || {
            match setup.fake.keys().len() {
                back if back == count => Ok(()),
                back => Err(format!("{back} of {count}")),
            }
        })
        .await;
        setup.shutdown.cancel();
        for registration in &registrations {
            assert_eq!(registration.closed().await, Closed::Deregistered);
        }
        assert!(setup.fake.keys().is_empty() && setup.fake.leases().is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn five_hundred_names_cost_no_more_than_one_when_idle() {
    let setup = Setup::new();
    let registrations = register(&setup, 500);
    for registration in &registrations {
        registration.registered().await.unwrap();
    }
    sleep(SEC * 10).await;
    let before = setup.fake.history().len();
    sleep(SEC * 60).await;
    let history = setup.fake.history().split_off(before);
    assert!(
        history.iter().all(|call| call.rpc == Rpc::LeaseKeepAlive),
        "{history:?}"
    );
    assert!(
        (34..=38).contains(&history.len()),
        "{} in a minute",
        history.len()
    );
    assert_eq!(setup.fake.connections_open(), 1);
}

#[tokio::test(start_paused = true)]
async fn each_of_many_keys_is_watched() {
    let setup = Setup::new();
    let registrations = register(&setup, 300);
    for registration in &registrations {
        registration.registered().await.unwrap();
    }
    sleep(SEC).await;
    for key in setup.fake.keys().into_keys().collect::<Vec<_>>() {
        setup.fake.delete(&key);
    }
    eventually("all keys are back", SEC, || match setup.fake.keys().len() {
        300 => Ok(()),
        back => Err(format!("{back} of 300")),
    })
    .await;
}
