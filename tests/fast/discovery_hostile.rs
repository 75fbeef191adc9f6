//! Keys and values of other clients, and code of the application that panics.

use crate::discovery::{PREFIX, discovery, etcd, json, key, news, put, reading, shown, shows};
use crate::log::Log;
use crate::setup::{MS, SEC};
use crate::support::eventually;
use crate::support::fake::{FakeEtcd, Rpc};
use std::future::Future as _;
use tokio::time::sleep;
use tokio_stream::Stream as _;
use tonic_etcd::Instance;
use tonic_etcd::discovery::Discovery;
use tonic_etcd::format::{Address, DecodeError, Format, KeyContext, Plain};

#[tokio::test(start_paused = true)]
async fn values_that_cannot_be_decoded_are_skipped_and_counted() {
    let fake = FakeEtcd::new();
    put(&fake, 0..2);
    let deep = "[".repeat(100_000);
    let huge = "x".repeat(1_400_000);
    let hostile = [
        "",
        "{",
        "null",
        "[]",
        "12",
        &deep,
        &huge,
        r#"{"name":"greeter"}"#,
        r#"{"name":"greeter","id":"a","address":[1]}"#,
        r#"{"name":"greeter","id":"a","address":"10.0.0.1:0"}"#,
        r#"{"name":"greeter","id":"a","address":"10.0.0.1:70000"}"#,
    ];
    for (number, value) in hostile.iter().enumerate() {
        fake.put(&key(100 + number), value, 0);
    }
    let discovery = discovery(&fake);
    let snapshot = discovery.ready().await;
    assert_eq!((snapshot.len(), snapshot.skipped()), (2, hostile.len()));
    let by_reason = snapshot.skipped_by_reason();
    let told: usize = by_reason.iter().map(|it| it.keys).sum();
    assert_eq!(told, hostile.len(), "{by_reason:#?}");
    let too_long = by_reason.iter().find(|it| it.reason.contains("1400000"));
    let example = too_long.and_then(|it| it.example.clone());
    assert_eq!(example, Some(key(106)), "{by_reason:#?}");
    fake.put(&key(0), "{", 0);
    fake.put(&key(1), &json(1, "v2"), 0);
    eventually("the good one changed", SEC, || {
        let snapshot = discovery.snapshot();
        let one = snapshot
            .get(&key(1))
            .and_then(|one| one.version().map(str::to_owned));
        (one.as_deref() == Some("v2"))
            .then_some(())
            .ok_or(format!("{one:?}"))
    })
    .await;
    assert_eq!(shown(&discovery), [1]);
    assert_eq!(discovery.snapshot().skipped(), hostile.len() + 1);
}

