//! What the layer does when it is applied: by tonic after it has bound, by axum long before.

use crate::setup::{KEY, SEC, Setup, announce, greeter};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::time::sleep;
use tonic::service::Routes;
use tonic_etcd::server::RegistrationLayer;
use tower::{Layer as _, ServiceExt as _};
use tracing_subscriber::layer::SubscriberExt as _;

/// Counts the warnings of this thread about a server.
#[derive(Clone, Default)]
struct Warnings(Arc<AtomicUsize>);

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Warnings {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        let of = event.metadata();
        if *of.level() <= tracing::Level::WARN && of.target().starts_with("tonic_etcd::server") {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A router of axum with a route and a fallback, to each of which the layer is applied.
fn router(layer: RegistrationLayer) -> impl Sized {
    let (_, health) = tonic_health::server::health_reporter();
    Routes::new(health).into_axum_router().layer(layer)
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_only_counts_announces_nothing_and_counts() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let instance = greeter().address("10.0.0.1:9000");
    let registration = registrar.register(instance).unwrap();
    let _router = router(registration.layer().count_only());
    sleep(SEC * 5).await;
    assert!(setup.fake.keys().is_empty(), "nothing listens yet");
    let pending = tower::service_fn(|_: http::Request<()>| {
        std::future::pending::<Result<http::Response<http_body_util::Empty<bytes::Bytes>>, ()>>()
    });
    let service = registration.layer().count_only().layer(pending);
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
    let registrar = setup.builder().build().unwrap();
    let instance = greeter().address("10.0.0.1:9000");
    let registration = registrar.register(instance).unwrap();
    let _router = router(registration.layer());
    registration.registered().await.unwrap();
    let _again = router(registration.layer());
    sleep(SEC).await;
    assert_eq!(setup.puts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_missing_address_is_warned_of_once_and_not_where_it_is_announced() {
    for (announced, wanted) in [(false, 1), (true, 0)] {
        let warnings = Warnings::default();
        let subscriber = tracing_subscriber::registry().with(warnings.clone());
        let _log = tracing::subscriber::set_default(subscriber);
        let setup = Setup::new();
        let registrar = setup.builder().build().unwrap();
        let registration = registrar.register(greeter()).unwrap();
        if announced {
            announce(&registration);
        }
        let _routers = [router(registration.layer()), router(registration.layer())];
        sleep(SEC).await;
        let count = warnings.0.load(Ordering::Relaxed);
        assert_eq!(count, wanted, "announced: {announced}");
    }
}
