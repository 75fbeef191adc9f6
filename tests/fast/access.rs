//! Users and tokens.

use crate::setup::{KEY, SEC, Setup, announce, greeter};
use crate::support::fake::Rpc;
use tokio::time::sleep;
use tonic_etcd::Status;

#[tokio::test(start_paused = true)]
async fn a_token_that_etcd_forgot_is_asked_for_once_more_without_a_gap() {
    let setup = Setup::new();
    setup.fake.user("me", "secret");
    let registrar = setup
        .builder_on(setup.etcd().user("me", "secret"))
        .build()
        .unwrap();
    let registration = registrar.register(greeter()).unwrap();
    announce(&registration);
    registration.registered().await.unwrap();
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
async fn a_wrong_password_is_said_and_retried_slowly() {
    let setup = Setup::new();
    setup.fake.user("me", "secret");
    let registrar = setup
        .builder_on(setup.etcd().user("me", "canary"))
        .build()
        .unwrap();
    let registration = registrar.register(greeter()).unwrap();
    announce(&registration);
    sleep(SEC * 300).await;
    let Status::Registering {
        reason: Some(reason),
        ..
    } = registration.status()
    else {
        panic!("{:?}", registration.status());
    };
    assert!(reason.contains("invalid user ID or password"), "{reason}");
    assert!(!reason.contains("canary"), "{reason}");
    let attempts = setup.count(Rpc::Authenticate);
    assert!((10..=14).contains(&attempts), "{attempts} in 5 minutes");
}
