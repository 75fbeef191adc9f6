//! Overload and failover, as an adversary tried them: busy members, silent connections, slow answers.

use crate::setup::{
    KEY, LONG, MS, SEC, Setup, announced, announced_by, greeter, is_registered, status,
};
use crate::support::fake::{Reply, Rpc};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tonic_etcd::{Etcd, Instance, Registration, RegistrationStatus};

const THREE: [&str; 3] = ["one", "two", "three"];
fn three(setup: &Setup) -> Etcd {
    Etcd::new(THREE.map(|m| format!("http://{m}:1"))).connector(setup.fake.connector())
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
    let cut = Instant::now();
    for _ in 0..400 {
        sleep(50 * MS).await;
        let status = registration.status();
        assert!(
            status.is_registered(),
            "{:?} after the cut: {status:?}; connects {:?}",
            cut.elapsed(),
            setup.fake.calls(Rpc::Connect)
        );
    }
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
async fn a_member_that_refuses_all_grants_is_left_for_another() {
    for _ in 0..12 {
        let setup = Setup::new();
        let busy = Reply::Error(Code::ResourceExhausted, "etcdserver: too many requests");
        setup.fake.member("one").always(Rpc::LeaseGrant, busy);
        let registration = announced(setup.builder_on(three(&setup)));
        let ok = timeout(LONG * 10, registration.registered()).await;
        assert!(
            ok.is_ok(),
            "{:?} {} grants, all at {:?}",
            registration.status(),
            setup.count(Rpc::LeaseGrant),
            setup.fake.calls(Rpc::Connect)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_refuses_all_renewals_is_left_for_another() {
    let setup = Setup::new();
    let registration = setup.registered_with(setup.builder_on(three(&setup))).await;
    let first = setup.fake.history()[0].member.clone();
    let busy = Reply::Error(Code::ResourceExhausted, "etcdserver: too many requests");
    setup.fake.member(&first).always(Rpc::LeaseKeepAlive, busy);
    for _ in 0..1200 {
        sleep(50 * MS).await;
        let status = registration.status();
        assert!(status.is_registered(), "{status:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_refuses_all_writes_is_left_for_another() {
    let setup = Setup::new();
    let registration = setup.registered_with(setup.builder_on(three(&setup))).await;
    let first = setup.fake.history()[0].member.clone();
    let busy = Reply::Error(Code::ResourceExhausted, "etcdserver: too many requests");
    setup.fake.member(&first).always(Rpc::Txn, busy);
    setup.fake.delete(KEY);
    sleep(LONG).await;
    assert!(
        is_registered(&registration.status()),
        "{:?}",
        registration.status()
    );
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

#[tokio::test(start_paused = true)]
async fn the_member_that_hangs_is_not_tried_beside_itself() {
    for round in 0..20 {
        let setup = Setup::new();
        let url = |m: &str| format!("http://{m}:2379");
        setup.fake.list_members(&[&url("a"), &url("b"), &url("c")]);
        let etcd = Etcd::new([url("a")])
            .connector(setup.fake.connector())
            .sync_members(SEC * 10);
        let registration = setup.registered_with(setup.builder_on(etcd)).await;
        sleep(SEC * 2).await;
        setup.fake.member("a").hang();
        let at = Instant::now();
        for _ in 0..200 {
            sleep(50 * MS).await;
            let status = registration.status();
            assert!(
                status.is_registered(),
                "round {round}, after {:?}: {status:?}; connects {:?}",
                at.elapsed(),
                setup.fake.calls(Rpc::Connect)
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_member_that_hangs_is_the_one_that_is_named() {
    for round in 0..20 {
        let setup = Setup::new();
        let url = |m: &str| format!("http://{m}:2379");
        setup.fake.list_members(&[&url("a"), &url("b"), &url("c")]);
        let etcd = Etcd::new([url("a")])
            .connector(setup.fake.connector())
            .sync_members(SEC * 10);
        let registration = setup.registered_with(setup.builder_on(etcd)).await;
        sleep(SEC * 2).await;
        setup.fake.hang();
        let status = status(&registration, |s| {
            matches!(s, RegistrationStatus::Suspect { .. })
        })
        .await;
        assert!(
            format!("{status:?}").contains("http://a:2379: no answer"),
            "round {round}: {status:?}"
        );
    }
}

/// The token is lost; the first authentication fails.
#[tokio::test(start_paused = true)]
async fn an_authentication_that_failed_is_repeated_within_a_second() {
    let setup = Setup::new();
    setup.fake.user("me", "secret");
    setup.fake.configure(|it| it.lenient_leases = true);
    let registration = setup
        .registered_with(setup.builder_on(setup.etcd().user("me", "secret")))
        .await;
    sleep(SEC * 20).await;
    setup.fake.script(
        Rpc::Authenticate,
        Reply::Error(Code::Unavailable, "etcdserver: request timed out"),
    );
    setup.fake.forget_tokens();
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    let begun = Instant::now();
    setup.key_holds("w", LONG).await;
    assert!(
        begun.elapsed() < SEC * 2,
        "{:?} {:?}",
        begun.elapsed(),
        setup.fake.calls(Rpc::Authenticate)
    );
}

/// A watch is refused for its token while another one is unanswered.
#[tokio::test(start_paused = true)]
async fn nothing_is_late_on_a_watch_stream_that_was_closed() {
    let setup = Setup::new();
    setup.fake.user("me", "secret");
    setup.fake.configure(|it| it.lenient_leases = true);
    let registrar = setup
        .builder_on(setup.etcd().user("me", "secret"))
        .build()
        .unwrap();
    let registration = announced_by(&registrar, greeter());
    registration.registered().await.unwrap();
    sleep(SEC * 20).await;
    setup.fake.always(Rpc::Authenticate, Reply::Late(SEC * 5));
    setup.fake.script(Rpc::Watch, Reply::Late(MS * 300));
    let other = registrar.register(Instance::new("other")).unwrap();
    other.announce("10.0.0.2:9000".parse().unwrap()).unwrap();
    other.registered().await.unwrap();
    setup.fake.forget_tokens();
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    for _ in 0..80 {
        sleep(50 * MS).await;
        let status = registration.status();
        assert!(
            is_registered(&status),
            "{status:?} {:?}",
            setup
                .fake
                .history()
                .iter()
                .rev()
                .take(8)
                .collect::<Vec<_>>()
        );
    }
}

/// etcd was slow at the start (as it is when a fleet starts), and answers in 1 ms now. Then one of three members dies.
#[tokio::test(start_paused = true)]
async fn a_member_that_dies_after_slow_answers_costs_no_key() {
    for quiet in [3, 6, 10, 15, 20, 30] {
        let setup = Setup::new();
        setup.fake.latency(SEC * 2..SEC * 2 + MS);
        let registration = setup.registered_with(setup.builder_on(three(&setup))).await;
        setup.fake.latency(MS..2 * MS);
        sleep(SEC * quiet).await;
        let last = setup.fake.history().pop().unwrap().member.clone();
        setup.fake.member(&last).hang();
        sleep(SEC * 20).await;
        println!(
            "quiet {quiet}: deletes {} {:?}",
            setup.deletes(),
            registration.status()
        );
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

/// update while stranded, single endpoint
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

/// With one member or with several: the pauses between authentications do not depend on how long a connect may take.
#[tokio::test(start_paused = true)]
async fn an_authentication_is_repeated_soon_on_a_connection_from_beside() {
    let setup = Setup::new();
    setup.fake.user("me", "secret");
    setup.fake.configure(|it| it.lenient_leases = true);
    let etcd = three(&setup).user("me", "secret");
    let registration = setup.registered_with(setup.builder_on(etcd)).await;
    let first = setup.fake.history()[0].member.clone();
    setup.fake.member(&first).hang();
    sleep(SEC * 20).await;
    setup.fake.script(
        Rpc::Authenticate,
        Reply::Error(Code::Unavailable, "etcdserver: request timed out"),
    );
    setup.fake.forget_tokens();
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    let begun = Instant::now();
    setup.key_holds("w", LONG).await;
    assert!(begun.elapsed() < SEC * 2, "{:?}", begun.elapsed());
}