#[tokio::test(start_paused = true)]
async fn of_many_bad_values_few_reasons_and_short_examples_are_kept() {
    let fake = FakeEtcd::new();
    let long = "k\x1b".repeat(1000);
    for number in 0..500 {
        // A text of its own for each, in every reason that shows its value.
        let value = format!(r#"{{"name":"greeter","id":"a","address":"host-{number}"}}"#);
        fake.put(&format!("{PREFIX}{long}{number}"), &value, 0);
    }
    let discovery = discovery(&fake);
    let snapshot = discovery.ready().await;
    let by_reason = snapshot.skipped_by_reason();
    assert_eq!(by_reason.len(), 9, "{by_reason:#?}");
    assert_eq!(by_reason[0].keys, 492);
    assert!(by_reason[0].reason.contains("many other reasons"));
    for it in by_reason {
        let example = it.example.as_deref().unwrap();
        assert!(it.reason.len() <= 200 && example.len() <= 200, "{it:?}");
        let shown = format!("{}{example}", it.reason);
        assert!(!shown.contains('\x1b') && !shown.contains(&long));
    }
    // When they are gone, their reasons make room for others.
    for number in 0..500 {
        fake.delete(&format!("{PREFIX}{long}{number}"));
    }
    fake.put(&key(1), "12", 0);
    eventually("the last reason is told", SEC, || {
        let now = discovery.snapshot();
        match now.skipped_by_reason() {
            [one] if one.keys == 1 && one.reason.contains("JSON") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn whom_a_flood_kept_out_is_found_when_it_is_gone() {
    let log = Log::start();
    let fake = FakeEtcd::new();
    put(&fake, [5]);
    let builder = Discovery::builder(etcd(&fake, &["etcd"]), "greeter").max_instances(100);
    let discovery = builder.build().unwrap();
    discovery.ready().await;
    for flood in 0..150 {
        fake.put(&format!("{PREFIX}flood/{flood}"), "x", 0);
    }
    put(&fake, [6]);
    sleep(SEC * 60).await;
    assert_eq!(shown(&discovery), [5]);
    assert_eq!(discovery.snapshot().skipped(), 151);
    let warnings = || {
        let lines = log.lines().into_iter();
        lines.filter(|line| line.contains("too many keys")).count()
    };
    assert_eq!(warnings(), 1, "{:?}", log.lines());
    let lists = fake.count(Rpc::Range);
    for flood in 0..150 {
        fake.delete(&format!("{PREFIX}flood/{flood}"));
        sleep(100 * MS).await;
    }
    shows(&discovery, [5, 6], SEC * 11).await;
    assert_eq!(discovery.snapshot().skipped(), 0);
    assert_eq!(warnings(), 1);
    let lists = fake.count(Rpc::Range) - lists;
    assert!((1..=3).contains(&lists), "{lists} lists");
    assert_eq!(
        (fake.count(Rpc::Connect), discovery.snapshot().watch_error()),
        (1, None)
    );
}

#[tokio::test(start_paused = true)]
async fn large_keys_and_values_take_no_more_than_the_budget() {
    let fake = FakeEtcd::new();
    put(&fake, 0..10);
    let value = |size: usize| {
        let pad = "x".repeat(size);
        format!(r#"{{"name":"greeter","id":"x","address":"10.0.0.1:9","version":"{pad}"}}"#)
    };
    let builder = Discovery::builder(etcd(&fake, &["etcd"]), "greeter").max_bytes(1_000_000);
    let discovery = builder.build().unwrap();
    discovery.ready().await;
    for large in 0..30 {
        fake.put(&key(100 + large), &value(60_000), 0);
        fake.put(&format!("{PREFIX}{large}/{}", "k".repeat(200_000)), "x", 0);
    }
    sleep(SEC * 3).await;
    let kept = |discovery: &Discovery| {
        let snapshot = discovery.snapshot();
        let sizes = snapshot
            .iter()
            .map(|(key, instance)| key.len() + instance.version().map_or(0, str::len));
        (sizes.sum::<usize>(), snapshot.len() + snapshot.skipped())
    };
    let (bytes, keys) = kept(&discovery);
    assert!((300_000..1_000_000).contains(&bytes), "{bytes}");
    assert_eq!(keys, 70);
    // A list is bounded as events are.
    let builder = Discovery::builder(etcd(&fake, &["etcd"]), "greeter").max_bytes(1_000_000);
    let second = builder.build().unwrap();
    second.ready().await;
    let (bytes, keys) = kept(&second);
    assert!((300_000..1_000_000).contains(&bytes), "{bytes}");
    assert_eq!(keys, 70);
}

/// An etcd with a larger `--max-request-bytes` sends an event that is larger than gRPC's default of 4 MiB: each watch ended with
/// it, and the set stayed as it was.
#[tokio::test(start_paused = true)]
async fn a_value_of_many_megabytes_ends_no_watch() {
    let (fake, discovery, _changes) = reading(0..2).await;
    fake.put(&key(9), &"x".repeat(5 << 20), 0);
    put(&fake, [2]);
    shows(&discovery, 0..3, SEC).await;
    assert_eq!(discovery.snapshot().skipped(), 1);
    assert_eq!(fake.count(Rpc::Connect), 1);
    // Above what we accept of a watch, too: pages go on without it.
    fake.put(&key(8), &"x".repeat(9 << 20), 0);
    fake.put(&key(9), &"x".repeat(9 << 20), 0);
    put(&fake, [3]);
    shows(&discovery, 0..4, SEC * 3).await;
    assert_eq!(discovery.snapshot().skipped(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_hostile_key_or_value_forges_no_log_line() {
    let log = Log::start();
    let fake = FakeEtcd::new();
    let hostile = "\n2026 INFO all is well\x1b[2J\r";
    fake.put(&format!("{PREFIX}{hostile}"), hostile, 0);
    let long = hostile.repeat(10_000);
    fake.put(
        &format!("{PREFIX}{long}"),
        &json(1, &long).replace('\n', "\\n"),
        0,
    );
    discovery(&fake).ready().await;
    let lines = log.lines();
    assert_eq!(lines.len(), 3, "the values and the first list: {lines:?}");
    for line in lines {
        assert!(!line.contains(['\n', '\r', '\x1b']), "{line:?}");
        assert!(line.len() < 700, "{} bytes: {line:?}", line.len());
    }
}

/// As tracing-subscriber's writer when stderr is closed.
struct Broken;

impl std::io::Write for Broken {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        panic!("failed printing to stderr")
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_at_each_line_does_not_end_the_watch() {
    crate::support::allow_subscribers_by_thread();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(|| Broken);
    // Only ours: the fake and hyper write lines too, and are not made for this.
    let subscriber = subscriber.with_env_filter("tonic_etcd=trace").finish();
    let _default = tracing::subscriber::set_default(subscriber);
    let (fake, discovery, _changes) = reading(0..4).await;
    for round in 0..5 {
        fake.down();
        sleep(SEC * 3).await;
        fake.up();
        fake.put(&key(20 + round), "{", 0);
        fake.delete(&key(round));
        put(&fake, [4 + round]);
        shows(&discovery, round + 1..5 + round, SEC * 3).await;
    }
    assert_eq!(discovery.snapshot().watch_error(), None);
}

/// Its reader panics when it is woken.
struct PanickingWaker;

impl std::task::Wake for PanickingWaker {
    fn wake(self: std::sync::Arc<Self>) {
        panic!("an executor with a bug")
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_whose_waker_panics_ends_neither_the_watch_nor_other_readers() {
    let (fake, discovery, mut changes) = reading(0..2).await;
    let waker = std::sync::Arc::new(PanickingWaker).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut bad = discovery.changes();
    while std::pin::Pin::new(&mut bad)
        .poll_next(&mut context)
        .is_ready()
    {}
    let mut snapshots = discovery.watch();
    let mut changed = std::pin::pin!(snapshots.changed());
    assert!(changed.as_mut().poll(&mut context).is_pending());
    let mut good = discovery.changes();
    news(&mut good).await;
    put(&fake, [2]);
    fake.delete(&key(0));
    shows(&discovery, [1, 2], SEC).await;
    for changes in [&mut changes, &mut good] {
        assert_eq!(news(changes).await, ["+00002", "-00000"]);
    }
    assert_eq!((fake.count(Rpc::Connect), fake.count(Rpc::Watch)), (1, 1));
}

/// A user's format with a bug.
#[derive(Debug)]
struct Panics(Plain);

impl Format for Panics {
    fn name(&self) -> &str {
        "panics"
    }

    fn key_prefix(&self, service: &str) -> String {
        Format::key_prefix(&self.0, service)
    }

    fn key(&self, context: &KeyContext<'_>) -> String {
        Format::key(&self.0, context)
    }

    fn encode(&self, instance: &Instance, address: &Address) -> String {
        Format::encode(&self.0, instance, address)
    }

    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        assert!(!key.ends_with('1'), "a bug");
        self.0.decode(service, key, value)
    }
}

#[tokio::test(start_paused = true)]
async fn a_format_that_panics_costs_one_value() {
    let fake = FakeEtcd::new();
    put(&fake, 0..3);
    let builder = Discovery::builder(etcd(&fake, &["etcd"]), "greeter");
    let discovery = builder.format(Panics(Plain::new())).build().unwrap();
    let snapshot = discovery.ready().await;
    assert_eq!((shown(&discovery), snapshot.skipped()), (vec![0, 2], 1));
}
