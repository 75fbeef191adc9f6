//! The answers of the gRPC health service, and their order.

use crate::setup::{
    KEY, MS, SEC, Setup, all_registered, announce, is_paused, is_registered, pipe, pipe_with,
    register, status,
};
use crate::support::fake::{Reply, Rpc};
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::Poll;
use tokio::runtime::Builder;
use tokio::time::{Instant, advance, sleep, timeout};
use tonic::Streaming;
use tonic::transport::{Endpoint, Server};
use tonic_etcd::{
    Ended, HEALTH_NAME, Instance, Registration, RegistrationHealth, RegistrationHealthBuilder,
    RegistrationStatus,
};
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, ServiceUnknown, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::HealthReporter;

type Client = HealthClient<tonic::transport::Channel>;

/// A client of the health service, through a pipe inside the runtime.
async fn client(registration: &Registration, names: RegistrationHealthBuilder) -> Client {
    let (incoming, channel) = pipe();
    let server = Server::builder().add_service(names.build(registration).unwrap());
    tokio::spawn(server.serve_with_incoming(incoming));
    HealthClient::new(channel.await)
}

/// Polls `future` once.
async fn poll_once<F: Future>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|cx| Poll::Ready(future.as_mut().poll(cx))).await
}

/// What health services report is not acknowledged: their tasks are on a runtime that does not run.
struct StuckRuntime(Option<tokio::runtime::Runtime>);

impl StuckRuntime {
    fn new() -> Self {
        Self(Some(Builder::new_current_thread().build().unwrap()))
    }

    fn health_service(&self, registration: &Registration) {
        let _context = self.0.as_ref().unwrap().enter();
        drop(registration.health_service());
    }
}

impl Drop for StuckRuntime {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

fn request(name: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: name.to_owned(),
    }
}

async fn check(client: &mut Client, name: &str) -> i32 {
    let checked = client.check(request(name)).await;
    checked.unwrap().into_inner().status
}

async fn watch(client: &mut Client, name: &str) -> Streaming<HealthCheckResponse> {
    client.watch(request(name)).await.unwrap().into_inner()
}

/// A watch of each of these names, all of which say SERVING.
async fn watches(client: &mut Client, names: &[&str]) -> Vec<Streaming<HealthCheckResponse>> {
    let mut streams = vec![];
    for name in names {
        let mut stream = watch(client, name).await;
        while next(&mut stream).await != Some(Serving as i32) {}
        streams.push(stream);
    }
    streams
}

async fn next(stream: &mut Streaming<HealthCheckResponse>) -> Option<i32> {
    stream.message().await.unwrap().map(|reply| reply.status)
}

#[tokio::test(start_paused = true)]
async fn our_name_serves_while_the_key_is_held_and_the_overall_one_is_left() {
    let setup = Setup::new();
    let registration = register(setup.builder());
    let mut client = client(&registration, RegistrationHealth::builder()).await;
    let mut stream = watch(&mut client, HEALTH_NAME).await;
    assert_eq!(next(&mut stream).await, Some(NotServing as i32));
    announce(&registration);
    assert_eq!(next(&mut stream).await, Some(Serving as i32));
    setup.fake.down();
    sleep(SEC * 3).await;
    // The lease still lives.
    assert_eq!(check(&mut client, HEALTH_NAME).await, Serving as i32);
    assert_eq!(next(&mut stream).await, Some(NotServing as i32));
    assert_eq!(check(&mut client, "").await, Serving as i32);
    setup.fake.up();
    assert_eq!(next(&mut stream).await, Some(Serving as i32));
}

#[tokio::test(start_paused = true)]
async fn names_follow_the_registration_only_where_asked_for() {
    let setup = Setup::new();
    let registration = register(setup.builder());
    let names = RegistrationHealth::builder()
        .name("mine")
        .serving_while_registered("")
        .serving_while_registered("followed")
        .always_serving("free");
    let mut client = client(&registration, names).await;
    sleep(SEC).await;
    for (name, before) in [
        ("mine", NotServing),
        ("", NotServing),
        ("followed", NotServing),
        ("free", Serving),
    ] {
        let said = check(&mut client, name).await;
        assert_eq!(said, before as i32, "{name} before");
    }
    announce(&registration);
    registration.registered().await.unwrap();
    sleep(SEC).await;
    for name in ["mine", "", "followed", "free"] {
        let said = check(&mut client, name).await;
        assert_eq!(said, Serving as i32, "{name} after");
    }
    let unknown = client.check(request(HEALTH_NAME)).await.unwrap_err();
    assert_eq!(unknown.code(), tonic::Code::NotFound);
}

