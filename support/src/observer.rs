//! An independent observer: records every PUT and DELETE under a prefix, also through faults of etcd.
//!
//! Tests use it instead of the status of the code under test. The observer lists once, then watches, and
//! after every interruption continues at the next revision, so that it misses nothing and sees nothing twice:
//!
//! * etcd restarted with its data, or hung: the record has no gap, and nothing is added for the interruption itself.
//! * etcd lost its data: the record says [`Kind::Reset`], then goes on with the *new* history from its beginning.
//! * the history was compacted in between: [`Kind::Reset`] too, then one PUT for each key that exists.
//!
//! It works on a real etcd ([`Observer::start`]) and on a fake one ([`Observer::with_client`]).

mod record;
mod watcher;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::Client;
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{Instant, timeout_at};

use super::etcd::users;
use record::Record;
pub use record::{Event, Held, Kind};
use watcher::Watcher;

/// A running observer; it ends when this is dropped.
#[derive(Debug)]
pub struct Observer {
    record: Arc<Mutex<Record>>,
    grown: watch::Receiver<()>,
    task: AbortHandle,
}

impl Observer {
    /// Observes `prefix` at one endpoint. When this returns, nothing that happens from then on is missed.
    pub async fn start(endpoint: impl AsRef<str>, prefix: &str) -> Self {
        let client = users::connect(endpoint.as_ref()).await;
        let client = client.unwrap_or_else(|e| panic!("the observer has no client: {e}"));
        Self::with_client(client, prefix).await
    }

    /// Like [`Observer::start`], through a given client.
    pub async fn with_client(client: Client, prefix: &str) -> Self {
        let record = Arc::new(Mutex::new(Record::default()));
        let (grow, mut grown) = watch::channel(());
        let watcher = Watcher::new(client, prefix, record.clone(), grow);
        let task = tokio::spawn(watcher.run()).abort_handle();
        let _first_watch_is_open = grown.changed().await;
        Self {
            record,
            grown,
            task,
        }
    }

    /// Everything seen so far, in order.
    pub fn events(&self) -> Vec<Event> {
        self.record().events.clone()
    }

    /// The number of events so far: what [`puts_since`](Self::puts_since) counts from.
    pub fn mark(&self) -> usize {
        self.record().events.len()
    }

    /// The PUTs since a [`mark`](Self::mark).
    pub fn puts_since(&self, mark: usize) -> Vec<Event> {
        self.since(mark, Kind::Put)
    }

    /// The DELETEs since a [`mark`](Self::mark).
    pub fn deletes_since(&self, mark: usize) -> Vec<Event> {
        self.since(mark, Kind::Delete)
    }

    /// What happened since a [`mark`](Self::mark).
    pub fn kinds_since(&self, mark: usize) -> Vec<Kind> {
        let record = self.record();
        record.events[mark..]
            .iter()
            .map(|event| event.kind)
            .collect()
    }

    /// The keys that exist, as far as events have arrived.
    pub fn keys(&self) -> BTreeMap<String, Held> {
        self.record().keys.clone()
    }

    /// Waits until `look` finds what it wants in the events so far, and returns it.
    ///
    /// # Panics
    /// When it has not found it within `limit`; the message carries `what` and the last events seen.
    pub async fn wait_for<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn(&[Event]) -> Option<T>,
    ) -> T {
        self.until(what, limit, |record| look(&record.events)).await
    }

    /// Waits until the key exists, and says what it holds. Panics like [`wait_for`](Self::wait_for).
    pub async fn wait_for_key(&self, key: &str, limit: Duration) -> Held {
        let what = format!("key {key}");
        self.until(&what, limit, |record| record.keys.get(key).cloned())
            .await
    }

    /// Waits until the key does not exist. Panics like [`wait_for`](Self::wait_for).
    pub async fn wait_for_no_key(&self, key: &str, limit: Duration) {
        let what = format!("absence of key {key}");
        let gone = |record: &Record| (!record.keys.contains_key(key)).then_some(());
        self.until(&what, limit, gone).await;
    }

    /// Waits until so many keys exist. Panics like [`wait_for`](Self::wait_for).
    pub async fn wait_for_count(&self, count: usize, limit: Duration) {
        let what = format!("{count} keys");
        let there = |record: &Record| (record.keys.len() == count).then_some(());
        self.until(&what, limit, there).await;
    }

    async fn until<T>(
        &self,
        what: &str,
        limit: Duration,
        look: impl Fn(&Record) -> Option<T>,
    ) -> T {
        let deadline = Instant::now() + limit;
        let mut grown = self.grown.clone();
        loop {
            // Marked as seen before looking: what comes after the look wakes us.
            grown.mark_unchanged();
            if let Some(found) = look(&self.record()) {
                return found;
            }
            if !matches!(timeout_at(deadline, grown.changed()).await, Ok(Ok(()))) {
                panic!("{what}: not seen within {limit:?}. {}", self.record());
            }
        }
    }

    fn since(&self, mark: usize, kind: Kind) -> Vec<Event> {
        let record = self.record();
        let later = record.events.iter().skip(mark);
        later.filter(|e| e.kind == kind).cloned().collect()
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.task.abort();
    }
}
