//! What happens when the layer is applied: by tonic after it has bound, by axum before that.

use crate::log::Log;
use crate::setup::{KEY, SEC, Setup, announce, greeter, register, register_as};
use http_body_util::{BodyExt as _, Full};
use tokio::time::sleep;
use tonic::Code;
use tonic::body::Body;
use tonic::codec::CompressionEncoding::Gzip;
use tonic::service::Routes;
use tonic_etcd::RegistrationLayer;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthService;
use tower::{Layer as _, ServiceExt as _};

/// A router of axum with a route and a fallback, to each of which the layer is applied.
fn router(layer: RegistrationLayer) -> impl Sized {
    let (_, health) = tonic_health::server::health_reporter();
    Routes::new(health).into_axum_router().layer(layer)
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_only_counts_announces_nothing_and_counts() {
    let setup = Setup::new();
    let registration = register_as(setup.builder(), greeter().with_address("10.0.0.1:9000"));
    let _router = router(registration.layer().announce(false));
    sleep(SEC * 5).await;
    assert!(setup.fake.keys().is_empty(), "nothing listens yet");
    let pending = tower::service_fn(|_: http::Request<()>| {
        std::future::pending::<Result<http::Response<http_body_util::Empty<bytes::Bytes>>, ()>>()
    });
    let service = registration.layer().announce(false).layer(pending);
    let request = service.oneshot(http::Request::new(()));
    let request = tokio::spawn(request);
    sleep(SEC).await;
    assert_eq!(registration.in_flight(), 1);
    request.abort();
    announce(&registration);
    registration.registered().await.unwrap();
    assert!(setup.fake.keys().contains_key(KEY));
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_announces_does_so_once_however_often_it_is_applied() {
    let setup = Setup::new();
    let registration = register_as(setup.builder(), greeter().with_address("10.0.0.1:9000"));
    let _router = router(registration.layer());
    registration.registered().await.unwrap();
    let _again = router(registration.layer());
    sleep(SEC).await;
    assert_eq!(setup.puts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_address_is_warned_of_once_and_not_where_it_is_announced() {
    for (announced, wanted) in [(false, 1), (true, 0)] {
        let (setup, log) = (Setup::new(), Log::of("tonic_etcd::server=warn"));
        let registration = register(setup.builder());
        if announced {
            announce(&registration);
        }
        let _routers = [router(registration.layer()), router(registration.layer())];
        sleep(SEC).await;
        assert_eq!(log.lines().len(), wanted, "announced: {announced}");
    }
}

/// A call by grpc-web with an empty message.
fn web(method: &str) -> http::Request<Body> {
    let request = http::Request::post(format!("http://etcd/grpc.health.v1.Health/{method}"));
    let request = request.header("content-type", "application/grpc-web+proto");
    request
        .body(Body::new(Full::from(&[0; 5][..])))
        .expect("a request")
}

#[tokio::test(start_paused = true)]
async fn gzip_and_grpc_web_pass_and_are_counted_and_drained() {
    let setup = Setup::new();
    let registration = setup
        .registered_with(setup.builder().drain_timeout(SEC))
        .await;
    let (reporter, _) = tonic_health::server::health_reporter();
    let health = HealthServer::new(HealthService::from_health_reporter(reporter));
    let health = health.accept_compressed(Gzip).send_compressed(Gzip);
    let service = tonic_web::GrpcWebLayer::new().layer(Routes::new(health));
    let service = registration.layer().layer(service);

    let client = HealthClient::new(service.clone());
    let mut client = client.send_compressed(Gzip).accept_compressed(Gzip);
    let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    assert_eq!(watch.metadata().get("grpc-encoding").unwrap(), "gzip");
    let mut watch = watch.into_inner();
    assert!(watch.message().await.unwrap().is_some());
    assert_eq!(registration.in_flight(), 1);

    let check = service.clone().oneshot(web("Check")).await.unwrap();
    assert_eq!(
        check.headers()["content-type"],
        "application/grpc-web+proto"
    );
    let check = check.into_body().collect().await.unwrap();
    assert!(check.trailers().is_none(), "they are in the body");
    let check = String::from_utf8_lossy(&check.to_bytes()).into_owned();
    assert!(check.contains("grpc-status:0"), "{check:?}");
    assert_eq!(registration.in_flight(), 1);

    let web_watch = service.oneshot(web("Watch")).await.unwrap();
    let mut web_watch = Box::pin(web_watch.into_body());
    assert!(web_watch.frame().await.unwrap().unwrap().is_data());
    assert_eq!(registration.in_flight(), 2);

    setup.shutdown.cancel();
    assert_eq!(watch.message().await.unwrap_err().code(), Code::Unavailable);
    let error = web_watch.frame().await.unwrap().unwrap_err().to_string();
    assert_eq!(error, "the server is shutting down");
    drop((watch, web_watch));
    assert_eq!(registration.in_flight(), 0);
}
