//! A runtime ends before the handles that were made in it. In real time, because several runtimes are.

use crate::setup::{KEY, SEC, Setup, announce, greeter, register, status};
use crate::support::{ports, registered_within};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::time::timeout;
use tonic::transport::Server;
use tonic_etcd::observer::{Observer, WriteEvent, WriteReason};
use tonic_etcd::{
    Ended, Etcd, OnConflict, Readiness, Registrar, Registration, RegistrationStatus,
    ServeRegistered as _,
};

const LIMIT: Duration = Duration::from_secs(20);

/// Of a registrar with a thread of its own, made in a runtime that has ended.
fn orphan(etcd: &Runtime, probed: bool) -> (Setup, Registrar, Registration) {
    let setup = etcd.block_on(async { Setup::new() });
    let first = Runtime::new().unwrap();
    let (registrar, registration) = first.block_on(async {
        let mut builder = setup.builder().dedicated_thread(true);
        if probed {
            builder = builder.ready_when(Readiness::every(SEC, || async { Ok::<_, String>(()) }));
        }
        let registrar = builder.build().unwrap();
        let registration = registrar.register(greeter()).unwrap();
        (registrar, registration)
    });
    drop(first);
    (setup, registrar, registration)
}

#[test]
fn a_server_in_another_runtime_than_its_registration_ends_at_a_stop() {
    let etcd = Runtime::new().unwrap();
    let (setup, _registrar, registration) = orphan(&etcd, false);
    Runtime::new().unwrap().block_on(async {
        let addr = format!("127.0.0.1:{}", ports::free()).parse().unwrap();
        let health = tonic_health::server::health_reporter().1;
        let router = Server::builder()
            .layer(registration.layer())
            .add_service(health);
        let of_server = registration.clone();
        let serving = tokio::spawn(async move { router.serve_registered(addr, &of_server).await });
        registered_within(LIMIT, &registration).await;
        setup.shutdown.cancel();
        let ended = timeout(LIMIT, serving).await.expect("it does not end");
        ended.unwrap().unwrap();
        assert!(setup.fake.keys().is_empty());
    });
}

#[test]
fn a_drain_signal_comes_although_the_runtime_of_the_registration_ended() {
    let etcd = Runtime::new().unwrap();
    let (setup, _registrar, registration) = orphan(&etcd, false);
    Runtime::new().unwrap().block_on(async {
        registration
            .announce("10.0.0.1:9000".parse().unwrap())
            .unwrap();
        registered_within(LIMIT, &registration).await;
        setup.shutdown.cancel();
        let signal = timeout(LIMIT, registration.drain_signal()).await;
        signal.expect("no drain signal");
    });
}

#[test]
fn a_probe_whose_runtime_ended_is_named_and_begins_again_with_the_next() {
    let etcd = Runtime::new().unwrap();
    let (_setup, registrar, registration) = orphan(&etcd, true);
    let reason = "the runtime of the readiness probe has ended";
    Runtime::new().unwrap().block_on(async {
        registration
            .announce("10.0.0.1:9000".parse().unwrap())
            .unwrap();
        let is_named = |it: &tonic_etcd::RegistrationStatus| it.to_string().contains(reason);
        let mut watch = registration.watch();
        let named = watch.wait_for(is_named);
        timeout(LIMIT, named).await.expect("it is not named");
        let _other = registrar
            .register(greeter().with_id("2").with_address("10.0.0.2:1"))
            .unwrap();
        registered_within(LIMIT, &registration).await;
    });
}

/// Tells when the deletion of a key was answered.
#[derive(Debug, Clone, Default)]
struct Withdrawn(Arc<Notify>);

impl Observer for Withdrawn {
    fn on_write(&self, write: &WriteEvent<'_>) {
        if write.reason == WriteReason::Withdrawn && write.error.is_none() {
            self.0.notify_one();
        }
    }
}

