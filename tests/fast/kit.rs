//! The test kit (feature `test-util`) for users' tests.

use crate::setup::{LONG, MS, SEC, greeter, is_lost, is_registered, status};
use std::net::TcpListener;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_etcd::testing::FakeEtcd;
use tonic_etcd::{Etcd, Instance, Registrar, Registration, RegistrationStatus, ServeRegistered};

const SERVICES: &str = "/services/";
const KEY: &str = "/services/greeter/10.0.0.1:9000";

fn register(etcd: Etcd) -> Registration {
    crate::setup::announced(Registrar::builder(etcd).key_template("{prefix}/{name}/{addr}"))
}

/// The message of a failed assertion.
async fn panicked(assertion: impl Future<Output = ()>) -> String {
    let caught = futures_util::FutureExt::catch_unwind(AssertUnwindSafe(assertion)).await;
    let said = caught.expect_err("the assertion held");
    said.downcast_ref::<String>().unwrap().clone()
}

#[tokio::test(start_paused = true)]
async fn a_registration_works_without_a_port() {
    let etcd = FakeEtcd::new();
    let registration = register(etcd.etcd());
    let key = etcd.assert_registered(SERVICES, SEC).await;
    assert_eq!((&*key, &*etcd.keys()[&key]), (KEY, "v"));
    sleep(SEC * 60).await;
    assert!(matches!(
        registration.status(),
        RegistrationStatus::Registered(_)
    ));
    registration.deregister();
    etcd.assert_gone(SERVICES, SEC).await;
}

