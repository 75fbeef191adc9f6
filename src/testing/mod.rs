#![doc = include_str!("../manual/testing.md")]

mod assertions;
mod model;
mod services;
mod shared;

pub use crate::runtime::random::repeatable_ids;

use crate::etcd::Etcd;
use etcd_client::proto::PbPutRequest;
use model::store::Keys;
use shared::{Shared, State};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

/// An etcd inside the test: see the [module](self).
///
/// Its methods take effect at once. Registrars and discoveries react to them as they react to the real event.
/// Dropping it stops it.
#[derive(Debug)]
pub struct FakeEtcd {
    shared: Arc<Shared>,
    _sweep: DropGuard,
}

// === impl FakeEtcd ===

impl FakeEtcd {
    /// A running etcd without keys.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        let (shared, stop) = (Arc::new(Shared::new()), CancellationToken::new());
        tokio::spawn(shared.clone().sweep(stop.clone()));
        Self {
            shared,
            _sweep: stop.drop_guard(),
        }
    }

    /// The [`Etcd`] for the code under test: connections stay inside the process, and need no port.
    #[must_use]
    pub fn etcd(&self) -> Etcd {
        let shared = self.shared.clone();
        Etcd::new(["http://fake-etcd:2379"]).connector(move |_| services::connect(shared.clone()))
    }

    /// It is at the address of that `etcd`, which looks up its name as usual.
    #[cfg(test)]
    pub(crate) fn at_resolved(&self, etcd: Etcd) -> Etcd {
        let (shared, resolver) = (self.shared.clone(), etcd.get_resolver());
        etcd.connector(move |uri| {
            let (shared, resolver) = (shared.clone(), resolver.clone());
            async move {
                let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16());
                let limit = Duration::from_millis(600);
                let found = resolver.resolve(host, port.unwrap_or_default(), limit);
                found.await?;
                services::connect(shared).await
            }
        })
    }

    /// The current keys and values.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<String, String> {
        keys(self.shared.state().keyspace.store.live())
    }

    /// Writes a key without a lease, as another client.
    pub fn put(&self, key: &str, value: &str) {
        let request = PbPutRequest {
            key: key.into(),
            value: value.into(),
            ..PbPutRequest::default()
        };
        // Only an empty key or an unknown lease is refused.
        let _written = self.shared.change(|state| state.keyspace.put(&request));
    }

    /// Deletes a key, as another client. Returns whether it was there.
    pub fn delete(&self, key: &str) -> bool {
        self.shared.change(|state| state.keyspace.delete_key(key))
    }

    /// Writes an instance of `service` with this `address` in the default format of this crate, for tests of
    /// clients. For other formats use [`put`](Self::put).
    pub fn add(&self, service: &str, address: SocketAddr) {
        let key = format!("/services/{service}/{address}");
        let name = serde_json::Value::from(service);
        let id = fastrand::u64(..);
        self.put(
            &key,
            &format!(r#"{{"name":{name},"id":"{id:016x}","address":"{address}"}}"#),
        );
    }

    /// Kills it: connections end, new ones are refused, and leases do not expire. Its data stays.
    pub fn stop(&self) {
        self.shared.change(|state| state.running.cancel());
    }

    /// Starts it again, with its data: every lease gets its full TTL. Does nothing if it runs.
    pub fn start(&self) {
        self.shared.change(|state| {
            if state.running.is_cancelled() {
                state.start();
            }
        });
    }

    /// Deletes its data, leases included, and restarts it. If it was stopped, it stays stopped.
    pub fn wipe(&self) {
        self.shared.change(|state| {
            let was_running = !state.running.is_cancelled();
            state.running.cancel();
            state.keyspace.wipe();
            state.term = 1;
            if was_running {
                state.start();
            }
        });
    }

    /// Delays each request by `time` from now on; a request whose caller gives up before is not applied. Zero ends it.
    ///
    /// A registration waits for a slow etcd for as long as its lease allows. A delay of a TTL is an etcd that hangs.
    pub fn delay(&self, time: Duration) {
        self.shared.change(|state| state.delay = time);
    }

    /// Denies reads, writes and watches of keys below `prefix` from now on, as for a user without the permission.
    /// Leases are not denied. One prefix at a time; `""` is every key.
    pub fn deny(&self, prefix: &str) {
        self.shared
            .change(|state| state.denied = Some(prefix.to_owned()));
    }

    /// Ends [`deny`](Self::deny).
    pub fn allow(&self) {
        self.shared.change(|state| state.denied = None);
    }
}

impl Default for FakeEtcd {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FakeEtcd {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl State ===

impl State {
    fn start(&mut self) {
        self.running = CancellationToken::new();
        self.term += 1;
        self.keyspace.leases.extend(Instant::now());
    }
}

fn keys(live: &Keys) -> BTreeMap<String, String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    live.iter()
        .map(|(key, kv)| (text(key), text(&kv.value)))
        .collect()
}
