//! The limits of keys and values; an etcd that accepts less in one request than by default, and a role that may not read.

use crate::log::Log;
use crate::setup::{SEC, Setup, announced, announced_by, registering_reason};
use crate::support::fake::{Reply, Rpc};
use crate::support::registered_within;
use tokio::time::sleep;
use tonic_etcd::format::{Format as _, MAX_KEY, MAX_VALUE, Plain};
use tonic_etcd::{Ended, Instance, OnConflict, RegisterError, Registrar, Registration};

/// `count` registrations of one registrar in etcd, each with a value of `size` bytes.
async fn registered(registrar: &Registrar, count: usize, size: usize) -> Vec<Registration> {
    let register = |n| {
        let instance = Instance::new(format!("service-{n:02}")).with_value("x".repeat(size));
        announced_by(registrar, instance)
    };
    let registrations: Vec<_> = (0..count).map(register).collect();
    for registration in &registrations {
        registered_within(SEC, registration).await;
    }
    registrations
}

/// Readers skipped values above 64 KiB, and the writer accepted 1.5 MiB: registered, and not found.
#[cfg(feature = "discovery")]
#[tokio::test(start_paused = true)]
async fn a_value_at_the_limit_is_found_and_a_larger_one_is_refused() {
    for policy in [OnConflict::TakeOver, OnConflict::Yield] {
        let setup = Setup::new();
        let registrar = setup.builder().on_conflict(policy).build().unwrap();
        let address = "10.0.0.1:9000";
        let padded = |len| {
            let instance = Instance::new("greeter").with_id("a").with_address(address);
            instance.with_metadata("pad", "x".repeat(len))
        };
        let rest = Plain::new().encode(&padded(0), &address.parse().unwrap());
        let fits = MAX_VALUE - rest.len();
        let refused = |result: Result<(), RegisterError>| {
            let error = result.unwrap_err();
            let RegisterError::ValueTooLarge { len, max, .. } = error else {
                panic!("{error:?}");
            };
            assert_eq!((len, max), (MAX_VALUE + 1, MAX_VALUE));
        };
        refused(registrar.register(padded(fits + 1)).map(drop));
        sleep(SEC).await;
        assert_eq!(setup.fake.history().len(), 0, "{policy:?}");

        let registration = announced_by(&registrar, padded(fits));
        registered_within(SEC, &registration).await;
        let discovery = crate::discovery::discovery(&setup.fake);
        let found = discovery.ready().await;
        assert_eq!((found.len(), found.skipped()), (1, 0), "{policy:?}");
        refused(registration.update(|_| padded(fits + 1)));
        sleep(SEC).await;
        assert!(registration.status().is_registered());
    }
}

/// With the longest keys and values a transaction of etcd's default size still has several operations.
#[tokio::test(start_paused = true)]
async fn the_longest_keys_and_values_are_written_whatever_the_policy() {
    for policy in [OnConflict::TakeOver, OnConflict::Yield] {
        let setup = Setup::new();
        let prefix = "/x".repeat(MAX_KEY / 2 - 200);
        let builder = setup.builder().prefix(prefix).on_conflict(policy);
        let registrar = builder.build().unwrap();
        let registrations = registered(&registrar, 40, MAX_VALUE).await;
        assert_eq!(setup.fake.keys().len(), registrations.len(), "{policy:?}");
        let sent = setup.count(Rpc::Txn);
        assert!(sent <= 8, "{policy:?}: {sent} transactions");
    }
}

