//! [`Setup`]: etcd, its watcher, and another client. None of them uses the library.

use crate::health::HealthRecorder;
use crate::server::Server;
use crate::stops::Stops;
use crate::timeline::{Fail, Timeline};
use etcd_client::{Client, Error, LeaseStatus};
use futures_util::FutureExt as _;
use std::panic::AssertUnwindSafe;
use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::observer::{Event, Held, Kind, Observer};
use test_support::poll;
use tokio::time::Instant;

/// Everything the steps act on.
pub(crate) struct Setup {
    /// How long etcd is down when it keeps its data.
    pub(crate) down: Duration,
    pub(crate) stops: Stops,
    pub(crate) etcd: Etcd,
    pub(crate) version: String,
    /// Sees every PUT and DELETE, whatever happens to etcd.
    pub(crate) observer: Observer,
    /// Another client, with full access to etcd.
    pub(crate) other: Client,
    pub(crate) server: Option<Server>,
    pub(crate) health: Option<HealthRecorder>,
    /// The key, what it should hold, and its lease of now.
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    pub(crate) lease: i64,
    markers: usize,
}

/// Far more than any step should take, to tell a failure from a slow machine.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(10);
/// How long the server keeps serving after its key is gone.
pub(crate) const SETTLE: Duration = Duration::from_millis(500);
/// The library's default.
pub(crate) const TTL: Duration = Duration::from_secs(5);
const PREFIX: &str = "/services/";
/// The timeout of one request of the other client to etcd.
const CALL: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(2);
/// How many events a failure shows.
const SHOWN: usize = 5;

// === impl Setup ===

impl Setup {
    /// Starts etcd, and watches it before anything happens.
    pub(crate) async fn raise(down: Duration, stops: Stops) -> Result<Self, Fail> {
        let etcd = guarded("an etcd of our own", async { Ok(Etcd::start().await) }).await?;
        let mut other = etcd.client().await;
        let version = request("the version of etcd", other.status())
            .await?
            .version()
            .to_owned();
        let observer = Observer::start(etcd.endpoint(), PREFIX).await;
        let key = format!("{PREFIX}greeter/127.0.0.1/{}", std::process::id());
        Ok(Self {
            down,
            stops,
            etcd,
            version,
            observer,
            other,
            server: None,
            health: None,
            key,
            value: vec![],
            lease: 0,
            markers: 0,
        })
    }

    /// Takes everything down, etcd last.
    pub(crate) async fn strike(mut self) {
        self.health = None;
        self.server = None;
        self.etcd.kill().await;
    }

    /// What most steps need: etcd answers, and the key is there as it should be.
    pub(crate) async fn steady(&mut self) -> Result<(), Fail> {
        if self.value.is_empty() {
            return Err(Fail::new("a registered server", "it did not start"));
        }
        if !self.etcd.is_up() || self.serving().await.is_err() {
            self.etcd.kill().await;
            self.etcd.start_again();
            self.serving().await?;
        }
        let value = &self.value;
        let expected = format!("the key {} in place", self.key);
        let in_place = || self.held().filter(|held| held.value == *value);
        self.lease = self.wait(&expected, in_place).await?.lease;
        Ok(())
    }

    /// When etcd first answered.
    pub(crate) async fn serving(&self) -> Result<Instant, Fail> {
        let serving = self.etcd.serving().await;
        serving.map_err(|why| Fail::new("etcd to answer", why))
    }

    /// What happened to the key, or to all of etcd, since a mark of the observer.
    pub(crate) fn happened(&self, mark: usize) -> Vec<Event> {
        let concerns_us = |event: &Event| event.key == self.key || event.kind == Kind::Reset;
        self.observer
            .events()
            .into_iter()
            .skip(mark)
            .filter(concerns_us)
            .collect()
    }

    /// Waits until `look` finds what it wants in what [`happened`](Self::happened).
    pub(crate) async fn see<T>(
        &self,
        expected: &str,
        mark: usize,
        look: impl Fn(&[Event]) -> Option<T>,
    ) -> Result<T, Fail> {
        self.wait(expected, || look(&self.happened(mark))).await
    }

    /// What the key holds, by the observer.
    pub(crate) fn held(&self) -> Option<Held> {
        self.observer.keys().remove(&self.key)
    }

