//! Faults of etcd, and how a registration recovers from each.

use crate::log::Log;
use crate::setup::{
    KEY, LONG, MS, SEC, Setup, announce, announced, announced_by, assert_registered, greeter,
    is_lost, lost_reason, registering_reason,
};
use crate::support::fake::{Reply, Rpc, Stored};
use crate::support::{eventually, registered_within};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::Code;
use tonic_etcd::{Ended, Etcd, Instance, OnConflict, Registration, RegistrationStatus};

#[tokio::test(start_paused = true)]
async fn etcd_back_with_its_data_sees_no_put_and_no_delete_after_any_outage() {
    for away in [1, 4, 12, 61, 122, 3600] {
        let setup = Setup::new();
        let registration = setup.registered().await;
        let lease = registration.registered().await.unwrap().lease;
        sleep(SEC * 2).await;
        setup.fake.down();
        sleep(SEC * away).await;
        let back = Instant::now();
        setup.fake.up();
        let registered = registration.registered().await.unwrap();
        assert!(back.elapsed() <= 300 * MS, "{away} s: {:?}", back.elapsed());
        sleep(SEC * 12).await;
        assert_eq!(registered.lease, lease);
        assert_eq!(setup.fake.keys()[KEY].lease, lease);
        assert_eq!((setup.puts(), setup.deletes()), (1, 0), "{away} s");
    }
}

/// From 3.7 on a range with `keys_only` has no lease. Before the fix, every reconnect looked as if the key had
/// been overwritten: with `Yield` the server was never registered again.
#[tokio::test(start_paused = true)]
async fn a_reconnect_is_no_loss_on_any_version_of_etcd() {
    for (old, policy) in [
        (false, OnConflict::TakeOver),
        (false, OnConflict::Yield),
        (true, OnConflict::TakeOver),
        (true, OnConflict::Yield),
    ] {
        let setup = Setup::new();
        if old {
            setup.fake.configure(|it| it.keys_only_with_lease = true);
        }
        let builder = setup.builder().on_conflict(policy);
        let registration = setup.registered_with(builder).await;
        let before = registration.registered().await.unwrap();
        let mut watch = registration.watch();
        let seen = tokio::spawn(async move {
            let mut seen = vec![];
            while let Some(status) = watch.changed().await {
                seen.push(status);
            }
            seen
        });
        for _ in 0..5 {
            sleep(SEC * 3).await;
            setup.fake.cut_connections();
        }
        sleep(SEC * 3).await;
        let now = registration.status();
        assert_eq!(now.registered(), Some(&before), "{now:?}");
        assert_eq!((setup.puts(), setup.deletes()), (1, 0));
        drop(registration);
        setup.shutdown_now.cancel();
        for status in seen.await.unwrap() {
            let lost = matches!(
                status,
                RegistrationStatus::Lost { .. } | RegistrationStatus::Yielding { .. }
            );
            assert!(!lost, "like 3.6: {old}, {policy:?}: {status:?}");
        }
    }
}

/// A balancer with a connection age ends every connection after some seconds. Each end was a WARN
/// and a `Suspect`.
#[tokio::test(start_paused = true)]
async fn routine_ends_of_connections_change_no_status_and_log_nothing() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let mut watch = registration.watch();
    let change = tokio::spawn(async move { watch.changed().await });
    let log = Log::start();
    for _ in 0..15 {
        sleep(SEC * 8).await;
        setup.fake.cut_connections();
    }
    sleep(SEC * 8).await;
    assert!(!change.is_finished(), "{:?}", registration.status());
    assert_eq!(log.lines(), [""; 0]);
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
    // When the next attempt fails too, both are there.
    setup.fake.down();
    let status = change.await.unwrap();
    assert!(
        matches!(status, Some(RegistrationStatus::Suspect { .. })),
        "{status:?}"
    );
    let lines = log.lines();
    assert!(lines[0].contains("WARN"), "{lines:?}");
    assert!(lines[0].contains("etcd is out of reach"), "{lines:?}");
}

