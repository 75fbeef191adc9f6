//! A registration requires health names of the application.

use crate::setup::{KEY, MS, SEC, Setup, announce, is_registered, pause_reasons, register, status};
use crate::support::fake::Rpc;
use tokio::runtime::{Builder, Handle};
use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::{
    BuildError, Ended, HEALTH_NAME, Registration, RegistrationHealth, RegistrationHealthBuilder,
    RegistrationStatus,
};
use tonic_health::ServingStatus::{self, NotServing, Serving, Unknown};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::server::{HealthReporter, HealthService};

type GreeterServer = HealthServer<HealthService>;

const GREETER: &str = "app.v1.Greeter";

/// A registration that is announced, and requires these names of the reporter.
async fn following(setup: &Setup, names: &[&str]) -> (Registration, HealthReporter) {
    let reporter = HealthReporter::new();
    let registration = register(setup.builder());
    let builder = RegistrationHealth::builder().reporter(reporter.clone());
    let builder = names
        .iter()
        .fold(builder, |builder, name| builder.require_serving(*name));
    drop(builder.build(&registration).unwrap());
    announce(&registration);
    sleep(SEC * 10).await;
    (registration, reporter)
}

async fn set(reporter: &HealthReporter, name: &str, status: ServingStatus) {
    reporter.set_service_status(name, status).await;
}

