//! The fields that a call records on the span of its caller.

use super::net::{Client, Net, address};
use super::raw::call_sent_again;
use super::{hello, stream_within};
use crate::panics::subscribe;
use crate::setup::{LONG, MS};
use std::collections::BTreeMap;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use tokio::time::timeout;
use tracing::field::{Empty, Field, Visit};
use tracing::span::{Id, Record};
use tracing::subscriber::DefaultGuard;
use tracing::{Metadata, Span, Subscriber, info_span};
use tracing_subscriber::layer::{Context, Layer};

/// Records each value of each field that is recorded on a span.
#[derive(Clone, Default)]
struct Recorded(Arc<Mutex<BTreeMap<String, Vec<String>>>>);

impl Recorded {
    fn start() -> (Self, DefaultGuard) {
        let recorded = Self::default();
        let guard = subscribe(recorded.clone());
        (recorded, guard)
    }

    /// All records so far, as `field=value`; a field that was recorded twice is there twice.
    fn take(&self) -> Vec<String> {
        let fields = std::mem::take(&mut *self.0.lock().unwrap());
        let lines = fields.into_iter().flat_map(|(name, values)| {
            values
                .into_iter()
                .map(move |value| format!("{name}={value}"))
        });
        lines.collect()
    }
}

impl Visit for Recorded {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let mut fields = self.0.lock().unwrap();
        let values = fields.entry(field.name().to_owned()).or_default();
        values.push(format!("{value:?}"));
    }
}

impl<S: Subscriber> Layer<S> for Recorded {
    fn on_record(&self, _: &Id, values: &Record<'_>, _: Context<'_, S>) {
        values.record(&mut self.clone());
    }
}

/// Panics whenever something is recorded, and counts how often.
struct Panics(Arc<AtomicUsize>);

impl<S: Subscriber> Layer<S> for Panics {
    fn enabled(&self, metadata: &Metadata<'_>, _: Context<'_, S>) -> bool {
        metadata.is_span() && metadata.name() == "caller"
    }

    fn on_record(&self, _: &Id, _: &Record<'_>, _: Context<'_, S>) {
        self.0.fetch_add(1, Relaxed);
        panic!("the subscriber cannot write");
    }
}

/// As `Instrument` does it.
async fn in_span<F: Future>(span: Span, call: F) -> F::Output {
    let mut call = pin!(call);
    poll_fn(|context| span.in_scope(|| call.as_mut().poll(context))).await
}

fn declares_all() -> Span {
    info_span!(
        "caller",
        server.address = Empty,
        server.port = Empty,
        http.request.resend_count = Empty,
    )
}

#[tokio::test(start_paused = true)]
async fn a_span_that_declares_the_fields_gets_each_once() {
    let (recorded, _guard) = Recorded::start();
    let (_net, _registry, balanced) = Net::greeters(1).await;
    let mut client = Client::new(balanced);
    let call = in_span(declares_all(), hello(&mut client));
    assert_eq!(call.await.unwrap(), address(1));
    assert_eq!(
        recorded.take(),
        ["server.address=\"10.0.0.1\"", "server.port=9000"],
        "a call that is sent once counts no resend"
    );
    let only_address = info_span!("caller", server.address = Empty, peer = Empty);
    in_span(only_address, hello(&mut client)).await.unwrap();
    assert_eq!(recorded.take(), ["server.address=\"10.0.0.1\""]);
}

#[tokio::test(start_paused = true)]
async fn a_span_that_declares_none_and_its_parent_get_nothing() {
    let (recorded, _guard) = Recorded::start();
    let (_net, _registry, balanced) = Net::greeters(1).await;
    let mut client = Client::new(balanced);
    let none = declares_all().in_scope(|| info_span!("caller", peer = Empty));
    in_span(none, hello(&mut client)).await.unwrap();
    hello(&mut client).await.unwrap();
    assert!(recorded.take().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_sent_again_records_the_last_endpoint_and_count_1() {
    let (recorded, _guard) = Recorded::start();
    let called = in_span(declares_all(), call_sent_again(|builder| builder));
    assert_eq!(called.await.stats().resent, 1);
    assert_eq!(
        recorded.take(),
        [
            "http.request.resend_count=1",
            "server.address=\"10.0.0.2\"",
            "server.port=9000",
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_cancelled_or_times_out_names_its_endpoint_too() {
    let (recorded, _guard) = Recorded::start();
    let (net, _registry, balanced) = Net::greeters(1).await;
    net.freeze(&address(1));
    let mut client = Client::new(balanced);
    let cancelled = in_span(declares_all(), hello(&mut client));
    timeout(MS, cancelled).await.unwrap_err();
    let expired = in_span(declares_all(), stream_within(&mut client, MS));
    expired.await.unwrap_err();
    let address = "server.address=\"10.0.0.1\"";
    let port = "server.port=9000";
    assert_eq!(recorded.take(), [address, address, port, port]);
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_when_it_records_fails_no_call() {
    let panics = Arc::new(AtomicUsize::new(0));
    let _guard = subscribe(Panics(panics.clone()));
    let (_net, _registry, balanced) = Net::greeters(1).await;
    let mut client = Client::new(balanced.clone());
    for _ in 0..3 {
        let call = in_span(declares_all(), hello(&mut client));
        let answer = timeout(LONG, call).await.unwrap();
        assert_eq!(answer.unwrap(), address(1));
    }
    assert_eq!(panics.load(Relaxed), 6, "address and port");
    assert_eq!(balanced.stats().in_flight, 0);
}
