//! The addresses of the machine change while a server runs, in a network namespace of the test's own.

use crate::setup::LONG;
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::namespace::{self, ip};
use crate::support::observer::Observer;
use crate::support::proxy::Proxy;
use crate::support::{library_etcd, registered_within};
use tonic_etcd::{Instance, Registrar};

#[tokio::test]
async fn the_key_follows_the_address_of_the_machine() {
    if !namespace::enter("addresses::the_key_follows_the_address_of_the_machine").await {
        return;
    }
    ip("addr add 10.1.0.5/32 dev lo");
    let etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let proxy = Proxy::to_port(etcd.client_port()).await;
    let registrar =
        Registrar::builder(library_etcd([proxy.endpoint()])).key_template("{prefix}/{name}/{addr}");
    let registration = registrar.build().unwrap();
    let registration = registration.register(Instance::new("greeter")).unwrap();
    registration
        .announce("0.0.0.0:9000".parse().unwrap())
        .unwrap();
    registered_within(LONG, &registration).await;
    observer
        .wait_for_key("/services/greeter/10.1.0.5:9000", LONG)
        .await;
    ip("addr add 10.1.0.77/32 dev lo");
    ip("addr del 10.1.0.5/32 dev lo");
    proxy.reset();
    observer
        .wait_for_key("/services/greeter/10.1.0.77:9000", LONG)
        .await;
    observer
        .wait_for_no_key("/services/greeter/10.1.0.5:9000", LONG)
        .await;
}
