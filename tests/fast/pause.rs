//! A registration leaves etcd without stopping its server, and comes back.

use crate::log::Log;
use crate::setup::{
    KEY, LONG, MS, SEC, Setup, all_registered, announce, announced_by, is_paused, is_registered,
    pause_reasons, register, status,
};
use crate::support::fake::{Call, Reply, Rpc};
use tokio::time::{sleep, timeout};
use tonic_etcd::{
    Ended, Etcd, Instance, OnConflict, Pause, PauseError, Registration, RegistrationStatus,
};

/// Pauses it, and waits until the key is gone.
async fn paused(setup: &Setup, registration: &Registration) -> Pause {
    let pause = registration.pause("warming cache").unwrap();
    status(registration, is_paused).await;
    sleep(SEC).await;
    assert!(setup.fake.keys().is_empty());
    pause
}

/// The requests since `before`, except renewals and watches of keys.
fn requests(setup: &Setup, before: usize) -> Vec<Call> {
    let calls = setup.fake.history().split_off(before);
    let other = |call: &Call| !matches!(call.rpc, Rpc::LeaseKeepAlive | Rpc::Watch);
    calls.into_iter().filter(other).collect()
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_one_transaction_and_so_is_the_return() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    sleep(SEC).await;
    let lease = setup.fake.keys()[KEY].lease;
    let before = setup.fake.history().len();

    let pause = paused(&setup, &registration).await;
    sleep(SEC * 60).await;
    let calls = requests(&setup, before);
    assert_eq!(calls.len(), 1, "{calls:?}");
    assert_eq!(calls[0].rpc, Rpc::Txn);
    assert_eq!(calls[0].deletes, [KEY]);
    assert_eq!((setup.puts(), setup.deletes()), (1, 1));

    drop(pause);
    registration.registered().await.unwrap();
    sleep(SEC * 50).await;
    let calls = requests(&setup, before);
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert_eq!(setup.fake.keys()[KEY].lease, lease);
    assert_eq!((setup.puts(), setup.deletes()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn the_keys_come_back_with_the_end_of_the_last_pause() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let first = paused(&setup, &registration).await;
    let RegistrationStatus::Paused { since, .. } = registration.status() else {
        panic!("{}", registration.status());
    };
    let second = registration.pause("b").unwrap();
    let same_reason = registration.pause("b").unwrap();
    sleep(SEC).await;
    assert_eq!(pause_reasons(&registration), "warming cache|b|b");
    let shown = registration.status().to_string();
    assert_eq!(shown, "paused: warming cache; b; b");
    assert!(!registration.status().is_registered());
    drop((first, second));
    sleep(SEC).await;
    assert_eq!(pause_reasons(&registration), "b");
    assert!(
        matches!(registration.status(), RegistrationStatus::Paused { since: now, .. } if now == since)
    );
    assert!(setup.fake.keys().is_empty());
    drop(same_reason);
    status(&registration, is_registered).await;
    assert_eq!((setup.puts(), setup.deletes()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_server_that_is_paused_before_it_is_bound_appears_after_that() {
    let setup = Setup::new();
    let registration = register(setup.builder());
    let pause = registration.pause("warming cache").unwrap();
    announce(&registration);
    sleep(SEC * 60).await;
    assert_eq!(pause_reasons(&registration), "warming cache");
    assert_eq!(setup.counts([Rpc::LeaseGrant, Rpc::Txn]), [1, 0]);
    drop(pause);
    status(&registration, is_registered).await;
    assert_eq!(setup.counts([Rpc::LeaseGrant, Rpc::Txn]), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_reason_that_is_empty_or_too_long_is_refused_before_anything_happens() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    sleep(SEC).await;
    let before = setup.fake.history().len();
    for reason in ["", "  ", "a\nb", &"x".repeat(257)] {
        let error = registration.pause(reason).unwrap_err();
        assert!(matches!(error, PauseError::Reason { .. }), "{error}");
    }
    sleep(SEC * 10).await;
    assert!(registration.status().is_registered());
    assert_eq!(requests(&setup, before), []);
}

#[tokio::test(start_paused = true)]
async fn an_update_in_a_pause_is_there_at_the_return() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let pause = paused(&setup, &registration).await;
    let before = setup.fake.history().len();
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    sleep(SEC * 10).await;
    assert_eq!(requests(&setup, before), []);
    drop(pause);
    registration.registered().await.unwrap();
    assert_eq!(setup.fake.keys()[KEY].value, "w");
    assert_eq!(requests(&setup, before).len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_pause_that_begins_while_a_write_is_under_way_leaves_no_key_behind() {
    // Applied and answered late; answered late; applied after it was given up; never answered.
    for reply in [
        Reply::Late(MS * 300),
        Reply::Delay(MS * 300),
        Reply::Late(SEC * 2),
        Reply::DropReply,
    ] {
        let setup = Setup::new();
        let registration = register(setup.builder());
        sleep(SEC).await;
        setup.fake.script(Rpc::Txn, reply.clone());
        announce(&registration);
        sleep(MS * 100).await;
        assert_eq!(setup.count(Rpc::Txn), 1, "{reply:?}: it is under way");
        let pause = registration.pause("warming cache").unwrap();
        sleep(SEC * 11).await;
        assert_eq!(pause_reasons(&registration), "warming cache", "{reply:?}");
        assert!(setup.fake.keys().is_empty(), "{reply:?}");
        assert_eq!((setup.puts(), setup.deletes()), (1, 1), "{reply:?}");
        drop(pause);
        status(&registration, is_registered).await;
        assert_eq!(setup.fake.keys().len(), 1, "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_pause_ends_as_registered_only_when_the_key_is_there() {
    for reply in [
        Reply::Late(MS * 300),
        Reply::Delay(MS * 300),
        Reply::DropReply,
        Reply::Reset,
    ] {
        let setup = Setup::new();
        let registration = setup.registered().await;
        sleep(SEC).await;
        setup.fake.script(Rpc::Txn, reply.clone());
        let pause = registration.pause("warming cache").unwrap();
        sleep(MS * 100).await;
        drop(pause);
        sleep(MS).await;
        let mut watch = registration.watch();
        while !is_registered(&watch.get()) {
            let next = timeout(LONG, watch.changed()).await.unwrap().unwrap();
            assert!(
                !matches!(next, RegistrationStatus::Lost { .. }),
                "{reply:?}: {next}"
            );
        }
        assert!(setup.fake.keys().contains_key(KEY), "{reply:?}");
        sleep(SEC * 5).await;
        assert!(is_registered(&registration.status()), "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_deletion_that_is_applied_after_the_return_is_repaired_at_once() {
    let setup = Setup::new();
    let etcd = Etcd::new(["http://one:1", "http://two:1"]).connector(setup.fake.connector());
    let registration = setup.registered_with(setup.builder_on(etcd)).await;
    sleep(SEC).await;
    // The other member answers after 0.6 s, and so the deletion is given up.
    setup.fake.script(Rpc::Txn, Reply::Late(SEC * 2));
    let pause = registration.pause("warming cache").unwrap();
    sleep(MS * 100).await;
    drop(pause);
    status(&registration, is_registered).await;
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
    sleep(SEC * 3).await;
    assert_eq!((setup.puts(), setup.deletes()), (2, 1));
    assert!(is_registered(&registration.status()));
    let changes = setup.fake.changes();
    let [.., deleted, put] = &changes[..] else {
        panic!("{changes:?}");
    };
    assert!(put.at - deleted.at <= MS * 10, "{changes:?}");
}

#[tokio::test(start_paused = true)]
async fn the_lease_that_is_lost_in_a_pause_is_replaced_without_a_warning() {
    let log = Log::start();
    let setup = Setup::new();
    let registration = setup.registered().await;
    let pause = paused(&setup, &registration).await;
    let mut watch = registration.watch();
    setup.fake.revoke_all();
    sleep(SEC * 10).await;
    assert_eq!(setup.fake.leases().len(), 1);
    assert_eq!((setup.count(Rpc::LeaseGrant), setup.puts()), (2, 1));
    setup.fake.wipe();
    sleep(SEC * 10).await;
    assert_eq!((setup.count(Rpc::LeaseGrant), setup.puts()), (3, 1));
    let changed = timeout(MS, watch.changed()).await;
    assert!(changed.is_err(), "{}", watch.get());
    drop(pause);
    status(&registration, is_registered).await;
    assert_eq!(setup.fake.keys().len(), 1);
    let lines = log.lines();
    let count = |what: &str| lines.iter().filter(|line| line.contains(what)).count();
    let counts = ["WARN", "paused", ": registered"].map(count);
    assert_eq!(counts, [0, 1, 2], "{lines:#?}");
}

#[tokio::test(start_paused = true)]
async fn a_key_that_another_lease_took_in_a_pause_is_yielded_at_the_return() {
    let setup = Setup::new();
    let yields = setup.builder().on_conflict(OnConflict::Yield);
    let registration = setup.registered_with(yields).await;
    let pause = paused(&setup, &registration).await;
    setup.fake.grant(99, 60);
    setup.fake.put(KEY, "theirs", 99);
    sleep(SEC).await;
    assert_eq!(pause_reasons(&registration), "warming cache");
    drop(pause);
    status(&registration, |s| {
        matches!(s, RegistrationStatus::Yielding { .. })
    })
    .await;
    let again = registration.pause("again").unwrap();
    sleep(SEC).await;
    assert_eq!(setup.fake.keys()[KEY].value, "theirs");
    drop(again);
    setup.fake.revoke(99);
    status(&registration, is_registered).await;
    assert_eq!(setup.fake.keys()[KEY].value, "v");
}

#[tokio::test(start_paused = true)]
async fn a_stop_from_a_pause_deregisters_and_nothing_comes_back() {
    for is_told_of_one in [true, false] {
        let setup = Setup::new();
        let registration = setup.registered().await;
        let pause = paused(&setup, &registration).await;
        match is_told_of_one {
            true => registration.deregister(),
            false => setup.shutdown.cancel(),
        }
        assert_eq!(registration.ended().await, Ended::Deregistered);
        assert!(setup.fake.leases().is_empty());
        drop(pause);
        let refused = registration.pause("again");
        assert!(
            matches!(refused, Err(PauseError::Stopped(_))),
            "{refused:?}"
        );
        timeout(LONG, registration.drain_signal()).await.unwrap();
        sleep(SEC * 10).await;
        assert_eq!(setup.puts(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_does_not_keep_the_registration_alive() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let mut watch = registration.watch();
    let _pause = paused(&setup, &registration).await;
    drop(registration);
    let ended = timeout(LONG, watch.wait_for(RegistrationStatus::is_final)).await;
    assert_eq!(
        ended.unwrap(),
        Some(RegistrationStatus::Ended(Ended::Deregistered))
    );
    assert!(setup.fake.leases().is_empty());
}

#[tokio::test(start_paused = true)]
async fn two_hundred_servers_pause_and_return_with_one_transaction_each() {
    let setup = Setup::new();
    let register = |port: u16| {
        // Renewals are rare: each wakes all streams of the fake.
        let registration = register(setup.builder().ttl(SEC * 60));
        let address = ([10, 0, 0, 1], 9000 + port).into();
        registration.announce(address).unwrap();
        registration
    };
    let servers: Vec<_> = (0..200).map(register).collect();
    all_registered(&servers).await;
    sleep(SEC).await;
    let keys: Vec<_> = setup.fake.keys().into_keys().collect();
    assert_eq!((keys.len(), setup.count(Rpc::Connect)), (200, 200));
    // Every request since then, except renewals of the leases.
    let since = |before: usize| {
        let mut calls = setup.fake.history().split_off(before);
        calls.retain(|call| call.rpc != Rpc::LeaseKeepAlive);
        calls
    };
    let is_one_for_each_key = |calls: &[Call], rpc: Rpc, of: fn(&Call) -> &[String]| {
        assert!(calls.iter().all(|call| call.rpc == rpc), "{calls:?}");
        assert_eq!(calls.len(), keys.len());
        let mut found: Vec<_> = calls.iter().flat_map(of).collect();
        found.sort();
        assert!(found.into_iter().eq(&keys), "{calls:?}");
    };

    let before = setup.fake.history().len();
    let pause = |server: &Registration| server.pause("deploy").unwrap();
    let pauses: Vec<_> = servers.iter().map(pause).collect();
    sleep(SEC * 30).await;
    assert!(setup.fake.keys().is_empty());
    is_one_for_each_key(&since(before), Rpc::Txn, |call| &call.deletes);

    let before = setup.fake.history().len();
    drop(pauses);
    sleep(SEC * 30).await;
    assert!(setup.fake.keys().into_keys().eq(keys.clone()));
    let (watches, writes): (Vec<_>, Vec<_>) = since(before)
        .into_iter()
        .partition(|call| call.rpc == Rpc::Watch);
    is_one_for_each_key(&writes, Rpc::Txn, |call| &call.puts);
    is_one_for_each_key(&watches, Rpc::Watch, |call| &call.reads);
}

#[tokio::test(start_paused = true)]
async fn the_others_of_a_registrar_stay_while_one_of_them_is_paused() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let names = ["a", "b", "c"].map(|name| announced_by(&registrar, Instance::new(name)));
    all_registered(&names).await;
    let pause = names[1].pause("deploy").unwrap();
    sleep(SEC).await;
    assert_eq!(setup.fake.keys().len(), 2);
    assert!(names[0].status().is_registered() && names[2].status().is_registered());
    let all = names.each_ref().map(|name| name.pause("all").unwrap());
    sleep(SEC * 20).await;
    assert!(setup.fake.keys().is_empty());
    assert_eq!(setup.fake.leases().len(), 1, "the lease stays");
    drop(all);
    drop(pause);
    for registration in &names {
        status(registration, is_registered).await;
    }
    assert_eq!(setup.fake.keys().len(), 3);
}