#[tokio::test(start_paused = true)]
async fn on_shutdown_our_names_stop_serving_before_the_key_goes() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let names = RegistrationHealth::builder().serving_while_registered("followed");
    let mut client = client(&registration, names).await;
    let mut streams = watches(&mut client, &[HEALTH_NAME, "", "followed"]).await;
    setup.fake.always(Rpc::LeaseRevoke, Reply::Late(100 * MS));
    setup.shutdown.cancel();
    for stream in &mut streams {
        assert_eq!(next(stream).await, Some(NotServing as i32));
    }
    // Health first, then the key.
    assert!(setup.fake.keys().contains_key(KEY));
    registration.ended().await;
    assert!(setup.fake.keys().is_empty());
    for stream in &mut streams {
        assert_eq!(next(stream).await, None, "open streams end with the drain");
    }
    registration.drain_signal().await;
    assert_eq!(check(&mut client, HEALTH_NAME).await, NotServing as i32);
}

#[tokio::test(start_paused = true)]
async fn in_a_pause_our_own_name_stops_serving_before_the_key_goes() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let names = RegistrationHealth::builder().serving_while_registered("followed");
    let mut client = client(&registration, names).await;
    let mut streams = watches(&mut client, &[HEALTH_NAME, "followed"]).await;
    setup.fake.always(Rpc::Txn, Reply::Late(100 * MS));
    let pause = registration.pause("warming cache").unwrap();
    for stream in &mut streams {
        assert_eq!(next(stream).await, Some(NotServing as i32));
    }
    // Health first, then the key.
    assert!(setup.fake.keys().contains_key(KEY));
    sleep(SEC).await;
    assert!(setup.fake.keys().is_empty());
    assert_eq!(check(&mut client, HEALTH_NAME).await, NotServing as i32);
    assert_eq!(check(&mut client, "").await, Serving as i32);
    drop(pause);
    for stream in &mut streams {
        assert_eq!(next(stream).await, Some(Serving as i32));
    }
    assert!(setup.fake.keys().contains_key(KEY));
}

#[tokio::test(start_paused = true)]
async fn after_a_freeze_health_is_not_serving_before_the_registrar_has_run() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let names = RegistrationHealth::builder().serving_while_registered("followed");
    let mut client = client(&registration, names).await;
    for name in [HEALTH_NAME, "followed"] {
        assert_eq!(check(&mut client, name).await, Serving as i32, "{name}");
    }
    let mut also = client.clone();
    let (ours, followed) = (
        check(&mut client, HEALTH_NAME),
        check(&mut also, "followed"),
    );
    let mut checks = pin!(futures_util::future::join(ours, followed));
    assert!(poll_once(checks.as_mut()).await.is_pending());
    // The clock jumps while no task runs, and timers fire after the tasks that are ready.
    let mut freeze = pin!(advance(SEC * 6));
    let _ = poll_once(freeze.as_mut()).await;
    let status = registration.status();
    assert!(
        matches!(status, RegistrationStatus::Lost { .. }),
        "{status}"
    );
    assert_eq!(checks.await, (NotServing as i32, NotServing as i32));
    freeze.await;
    registration.registered().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_watch_of_an_unknown_name_says_so_until_it_is_known() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let reporter = HealthReporter::new();
    let names = RegistrationHealth::builder().reporter(reporter.clone());
    let mut client = client(&registration, names).await;
    let mut stream = watch(&mut client, "later").await;
    assert_eq!(next(&mut stream).await, Some(ServiceUnknown as i32));
    let mut other = watch(&mut client, "never").await;
    assert_eq!(next(&mut other).await, Some(ServiceUnknown as i32));
    sleep(SEC * 5).await;
    for (set, said) in [
        (tonic_health::ServingStatus::Serving, Serving),
        (tonic_health::ServingStatus::NotServing, NotServing),
    ] {
        reporter.set_service_status("later", set).await;
        assert_eq!(next(&mut stream).await, Some(said as i32));
    }
    setup.shutdown.cancel();
    assert_eq!(next(&mut stream).await, None, "the drain ends it");
    assert_eq!(next(&mut other).await, None, "an unknown one, too");
}

