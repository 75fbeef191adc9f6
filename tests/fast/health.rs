//! What the gRPC health service says, and when.

use crate::setup::{KEY, SEC, Setup, announce, greeter};
use tokio::time::sleep;
use tonic::transport::{Endpoint, Server};
use tonic_etcd::{HEALTH_NAME, Registration, RegistrationHealth, RegistrationHealthBuilder};
use tonic_health::pb::health_check_response::ServingStatus::{NotServing, Serving};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

type Client = HealthClient<tonic::transport::Channel>;

/// A client of the health service, through a pipe inside the runtime.
async fn client(registration: &Registration, names: RegistrationHealthBuilder) -> Client {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let service = names.build(registration);
    tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(tokio_stream::once(Ok::<_, std::io::Error>(far))),
    );
    let mut near = Some(hyper_util::rt::TokioIo::new(near));
    let connect = tower::service_fn(move |_| {
        let near = near.take();
        async move { near.ok_or_else(|| std::io::Error::other("one connection only")) }
    });
    let channel = Endpoint::from_static("http://server")
        .connect_with_connector(connect)
        .await;
    HealthClient::new(channel.unwrap())
}

fn request(name: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: name.to_owned(),
    }
}

async fn check(client: &mut Client, name: &str) -> i32 {
    client
        .check(request(name))
        .await
        .unwrap()
        .into_inner()
        .status
}

async fn next(stream: &mut tonic::Streaming<HealthCheckResponse>) -> Option<i32> {
    stream.message().await.unwrap().map(|reply| reply.status)
}

#[tokio::test(start_paused = true)]
async fn our_own_name_serves_while_the_key_is_held_and_the_overall_one_is_left_alone() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let registration = registrar.register(greeter()).unwrap();
    let mut client = client(&registration, RegistrationHealth::builder()).await;
    let mut stream = client
        .watch(request(HEALTH_NAME))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(next(&mut stream).await, Some(NotServing as i32));
    announce(&registration);
    assert_eq!(next(&mut stream).await, Some(Serving as i32));
    setup.fake.down();
    sleep(SEC * 3).await;
    assert_eq!(
        check(&mut client, HEALTH_NAME).await,
        Serving as i32,
        "the lease still lives"
    );
    assert_eq!(next(&mut stream).await, Some(NotServing as i32));
    assert_eq!(check(&mut client, "").await, Serving as i32);
    setup.fake.up();
    assert_eq!(next(&mut stream).await, Some(Serving as i32));
}

#[tokio::test(start_paused = true)]
async fn names_follow_the_registration_only_where_asked_for() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let registration = registrar.register(greeter()).unwrap();
    let names = RegistrationHealth::builder()
        .name("mine")
        .follow_registration("")
        .follow_registration("followed")
        .always_serving("free");
    let mut client = client(&registration, names).await;
    sleep(SEC).await;
    for (name, before) in [
        ("mine", NotServing),
        ("", NotServing),
        ("followed", NotServing),
        ("free", Serving),
    ] {
        assert_eq!(
            check(&mut client, name).await,
            before as i32,
            "{name} before"
        );
    }
    announce(&registration);
    registration.registered().await.unwrap();
    sleep(SEC).await;
    for name in ["mine", "", "followed", "free"] {
        assert_eq!(
            check(&mut client, name).await,
            Serving as i32,
            "{name} after"
        );
    }
    assert_eq!(
        client.check(request(HEALTH_NAME)).await.unwrap_err().code(),
        tonic::Code::NotFound
    );
}

#[tokio::test(start_paused = true)]
async fn on_shutdown_every_name_of_ours_stops_serving_before_the_key_goes_and_watches_end() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let mut client = client(
        &registration,
        RegistrationHealth::builder().follow_registration("followed"),
    )
    .await;
    let mut streams = vec![];
    for name in [HEALTH_NAME, "", "followed"] {
        let mut stream = client.watch(request(name)).await.unwrap().into_inner();
        while next(&mut stream).await != Some(Serving as i32) {}
        streams.push(stream);
    }
    setup.fake.always(
        crate::support::fake::Rpc::LeaseRevoke,
        crate::support::fake::Reply::Late(std::time::Duration::from_millis(100)),
    );
    setup.shutdown.cancel();
    for stream in &mut streams {
        assert_eq!(next(stream).await, Some(NotServing as i32));
    }
    assert!(
        setup.fake.keys().contains_key(KEY),
        "health first, then the key"
    );
    registration.closed().await;
    assert!(setup.fake.keys().is_empty());
    for stream in &mut streams {
        assert_eq!(next(stream).await, None, "open streams end with the drain");
    }
    registration.drain_signal().await;
    assert_eq!(check(&mut client, HEALTH_NAME).await, NotServing as i32);
}