    /// Waits until etcd says that the lease has been renewed: its time left has gone up.
    pub(crate) async fn renewed(&mut self) -> Result<Instant, Fail> {
        let expected = format!("a renewal of lease {:016x} within {TIMEOUT:?}", self.lease);
        let (lease, mut last) = (self.lease, None);
        let mut leases = self.other.lease_client();
        let renewed = poll(POLL * 5, TIMEOUT, async || {
            let left = request("the lease", leases.time_to_live(lease, None)).await;
            let left = left.map_err(|fail| fail.seen().to_owned())?.ttl();
            match last.replace(left) {
                Some(before) if left > before => Ok(Instant::now()),
                _ => Err(format!("{left} s left, and going down")),
            }
        });
        renewed.await.map_err(|seen| Fail::new(expected, seen))
    }

    /// Waits until a plain read finds the key with its value.
    pub(crate) async fn found(&mut self) -> Result<Instant, Fail> {
        let (key, value, other) = (&*self.key, &self.value, &mut self.other);
        let found = poll(POLL, TIMEOUT, async || {
            let read = request("a read of the key", other.get(key, None)).await;
            let read = read.map_err(|fail| fail.seen().to_owned())?;
            match read.kvs().iter().any(|kv| kv.value() == value) {
                true => Ok(Instant::now()),
                false => Err(format!("{:?}", read.kvs())),
            }
        });
        let expected = format!("the key {key} within {TIMEOUT:?}");
        found.await.map_err(|seen| Fail::new(expected, seen))
    }

    /// Checks that there is this lease, a new one, and no other.
    pub(crate) async fn only_lease(
        &mut self,
        new: i64,
        timeline: &mut Timeline,
    ) -> Result<(), Fail> {
        let leases = self.leases().await?;
        let is_new = leases == [new] && new != self.lease;
        Fail::unless(is_new, "one lease, a new one", || format!("{leases:x?}"))?;
        timeline.held(&format!(
            "under a new lease, {new:016x}, and there is no other"
        ));
        Ok(())
    }

    /// The leases that exist.
    pub(crate) async fn leases(&mut self) -> Result<Vec<i64>, Fail> {
        let leases = request("a list of leases", self.other.leases()).await?;
        Ok(leases.leases().iter().map(LeaseStatus::id).collect())
    }

    /// Waits until the observer has seen all events: it puts a marker, whose event comes after all others.
    pub(crate) async fn caught_up(&mut self) -> Result<(), Fail> {
        self.markers += 1;
        let marker = format!("{PREFIX}marker/{}", self.markers);
        request(
            "a marker in etcd",
            self.other.put(marker.as_str(), "", None),
        )
        .await?;
        let seen = || self.observer.keys().contains_key(&marker).then_some(());
        self.wait("the watcher to see a marker", seen).await
    }

    async fn wait<T>(
        &self,
        expected: &str,
        mut look: impl FnMut() -> Option<T>,
    ) -> Result<T, Fail> {
        let found = poll(POLL, TIMEOUT, async || look().ok_or(())).await;
        let expected = || format!("{expected} within {TIMEOUT:?}");
        found.map_err(|()| Fail::new(expected(), show(&self.observer.events())))
    }
}

/// The last events, for people.
pub(crate) fn show(events: &[Event]) -> String {
    if events.is_empty() {
        return "no event at all".to_owned();
    }
    let from = events.len().saturating_sub(SHOWN);
    let shown: Vec<_> = events[from..]
        .iter()
        .map(|event| format!("{:?} ago {event:?}", event.at.elapsed()))
        .collect();
    let indent = "\n                    ";
    format!(
        "{} events, the last of them:{indent}{}",
        events.len(),
        shown.join(indent)
    )
}

/// The support code of the tests panics where a test would. Here a panic is a step that failed.
pub(crate) async fn guarded<T>(
    expected: &str,
    step: impl Future<Output = Result<T, Fail>>,
) -> Result<T, Fail> {
    match AssertUnwindSafe(step).catch_unwind().await {
        Ok(done) => done,
        Err(_) => Err(Fail::new(expected, "a panic, printed above")),
    }
}

/// One call to etcd, bounded.
pub(crate) async fn request<T>(
    expected: &str,
    call: impl Future<Output = Result<T, Error>>,
) -> Result<T, Fail> {
    Fail::within(CALL, expected, call).await
}