fn alive_tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn the_key_is_withheld_until_every_followed_name_is_serving() {
    let setup = Setup::new();
    let (registration, reporter) = following(&setup, &[GREETER, "db"]).await;
    let unknown = "not ready: health of \"app.v1.Greeter\" is SERVICE_UNKNOWN";
    assert_eq!(pause_reasons(&registration), unknown);
    set(&reporter, GREETER, NotServing).await;
    set(&reporter, "db", Unknown).await;
    sleep(SEC).await;
    let not_serving = "not ready: health of \"app.v1.Greeter\" is NOT_SERVING";
    assert_eq!(pause_reasons(&registration), not_serving);
    set(&reporter, GREETER, Serving).await;
    sleep(MS).await;
    let unknown = "not ready: health of \"db\" is UNKNOWN";
    assert_eq!(pause_reasons(&registration), unknown);
    assert_eq!(setup.counts([Rpc::LeaseGrant, Rpc::Txn]), [1, 0]);
    set(&reporter, "db", Serving).await;
    let start = Instant::now();
    registration.registered().await.unwrap();
    assert!(start.elapsed() <= 10 * MS, "{:?}", start.elapsed());
    sleep(SEC * 60).await;
    assert_eq!((setup.count(Rpc::Txn), setup.puts()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn the_key_is_withheld_before_the_followed_names_are_looked_at() {
    let setup = Setup::new();
    let registration = register(setup.builder());
    let reporter = HealthReporter::new();
    // The task that watches them is on a runtime that does not run.
    let stuck = Builder::new_current_thread().build().unwrap();
    let context = stuck.enter();
    let health = RegistrationHealth::builder()
        .reporter(reporter)
        .require_serving("");
    drop(health.build(&registration).unwrap());
    drop(context);
    announce(&registration);
    sleep(SEC * 10).await;
    let none = "not ready: no health name was read yet";
    assert_eq!(pause_reasons(&registration), none);
    assert_eq!(setup.count(Rpc::Txn), 0);
    stuck.shutdown_background();
}

#[tokio::test(start_paused = true)]
async fn the_key_goes_when_a_followed_name_is_not_serving_and_comes_back() {
    let setup = Setup::new();
    let (registration, mut reporter) = following(&setup, &[GREETER, ""]).await;
    set(&reporter, GREETER, Serving).await;
    let lease = registration.registered().await.unwrap().lease;
    for round in 1..=3 {
        match round {
            1 => set(&reporter, GREETER, NotServing).await,
            2 => set(&reporter, "", NotServing).await,
            _ => reporter.clear_service_status(GREETER).await,
        }
        sleep(10 * MS).await;
        assert!(pause_reasons(&registration).starts_with("not ready: health of"));
        assert!(setup.fake.keys().is_empty(), "{round}");
        sleep(SEC * 60).await;
        assert!(setup.fake.keys().is_empty(), "{round}");
        set(&reporter, "", Serving).await;
        set(&reporter, GREETER, Serving).await;
        // A name that nobody has set is looked for once a second.
        sleep(if round == 3 { SEC + 10 * MS } else { 10 * MS }).await;
        assert_eq!(setup.fake.keys()[KEY].lease, lease, "{round}");
        assert_eq!((setup.puts(), setup.deletes()), (round + 1, round));
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_said_again_of_a_followed_name_changes_nothing() {
    let setup = Setup::new();
    let (registration, reporter) = following(&setup, &[GREETER]).await;
    set(&reporter, GREETER, Serving).await;
    registration.registered().await.unwrap();
    let mut watch = registration.watch();
    for said in [Serving, Serving, NotServing, NotServing] {
        set(&reporter, GREETER, said).await;
        set(&reporter, "other", NotServing).await;
        sleep(SEC).await;
    }
    let next = timeout(SEC, watch.changed()).await.unwrap();
    assert!(
        matches!(next, Some(RegistrationStatus::Paused { .. })),
        "{next:?}"
    );
    assert_eq!((setup.puts(), setup.deletes()), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_pause_and_a_followed_name_withhold_the_key_together() {
    let setup = Setup::new();
    let (registration, reporter) = following(&setup, &[GREETER]).await;
    let pause = registration.pause("warming cache").unwrap();
    set(&reporter, GREETER, Serving).await;
    sleep(SEC).await;
    assert_eq!(pause_reasons(&registration), "warming cache");
    drop(pause);
    status(&registration, is_registered).await;
}

#[tokio::test(start_paused = true)]
async fn a_followed_name_neither_delays_a_stop_nor_keeps_anything_alive() {
    for is_serving in [true, false] {
        let setup = Setup::new();
        sleep(SEC).await;
        let before = alive_tasks();
        let (registration, reporter) = following(&setup, &[GREETER]).await;
        if is_serving {
            set(&reporter, GREETER, Serving).await;
            registration.registered().await.unwrap();
        }
        let mut watch = registration.watch();
        drop(registration);
        let ended = timeout(SEC, watch.wait_for(RegistrationStatus::is_final)).await;
        assert_eq!(
            ended.unwrap(),
            Some(RegistrationStatus::Ended(Ended::Deregistered))
        );
        sleep(SEC * 10).await;
        assert_eq!(alive_tasks(), before, "{is_serving}");
    }
}

#[tokio::test(start_paused = true)]
async fn names_that_follow_each_other_are_refused_before_anything_happens() {
    let setup = Setup::new();
    let registration = register(setup.builder());
    let reporter = HealthReporter::new();
    let health = || RegistrationHealth::builder().reporter(reporter.clone());
    let cycles: [(RegistrationHealthBuilder, &str); 5] = [
        (health().require_serving(HEALTH_NAME), HEALTH_NAME),
        (health().require_serving("mine").name("mine"), "mine"),
        (
            health().serving_while_registered("").require_serving(""),
            "",
        ),
        (
            health()
                .require_serving("a")
                .require_serving("b")
                .serving_while_registered("b"),
            "b",
        ),
        (health().always_serving("c").require_serving("c"), "c"),
    ];
    for (cycle, name) in cycles {
        match cycle.build(&registration) {
            Err(BuildError::HealthCycle { name: found, .. }) => assert_eq!(found, name),
            other => panic!("{name}: {other:?}"),
        }
    }
    let alone = RegistrationHealth::builder().require_serving_for::<GreeterServer>();
    let error = alone.build(&registration).unwrap_err();
    assert!(matches!(error, BuildError::Setting { .. }), "{error}");

    announce(&registration);
    registration.registered().await.unwrap();
    sleep(SEC * 10).await;
    assert!(is_registered(&registration.status()), "it is not paused");
    let health = HealthService::from_health_reporter(reporter);
    for service in [HEALTH_NAME, "mine", "b", "c"] {
        let service = service.to_owned();
        let asked = health
            .check(tonic::Request::new(HealthCheckRequest { service }))
            .await;
        assert_eq!(
            asked.unwrap_err().code(),
            tonic::Code::NotFound,
            "nothing is reported"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_is_leaving_follows_nothing() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    registration.deregister();
    let reporter = HealthReporter::new();
    let health = RegistrationHealth::builder()
        .reporter(reporter)
        .require_serving(GREETER);
    drop(health.build(&registration).unwrap());
    assert_eq!(registration.ended().await, Ended::Deregistered);
}