#[tokio::test(start_paused = true)]
async fn names_can_be_given_by_their_generated_service() {
    use tonic::server::NamedService;
    struct Known;
    impl NamedService for Known {
        const NAME: &'static str = "known.v1.Known";
    }
    struct Other;
    impl NamedService for Other {
        const NAME: &'static str = "other.v1.Other";
    }
    let setup = Setup::new();
    let registration = register(setup.builder());
    let names = RegistrationHealth::builder()
        .serving_while_registered_for::<Known>()
        .always_serving_for::<Other>();
    let mut client = client(&registration, names).await;
    sleep(SEC).await;
    let known = check(&mut client, Known::NAME).await;
    assert_eq!(known, NotServing as i32);
    assert_eq!(check(&mut client, Other::NAME).await, Serving as i32);
}

#[tokio::test(start_paused = true)]
async fn health_that_does_not_acknowledge_costs_50_ms_for_all_together() {
    let (setup, stuck) = (Setup::new(), StuckRuntime::new());
    let registrar = setup.builder().build().unwrap();
    let registrations: Vec<_> = (0..40)
        .map(|n| {
            let registration = registrar.register(Instance::new(format!("s{n}"))).unwrap();
            stuck.health_service(&registration);
            announce(&registration);
            registration
        })
        .collect();
    all_registered(&registrations).await;
    let start = Instant::now();
    let paused = registrations.iter().map(|r| r.pause("deploy").unwrap());
    let paused: Vec<_> = paused.collect();
    while !setup.fake.keys().is_empty() {
        sleep(MS).await;
    }
    assert!(start.elapsed() <= 70 * MS, "{:?}", start.elapsed());
    drop(paused);
    all_registered(&registrations).await;
    // Some one by one while others stay, then all that are left.
    let start = Instant::now();
    for registration in &registrations[..20] {
        registration.deregister();
    }
    for registration in &registrations[..20] {
        assert_eq!(registration.ended().await, Ended::Deregistered);
    }
    assert!(start.elapsed() <= 70 * MS, "{:?}", start.elapsed());
    let start = Instant::now();
    setup.shutdown.cancel();
    for registration in &registrations {
        assert_eq!(registration.ended().await, Ended::Deregistered);
    }
    assert!(start.elapsed() <= 70 * MS, "{:?}", start.elapsed());
    assert!(setup.fake.keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn watches_that_are_not_read_keep_no_other_client_from_an_answer() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let endpoint = Endpoint::from_static("http://server").initial_stream_window_size(1);
    let (incoming, channel) = pipe_with(endpoint);
    let server = Server::builder().add_service(registration.health_service());
    tokio::spawn(server.serve_with_incoming(incoming));
    let mut client = HealthClient::new(channel.await);
    let mut unread = vec![];
    for _ in 0..500 {
        let watch = client.watch(request(HEALTH_NAME)).await.unwrap();
        unread.push(watch.into_inner());
    }
    for _ in 0..20 {
        let pause = registration.pause("why").unwrap();
        status(&registration, is_paused).await;
        drop(pause);
        status(&registration, is_registered).await;
    }
    let _pause = registration.pause("why").unwrap();
    status(&registration, is_paused).await;
    let checked = client.check(request(HEALTH_NAME)).await.unwrap();
    assert_eq!(checked.get_ref().status(), NotServing);
    let mut read = client
        .watch(request(HEALTH_NAME))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(read.message().await.unwrap().unwrap().status(), NotServing);
    // Two messages were on their way. After them comes the latest state, and nothing of what was between.
    let last = unread.last_mut().unwrap();
    let mut told = vec![];
    while let Ok(message) = timeout(SEC, last.message()).await {
        told.push(message.unwrap().unwrap().status());
    }
    assert_eq!(told[0], Serving);
    assert!(
        told.len() <= 3 && told.last() == Some(&NotServing),
        "{told:?}"
    );
}
