//! The `server` example in several formats: the keys and values of each, and that all are deleted.

use crate::setup::LONG;
use crate::support::etcd::Etcd;
use crate::support::observer::Observer;
use crate::support::server::ServerProcess;

#[tokio::test]
async fn three_formats_are_written_as_their_readers_expect_and_go_at_sigterm() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "").await;
    let flags = [
        "--deregistration-delay",
        "0s",
        "--format",
        "plain",
        "--format",
        "kratos",
        "--format",
        "etcd-naming",
    ];
    let server = ServerProcess::start(&etcd.endpoint(), &flags);
    let addr = server.listening().await;
    let plain = format!("/services/greeter/127.0.0.1/{}", server.pid());
    let held = observer.wait_for_key(&plain, LONG).await;
    let instance: tonic_etcd::InstanceJson = serde_json::from_slice(&held.value).unwrap();
    let (id, version) = (&instance.id, env!("CARGO_PKG_VERSION"));
    let expected = [
        (
            plain,
            format!(r#"{{"name":"greeter","id":"{id}","address":"{addr}","version":"{version}"}}"#),
        ),
        (
            format!("/microservices/greeter/{id}"),
            format!(
                r#"{{"id":"{id}","name":"greeter","version":"{version}","metadata":{{}},"endpoints":["grpc://{addr}"]}}"#
            ),
        ),
        (
            format!("greeter/{addr}"),
            format!(r#"{{"Op":0,"Addr":"{addr}","Metadata":null}}"#),
        ),
    ];
    for (key, value) in &expected {
        let stored = observer.wait_for_key(key, LONG).await;
        assert_eq!(
            (&*stored.value, stored.lease, stored.revision),
            (value.as_bytes(), held.lease, held.revision),
            "{key}"
        );
    }
    server.signal("TERM");
    for (key, _) in &expected {
        observer.wait_for_no_key(key, LONG).await;
    }
    assert_eq!(server.exit(LONG).await, 0, "{}", server.output());
}