#[tokio::test(start_paused = true)]
async fn a_key_that_others_delete_or_overwrite_is_put_again() {
    let etcd = FakeEtcd::new();
    let _registration = register(etcd.etcd());
    etcd.assert_registered(SERVICES, SEC).await;
    assert!(etcd.delete(KEY));
    assert!(!etcd.delete(KEY));
    etcd.assert_registered(SERVICES, SEC).await;
    etcd.put(KEY, "somebody else's");
    let start = Instant::now();
    while etcd.keys()[KEY] != "v" {
        assert!(start.elapsed() < SEC, "{:?}", etcd.keys());
        sleep(MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_keeps_the_data_and_a_wipe_loses_it() {
    let etcd = FakeEtcd::new();
    let registration = register(etcd.etcd());
    etcd.assert_registered(SERVICES, SEC).await;
    etcd.stop();
    status(&registration, is_lost).await;
    assert!(etcd.keys().contains_key(KEY), "leases stand still");
    etcd.start();
    status(&registration, is_registered).await;
    etcd.wipe();
    assert!(etcd.keys().is_empty());
    etcd.assert_registered(SERVICES, SEC).await;
}

#[tokio::test(start_paused = true)]
async fn a_wipe_of_a_stopped_etcd_leaves_it_stopped() {
    let etcd = FakeEtcd::new();
    etcd.stop();
    etcd.wipe();
    let _registration = register(etcd.etcd());
    sleep(LONG).await;
    assert!(etcd.keys().is_empty());
    etcd.start();
    etcd.assert_registered(SERVICES, SEC).await;
}

#[tokio::test(start_paused = true)]
async fn a_lease_of_a_server_that_is_gone_runs_out() {
    let etcd = FakeEtcd::new();
    let _registration = register(etcd.etcd());
    etcd.assert_registered(SERVICES, SEC).await;
    // Out of reach from here on, as after SIGKILL.
    etcd.delay(LONG);
    let start = Instant::now();
    etcd.assert_gone(SERVICES, SEC * 7).await;
    assert!(start.elapsed() > SEC * 3, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_delay_is_a_slow_etcd_and_one_of_a_ttl_is_one_that_hangs() {
    let etcd = FakeEtcd::new();
    etcd.delay(100 * MS);
    let registration = register(etcd.etcd());
    let start = Instant::now();
    etcd.assert_registered(SERVICES, SEC * 2).await;
    assert!(start.elapsed() >= 200 * MS, "a grant, then a write");
    etcd.delay(SEC);
    sleep(SEC * 20).await;
    etcd.assert_registered(SERVICES, SEC).await;
    assert!(is_registered(&registration.status()));
    etcd.delay(SEC * 5);
    status(&registration, is_lost).await;
    etcd.delay(Duration::ZERO);
    etcd.assert_registered(SERVICES, SEC).await;
}

#[tokio::test(start_paused = true)]
async fn denied_keys_are_refused_until_they_are_allowed() {
    let etcd = FakeEtcd::new();
    etcd.deny("/services/greeter/");
    let registration = register(etcd.etcd());
    let refused = |s: &RegistrationStatus| matches!(s, RegistrationStatus::Registering { reason: Some(why), .. } if why.contains("permission"));
    status(&registration, refused).await;
    assert!(etcd.keys().is_empty());
    etcd.allow();
    etcd.assert_registered(SERVICES, LONG).await;
}

#[cfg(feature = "discovery")]
#[tokio::test(start_paused = true)]
async fn what_is_added_is_found_and_its_changes_are_told() {
    use tonic_etcd::discovery::Discovery;
    let etcd = FakeEtcd::new();
    etcd.add("greeter", "10.0.0.1:9000".parse().unwrap());
    let greeters = Discovery::builder(etcd.etcd(), "greeter").build().unwrap();
    let found = greeters.ready().await;
    let address = |instance: &Instance| instance.address().map(str::to_owned);
    let addresses = |set: &tonic_etcd::discovery::Snapshot| -> Vec<_> {
        set.into_iter()
            .map(|(_, instance)| address(instance))
            .collect()
    };
    assert_eq!(addresses(&found), [Some("10.0.0.1:9000".to_owned())]);
    etcd.add("greeter", "10.0.0.2:9000".parse().unwrap());
    let start = Instant::now();
    while greeters.snapshot().len() < 2 {
        assert!(start.elapsed() < SEC, "{:?}", greeters.snapshot());
        sleep(MS).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_assertion_that_fails_says_what_there_is() {
    let etcd = FakeEtcd::new();
    etcd.put("/services/other/1", "v");
    let said = panicked(async {
        etcd.assert_registered("/services/greeter/", SEC).await;
    });
    let said = said.await;
    assert!(said.contains("/services/other/1"), "{said}");
    let said = panicked(etcd.assert_gone("/services/other/", SEC)).await;
    assert!(said.contains("/services/other/1"), "{said}");
}

#[tokio::test(start_paused = true)]
async fn a_port_that_closes_before_its_key_is_deleted_is_reported() {
    let etcd = FakeEtcd::new();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    etcd.add("greeter", address);
    drop(listener);
    let said = panicked(etcd.assert_gone_before_close(SERVICES, address, SEC)).await;
    let expected = "is closed, and there is /services/greeter/";
    assert!(said.contains(expected), "{said}");
    etcd.delete(&format!("/services/greeter/{address}"));
    let said = panicked(etcd.assert_gone_before_close(SERVICES, address, SEC)).await;
    assert!(said.contains("when its keys were gone"), "{said}");
}

/// What tonic does by itself: its port closes first.
#[tokio::test(start_paused = true)]
async fn a_token_given_to_tonic_instead_of_the_registrar_is_found() {
    let (etcd, shutdown) = (FakeEtcd::new(), CancellationToken::new());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let registration = crate::setup::register(Registrar::builder(etcd.etcd()));
    registration.announce(address).unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    let stop = shutdown.clone().cancelled_owned();
    let router = Server::builder().add_service(health);
    tokio::spawn(router.serve_with_incoming_shutdown(incoming, stop));
    etcd.assert_registered(SERVICES, SEC).await;
    shutdown.cancel();
    let said = panicked(etcd.assert_gone_before_close(SERVICES, address, SEC)).await;
    let expected = "is closed, and there is /services/greeter/";
    assert!(said.contains(expected), "{said}");
}

/// In real time, with a delay that no slow machine outlasts: the server is still there when the test looks.
#[tokio::test]
async fn in_real_time_a_server_leaves_before_its_port_closes() {
    let (etcd, shutdown) = (FakeEtcd::new(), CancellationToken::new());
    let registrar = Registrar::builder(etcd.etcd())
        .key_template("{prefix}/{name}/{addr}")
        .dedicated_thread(true)
        .deregistration_delay(LONG)
        .shutdown_token(shutdown.clone());
    let registration = registrar.build().unwrap().register(greeter()).unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let server = tokio::spawn(async move {
        let router = Server::builder().add_service(health);
        let served = router.serve_registered("127.0.0.1:0".parse().unwrap(), &registration);
        served.await
    });
    let key = etcd.assert_registered(SERVICES, LONG).await;
    let address = key.rsplit('/').next().unwrap().parse().unwrap();
    shutdown.cancel();
    etcd.assert_gone_before_close(SERVICES, address, LONG).await;
    assert!(!server.is_finished());
    server.abort();
}
