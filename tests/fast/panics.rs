//! Panics of the user's code: a subscriber, a format, a connector. None of them ends a registration.

use crate::setup::{
    KEY, LONG, MS, SEC, Setup, announce, announced, announced_by, greeter, is_registered, status,
};
use crate::support::fake::Rpc;
use crate::support::{allow_subscribers_by_thread, registered_within};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use tokio::time::{sleep, timeout};
use tonic_etcd::format::{Address, DecodeError, Format, KeyContext, Plain};
use tonic_etcd::{
    Ended, Etcd, Instance, Readiness, RegisterError, Registration, RegistrationStatus,
};
use tracing::span::Id;
use tracing::subscriber::DefaultGuard;
use tracing::{Event, Metadata, Subscriber};
use tracing_subscriber::Registry;
use tracing_subscriber::layer::{Context, Layer, SubscriberExt as _};

/// A subscriber that panics on those events that `on` chooses.
pub struct PanickingSubscriber<F> {
    on: F,
    count: Arc<AtomicUsize>,
}

impl<F: Fn(&Metadata<'_>) -> bool + Send + Sync + 'static> PanickingSubscriber<F> {
    /// From now on, in this thread. Counts the panics.
    pub fn start(on: F) -> (Arc<AtomicUsize>, DefaultGuard) {
        let count = Arc::new(AtomicUsize::new(0));
        let layer = Self {
            on,
            count: count.clone(),
        };
        (count, subscribe(layer))
    }
}

impl<S, F> Layer<S> for PanickingSubscriber<F>
where
    S: Subscriber,
    F: Fn(&Metadata<'_>) -> bool + Send + Sync + 'static,
{
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if (self.on)(event.metadata()) {
            self.count.fetch_add(1, Ordering::Relaxed);
            panic!("the subscriber cannot write");
        }
    }
}

/// Sends the log of this thread to the layer.
pub fn subscribe(layer: impl Layer<Registry> + Send + Sync) -> DefaultGuard {
    allow_subscribers_by_thread();
    tracing::subscriber::set_default(tracing_subscriber::registry().with(layer))
}

fn is_ours(metadata: &Metadata<'_>) -> bool {
    metadata.target().starts_with("tonic_etcd")
}

/// As an fmt layer with span events: it writes that a span was entered, left or closed, and panics.
#[derive(Default)]
struct SpanPanics {
    is_armed: Arc<AtomicBool>,
    count: Arc<AtomicUsize>,
}

impl SpanPanics {
    fn write(&self) {
        if self.is_armed.load(Ordering::Relaxed) {
            self.count.fetch_add(1, Ordering::Relaxed);
            panic!("the subscriber cannot write");
        }
    }
}

impl<S: Subscriber> Layer<S> for SpanPanics {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_span() && metadata.name() == "startup"
    }

    fn on_enter(&self, _: &Id, _: Context<'_, S>) {
        self.write();
    }

    fn on_exit(&self, _: &Id, _: Context<'_, S>) {
        self.write();
    }

    fn on_close(&self, _: Id, _: Context<'_, S>) {
        self.write();
    }
}

/// Causes each log line: an outage, a lost lease, a deleted key, a refused write, a stop.
async fn live_through_everything(setup: &Setup, what: &str) {
    live_on(setup, setup.registered().await, what).await;
}

