//! Both sides write the same bytes, and these are the ones that were recorded.

use crate::go::GoServer;
use crate::kind::{Kind, SERVICE};
use crate::rust::RustServer;
use crate::setup::{registered, until_registered};
use test_support::etcd::Etcd;
use tonic_etcd::format::{Address, KeyContext};

for_each_kind!(both_sides_write_what_was_recorded_and_ours_reads_it_as_it_writes_it);

/// Of etcd's endpoint manager, of kratos' own registry (v2.8.3, the real one) and of go-zero.
fn recorded(kind: Kind, id: &str, addr: &str, version: &str, metadata: &str) -> (String, String) {
    match kind {
        Kind::Etcd => (
            format!("greeter/{addr}"),
            format!(r#"{{"Op":0,"Addr":"{addr}","Metadata":null}}"#),
        ),
        Kind::Kratos => (
            format!("/microservices/greeter/{id}"),
            format!(
                r#"{{"id":"{id}","name":"greeter","version":"{version}","metadata":{metadata},"endpoints":["grpc://{addr}"]}}"#
            ),
        ),
        Kind::GoZero => (format!("greeter/{id}"), addr.to_owned()),
    }
}

async fn both_sides_write_what_was_recorded_and_ours_reads_it_as_it_writes_it(kind: Kind) {
    let etcd = Etcd::start().await;
    let go = GoServer::start(kind, &etcd, "go").await;
    let found = only(&etcd, kind).await;
    check(
        kind,
        &found,
        go.addr.to_string(),
        ("v1", r#"{"weight":"10"}"#),
    );
    go.stop().await;
    until_registered(&etcd, kind, 0).await;

    let rust = RustServer::start(kind, &etcd, &[]).await;
    let found = only(&etcd, kind).await;
    let addr = rust.process.listening().await.to_string();
    check(kind, &found, addr, (env!("CARGO_PKG_VERSION"), "{}"));
}

async fn only(etcd: &Etcd, kind: Kind) -> (String, String) {
    until_registered(etcd, kind, 1).await;
    registered(etcd, kind).await.remove(0)
}

fn check(kind: Kind, found: &(String, String), addr: String, of_kratos: (&str, &str)) {
    let format = kind.format();
    let (key, value) = found;
    let instance = format.decode(SERVICE, key, value.as_bytes()).unwrap();
    assert_eq!(instance.address(), Some(&*addr));
    let (version, metadata) = of_kratos;
    let expected = recorded(kind, instance.id(), &addr, version, metadata);
    assert_eq!(*found, expected);

    let address: Address = addr.parse().unwrap();
    let again = (
        format.key(&KeyContext::new(&instance, &address, 1)),
        format.encode(&instance, &address),
    );
    assert_eq!(again, *found, "read and written again");
}
