//! Clusters whose members change, and the error when none of them answers.

use crate::setup::{KEY, SEC, Setup, announced, status};
use crate::support::fake::Rpc;
use std::time::Duration;
use tokio::time::sleep;
use tonic_etcd::{Etcd, Registration, RegistrationStatus};

const SYNC: Duration = Duration::from_secs(10);

fn url(member: &str) -> String {
    format!("http://{member}:2379")
}

/// Registered through a member `a`, which is the only one that is configured.
async fn registered(setup: &Setup, etcd: Etcd) -> Registration {
    setup.registered_with(setup.builder_on(etcd)).await
}

fn etcd(setup: &Setup) -> Etcd {
    Etcd::new([url("a")]).connector(setup.fake.connector())
}

/// Replaces the members `a`, `b` by `b`, `c`, then by `c`, `d`, and so on.
async fn replace_all(setup: &Setup) {
    let members = ["a", "b", "c", "d", "e"];
    for pair in members.windows(2) {
        setup.fake.list_members(&[&url(pair[0]), &url(pair[1])]);
        sleep(SYNC * 2).await;
        setup.fake.member(pair[0]).down();
    }
    sleep(SYNC).await;
}

#[tokio::test(start_paused = true)]
async fn members_are_followed_until_none_is_left_that_was_configured() {
    let setup = Setup::new();
    let registration = registered(&setup, etcd(&setup).sync_members(SYNC)).await;
    let before = registration.registered().await.unwrap();
    replace_all(&setup).await;
    assert_eq!(registration.registered().await.unwrap(), before);
    assert_eq!((setup.puts(), setup.deletes()), (1, 0));
    let last = setup.fake.calls(Rpc::LeaseKeepAlive).pop().unwrap();
    assert_eq!(last.member, "e");
    // Once for each connection, and then every interval, from the member in use.
    let lists = setup.fake.calls(Rpc::MemberList);
    assert!((9..=14).contains(&lists.len()), "{}", lists.len());
}

#[tokio::test(start_paused = true)]
async fn members_are_not_followed_unless_asked_for() {
    let setup = Setup::new();
    let registration = registered(&setup, etcd(&setup)).await;
    replace_all(&setup).await;
    let now = registration.status();
    assert!(matches!(now, RegistrationStatus::Lost { .. }), "{now:?}");
    assert_eq!(setup.count(Rpc::MemberList), 0);
}

#[tokio::test(start_paused = true)]
async fn configured_endpoints_stay_when_the_list_names_members_out_of_reach() {
    let setup = Setup::new();
    for member in ["x", "y"] {
        setup.fake.member(member).black_hole();
    }
    setup
        .fake
        .list_members(&[&url("x"), &url("y"), "http://127.0.0.1:2379"]);
    let registration = registered(&setup, etcd(&setup).sync_members(SYNC)).await;
    sleep(SEC).await;
    for _ in 0..5 {
        setup.fake.cut_connections();
        sleep(SEC * 10).await;
        let now = registration.status();
        assert!(matches!(now, RegistrationStatus::Registered(_)), "{now:?}");
    }
    assert_eq!(setup.deletes(), 0);
    let dialled = setup.fake.calls(Rpc::Connect);
    assert!(dialled.iter().all(|call| call.member != "127.0.0.1"));
}

#[tokio::test(start_paused = true)]
async fn the_list_ends_with_the_connection() {
    let setup = Setup::new();
    let registration = registered(&setup, etcd(&setup).sync_members(SYNC)).await;
    setup.shutdown.cancel();
    registration.ended().await;
    let lists = setup.count(Rpc::MemberList);
    sleep(SYNC * 10).await;
    assert_eq!(setup.count(Rpc::MemberList), lists);
    assert_eq!(setup.fake.connections_open(), 0);
    assert!(!setup.fake.keys().contains_key(KEY));
}

#[tokio::test(start_paused = true)]
async fn when_no_member_answers_each_is_named_with_its_reason() {
    let setup = Setup::new();
    let members = ["a", "b", "c"];
    setup.fake.member("a").down();
    setup.fake.member("b").black_hole();
    setup.fake.member("c").hang();
    let etcd = Etcd::new(members.map(url)).connector(setup.fake.connector());
    let registration = announced(setup.builder_on(etcd));
    let complete = |status: &RegistrationStatus| {
        let text = format!("{status:?}");
        members.iter().all(|member| text.contains(&url(member)))
    };
    let text = format!("{:?}", status(&registration, complete).await);
    for reason in [
        "http://a:2379: connection refused",
        "http://b:2379: no answer within 600ms",
        "http://c:2379: no answer within 600ms",
    ] {
        assert!(text.contains(reason), "{reason}: {text}");
    }
}