/// A transaction that was too long counted as denied: keys were written one at a time, and a read that
/// was too long made each reconnect write all keys again.
#[tokio::test(start_paused = true)]
async fn a_small_max_txn_ops_splits_transactions_and_writes_nothing_twice() {
    for (policy, txns) in [(OnConflict::TakeOver, 6), (OnConflict::Yield, 11)] {
        let setup = Setup::new();
        setup.fake.configure(|it| it.max_txn_ops = 16);
        let registrar = setup.builder().on_conflict(policy).build().unwrap();
        let log = Log::start();
        let registrations = registered(&registrar, 40, 1).await;
        let sent = setup.count(Rpc::Txn);
        assert!(sent <= txns, "{policy:?}: {sent} transactions for 40 keys");
        let revision = setup.fake.revision();
        for _ in 0..2 {
            setup.fake.restart();
            sleep(SEC * 5).await;
        }
        let now = setup.fake.revision();
        assert_eq!(now, revision, "{policy:?}: in two reconnects");
        assert_eq!(log.text().matches("rejected a write").count(), 0);

        // The limit is kept for the next lease, too.
        let before = setup.count(Rpc::Txn);
        setup.fake.wipe();
        setup.keys_are(40, SEC * 3).await;
        let sent = setup.count(Rpc::Txn) - before;
        assert!(sent <= txns - 2, "{policy:?}: {sent} after a wipe");

        // A deregistration is not too long either.
        for registration in &registrations[1..] {
            registration.deregister();
        }
        for registration in &registrations[1..] {
            assert_eq!(registration.ended().await, Ended::Deregistered);
        }
        assert_eq!(setup.fake.keys().len(), 1, "{policy:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_small_max_request_bytes_splits_transactions() {
    let setup = Setup::new();
    setup.fake.configure(|it| it.max_request_bytes = 16 * 1024);
    let registrar = setup.builder().build().unwrap();
    let _registrations = registered(&registrar, 40, 1000).await;
    let sent = setup.count(Rpc::Txn);
    assert!(sent <= 6, "{sent} transactions for 40 keys");
    let revision = setup.fake.revision();
    for _ in 0..2 {
        setup.fake.restart();
        sleep(SEC * 5).await;
    }
    assert_eq!(setup.fake.revision(), revision, "in two reconnects");
}

/// The large one is refused alone, and does not make the transactions of the others short.
#[tokio::test(start_paused = true)]
async fn one_value_that_is_too_large_delays_no_other_key() {
    let setup = Setup::new();
    setup.fake.configure(|it| it.max_request_bytes = 16 * 1024);
    let registrar = setup.builder().build().unwrap();
    let large = Instance::new("large").with_value("x".repeat(20 * 1024));
    let large = announced_by(&registrar, large);
    let _registrations = registered(&registrar, 40, 100).await;
    let sent = setup.count(Rpc::Txn);
    assert!(sent <= 6, "{sent} transactions for 41 keys");
    let reason = registering_reason(&large);
    let hint = "raise etcd's --max-request-bytes";
    assert!(reason.contains(hint), "{reason}");
    sleep(SEC * 120).await;
    let sent = setup.count(Rpc::Txn) - sent;
    assert!(sent <= 4, "{sent} more attempts in 120 s");
}

/// Without the permission to read the registrar cannot check whether a key is still there, so that each reconnect writes
/// all of them again, in one transaction. The status stays registered, because the lease lives.
#[tokio::test(start_paused = true)]
async fn keys_that_may_not_be_read_are_written_again_at_once_and_not_lost() {
    let setup = Setup::new();
    setup.fake.deny_reads("");
    let denied = "rpc error: code = PermissionDenied desc = etcdserver: permission denied";
    setup.fake.always(Rpc::Watch, Reply::Cancel(denied));
    let registrar = setup.builder().build().unwrap();
    let registrations = registered(&registrar, 20, 1).await;
    let log = Log::start();
    for reconnect in 1..=2 {
        let (revision, sent) = (setup.fake.revision(), setup.count(Rpc::Txn));
        // One is deleted meanwhile.
        setup.fake.down();
        setup.fake.delete("/services/service-07/10.0.0.1:9000");
        setup.fake.up();
        sleep(SEC * 5).await;
        assert_eq!(setup.fake.keys().len(), 20, "in reconnect {reconnect}");
        let (revisions, txns) = (
            setup.fake.revision() - revision,
            setup.count(Rpc::Txn) - sent,
        );
        assert_eq!(
            (revisions, txns),
            (2, 2),
            "a deletion and a write; a read and a write"
        );
    }
    for registration in &registrations {
        assert!(registration.status().is_registered());
    }
    let said = log.text();
    assert_eq!(said.matches("registration lost").count(), 0, "{said}");
}

/// A deletion compares the lease, and so does a write that yields: etcd requires the permission to read for that.
#[tokio::test(start_paused = true)]
async fn a_role_that_may_not_read_neither_deletes_one_of_several_nor_yields() {
    let setup = Setup::new();
    setup.fake.deny_reads("");
    let registrar = setup.builder().build().unwrap();
    let registrations = registered(&registrar, 2, 1).await;
    registrations[0].deregister();
    let ended = registrations[0].ended().await;
    assert!(matches!(ended, Ended::LeftToExpire { .. }), "{ended:?}");
    assert_eq!(setup.fake.keys().len(), 2);
    registrations[1].deregister();
    assert_eq!(registrations[1].ended().await, Ended::Deregistered);
    assert!(setup.fake.keys().is_empty(), "with the lease");

    let registration = announced(setup.builder().on_conflict(OnConflict::Yield));
    sleep(SEC * 60).await;
    let said = registration.status().to_string();
    assert!(said.contains("permission denied"), "{said}");
    assert!(setup.fake.keys().is_empty());
}
