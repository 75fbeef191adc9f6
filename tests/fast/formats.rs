//! Several formats of one instance.

use crate::setup::{KEY, SEC, Setup, announce, greeter, register_as};
use crate::support::fake::Rpc;
use std::collections::BTreeMap;
use tokio::time::sleep;
use tonic_etcd::RegisterError;
use tonic_etcd::format::{CoreDns, EtcdNaming, Kitex, Kratos, Plain};

const KRATOS: &str = "/microservices/greeter/a1";

/// What is in etcd now.
fn stored(setup: &Setup) -> BTreeMap<String, String> {
    let keys = setup.fake.keys().into_iter();
    keys.map(|(key, stored)| (key, stored.value)).collect()
}

fn of_kratos(metadata: &str) -> String {
    format!(
        r#"{{"id":"a1","name":"greeter","version":"","metadata":{{{metadata}}},"endpoints":["grpc://10.0.0.1:9000"]}}"#
    )
}

#[tokio::test(start_paused = true)]
async fn two_formats_come_change_and_leave_together() {
    let setup = Setup::new();
    let builder = setup.builder().format(Plain::new()).format(Kratos::new());
    let registration = register_as(builder, greeter().with_id("a1"));
    announce(&registration);
    let registered = registration.registered().await.unwrap();
    let keys: Vec<_> = registered.keys.iter().map(|key| &**key).collect();
    assert_eq!(keys, [KEY, KRATOS]);
    let expect = |plain: &str, kratos: String| {
        let pairs = [
            (KEY.to_owned(), plain.to_owned()),
            (KRATOS.to_owned(), kratos),
        ];
        assert_eq!(stored(&setup), BTreeMap::from(pairs));
        let leases: Vec<_> = setup.fake.keys().values().map(|it| it.lease).collect();
        assert_eq!(leases, [registered.lease; 2]);
    };
    expect("v", of_kratos(""));
    assert_eq!(setup.count(Rpc::Txn), 1, "one transaction for both");

    let change = registration.update(|it| it.with_value("w").with_weight(20));
    change.unwrap();
    sleep(SEC).await;
    expect("w", of_kratos(r#""weight":"20""#));
    assert_eq!(setup.count(Rpc::Txn), 2, "and one more");

    registration.deregister();
    registration.ended().await;
    assert_eq!(stored(&setup), BTreeMap::new());
}

#[tokio::test(start_paused = true)]
async fn a_deleted_key_of_one_format_comes_back() {
    let setup = Setup::new();
    let builder = setup.builder().format(Plain::new()).format(Kratos::new());
    let registration = register_as(builder, greeter().with_id("a1"));
    announce(&registration);
    registration.registered().await.unwrap();
    let before = stored(&setup);
    setup.fake.delete(KRATOS);
    sleep(SEC).await;
    assert_eq!(stored(&setup), before);
}

#[tokio::test(start_paused = true)]
async fn register_refuses_an_instance_that_a_format_cannot_write() {
    let setup = Setup::new();
    let builder = setup.builder().format(Plain::new()).format(Kitex::new());
    let registrar = builder.build().unwrap();
    let refused = registrar.register(greeter().with_weight(0)).unwrap_err();
    assert!(matches!(refused, RegisterError::Format { .. }), "{refused}");
    let registration = registrar.register(greeter()).unwrap();
    let refused = registration.update(|it| it.with_weight(0)).unwrap_err();
    assert!(refused.to_string().contains("kitex"), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn registrations_that_share_a_key_in_any_format_are_refused() {
    let setup = Setup::new();
    let builder = setup.builder().format(Plain::new()).format(Kratos::new());
    let registrar = builder.build().unwrap();
    let _first = registrar.register(greeter().with_id("a1")).unwrap();
    let error = registrar.register(greeter().with_id("a1")).unwrap_err();
    assert!(
        matches!(&error, RegisterError::SameKey { key, .. } if key == KRATOS),
        "{error}"
    );
    let _second = registrar.register(greeter().with_id("a2")).unwrap();

    let builder = setup.builder().format(Plain::new().prefix("/a"));
    let error = builder.format(Kratos::new()).build().unwrap_err();
    assert!(error.to_string().contains("Plain::new()"), "{error}");
    let shadowed = EtcdNaming::new().prefix("/services");
    let builder = setup.builder().format(Plain::new()).format(shadowed);
    let registrar = builder.format(CoreDns::new()).build().unwrap();
    let error = registrar.register(greeter().with_address("10.0.0.1:9000"));
    assert!(matches!(error.unwrap_err(), RegisterError::Format { .. }));
}
