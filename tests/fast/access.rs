//! Users and tokens.

use crate::log::Log;
use crate::setup::{
    KEY, LONG, MS, SEC, Setup, announce, announced, assert_registered, is_lost, is_registered,
    registering_reason, status,
};
use crate::support::fake::{Reply, Rpc};
use crate::support::{eventually, registered_within};
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;
use tonic_etcd::{Ended, Etcd, Registration, RegistrationStatus};

/// Two members; `a` is the one with a fault.
const TWO: [&str; 2] = ["http://a:2379", "http://b:2379"];
const NO_AUTH: &str = "etcdserver: authentication is not enabled";
const WRONG: &str = "etcdserver: authentication failed, invalid user ID or password";

/// An etcd with the user `me` and this password.
fn guarded() -> Setup {
    let setup = Setup::new();
    setup.fake.user("me", "secret");
    setup
}

fn etcd_at(setup: &Setup, endpoints: &[&str]) -> Etcd {
    Etcd::new(endpoints)
        .connector(setup.fake.connector())
        .user("me", "secret")
}

/// A registration that is announced; does not wait until it is registered.
fn register(setup: &Setup, etcd: Etcd) -> Registration {
    announced(setup.builder_on(etcd))
}

async fn registered(setup: &Setup) -> Registration {
    let etcd = setup.etcd().user("me", "secret");
    setup.registered_with(setup.builder_on(etcd)).await
}

#[tokio::test(start_paused = true)]
async fn a_token_that_etcd_lost_is_requested_again_and_no_key_is_lost() {
    let setup = guarded();
    let registration = registered(&setup).await;
    assert_eq!(setup.count(Rpc::Authenticate), 1);
    sleep(SEC * 10).await;
    setup.fake.forget_tokens();
    sleep(SEC * 10).await;
    registration.registered().await.unwrap();
    assert_eq!(setup.count(Rpc::Authenticate), 2);
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
    assert!(setup.fake.keys().contains_key(KEY));
}

#[tokio::test(start_paused = true)]
async fn one_token_serves_all_clones_connections_and_members() {
    let setup = guarded();
    let etcd = etcd_at(&setup, &TWO);
    let registrations = ["one", "two", "three"].map(|key| {
        let builder = setup.builder_on(etcd.clone());
        crate::setup::register(builder.key_template(format!("/{key}/{{name}}/{{addr}}")))
    });
    #[cfg(feature = "discovery")]
    let discovery = tonic_etcd::discovery::Discovery::builder(etcd, "greeter")
        .build()
        .unwrap();
    #[cfg(feature = "discovery")]
    discovery.ready().await;
    for registration in &registrations {
        announce(registration);
        registration.registered().await.unwrap();
    }
    for down in ["a", "b", "a"] {
        setup.fake.cut_connections();
        setup.fake.member(down).down();
        sleep(SEC * 5).await;
        setup.fake.member(down).up();
        setup.fake.restart();
        sleep(SEC * 5).await;
    }
    assert_eq!(setup.count(Rpc::Authenticate), 1);
    setup.fake.forget_tokens();
    sleep(SEC * 10).await;
    assert_eq!(setup.count(Rpc::Authenticate), 2);
    for registration in &registrations {
        assert!(is_registered(&registration.status()));
    }
    assert_eq!(setup.fake.changes().len(), 3, "one write each");
}

