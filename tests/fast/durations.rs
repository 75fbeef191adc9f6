//! Every setter with a `Duration`, with the longest and the shortest value: it works, or `build` refuses it.

use crate::setup::{KEY, LONG, SEC, Setup, announced_by, greeter, is_registered, status};
#[cfg(feature = "discovery")]
use crate::support::eventually;
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tonic_etcd::{BuildError, Ended, Etcd, Readiness, RegistrarBuilder, RegistrationStatus};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const DURATIONS: [Duration; 8] = [
    Duration::ZERO,
    Duration::from_nanos(1),
    YEAR,
    Duration::from_secs(YEAR.as_secs() * 100),
    Duration::from_secs(9_000_000_000),
    Duration::from_secs(i64::MAX as u64),
    Duration::from_secs(u64::MAX),
    Duration::MAX,
];

type Set<B> = (&'static str, fn(B, Duration) -> B);

fn etcd(setup: &Setup, attempt: Option<Duration>) -> Etcd {
    match attempt {
        Some(limit) => setup.etcd().attempt_timeout(limit),
        None => setup.etcd(),
    }
}

/// Registers, loses etcd, gets it back, loses it again and stops.
async fn live_through_an_outage(setup: &Setup, builder: RegistrarBuilder, what: &str) {
    let registrar = match builder.build() {
        Ok(registrar) => registrar,
        Err(BuildError::Timing { .. } | BuildError::Setting { .. }) => return,
        Err(error) => panic!("{what}: {error}"),
    };
    let registration = announced_by(&registrar, greeter());
    let registered = timeout(LONG, registration.registered()).await;
    registered
        .unwrap_or_else(|_| panic!("{what}: {:?}", registration.status()))
        .unwrap();
    setup.fake.down();
    sleep(SEC * 20).await;
    let said = format!("{:?}", registration.status());
    assert!(!said.contains("internal error"), "{what}: {said}");
    setup.fake.up();
    status(&registration, is_registered).await;
    assert!(setup.fake.keys().contains_key(KEY), "{what}");
    setup.fake.down();
    setup.shutdown.cancel();
    sleep(SEC * 20).await;
    setup.shutdown_now.cancel();
    let ended = timeout(LONG, registration.ended()).await;
    let ended = ended.unwrap_or_else(|_| panic!("{what}: {:?}", registration.status()));
    assert!(
        matches!(&ended, Ended::LeftToExpire { reason, .. } if !reason.contains("internal")),
        "{what}: {ended:?}"
    );
    let draining = timeout(LONG, registration.drain_signal()).await;
    draining.unwrap_or_else(|_| panic!("{what}: never told to drain"));
}

#[tokio::test(start_paused = true)]
async fn every_duration_of_a_registrar_works_or_is_refused() {
    async fn ok() -> Result<(), String> {
        Ok(())
    }
    let setters: [Set<RegistrarBuilder>; 6] = [
        ("ttl", RegistrarBuilder::ttl),
        ("interval of a probe", |builder, d| {
            builder.ready_when(Readiness::every(d, ok))
        }),
        ("timeout of a probe", |builder, d| {
            builder.ready_when(Readiness::every(SEC, ok).timeout(d))
        }),
        (
            "deregistration_delay",
            RegistrarBuilder::deregistration_delay,
        ),
        ("revoke_timeout", RegistrarBuilder::revoke_timeout),
        ("drain_timeout", RegistrarBuilder::drain_timeout),
    ];
    for duration in DURATIONS {
        for (name, set) in setters {
            let setup = Setup::new();
            let builder = set(setup.builder(), duration);
            live_through_an_outage(&setup, builder, &format!("{name} of {duration:?}")).await;
        }
        let setup = Setup::new();
        let builder = setup.builder_on(setup.etcd().sync_members(duration));
        live_through_an_outage(&setup, builder, &format!("sync_members of {duration:?}")).await;
        for ttl in [5, 9_000_000_000] {
            let setup = Setup::new();
            let builder = setup.builder_on(etcd(&setup, Some(duration)));
            let builder = builder.ttl(Duration::from_secs(ttl));
            let what = format!("attempt_timeout of {duration:?}, ttl of {ttl} s");
            live_through_an_outage(&setup, builder, &what).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_with_an_endless_revoke_timeout_waits_for_etcd() {
    let setup = Setup::new();
    let builder = setup.builder().revoke_timeout(Duration::MAX);
    let registration = setup.registered_with(builder).await;
    setup.fake.down();
    setup.shutdown.cancel();
    sleep(LONG * 60).await;
    assert_eq!(registration.status(), RegistrationStatus::Deregistering);
    setup.fake.up();
    let ended = timeout(LONG, registration.ended()).await;
    assert_eq!(ended.unwrap(), Ended::Deregistered);
    assert!(setup.fake.keys().is_empty());
}

#[cfg(feature = "discovery")]
mod discovery {
    use super::*;
    use crate::channel::net::{Client, Net, Registry, address};
    use crate::discovery::{key, put};
    use greeter::{hellos, pb::HelloRequest};
    use tonic_etcd::channel::BalancedChannelBuilder;
    use tonic_etcd::discovery::{Discovery, DiscoveryBuilder};

    async fn follow_through_an_outage(setup: &Setup, builder: DiscoveryBuilder, what: &str) {
        put(&setup.fake, 1..=3);
        let discovery = match builder.build() {
            Ok(discovery) => discovery,
            Err(BuildError::Timing { .. }) => return,
            Err(error) => panic!("{what}: {error}"),
        };
        let count = async |count: usize, when: &str| {
            eventually(&format!("{what}: {when}"), LONG, || {
                let snapshot = discovery.snapshot();
                match snapshot.iter().count() {
                    there if there == count => Ok(()),
                    there => Err(format!("{there} instances, {:?}", snapshot.watch_error())),
                }
            })
            .await;
        };
        count(3, "listed").await;
        setup.fake.down();
        sleep(SEC * 20).await;
        setup.fake.up();
        put(&setup.fake, [4]);
        count(4, "watched again").await;
        setup.fake.delete(&key(1));
        count(3, "a deletion is believed").await;
    }

    #[tokio::test(start_paused = true)]
    async fn every_duration_of_a_discovery_works_or_is_refused() {
        for duration in DURATIONS {
            for (name, attempt, retention) in [
                ("retention", None, Some(duration)),
                ("attempt_timeout", Some(duration), None),
            ] {
                let setup = Setup::new();
                let mut builder = Discovery::builder(etcd(&setup, attempt), "greeter");
                if let Some(retention) = retention {
                    builder = builder.retention(retention);
                }
                let what = format!("{name} of {duration:?}");
                follow_through_an_outage(&setup, builder, &what).await;
            }
        }
    }

    /// A call before there is an endpoint, then one that lasts. A long setting must not break them.
    async fn call_early_and_long(
        builder: BalancedChannelBuilder,
        net: &Net,
        registry: &Registry,
        what: &str,
    ) {
        let mut client = match builder.build() {
            Ok(balanced) => Client::new(balanced),
            Err(BuildError::Setting { .. }) => return,
            Err(error) => panic!("{what}: {error}"),
        };
        let mut early = client.clone();
        let early = tokio::spawn(async move { early.say_hello(HelloRequest::default()).await });
        sleep(SEC).await;
        net.serve(&address(1));
        registry.put(&address(1), 100);
        let answered = timeout(LONG, early).await;
        let answered = answered.unwrap_or_else(|_| panic!("{what}: the early call hangs"));
        let answered = answered.unwrap();
        answered.unwrap_or_else(|status| panic!("{what}: {status}"));
        let count = 30;
        let streaming = async {
            let stream = client.stream_hellos(hellos(count, 1000)).await?;
            let mut stream = stream.into_inner();
            let mut told = 0;
            while stream.message().await?.is_some() {
                told += 1;
            }
            Ok::<_, tonic::Status>(told)
        };
        let told = timeout(LONG, streaming).await;
        let told = told.unwrap_or_else(|_| panic!("{what}: the stream hangs"));
        let told = told.unwrap_or_else(|status| panic!("{what}: {status}"));
        assert_eq!(told, count, "{what}");
    }

    #[tokio::test(start_paused = true)]
    async fn every_long_duration_of_a_channel_works() {
        let setters: [Set<BalancedChannelBuilder>; 4] = [
            ("ready_timeout", BalancedChannelBuilder::ready_timeout),
            ("connect_timeout", BalancedChannelBuilder::connect_timeout),
            ("http2_keep_alive_interval", |builder, d| {
                builder.http2_keep_alive_interval(d)
            }),
            ("keep_alive_timeout", |builder, d| {
                builder.http2_keep_alive_interval(SEC).keep_alive_timeout(d)
            }),
        ];
        for duration in DURATIONS.into_iter().filter(|duration| *duration >= YEAR) {
            for (name, set) in setters {
                let net = Net::default();
                let (registry, builder) = net.balanced();
                let what = format!("{name} of {duration:?}");
                call_early_and_long(set(builder, duration), &net, &registry, &what).await;
            }
        }
    }
}
