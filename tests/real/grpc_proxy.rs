//! A registration through `etcd grpc-proxy`, which answers a renewal when it renews the lease itself, and chooses the ids
//! of watches.

use crate::setup::{LONG, SEC};
use crate::support::etcd::Etcd;
use crate::support::grpc_proxy::GrpcProxy;
use crate::support::ports::free_addr;
use crate::support::registered_within;
use etcd_client::Client;
use tokio::time::{sleep, timeout};
use tonic_etcd::{Instance, Registrar, Registration, RegistrationStatus};

async fn register(registrar: &Registrar, name: &str) -> Registration {
    let registration = registrar.register(Instance::new(name).with_value("ours"));
    let registration = registration.unwrap();
    registration.announce(free_addr()).unwrap();
    registered_within(LONG, &registration).await;
    registration
}

async fn revision(client: &mut Client) -> i64 {
    let found = client.get("x", None).await.unwrap();
    found.header().unwrap().revision()
}

async fn holds_through_the_proxy(namespace: &str) {
    let flag = format!("--namespace={namespace}");
    let flags: &[&str] = match namespace {
        "" => &[],
        _ => &[&flag],
    };
    // Without users: it renews without anybody's token, which etcd of today refuses (see `failures`).
    let process = Etcd::start_with(&[]).await;
    let proxy = GrpcProxy::start(&process, flags).await;
    let registrar = Registrar::builder(tonic_etcd::Etcd::new([proxy.endpoint()]))
        .build()
        .unwrap();
    let gone = register(&registrar, "a").await;
    let kept = [
        register(&registrar, "b").await,
        register(&registrar, "c").await,
    ];
    let mut client = process.client().await;

    let before = revision(&mut client).await;
    for registration in &kept {
        let mut watch = registration.watch();
        let changed = timeout(10 * SEC, watch.changed()).await;
        assert!(changed.is_err(), "the status changed: {changed:?}");
    }
    assert_eq!(revision(&mut client).await, before, "something was written");

    // Its watch is cancelled. The others go on, under the ids that the proxy gave them.
    gone.deregister();
    timeout(LONG, gone.ended()).await.unwrap();
    for registration in &kept {
        let RegistrationStatus::Registered(registered) = registration.status() else {
            panic!("{}", registration.status());
        };
        let key = format!("{namespace}{}", registered.keys[0]);
        client.put(&*key, "theirs", None).await.unwrap();
        let put_again = async {
            loop {
                let found = client.get(&*key, None).await.unwrap();
                if found.kvs()[0].value() == b"ours" {
                    break;
                }
                sleep(SEC / 50).await;
            }
        };
        let in_time = timeout(5 * SEC, put_again).await;
        in_time.expect("not put again in time");
    }
}

#[tokio::test]
async fn through_grpc_proxy_no_status_changes_and_every_key_is_kept() {
    holds_through_the_proxy("").await;
}

#[tokio::test]
async fn through_grpc_proxy_with_a_namespace_every_key_is_kept_too() {
    holds_through_the_proxy("/services/elsewhere").await;
}