#[tokio::test(start_paused = true)]
async fn authenticating_may_take_longer_than_an_attempt() {
    let setup = guarded();
    setup
        .fake
        .always(Rpc::Authenticate, Reply::Late(3 * SEC / 2));
    let begun = Instant::now();
    let _registration = registered(&setup).await;
    assert!(begun.elapsed() < SEC * 2, "{:?}", begun.elapsed());
    assert_eq!(setup.count(Rpc::Authenticate), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_tokens_loses_no_key_if_authenticating_is_slow() {
    let setup = guarded();
    let registration = registered(&setup).await;
    setup.fake.always(Rpc::Authenticate, Reply::Late(3 * SEC));
    sleep(SEC * 2).await;
    setup.fake.down();
    setup.fake.forget_tokens();
    sleep(SEC).await;
    setup.fake.up();
    sleep(SEC * 20).await;
    assert_registered(&registration);
    assert_eq!(setup.count(Rpc::Authenticate), 2);
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn renewals_continue_while_it_authenticates() {
    let setup = guarded();
    // Renewals accept any token, as in etcd before 3.4.42.
    setup.fake.configure(|it| it.lenient_leases = true);
    let registration = registered(&setup).await;
    let lease = registration.status().registered().unwrap().lease;
    setup.fake.always(Rpc::Authenticate, Reply::Late(SEC * 15));
    setup.fake.forget_tokens();
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    let watch = async {
        let mut watch = registration.watch();
        let mut lost = false;
        while let Some(status) = watch.changed().await {
            lost |= matches!(status, RegistrationStatus::Lost { .. });
            let keys = setup.fake.keys();
            if keys.get(KEY).is_some_and(|stored| stored.value == "w") && is_registered(&status) {
                break;
            }
        }
        lost
    };
    let lost = timeout(LONG, watch).await;
    assert_eq!(lost, Ok(false), "{:?}", registration.status());
    assert_eq!(setup.count(Rpc::Authenticate), 2);
    assert_eq!(setup.fake.keys()[KEY].lease, lease);
    assert_eq!((setup.puts(), setup.deletes()), (2, 0));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_runs_out_while_it_authenticates_is_lost_in_time() {
    let setup = guarded();
    let registration = registered(&setup).await;
    setup.fake.always(Rpc::Authenticate, Reply::Late(SEC * 15));
    setup.fake.restart();
    setup.fake.forget_tokens();
    let begun = Instant::now();
    let lost = status(&registration, is_lost).await;
    let after = begun.elapsed();
    assert!(after <= SEC * 5, "{lost:?} after {after:?}");
    status(&registration, is_registered).await;
    assert!(begun.elapsed() < SEC * 17, "{:?}", begun.elapsed());
    assert_eq!(setup.count(Rpc::Authenticate), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_an_authentication() {
    let setup = guarded();
    let registration = registered(&setup).await;
    setup.fake.always(Rpc::Authenticate, Reply::Never);
    setup.fake.restart();
    setup.fake.forget_tokens();
    sleep(SEC * 2).await;
    let begun = Instant::now();
    setup.shutdown.cancel();
    let ended = timeout(LONG, registration.ended()).await.unwrap();
    assert!(matches!(ended, Ended::LeftToExpire { .. }), "{ended:?}");
    assert!(begun.elapsed() <= SEC + 100 * MS, "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn failed_authentications_are_repeated_with_growing_pauses() {
    let setup = guarded();
    let busy = Reply::Error(Code::Unavailable, "etcdserver: request timed out");
    setup.fake.always(Rpc::Authenticate, busy);
    let registration = register(&setup, setup.etcd().user("me", "secret"));
    sleep(SEC * 60).await;
    let asked = setup.count(Rpc::Authenticate);
    assert!((15..=35).contains(&asked), "{asked} in a minute");
    let why = format!("{:?}", registration.status());
    assert!(why.contains("request timed out"), "{why}");
    setup.fake.clear();
    registered_within(SEC * 6, &registration).await;
}

#[tokio::test(start_paused = true)]
async fn a_member_that_hangs_costs_one_attempt_and_no_authentication() {
    for _ in 0..6 {
        let setup = guarded();
        setup.fake.member("a").hang();
        let registration = register(&setup, etcd_at(&setup, &TWO));
        registered_within(SEC, &registration).await;
        assert_eq!(setup.count(Rpc::Authenticate), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_member_that_hangs_while_it_authenticates_is_left_for_another() {
    let setup = guarded();
    let a = setup.fake.member("a");
    a.always(Rpc::Authenticate, Reply::Late(3 * SEC));
    setup.fake.member("b").down();
    let registration = register(&setup, etcd_at(&setup, &TWO));
    while setup.count(Rpc::Authenticate) == 0 {
        sleep(10 * MS).await;
    }
    setup.fake.member("b").up();
    a.hang();
    registered_within(SEC * 7, &registration).await;
    assert_eq!(setup.count(Rpc::Authenticate), 2);
}

#[tokio::test(start_paused = true)]
async fn an_authentication_takes_a_minute_at_most() {
    let setup = guarded();
    setup.fake.script(Rpc::Authenticate, Reply::Never);
    let registration = register(&setup, setup.etcd().user("me", "secret"));
    sleep(59 * SEC).await;
    assert_eq!(setup.count(Rpc::Authenticate), 1);
    registered_within(SEC * 4, &registration).await;
    assert_eq!(setup.count(Rpc::Authenticate), 2);
}

/// Also on a connection beside the one that does not answer.
#[tokio::test(start_paused = true)]
async fn an_authentication_beside_a_silent_member_takes_a_minute_at_most() {
    let setup = guarded();
    let registration = register(
        &setup,
        etcd_at(&setup, &["http://a:1", "http://b:1", "http://c:1"]),
    );
    status(&registration, is_registered).await;
    let used = setup.fake.calls(Rpc::LeaseGrant)[0].member.clone();
    setup.fake.member(&used).hang();
    setup.fake.forget_tokens();
    setup.fake.script(Rpc::Authenticate, Reply::Never);
    let begun = Instant::now();
    status(&registration, is_lost).await;
    registered_within(SEC * 66, &registration).await;
    assert!(begun.elapsed() > SEC * 60, "{:?}", begun.elapsed());
    assert_eq!(setup.count(Rpc::Authenticate), 3);
}

/// Each of six servers begins with one of the two at random.
#[tokio::test(start_paused = true)]
async fn a_member_that_refuses_is_left_for_the_one_that_does_not() {
    let no_auth = Reply::Error(Code::FailedPrecondition, NO_AUTH);
    let wrong = Reply::Error(Code::InvalidArgument, WRONG);
    for (rpc, refusal) in [
        (Rpc::Authenticate, no_auth),
        (Rpc::Authenticate, wrong),
        (Rpc::LeaseGrant, Reply::DENIED),
        (Rpc::Txn, Reply::DENIED),
    ] {
        for _ in 0..6 {
            let setup = guarded();
            setup.fake.member("a").always(rpc, refusal.clone());
            let registration = register(&setup, etcd_at(&setup, &TWO));
            let done = timeout(SEC * 2, registration.registered()).await;
            assert!(done.is_ok(), "{rpc:?}: {:?}", registration.status());
            sleep(LONG).await;
            assert!(is_registered(&registration.status()));
            assert_eq!((setup.puts(), setup.deletes()), (1, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_user_is_no_obstacle_where_no_member_has_users() {
    let log = Log::of("warn");
    let setup = Setup::new();
    let registration = register(&setup, etcd_at(&setup, &TWO));
    registered_within(SEC * 2, &registration).await;
    setup.fake.restart();
    sleep(LONG).await;
    assert!(is_registered(&registration.status()));
    assert_eq!(setup.count(Rpc::Authenticate), 2, "one for each member");
    let said = log.text();
    assert_eq!(said.matches("has no authentication").count(), 1, "{said}");

    // Authentication is switched on later, and the next connection finds out.
    setup.fake.user("me", "secret");
    setup.fake.restart();
    sleep(LONG).await;
    assert_registered(&registration);
    assert_eq!(setup.count(Rpc::Authenticate), 3);
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_wrong_password_is_said_and_retried_slowly_at_each_member() {
    let setup = guarded();
    let registration = register(&setup, etcd_at(&setup, &TWO).user("me", "canary"));
    sleep(SEC * 300).await;
    let reason = registering_reason(&registration);
    assert!(reason.contains("invalid user ID or password"), "{reason}");
    assert!(!reason.contains("canary"), "{reason}");
    let attempts = setup.count(Rpc::Authenticate);
    assert!((20..=28).contains(&attempts), "{attempts} in 5 minutes");
}

#[tokio::test(start_paused = true)]
async fn a_token_from_before_a_data_loss_is_replaced_though_never_refused() {
    let setup = guarded();
    let registration = registered(&setup).await;
    let before = setup.count(Rpc::Authenticate);
    setup.fake.wipe();
    // The next renewal is not answered, and the next connection finds out why.
    sleep(SEC * 3).await;
    assert_registered(&registration);
    assert!(setup.fake.keys().contains_key(KEY));
    assert_eq!(setup.count(Rpc::Authenticate) - before, 1);
}

#[tokio::test(start_paused = true)]
async fn neither_password_nor_token_is_shown_or_logged() {
    let log = Log::of("trace");
    let setup = Setup::new();
    // The fake's tokens begin with the user's name.
    setup.fake.user("canary-token", "canary-password");
    let etcd = setup.etcd().user("canary-token", "canary-password");
    assert!(!format!("{etcd:?}").contains("canary-password"));
    let registration = register(&setup, etcd);
    registration.registered().await.unwrap();
    setup.fake.forget_tokens();
    sleep(SEC * 10).await;
    setup.fake.user("canary-token", "another");
    setup.fake.restart();
    eventually("it is refused", LONG, || match registration.status() {
        RegistrationStatus::Lost { reason, .. } if reason.contains("user ID or password") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .await;
    let said = log.text();
    assert!(said.contains("TRACE"), "{said}");
    assert!(said.contains("authenticating"), "{said}");
    for secret in ["canary-password", "canary-token."] {
        assert!(!said.contains(secret), "{secret} is logged");
    }
}