#[tokio::test(start_paused = true)]
async fn etcd_back_without_its_data_has_the_key_again_at_once() {
    for away in [0, 1, 12, 600] {
        let setup = Setup::new();
        let registration = setup.registered().await;
        let lease = registration.registered().await.unwrap().lease;
        setup.fake.down();
        setup.fake.wipe();
        sleep(SEC * away).await;
        let back = Instant::now();
        setup.fake.up();
        assert_ne!(setup.key_back().await, lease);
        assert!(back.elapsed() <= 300 * MS, "{away} s: {:?}", back.elapsed());
        registration.registered().await.unwrap();
        sleep(SEC * 12).await;
        assert_eq!(setup.fake.leases().len(), 1);
        assert_eq!(setup.fake.keys().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_revoked_lease_and_a_deleted_or_overwritten_key_are_repaired_at_once() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    for round in 0..20 {
        let before = setup.fake.keys()[KEY].clone();
        let lease = before.lease;
        let start = Instant::now();
        match round % 4 {
            0 => drop(setup.fake.delete(KEY)),
            1 => setup.fake.put(KEY, "theirs", 0),
            2 => setup.fake.put(KEY, "theirs", lease),
            _ => drop(setup.fake.revoke(lease)),
        }
        let right = |now: &&Stored| now.value == "v" && now.mod_revision > before.mod_revision;
        let stored = eventually("the key is right again", LONG, || {
            let keys = setup.fake.keys();
            let found = keys.get(KEY).filter(right).cloned();
            found.ok_or(format!("{keys:?}"))
        })
        .await;
        let took = start.elapsed();
        assert!(took <= 50 * MS, "round {round}: {took:?}");
        registration.registered().await.unwrap();
        assert_eq!(stored.lease == lease, round % 4 != 3, "round {round}");
        sleep(SEC).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_hang_shorter_than_the_ttl_costs_nothing() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let mut watch = registration.watch();
    setup.fake.hang();
    let observer = async {
        let mut seen = vec![];
        while seen.len() < 2 {
            seen.push(watch.changed().await.unwrap());
        }
        seen
    };
    let (seen, ()) = tokio::join!(observer, async {
        sleep(SEC * 3).await;
        setup.fake.resume();
    });
    assert!(
        matches!(seen[0], RegistrationStatus::Suspect { .. }),
        "{seen:?}"
    );
    assert!(
        matches!(
            seen[1],
            RegistrationStatus::Suspect { .. } | RegistrationStatus::Registered(_)
        ),
        "{seen:?}"
    );
    registration.registered().await.unwrap();
    sleep(SEC * 12).await;
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn after_a_long_hang_or_black_hole_it_is_registered_within_a_second() {
    for black_hole in [false, true] {
        let setup = Setup::new();
        let registration = setup.registered().await;
        match black_hole {
            true => setup.fake.black_hole(),
            false => setup.fake.hang(),
        }
        sleep(SEC * 15).await;
        assert!(matches!(
            registration.status(),
            RegistrationStatus::Lost { .. }
        ));
        let back = Instant::now();
        match black_hole {
            true => setup.fake.heal(),
            false => setup.fake.resume(),
        }
        registration.registered().await.unwrap();
        let took = back.elapsed();
        assert!(took <= SEC, "black hole {black_hole}: {took:?}");
        sleep(SEC * 12).await;
        assert!(registration.status().is_registered() && setup.fake.keys().contains_key(KEY));
        assert_eq!(setup.fake.leases().len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn it_counts_as_held_until_the_last_acknowledged_renewal_plus_the_ttl() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    sleep(SEC * 20).await;
    let acknowledged = setup.fake.calls(Rpc::LeaseKeepAlive).last().unwrap().at;
    setup.fake.black_hole();
    let expiry = acknowledged + SEC * 5;
    sleep_until(expiry - 10 * MS).await;
    let status = registration.status();
    assert!(
        matches!(status, RegistrationStatus::Suspect { .. }),
        "{status:?}"
    );
    sleep_until(expiry + 10 * MS).await;
    let RegistrationStatus::Lost { since, reason, .. } = registration.status() else {
        panic!("{:?}", registration.status());
    };
    let since = Instant::now() - since.elapsed();
    let is_then = (expiry - 5 * MS..=expiry + 2 * MS).contains(&since);
    assert!(is_then, "{:?}", since - acknowledged);
    assert!(reason.contains("no answer within 600ms"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn after_a_freeze_longer_than_the_ttl_lost_comes_before_registered() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let lease = setup.fake.keys()[KEY].lease;
    let mut watch = registration.watch();
    // Time passes while no task runs, as between SIGSTOP and SIGCONT.
    tokio::time::advance(SEC * 9).await;
    let mut seen = vec![];
    while seen.len() < 2 {
        let next = tokio::time::timeout(SEC, watch.changed()).await;
        seen.push(next.unwrap().unwrap());
    }
    assert!(
        matches!(seen[0], RegistrationStatus::Lost { .. }),
        "{seen:?}"
    );
    assert!(
        matches!(&seen[1], RegistrationStatus::Registered(now) if now.lease != lease),
        "{seen:?}"
    );
    sleep(SEC).await;
    assert_eq!(setup.count(Rpc::LeaseGrant), 2);
    assert_eq!(setup.fake.leases().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_freeze_shorter_than_the_ttl_costs_nothing() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    for _ in 0..20 {
        tokio::time::advance(SEC * 3).await;
        sleep(SEC).await;
    }
    assert!(registration.status().is_registered());
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_hung_member_is_left_after_one_attempt_and_the_next_one_is_kept() {
    let setup = Setup::new();
    let etcd = Etcd::new(["http://one:1", "http://two:1", "http://three:1"])
        .connector(setup.fake.connector());
    let registration = setup.registered_with(setup.builder_on(etcd)).await;
    let first = setup.fake.history()[0].member.clone();
    setup.fake.member(&first).hang();
    sleep(SEC * 30).await;
    let mut late = setup.fake.history();
    late.retain(|call| call.at.elapsed() < SEC * 20);
    let has_left = late.iter().all(|call| call.member != first);
    assert!(!late.is_empty() && has_left, "{first}");
    assert_eq!(setup.count(Rpc::Connect), 2);
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
    assert!(registration.status().is_registered());
}

#[tokio::test(start_paused = true)]
async fn an_etcd_down_at_start_is_in_the_status_and_used_once_it_is_there() {
    let setup = Setup::new();
    setup.fake.down();
    let registration = announced(setup.builder());
    sleep(SEC * 60).await;
    let reason = registering_reason(&registration);
    assert!(reason.starts_with("http://etcd:2379: "), "{reason}");
    let back = Instant::now();
    setup.fake.up();
    registration.registered().await.unwrap();
    assert!(back.elapsed() <= 300 * MS, "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn refused_connections_are_retried_at_once_but_never_in_a_storm() {
    let setup = Setup::new();
    let _registration = setup.registered().await;
    setup.fake.down();
    sleep(SEC * 10).await;
    let before = setup.count(Rpc::Connect);
    sleep(SEC * 60).await;
    let attempts = setup.count(Rpc::Connect) - before;
    assert!((240..=480).contains(&attempts), "{attempts} a minute");
}

#[tokio::test(start_paused = true)]
async fn a_silent_etcd_gets_few_requests_and_the_first_answer_counts() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    setup.fake.hang();
    sleep(SEC * 10).await;
    let before = setup.fake.history().len();
    sleep(SEC * 60).await;
    let asked = setup.fake.history().len() - before;
    assert!((1..=15).contains(&asked), "{asked} a minute");
    assert!(is_lost(&registration.status()));
    let connects = setup.count(Rpc::Connect);
    setup.fake.resume();
    let back = Instant::now();
    registration.registered().await.unwrap();
    assert!(back.elapsed() <= 50 * MS, "{:?}", back.elapsed());
    assert_eq!(setup.count(Rpc::Connect), connects, "no other connection");
}

/// Each attempt that missed 0.6 s was given up with its connection and begun again, which kept a busy etcd busy.
#[tokio::test(start_paused = true)]
async fn a_busy_etcd_is_asked_once_and_its_late_answers_are_used() {
    let setup = Setup::new();
    setup.fake.latency(SEC..SEC * 3);
    let registration = announced(setup.builder());
    registered_within(SEC * 12, &registration).await;
    assert_eq!(setup.counts([Rpc::Connect, Rpc::LeaseGrant]), [1, 1]);
    assert_eq!(setup.counts([Rpc::Txn, Rpc::Watch]), [1, 1]);
    setup.fake.latency(MS..2 * MS);
    sleep(LONG).await;
    assert_eq!(setup.count(Rpc::Connect), 1);
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn another_member_is_tried_beside_and_what_answers_first_is_used() {
    let members = ["http://one:1", "http://two:1"];
    for (late, other_works) in [(800, false), (1500, false), (30_000, true)] {
        let setup = Setup::new();
        let etcd = Etcd::new(members).connector(setup.fake.connector());
        let registration = setup.registered_with(setup.builder_on(etcd)).await;
        let lease = registration.registered().await.unwrap().lease;
        let first = setup.fake.history()[0].member.clone();
        let other = if first == "one" { "two" } else { "one" };
        if !other_works {
            setup.fake.member(other).hang();
        }
        let late = Reply::Late(MS * late);
        match other_works {
            true => setup.fake.member(&first).always(Rpc::LeaseKeepAlive, late),
            false => setup.fake.member(&first).script(Rpc::LeaseKeepAlive, late),
        }
        sleep(SEC * 6).await;
        let last = setup.fake.calls(Rpc::LeaseKeepAlive).pop().unwrap();
        assert_eq!(last.member == first, !other_works);
        assert_eq!(registration.registered().await.unwrap().lease, lease);
        assert_eq!((setup.puts(), setup.deletes()), (1, 0));
        assert_eq!(setup.fake.connections_open(), 1, "the other one is dropped");
    }
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_cost_no_connection_whatever_they_refuse() {
    let busy = || Reply::Error(Code::ResourceExhausted, "etcdserver: too many requests");
    for rpc in [Rpc::LeaseGrant, Rpc::LeaseKeepAlive, Rpc::Txn] {
        let setup = Setup::new();
        for _ in 0..4 {
            setup.fake.script(rpc, busy());
        }
        let registration = announced(setup.builder());
        registered_within(LONG, &registration).await;
        sleep(SEC * 20).await;
        assert_eq!(setup.count(Rpc::Connect), 1, "{rpc:?}");
        assert_registered(&registration);
        assert_eq!(setup.deletes(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_whose_answer_was_lost_is_repeated_with_the_same_id() {
    let setup = Setup::new();
    setup.fake.script(Rpc::LeaseGrant, Reply::DropReply);
    let _registration = setup.registered().await;
    let grants = setup.fake.calls(Rpc::LeaseGrant);
    assert_eq!(grants.len(), 2);
    assert_eq!(grants[0].lease, grants[1].lease);
    sleep(SEC * 20).await;
    let leases: Vec<_> = setup.fake.leases().into_keys().collect();
    assert_eq!(leases, [grants[0].lease]);
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

/// The lease that the answer named was renewed from then on.
#[tokio::test(start_paused = true)]
async fn a_renewal_that_is_answered_with_another_lease_costs_no_key() {
    let setup = Setup::new();
    setup.fake.script(Rpc::LeaseKeepAlive, Reply::WrongId);
    let registration = setup.registered().await;
    let lease = registration.registered().await.unwrap().lease;
    sleep(SEC * 20).await;
    assert_registered(&registration);
    let renewals = setup.fake.calls(Rpc::LeaseKeepAlive);
    assert!(renewals.iter().all(|call| call.lease == lease));
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn timers_follow_the_ttl_that_was_granted() {
    let setup = Setup::new();
    setup.fake.configure(|it| it.min_ttl = 30);
    let _registration = setup.registered().await;
    let before = setup.count(Rpc::LeaseKeepAlive);
    sleep(SEC * 300).await;
    let renewals = setup.count(Rpc::LeaseKeepAlive) - before;
    assert!((28..=32).contains(&renewals), "{renewals} in 10 TTLs");
}

#[tokio::test(start_paused = true)]
async fn a_full_etcd_renews_the_lease_and_accepts_the_key_once_it_has_room() {
    let setup = Setup::new();
    let full = "etcdserver: mvcc: database space exceeded";
    let full = Reply::Error(Code::ResourceExhausted, full);
    setup.fake.always(Rpc::Txn, full);
    let registration = announced(setup.builder());
    sleep(SEC * 60).await;
    assert_eq!(setup.counts([Rpc::LeaseGrant, Rpc::Connect]), [1, 1]);
    let writes = setup.count(Rpc::Txn);
    assert!((36..=80).contains(&writes), "{writes} attempts a minute");
    let reason = registering_reason(&registration);
    assert!(reason.contains("database space exceeded"), "{reason}");
    setup.fake.clear();
    registration.registered().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_watch_is_opened_again_and_still_heals() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    sleep(SEC).await;
    setup.fake.cancel_watches("etcdserver: no leader");
    sleep(SEC * 2).await;
    registration.registered().await.unwrap();
    setup.fake.delete(KEY);
    let start = Instant::now();
    setup.key_back().await;
    assert!(start.elapsed() <= 50 * MS, "{:?}", start.elapsed());
    assert_eq!(setup.deletes(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_watch_whose_request_was_lost_is_requested_again() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    setup.fake.script(Rpc::Watch, Reply::Normal);
    setup.fake.script(Rpc::Watch, Reply::Never);
    let both = [greeter(), Instance::new("other")];
    let both = registrar.register_all(both).unwrap();
    announce(&both);
    both.registered().await.unwrap();
    sleep(SEC * 11).await;
    for key in setup.fake.keys().into_keys().collect::<Vec<_>>() {
        setup.fake.delete(&key);
    }
    sleep(50 * MS).await;
    assert_eq!(setup.fake.keys().len(), 2);
    assert_eq!(setup.count(Rpc::Connect), 2, "one more, and no more");
}

#[tokio::test(start_paused = true)]
async fn repeated_overwrites_of_a_key_are_bounded_and_shown() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    for _ in 0..600 {
        setup.fake.put(KEY, "theirs", 0);
        sleep(100 * MS).await;
    }
    let mut ours = setup.fake.changes();
    ours.retain(|c| c.put.as_ref().is_some_and(|put| put.0 == "v"));
    let ours = ours.len();
    assert!((20..=40).contains(&ours), "{ours} writes in a minute");
    let status = registration.status();
    assert!(is_lost(&status), "{status:?}");
    sleep(SEC * 30).await;
    registration.registered().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_revoked_again_and_again_does_not_make_us_spin() {
    let setup = Setup::new();
    let _registration = setup.registered().await;
    let start = Instant::now();
    while start.elapsed() < SEC * 60 {
        setup.fake.revoke_all();
        sleep(20 * MS).await;
    }
    let grants = setup.count(Rpc::LeaseGrant);
    assert!((30..=45).contains(&grants), "{grants} in a minute");
}

#[tokio::test(start_paused = true)]
async fn etcd_restored_from_any_snapshot_has_the_key_again() {
    let setup = Setup::new();
    let empty = setup.fake.snapshot();
    let registration = setup.registered().await;
    let registered = setup.fake.snapshot();
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    sleep(SEC).await;
    setup.fake.delete(KEY);
    sleep(SEC).await;
    let lease = setup.key_back().await;
    for (snapshot, same) in [(&registered, true), (&empty, false), (&registered, false)] {
        let before = setup.fake.keys()[KEY].lease;
        setup.fake.restore(snapshot);
        let back = Instant::now();
        setup.key_holds("w", SEC).await;
        registration.registered().await.unwrap();
        assert!(back.elapsed() <= 300 * MS, "{:?}", back.elapsed());
        assert_eq!(setup.fake.keys()[KEY].lease == before, same);
    }
    assert_ne!(setup.fake.keys()[KEY].lease, lease);
    sleep(LONG).await;
    assert_eq!(setup.fake.keys()[KEY].value, "w");
}

/// The lease is alive in the copy, and our renewals would keep the key of the server that has left, or is paused.
#[tokio::test(start_paused = true)]
async fn a_key_that_an_older_copy_brings_back_is_deleted_again() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let names = ["stays", "leaves", "pauses"];
    let all = names.map(|name| announced_by(&registrar, Instance::new(name)));
    for registration in &all {
        registration.registered().await.unwrap();
    }
    let copy = setup.fake.snapshot();
    all[1].deregister();
    all[1].ended().await;
    let _pause = all[2].pause("warming up").unwrap();
    setup.keys_are(1, SEC).await;
    for _ in 0..3 {
        setup.fake.restore(&copy);
        assert_eq!(setup.fake.keys().len(), 3);
        setup.keys_are(1, SEC).await;
    }
    assert!(all[0].status().is_registered());
}

#[tokio::test(start_paused = true)]
async fn a_slow_etcd_costs_nothing_while_the_lease_allows_to_wait() {
    let setup = Setup::new();
    setup.fake.latency(100 * MS..300 * MS);
    let registration = registered_without_a_break(&setup).await;
    setup.fake.latency(SEC..SEC + MS);
    stays_registered(&setup, &registration).await;
    assert_eq!(setup.count(Rpc::Connect), 1);
    setup.fake.latency(SEC * 6..SEC * 7);
    lost_without_an_answer(&registration).await;
    setup.fake.latency(MS..2 * MS);
    sleep(SEC * 2).await;
    registration.registered().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_slow_link_costs_nothing_until_an_answer_exceeds_the_limit() {
    let setup = Setup::new();
    // A renewal and its answer are some 30 bytes each.
    setup.fake.trickle(64, 20 * MS);
    let registration = registered_without_a_break(&setup).await;
    setup.fake.trickle(4, 200 * MS);
    lost_without_an_answer(&registration).await;
    setup.fake.trickle(1500, MS);
    sleep(SEC * 2).await;
    registration.registered().await.unwrap();
}

/// Registers, and stays registered for two minutes with one write.
async fn registered_without_a_break(setup: &Setup) -> Registration {
    let registration = setup.registered().await;
    stays_registered(setup, &registration).await;
    registration
}

async fn stays_registered(setup: &Setup, registration: &Registration) {
    for _ in 0..120 {
        sleep(SEC).await;
        let status = registration.status();
        assert!(status.is_registered(), "{status:?}");
    }
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

/// Within ten seconds it is lost, because no attempt is answered in time.
async fn lost_without_an_answer(registration: &Registration) {
    sleep(SEC * 10).await;
    let reason = lost_reason(registration);
    assert!(reason.contains("no answer within"), "{reason}");
}

#[tokio::test(start_paused = true)]
async fn too_many_requests_are_answered_with_patience_and_cost_nothing() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let busy = || Reply::Error(Code::ResourceExhausted, "etcdserver: too many requests");
    setup.fake.always(Rpc::Txn, busy());
    setup.fake.always(Rpc::LeaseGrant, busy());
    for _ in 0..3 {
        setup.fake.script(Rpc::LeaseKeepAlive, busy());
    }
    let before = setup.fake.history().len();
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    sleep(SEC * 60).await;
    let status = registration.status();
    assert!(status.is_registered(), "{status:?}");
    let asked = setup.fake.history().len() - before;
    assert!((72..=120).contains(&asked), "{asked} requests a minute");
    setup.fake.clear();
    sleep(SEC * 2).await;
    assert_eq!(setup.fake.keys()[KEY].value, "w");
    assert_eq!(setup.deletes(), 0);
}

/// A proxy sent the watch to a member that hung, and renewals to another: `Registered` was reported for 20 s without a key.
#[tokio::test(start_paused = true)]
async fn a_key_deleted_while_its_watch_hangs_is_written_again() {
    for (elsewhere, within) in [(true, SEC * 7), (false, SEC * 62)] {
        let setup = Setup::new();
        if elsewhere {
            setup.fake.configure(|it| it.watches_elsewhere = true);
        }
        let registration = setup.registered().await;
        sleep(SEC * 30).await;
        setup.fake.mute_watches();
        sleep(SEC).await;
        setup.fake.delete(KEY);
        let deleted = Instant::now();
        while setup.fake.keys().is_empty() {
            sleep(100 * MS).await;
            let waited = deleted.elapsed();
            assert!(waited <= within, "{elsewhere}: no key after {waited:?}");
        }
        sleep(SEC * 30).await;
        assert!(matches!(
            registration.status(),
            RegistrationStatus::Registered(_)
        ));
        assert_eq!(setup.puts(), 2);
    }
}

/// At rest, a check costs one read a minute, or one a TTL if the watch is at another member than the renewals.
#[tokio::test(start_paused = true)]
async fn the_keys_of_a_silent_watch_are_read_seldom() {
    for (elsewhere, reads) in [(true, 118..=121), (false, 9..=11)] {
        let setup = Setup::new();
        if elsewhere {
            setup.fake.configure(|it| it.watches_elsewhere = true);
        }
        let registration = setup.registered().await;
        let (before, connections) = (setup.count(Rpc::Txn), setup.fake.connections_open());
        sleep(SEC * 600).await;
        let seen = setup.count(Rpc::Txn) - before;
        assert!(
            reads.contains(&seen),
            "{elsewhere}: {seen} reads in 10 minutes"
        );
        assert_eq!(setup.fake.connections_open(), connections);
        assert_eq!(setup.puts(), 1);
        drop(registration);
    }
}

/// It never had a key: the log said that the key `none` expires with its lease.
#[tokio::test(start_paused = true)]
async fn a_server_that_never_had_a_key_leaves_none_to_expire() {
    let setup = Setup::new();
    setup.fake.always(Rpc::LeaseGrant, Reply::Never);
    let registration = announced(setup.builder());
    sleep(SEC).await;
    registration.deregister();
    assert_eq!(registration.ended().await, Ended::Deregistered);
}
