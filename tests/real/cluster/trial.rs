//! A registered greeter, a record of its statuses and health, and what must not change meanwhile.

use crate::setup::{Greeter, LONG};
use crate::support::cluster::Cluster;
use crate::support::etcd::users;
use crate::support::observer::Observer;
use crate::support::server::{health_client, health_request};
use crate::support::{eventually, library_etcd};
use etcd_client::{Client, KeyValue};
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::{Etcd, HEALTH_NAME, Registrar, RegistrationStatus};
use tonic_health::pb::health_check_response::ServingStatus;

/// A read that takes longer is not waited for.
const READ: Duration = Duration::from_millis(500);
const BETWEEN_READS: Duration = Duration::from_millis(25);

/// A greeter whose statuses, health and connections are recorded.
pub struct Watched {
    greeter: Greeter,
    pub key: String,
    dials: Log<Dial>,
    statuses: Log<RegistrationStatus>,
    /// Whether the registration's health name says `SERVING`.
    health: Log<bool>,
}

/// Checks that status and key do not change from the beginning of the trial to its end.
pub struct Trial<'a> {
    watched: &'a Watched,
    began: Instant,
    before: RegistrationStatus,
    observer: Observer,
    reads: Log<bool>,
    reader: AbortHandle,
    /// How much of each log was there before.
    seen: [usize; 3],
}

/// One attempt to connect to a member.
#[derive(Clone, Debug)]
struct Dial {
    endpoint: String,
    connected: bool,
}

/// What happened, and when.
struct Log<T>(Arc<Mutex<Vec<(Instant, T)>>>);

// === impl Watched ===

impl Watched {
    /// Starts it with all of `endpoints`, and waits until it is registered and health reports it.
    pub async fn start(cluster: &Cluster, endpoints: &[String]) -> Self {
        let dials = Log::new();
        let etcd = recorded(endpoints, &dials);
        // What `start` would dial by itself is one member only.
        let on_all = |_| Registrar::builder(etcd);
        let greeter = Greeter::start(&cluster.members[0], on_all).await;
        let key = greeter.key();
        let statuses = Log::new();
        let (log, mut watch) = (statuses.clone(), greeter.registration.watch());
        log.push(watch.get());
        tokio::spawn(async move {
            while let Some(status) = watch.changed().await {
                log.push(status);
            }
        });
        let health = Log::new();
        follow_health(&greeter, health.clone()).await;
        let watched = Self {
            greeter,
            key,
            dials,
            statuses,
            health,
        };
        watched.health(LONG, true).await;
        watched
    }

    /// The endpoint of the member it is connected to.
    pub fn in_use(&self) -> String {
        let dials = self.dials.since(0);
        let last = dials.iter().rev().find(|(_, dial)| dial.connected);
        last.expect("it is connected").1.endpoint.clone()
    }

    /// Waits until it is registered, and its connection works.
    pub async fn steady(&self) {
        self.status(LONG, |status| {
            matches!(status, RegistrationStatus::Registered(_))
        })
        .await;
    }

    /// Waits until the last status is such a one, and says since when it is.
    pub async fn status(
        &self,
        limit: Duration,
        such: impl Fn(&RegistrationStatus) -> bool,
    ) -> Instant {
        eventually("the status", limit, || self.statuses.last(&such)).await
    }

    /// Waits until health says this.
    pub async fn health(&self, limit: Duration, serving: bool) {
        eventually("health", limit, || {
            self.health.last(|said| *said == serving)
        })
        .await;
    }
}

/// All of `endpoints`, with each connection written down.
fn recorded(endpoints: &[String], dials: &Log<Dial>) -> Etcd {
    let dials = dials.clone();
    library_etcd(endpoints).connector(move |uri| {
        let dials = dials.clone();
        async move {
            let authority = uri.authority().map_or("", |authority| authority.as_str());
            let number = dials.push(Dial {
                endpoint: format!("http://{authority}"),
                connected: false,
            });
            let stream = TcpStream::connect(authority).await?;
            stream.set_nodelay(true)?;
            dials.0.lock().unwrap()[number].1.connected = true;
            Ok(stream)
        }
    })
}

async fn follow_health(greeter: &Greeter, log: Log<bool>) {
    let mut client = health_client(&greeter.url()).await.unwrap();
    let watch = client.watch(health_request(HEALTH_NAME)).await;
    let mut watch = watch.unwrap().into_inner();
    tokio::spawn(async move {
        while let Ok(Some(said)) = watch.message().await {
            log.push(said.status == ServingStatus::Serving as i32);
        }
    });
}