/// It was `LeftToExpire` with the configured TTL once it was announced, whatever there was in etcd.
#[test]
fn only_a_registration_that_may_have_keys_is_left_to_expire() {
    let etcd = Runtime::new().unwrap();
    for (case, is_left) in [
        ("registered", true),
        ("paused", false),
        ("unreachable", false),
        ("yielding", false),
        ("not announced", false),
    ] {
        let setup = etcd.block_on(async { Setup::new() });
        setup.fake.configure(|it| it.min_ttl = 30);
        let built_in = Runtime::new().unwrap();
        let registration = built_in.block_on(async {
            let builder = match case {
                "unreachable" => setup.builder_on(Etcd::new(["http://127.0.0.1:1"])),
                _ => setup.builder().on_conflict(OnConflict::Yield),
            };
            let withdrawn = Withdrawn::default();
            let registration = register(builder.observer(withdrawn.clone()));
            match case {
                "yielding" => {
                    setup.fake.grant(8, 60);
                    setup.fake.put(KEY, "theirs", 8);
                }
                "not announced" => return registration,
                _ => {}
            }
            announce(&registration);
            match case {
                "yielding" => {
                    let yields =
                        |it: &RegistrationStatus| matches!(it, RegistrationStatus::Yielding { .. });
                    status(&registration, yields).await;
                }
                "unreachable" => {
                    let mut watch = registration.watch();
                    watch
                        .wait_for(|it| it.to_string().contains("refused"))
                        .await
                        .unwrap();
                }
                _ => drop(registered_within(LIMIT, &registration).await),
            }
            if case == "paused" {
                std::mem::forget(registration.pause("a test").unwrap());
                timeout(LIMIT, withdrawn.0.notified()).await.unwrap();
            }
            registration
        });
        drop(built_in);
        let ended = registration.status();
        match ended {
            RegistrationStatus::Ended(Ended::Deregistered) => assert!(!is_left, "{case}"),
            RegistrationStatus::Ended(Ended::LeftToExpire {
                ttl, ref reason, ..
            }) => {
                assert!(is_left, "{case}: {ended:?}");
                assert_eq!((ttl, &**reason), (SEC * 30, "the runtime ended"));
            }
            other => panic!("{case}: {other:?}"),
        }
    }
}

#[cfg(feature = "discovery")]
#[test]
fn calls_of_a_channel_whose_runtime_ended_fail_at_once_with_the_reason() {
    use crate::channel::net::{Net, address, ready};
    use greeter::pb::{HelloRequest, greeter_client::GreeterClient};
    use tonic_etcd::channel::ConnectivityState;

    let (servers, built_in) = (Runtime::new().unwrap(), Runtime::new().unwrap());
    let net = Net::default();
    servers.block_on(async { net.serve(&address(1)) });
    let balanced = built_in.block_on(async {
        let (registry, builder) = net.balanced();
        registry.put(&address(1), 100);
        let balanced = builder.build().unwrap();
        ready(&balanced, 1).await;
        balanced
    });
    drop(built_in);
    Runtime::new().unwrap().block_on(async {
        let mut client = GreeterClient::new(balanced.clone());
        let called = client.say_hello(HelloRequest {
            name: "x".to_owned(),
        });
        let error = timeout(SEC, called).await.expect("it waits").unwrap_err();
        assert!(
            error
                .message()
                .contains("the runtime that the channel was built in has ended"),
            "{error}"
        );
        assert_eq!(balanced.stats().ready, 0);
        let state = &balanced.endpoints()[0].state;
        assert!(
            matches!(state, ConnectivityState::TransientFailure { .. }),
            "{state}"
        );
    });
}

#[cfg(feature = "discovery")]
#[test]
fn a_discovery_whose_runtime_ended_says_so() {
    let etcd = Runtime::new().unwrap();
    let setup = etcd.block_on(async { Setup::new() });
    let built_in = Runtime::new().unwrap();
    let discovery = built_in.block_on(async {
        let discovery = crate::discovery::discovery(&setup.fake);
        discovery.ready().await;
        discovery
    });
    drop(built_in);
    let reason = "the runtime that the discovery was built in has ended";
    assert_eq!(discovery.snapshot().watch_error(), Some(reason));
}
