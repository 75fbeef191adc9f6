//! A client without this library: tonic's balanced channel, fed by a list and a watch.
//!
//! It handles the usual cases: instances that are gone are removed, a watch that ends starts again with the
//! differences to a new list, and connections have timeouts and pings, as ours have.

use crate::host::PREFIX;
use etcd_client::{Client, EventType, GetOptions, KeyValue, WatchOptions};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::mpsc::Sender;
use tokio::task::AbortHandle;
use tonic::transport::channel::Change;
use tonic::transport::{Channel, Endpoint};
use tonic_etcd::InstanceJson;

/// A channel, and the task that feeds it.
#[derive(Debug)]
pub(crate) struct Naive {
    pub(crate) channel: Channel,
    addresses: Addresses,
    task: AbortHandle,
}

/// The state of the task.
struct Feeder {
    etcd: String,
    keep_alive: (Duration, Duration),
    channel: Sender<Change<String, Endpoint>>,
    addresses: Addresses,
}

/// By their keys.
type Addresses = Arc<Mutex<HashMap<String, String>>>;
type Error = Box<dyn std::error::Error + Send + Sync>;

const CONNECT: Duration = Duration::from_secs(1);
const RETRY: Duration = Duration::from_secs(1);

// === impl Naive ===

impl Naive {
    pub(crate) fn start(etcd: &str, keep_alive: (Duration, Duration)) -> Self {
        let (channel, sender) = Channel::balance_channel(64);
        let addresses = Addresses::default();
        let feeder = Feeder {
            etcd: etcd.to_owned(),
            keep_alive,
            channel: sender,
            addresses: addresses.clone(),
        };
        let task = tokio::spawn(feeder.run()).abort_handle();
        Self {
            channel,
            addresses,
            task,
        }
    }

    /// The addresses in the channel. tonic does not report which of them can be called.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let addresses = self
            .addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        addresses.values().cloned().collect()
    }
}

impl Drop for Naive {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Feeder ===

impl Feeder {
    async fn run(self) {
        loop {
            if let Err(error) = self.follow().await {
                tracing::event!(tracing::Level::DEBUG, error, "the plain watch ended");
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn follow(&self) -> Result<(), Error> {
        let mut client = Client::connect([&self.etcd], None).await?;
        let listed = client
            .get(PREFIX, Some(GetOptions::new().with_prefix()))
            .await?;
        let is_there = |key: &String| listed.kvs().iter().any(|kv| kv.key() == key.as_bytes());
        let known: Vec<_> = self.known().keys().cloned().collect();
        for gone in known.into_iter().filter(|key| !is_there(key)) {
            self.remove(gone).await?;
        }
        for kv in listed.kvs() {
            self.insert(kv).await?;
        }
        let revision = listed.header().map_or(0, |header| header.revision());
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(revision + 1);
        let mut watch = client.watch(PREFIX, Some(options)).await?;
        while let Some(news) = watch.message().await? {
            for event in news.events() {
                match (event.event_type(), event.kv()) {
                    (EventType::Put, Some(kv)) => self.insert(kv).await?,
                    (EventType::Delete, Some(kv)) => self.remove(kv.key_str()?.to_owned()).await?,
                    (_, None) => {}
                }
            }
        }
        Ok(())
    }

    async fn insert(&self, kv: &KeyValue) -> Result<(), Error> {
        let instance: InstanceJson = serde_json::from_slice(kv.value())?;
        let (key, address) = (kv.key_str()?.to_owned(), instance.address);
        let (interval, timeout) = self.keep_alive;
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(interval)
            .keep_alive_timeout(timeout);
        let before = self.known().insert(key.clone(), address.clone());
        // Inserting the same address again would only close its connection.
        if before != Some(address) {
            self.channel.send(Change::Insert(key, endpoint)).await?;
        }
        Ok(())
    }

    async fn remove(&self, key: String) -> Result<(), Error> {
        self.known().remove(&key);
        Ok(self.channel.send(Change::Remove(key)).await?)
    }

    fn known(&self) -> std::sync::MutexGuard<'_, HashMap<String, String>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}