// === impl Trial ===

impl<'a> Trial<'a> {
    /// Begins, with an observer and a reader at the member `survivor`.
    pub async fn begin(watched: &'a Watched, survivor: &str) -> Self {
        watched.steady().await;
        let observer = Observer::start(survivor, "/services/").await;
        let held = observer.wait_for_key(&watched.key, LONG).await;
        let reads = Log::new();
        let client = users::connect(survivor).await.unwrap();
        let read = read(client, watched.key.clone(), held.revision, reads.clone());
        let reader = tokio::spawn(read);
        Self {
            watched,
            began: Instant::now(),
            before: watched.greeter.registration.status(),
            observer,
            reads,
            reader: reader.abort_handle(),
            seen: [
                watched.dials.len(),
                watched.statuses.len(),
                watched.health.len(),
            ],
        }
    }

    /// Ends, and checks that nothing changed.
    pub async fn end(self, what: &str) {
        self.watched.steady().await;
        let [dials, statuses, health] = self.seen;
        let statuses = self.watched.statuses.since(statuses);
        println!("{what}: {}", self.measured(&statuses, dials));
        assert_eq!(self.observer.events(), [], "{what}");
        let reads = self.reads.since(0);
        assert!(reads.len() > 10, "{what}: {} reads", reads.len());
        let is_there = reads.iter().all(|(_, there)| *there);
        assert!(is_there, "{what}: missing at a read");
        let flap = statuses.iter().find(|(_, status)| !status.is_registered());
        assert_eq!(flap, None, "{what}");
        assert_eq!(self.watched.health.since(health), [], "{what}");
        // The same lease and revision, held since the same moment.
        assert_eq!(self.watched.greeter.registration.status(), self.before);
    }

    /// The measurement: from when to when the status was `Suspect`, and the number of connections.
    fn measured(&self, statuses: &[(Instant, RegistrationStatus)], dials: usize) -> String {
        let at =
            |found: Option<&(Instant, RegistrationStatus)>| found.map(|(at, _)| *at - self.began);
        let doubted = at(statuses.first());
        let steady = at(statuses.last());
        let before = self.watched.dials.since(dials.saturating_sub(1));
        let rotations = before
            .windows(2)
            .filter(|pair| pair[0].1.endpoint != pair[1].1.endpoint);
        let failed = self.watched.dials.since(dials);
        let (dials, failed) = (
            failed.len(),
            failed.iter().filter(|(_, dial)| !dial.connected).count(),
        );
        let longest = self.longest_between_reads();
        format!(
            "doubted after {doubted:?}, confirmed after {steady:?}, {dials} dials, {failed} failed, \
             {} rotations, {} reads, none for {longest:?}",
            rotations.count(),
            self.reads.len(),
        )
    }

    fn longest_between_reads(&self) -> Duration {
        let reads = self.reads.since(0).into_iter().map(|(at, _)| at);
        let at: Vec<_> = [self.began]
            .into_iter()
            .chain(reads)
            .chain([Instant::now()])
            .collect();
        let between = at.windows(2).map(|pair| pair[1] - pair[0]);
        between.max().unwrap_or_default()
    }
}

impl Drop for Trial<'_> {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

/// Reads the key again and again, linearizably, and notes whether it is there as it was written.
async fn read(mut client: Client, key: String, revision: i64, log: Log<bool>) {
    loop {
        if let Ok(Ok(found)) = timeout(READ, client.get(&*key, None)).await {
            let there = found.kvs().first().map(KeyValue::mod_revision);
            log.push(there == Some(revision));
        }
        sleep(BETWEEN_READS).await;
    }
}

// === impl Log ===

impl<T> Log<T> {
    fn new() -> Self {
        Self(Arc::default())
    }

    /// Adds it, and gives its number.
    fn push(&self, what: T) -> usize {
        let mut log = self.0.lock().unwrap();
        log.push((Instant::now(), what));
        log.len() - 1
    }

    fn len(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

impl<T: Clone + Debug> Log<T> {
    fn since(&self, number: usize) -> Vec<(Instant, T)> {
        self.0.lock().unwrap()[number..].to_vec()
    }

    /// Since when the last one is such a one.
    fn last(&self, such: impl Fn(&T) -> bool) -> Result<Instant, String> {
        match self.0.lock().unwrap().last() {
            Some((at, last)) if such(last) => Ok(*at),
            other => Err(format!("{other:?}")),
        }
    }
}

impl<T> Clone for Log<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
