//! Overload and failover, as an adversary tried them: busy members, silent connections, slow answers.

use crate::setup::{
    KEY, LONG, MS, SEC, Setup, announced, announced_by, greeter, is_registered, status,
};
use crate::support::fake::{Reply, Rpc};
use crate::support::registered_within;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tonic::Code;
use tonic_etcd::{Etcd, Instance, RegistrarBuilder, Registration, RegistrationStatus};

const THREE: [&str; 3] = ["one", "two", "three"];
fn three(setup: &Setup) -> Etcd {
    Etcd::new(THREE.map(|m| format!("http://{m}:1"))).connector(setup.fake.connector())
}

/// An etcd with a user; renewals accept any token.
fn guarded(setup: &Setup, etcd: Etcd) -> RegistrarBuilder {
    setup.fake.user("me", "secret");
    setup.fake.configure(|it| it.lenient_leases = true);
    setup.builder_on(etcd.user("me", "secret"))
}

/// Of three members, `a` is configured and in use.
async fn listed(setup: &Setup) -> Registration {
    let url = |m: &str| format!("http://{m}:2379");
    setup.fake.list_members(&[&url("a"), &url("b"), &url("c")]);
    let etcd = Etcd::new([url("a")]).connector(setup.fake.connector());
    let builder = setup.builder_on(etcd.sync_members(SEC * 10));
    let registration = setup.registered_with(builder).await;
    sleep(SEC * 2).await;
    registration
}

/// It is registered for so long, whenever it is looked at.
async fn stays_registered(setup: &Setup, registration: &Registration, time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        sleep(50 * MS).await;
        let status = registration.status();
        let connects = || setup.fake.calls(Rpc::Connect);
        let after = start.elapsed();
        let is_registered = status.is_registered();
        assert!(is_registered, "{after:?}: {status:?}; {:?}", connects());
    }
}

