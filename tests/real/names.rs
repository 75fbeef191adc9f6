//! Endpoints given by name: with several addresses, some of them unreachable, and with addresses that change.

use crate::setup::{LONG, SEC, announced};
use crate::support::black_hole::BlackHole;
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::observer::Observer;
use crate::support::proxy::{Mode, Proxy};
use crate::support::{eventually, library_etcd, ports, registered_within};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use tokio::time::{Instant, sleep};
use tonic_etcd::{Etcd, Registrar};

const NAME: &str = "http://etcd.example:2379";

/// The current addresses of the name.
#[derive(Clone, Default)]
struct Zone(Arc<Mutex<Vec<SocketAddr>>>);

impl Zone {
    fn set(&self, addrs: impl Into<Vec<SocketAddr>>) {
        *self.0.lock().unwrap() = addrs.into();
    }

    fn etcd(&self) -> Etcd {
        let zone = self.clone();
        library_etcd([NAME]).resolver(move |host, port| {
            assert_eq!((&*host, port), ("etcd.example", 2379));
            std::future::ready(Ok(zone.0.lock().unwrap().clone()))
        })
    }
}

fn addr(proxy: &Proxy) -> SocketAddr {
    let endpoint = proxy.endpoint();
    endpoint.trim_start_matches("http://").parse().unwrap()
}

/// hyper divides the limit of an attempt by the addresses of a name, so that an attempt ended
/// before the second one was tried: with a black hole first, it was never registered.
#[tokio::test]
async fn dead_addresses_of_a_name_are_left_for_one_that_works() {
    let etcd = EtcdProcess::start().await;
    let (hole, closed) = (BlackHole::open().await, ports::free_addr());
    let works = Proxy::to_port(etcd.client_port()).await;
    let silent = Proxy::to_port(etcd.client_port()).await;
    silent.set(Mode::BlackHole);
    let (silent, works) = (addr(&silent), addr(&works));
    for addrs in [
        vec![hole.addr(), works],
        vec![silent, works],
        vec![hole.addr(), closed, silent, works],
    ] {
        let zone = Zone::default();
        zone.set(addrs.clone());
        // The choice of the first address is random.
        for _ in 0..3 {
            let start = Instant::now();
            let registration = announced(Registrar::builder(zone.etcd()));
            registered_within(LONG, &registration).await;
            let attempts = SEC.mul_f64(0.6) * u32::try_from(addrs.len()).unwrap();
            let took = start.elapsed();
            assert!(took < attempts + SEC, "{addrs:?}: {took:?}");
        }
    }
}

#[tokio::test]
async fn a_name_that_moves_is_looked_up_again_and_nothing_is_missed() {
    let etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let (old, new) = (
        Proxy::to_port(etcd.client_port()).await,
        Proxy::to_port(etcd.client_port()).await,
    );
    let zone = Zone::default();
    zone.set([addr(&old)]);
    let registration = announced(Registrar::builder(zone.etcd()));
    let registered = registration.registered().await.unwrap();
    observer.wait_for_key(&registered.keys[0], LONG).await;
    let mark = observer.mark();
    old.set(Mode::Refuse);
    zone.set([addr(&new)]);
    eventually("it uses the new address", SEC * 5, || match new.open() {
        0 => Err(format!("{:?}", registration.status())),
        _ => Ok(()),
    })
    .await;
    sleep(SEC * 7).await;
    assert_eq!(registration.registered().await.unwrap(), registered);
    assert_eq!(observer.events()[mark..], []);
}