async fn live_on(setup: &Setup, registration: Registration, what: &str) {
    let lease = |status: RegistrationStatus| status.registered().map(|registered| registered.lease);
    let first = lease(registration.status());
    setup.fake.down();
    sleep(SEC).await;
    setup.fake.up();
    status(&registration, is_registered).await;
    assert_eq!(lease(registration.status()), first, "{what}: another lease");
    setup.fake.down();
    sleep(SEC * 20).await;
    setup.fake.wipe();
    setup.fake.up();
    status(&registration, is_registered).await;
    setup.fake.delete(KEY);
    setup.key_back().await;
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    sleep(SEC).await;
    assert_eq!(&*setup.fake.keys()[KEY].value, "w", "{what}");
    assert_eq!(setup.count(Rpc::LeaseGrant), 2, "{what}");
    setup.shutdown.cancel();
    let ended = timeout(LONG, registration.ended()).await.unwrap();
    assert_eq!(ended, Ended::Deregistered, "{what}");
    assert!(setup.fake.keys().is_empty() && setup.fake.leases().is_empty());
    let drained = timeout(LONG, registration.drain_signal()).await;
    drained.unwrap_or_else(|_| panic!("{what}: never told to drain"));
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_on_every_log_line_changes_nothing() {
    let (panics, _guard) = PanickingSubscriber::start(is_ours);
    live_through_everything(&Setup::new(), "every line").await;
    assert!(panics.load(Ordering::Relaxed) >= 10, "{panics:?}");
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_on_some_log_lines_changes_nothing() {
    for seed in 0..20 {
        let rng = Mutex::new(fastrand::Rng::with_seed(seed));
        let (panics, _guard) = PanickingSubscriber::start(move |metadata| {
            is_ours(metadata) && rng.lock().unwrap().bool()
        });
        live_through_everything(&Setup::new(), &format!("seed {seed}")).await;
        assert_ne!(panics.load(Ordering::Relaxed), 0);
    }
}

/// Before, the registrar's task entered the span of its caller outside of the code that catches panics, and ended.
#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_when_a_span_is_entered_changes_nothing() {
    let layer = SpanPanics::default();
    let (is_armed, panics) = (layer.is_armed.clone(), layer.count.clone());
    let _guard = subscribe(layer);
    let setup = Setup::new();
    setup.fake.user("me", "secret");
    let etcd = setup.etcd().user("me", "secret");
    let probe = || async { Ok::<_, String>(()) };
    let builder = setup
        .builder_on(etcd.sync_members(SEC))
        .ready_when(Readiness::every(SEC, probe));
    let span = tracing::info_span!("startup");
    let registration = span.in_scope(|| announced(builder));
    registered_within(LONG, &registration).await;
    is_armed.store(true, Ordering::Relaxed);
    live_on(&setup, registration, "spans").await;
    assert!(panics.load(Ordering::Relaxed) >= 2, "{panics:?}");
    is_armed.store(false, Ordering::Relaxed);
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_with_the_right_status_while_every_log_line_panics() {
    let (_panics, _guard) = PanickingSubscriber::start(is_ours);
    let setup = Setup::new();
    let registration = setup.registered().await;
    setup.fake.down();
    setup.shutdown.cancel();
    let ended = timeout(SEC * 2, registration.ended()).await;
    let ended = ended.unwrap_or_else(|_| panic!("{:?}", registration.status()));
    assert!(matches!(ended, Ended::LeftToExpire { .. }), "{ended:?}");
}

/// Our own task panics: tower logs inside of it, where we cannot catch a panic. For as long as the flag
/// is set, or once only.
fn crashes(once: bool) -> (Arc<AtomicBool>, Arc<AtomicUsize>, DefaultGuard) {
    let armed = Arc::new(AtomicBool::new(false));
    let is_armed = armed.clone();
    let (panics, guard) = PanickingSubscriber::start(move |metadata| {
        let stays = !once && is_armed.load(Ordering::Relaxed);
        let is_towers = metadata.target().starts_with("tower::buffer");
        is_towers && is_armed.swap(stays, Ordering::Relaxed)
    });
    (armed, panics, guard)
}

#[tokio::test(start_paused = true)]
async fn after_a_crash_of_our_own_task_the_old_lease_is_not_left_behind() {
    let (armed, panics, _guard) = crashes(true);
    let setup = Setup::new();
    let registration = setup.registered().await;
    let mut watch = registration.watch();
    armed.store(true, Ordering::Relaxed);
    registration
        .update(|instance| instance.with_value("w"))
        .unwrap();
    let next = timeout(LONG, watch.changed()).await.unwrap().unwrap();
    assert!(
        matches!(&next, RegistrationStatus::Lost { reason, .. } if reason.contains("internal error")),
        "{next:?}"
    );
    registered_within(LONG, &registration).await;
    assert_eq!(panics.load(Ordering::Relaxed), 1);
    assert_eq!(&*setup.fake.keys()[KEY].value, "w");
    assert_eq!(setup.fake.leases().len(), 1, "the old one is revoked");
    setup.shutdown.cancel();
    assert_eq!(registration.ended().await, Ended::Deregistered);
    assert!(setup.fake.keys().is_empty() && setup.fake.leases().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_stop_or_a_departure_after_a_crash_says_deregistered_only_if_it_is() {
    for alone in [true, false] {
        for etcd_is_down in [true, false] {
            let (armed, panics, _guard) = crashes(true);
            let setup = Setup::new();
            let registrar = setup.builder().build().unwrap();
            let registration = announced_by(&registrar, greeter());
            registered_within(LONG, &registration).await;
            let other = (!alone).then(|| registrar.register(Instance::new("other")).unwrap());
            armed.store(true, Ordering::Relaxed);
            registration
                .update(|instance| instance.with_value("w"))
                .unwrap();
            while panics.load(Ordering::Relaxed) == 0 {
                sleep(MS).await;
            }
            if etcd_is_down {
                setup.fake.down();
            }
            match &other {
                Some(_) => registration.deregister(),
                None => setup.shutdown.cancel(),
            }
            let ended = timeout(SEC * 3, registration.ended()).await;
            let ended = ended.unwrap_or_else(|_| panic!("{:?}", registration.status()));
            let what = format!("alone: {alone}, down: {etcd_is_down}: {ended:?}");
            assert_eq!(ended == Ended::Deregistered, !etcd_is_down, "{what}");
            assert_eq!(setup.fake.keys().contains_key(KEY), etcd_is_down, "{what}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_ends_although_our_own_task_panics_each_time() {
    let (armed, _panics, _guard) = crashes(false);
    let setup = Setup::new();
    let registration = setup.registered().await;
    armed.store(true, Ordering::Relaxed);
    setup.shutdown.cancel();
    let ended = timeout(SEC * 3, registration.ended()).await;
    let ended = ended.unwrap_or_else(|_| panic!("{:?}", registration.status()));
    let Ended::LeftToExpire { reason, .. } = ended else {
        panic!("{ended:?}");
    };
    assert!(reason.contains("task panicked"), "{reason}");
    let drained = timeout(LONG, registration.drain_signal()).await;
    drained.unwrap_or_else(|_| panic!("never told to drain"));
}

/// A format of the user's, with a bug that comes and goes.
#[derive(Debug, Default)]
struct Buggy(Arc<AtomicBool>);

impl Format for Buggy {
    fn name(&self) -> &str {
        "buggy"
    }

    fn key_prefix(&self, service: &str) -> String {
        format!("/buggy/{service}/")
    }

    fn key(&self, place: &KeyContext<'_>) -> String {
        format!("/buggy/{}/x", place.instance().name())
    }

    fn encode(&self, _: &Instance, _: &Address) -> String {
        assert!(!self.0.load(Ordering::Relaxed), "it cannot be written");
        "x".to_owned()
    }

    fn decode(&self, _: &str, _: &str, _: &[u8]) -> Result<Instance, DecodeError> {
        Err(DecodeError::new("is for a test of writing"))
    }
}

#[tokio::test(start_paused = true)]
async fn a_format_that_panics_is_an_error_of_register_and_of_update() {
    let setup = Setup::new();
    let broken = Arc::new(AtomicBool::new(true));
    let builder = setup.builder().format(Plain::new());
    let registrar = builder.format(Buggy(broken.clone())).build().unwrap();
    let error = registrar.register(greeter()).unwrap_err();
    assert!(matches!(error, RegisterError::Format { .. }), "{error:?}");
    let reason = error.to_string();
    assert!(reason.contains("it cannot be written"), "{reason}");

    broken.store(false, Ordering::Relaxed);
    let registration = announced_by(&registrar, greeter());
    registered_within(LONG, &registration).await;
    broken.store(true, Ordering::Relaxed);
    let updated = registration.update(|instance| instance.with_value("w"));
    let is_refused = matches!(updated, Err(RegisterError::Format { .. }));
    assert!(is_refused, "{updated:?}");
    sleep(SEC).await;
    assert_eq!(&*setup.fake.keys()[KEY].value, "v");
    assert!(matches!(
        registration.status(),
        RegistrationStatus::Registered(_)
    ));
}

#[tokio::test(start_paused = true)]
async fn a_format_that_panics_later_costs_its_own_registration_only() {
    let setup = Setup::new();
    let broken = Arc::new(AtomicBool::new(false));
    let builder = setup.builder().format(Plain::new());
    let registrar = builder.format(Buggy(broken.clone())).build().unwrap();
    let registration = announced_by(&registrar, greeter());
    registered_within(LONG, &registration).await;
    let other = registrar.register(Instance::new("other")).unwrap();
    broken.store(true, Ordering::Relaxed);
    announce(&other);
    let is_told = |s: &RegistrationStatus| s.to_string().contains("a format panicked");
    status(&other, is_told).await;
    sleep(LONG).await;
    assert!(matches!(
        registration.status(),
        RegistrationStatus::Registered(_)
    ));
    assert_eq!(setup.count(Rpc::LeaseGrant), 1, "its lease is untouched");
    setup.shutdown.cancel();
    for registration in [registration, other] {
        assert_eq!(registration.ended().await, Ended::Deregistered);
    }
    assert!(setup.fake.keys().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_is_a_failed_attempt() {
    let setup = Setup::new();
    let connect = setup.fake.connector();
    let calls = AtomicUsize::new(0);
    let etcd = Etcd::new(["http://etcd:2379"]).connector(move |uri| {
        let call = calls.fetch_add(1, Ordering::Relaxed);
        assert_ne!(call, 0, "a panic of the function");
        let connecting = connect(uri);
        async move {
            assert_ne!(call, 1, "a panic of its future");
            connecting.await
        }
    });
    let registration = announced(setup.builder_on(etcd));
    let registered = timeout(SEC, registration.registered()).await;
    registered
        .unwrap_or_else(|_| panic!("{:?}", registration.status()))
        .unwrap();
}