/// One member is dead. The one in use is silent until the dead one is tried beside it, and then restarts. It and the third
/// one work.
async fn ended_while_another_hangs(setup: &Setup) -> Registration {
    let registration = setup.registered_with(setup.builder_on(three(setup))).await;
    let first = setup.fake.history()[0].member.clone();
    let at = THREE.iter().position(|m| *m == first).unwrap();
    setup.fake.member(THREE[(at + 1) % 3]).hang();
    sleep(SEC).await;
    setup.fake.member(&first).hang();
    while setup.count(Rpc::Connect) < 2 {
        sleep(10 * MS).await;
    }
    setup.fake.member(&first).down();
    setup.fake.member(&first).up();
    registration
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_while_another_hangs_is_made_again() {
    let setup = Setup::new();
    let registration = ended_while_another_hangs(&setup).await;
    stays_registered(&setup, &registration, SEC * 20).await;
    assert_eq!(setup.deletes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_stop_connects_again_although_another_connection_hangs() {
    let setup = Setup::new();
    let registration = ended_while_another_hangs(&setup).await;
    sleep(100 * MS).await;
    setup.shutdown.cancel();
    let ended = registration.ended().await;
    assert!(!setup.fake.keys().contains_key(KEY), "{ended:?}");
}

#[tokio::test(start_paused = true)]
async fn a_stop_on_a_silent_connection_removes_the_key() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    sleep(SEC * 20).await;
    setup.fake.strand_connections();
    setup.shutdown.cancel();
    let ended = registration.ended().await;
    assert!(!setup.fake.keys().contains_key(KEY), "{ended:?}");
}

/// etcd was slow at the start (as it is when a fleet starts), and answers in 1 ms now. Then one of three members dies.
#[tokio::test(start_paused = true)]
async fn a_member_that_dies_after_slow_answers_costs_no_key() {
    for quiet in [3, 6, 10, 15, 20, 30] {
        let setup = Setup::new();
        setup.fake.latency(SEC * 2..SEC * 2 + MS);
        let _registration = setup.registered_with(setup.builder_on(three(&setup))).await;
        setup.fake.latency(MS..2 * MS);
        sleep(SEC * quiet).await;
        let last = setup.fake.history().pop().unwrap().member.clone();
        setup.fake.member(&last).hang();
        sleep(SEC * 20).await;
        assert_eq!(setup.deletes(), 0, "quiet {quiet}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_etcd_does_not_make_a_known_token_refused() {
    let mut most = 0;
    for _ in 0..10 {
        let setup = Setup::new();
        setup.fake.user("me", "secret");
        let _registration = setup
            .registered_with(setup.builder_on(setup.etcd().user("me", "secret")))
            .await;
        sleep(SEC * 20).await;
        setup.fake.latency(MS * 100..MS * 1200);
        for _ in 0..5 {
            setup.fake.cut_connections();
            sleep(SEC * 20).await;
        }
        most = most.max(setup.count(Rpc::Authenticate));
    }
    assert_eq!(most, 1, "authentications");
}

/// One entry of two leaves while the only connection is silent.
#[tokio::test(start_paused = true)]
async fn one_of_two_leaves_on_a_silent_connection_too() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let registration = announced_by(&registrar, greeter());
    let other = registrar.register(Instance::new("other")).unwrap();
    other.announce("10.0.0.2:9000".parse().unwrap()).unwrap();
    other.registered().await.unwrap();
    registration.registered().await.unwrap();
    sleep(SEC * 20).await;
    setup.fake.strand_connections();
    let begun = Instant::now();
    registration.deregister();
    let ended = registration.ended().await;
    let answered = begun.elapsed();
    while setup.fake.keys().contains_key(KEY) && begun.elapsed() < LONG {
        sleep(10 * MS).await;
    }
    assert!(
        begun.elapsed() < SEC,
        "{ended:?} after {answered:?}, the key was there for {:?}",
        begun.elapsed()
    );
}

#[tokio::test(start_paused = true)]
async fn connections_beside_are_closed() {
    let setup = Setup::new();
    let registration = setup.registered_with(setup.builder_on(three(&setup))).await;
    for round in 0..30 {
        let m = THREE[round % 3];
        setup.fake.member(m).hang();
        sleep(MS * 977 * (round as u32 % 7 + 1)).await;
        setup.fake.member(m).up();
        sleep(SEC * 3).await;
    }
    sleep(SEC * 60).await;
    let open = setup.fake.connections_open();
    assert!(is_registered(&registration.status()));
    assert_eq!(open, 1);
}

#[tokio::test(start_paused = true)]
async fn a_member_that_refuses_all_requests_of_a_kind_is_left_for_another() {
    let busy = || Reply::Error(Code::ResourceExhausted, "etcdserver: too many requests");
    for _ in 0..12 {
        let setup = Setup::new();
        setup.fake.member("one").always(Rpc::LeaseGrant, busy());
        let registration = announced(setup.builder_on(three(&setup)));
        registered_within(LONG * 10, &registration).await;
    }
    for rpc in [Rpc::LeaseKeepAlive, Rpc::Txn] {
        let setup = Setup::new();
        let registration = setup.registered_with(setup.builder_on(three(&setup))).await;
        let first = setup.fake.history()[0].member.clone();
        setup.fake.member(&first).always(rpc, busy());
        if rpc == Rpc::Txn {
            setup.fake.delete(KEY);
            sleep(LONG).await;
        }
        stays_registered(&setup, &registration, LONG).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_member_that_hangs_is_not_tried_beside_itself() {
    for _ in 0..20 {
        let setup = Setup::new();
        let registration = listed(&setup).await;
        setup.fake.member("a").hang();
        stays_registered(&setup, &registration, SEC * 10).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_member_that_hangs_is_the_one_that_is_named() {
    for _ in 0..20 {
        let setup = Setup::new();
        let registration = listed(&setup).await;
        setup.fake.hang();
        let status = status(&registration, |s| {
            matches!(s, RegistrationStatus::Suspect { .. })
        })
        .await;
        let said = format!("{status:?}");
        assert!(said.contains("http://a:2379: no answer"), "{said}");
    }
}

/// The token is lost; the first authentication fails. With one member or with several: the pauses between authentications
/// do not depend on how long a connect may take.
#[tokio::test(start_paused = true)]
async fn an_authentication_that_failed_is_repeated_within_two_seconds() {
    for is_beside in [false, true] {
        let setup = Setup::new();
        let etcd = if is_beside {
            three(&setup)
        } else {
            setup.etcd()
        };
        let registration = setup.registered_with(guarded(&setup, etcd)).await;
        if is_beside {
            let first = setup.fake.history()[0].member.clone();
            setup.fake.member(&first).hang();
        }
        sleep(SEC * 20).await;
        let failure = Reply::Error(Code::Unavailable, "etcdserver: request timed out");
        setup.fake.script(Rpc::Authenticate, failure);
        setup.fake.forget_tokens();
        registration
            .update(|instance| instance.with_value("w"))
            .unwrap();
        setup.key_holds("w", SEC * 2).await;
    }
}

/// A watch is refused for its token while another one is unanswered.
#[tokio::test(start_paused = true)]
async fn nothing_is_late_on_a_watch_stream_that_was_closed() {
    let setup = Setup::new();
    let registrar = guarded(&setup, setup.etcd()).build().unwrap();
    let registration = announced_by(&registrar, greeter());
    registration.registered().await.unwrap();
    sleep(SEC * 20).await;
    setup.fake.always(Rpc::Authenticate, Reply::Late(SEC * 5));
    setup.fake.script(Rpc::Watch, Reply::Late(MS * 300));
    let other = announced_by(&registrar, Instance::new("other"));
    other.registered().await.unwrap();
    setup.fake.forget_tokens();
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    stays_registered(&setup, &registration, SEC * 4).await;
}
