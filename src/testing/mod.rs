#![doc = include_str!("../manual/testing.md")]

mod assertions;

pub use crate::runtime::random::repeatable_ids;
pub use etcd_fake;

use crate::etcd::Etcd;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

/// An etcd inside the test: see the [module](self).
///
/// Its methods take effect at once. Registrars and discoveries react to them as they react to the real event.
/// Dropping it stops it.
#[derive(Debug, Default)]
pub struct FakeEtcd(etcd_fake::FakeEtcd);

// === impl FakeEtcd ===

impl FakeEtcd {
    /// A running etcd without keys.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The [`Etcd`] for the code under test: connections stay inside the process, and need no port.
    #[must_use]
    pub fn etcd(&self) -> Etcd {
        Etcd::new(["http://fake-etcd:2379"]).connector(self.0.connector())
    }

    /// It is at the address of that `etcd`, which looks up its name as usual.
    #[cfg(test)]
    pub(crate) fn at_resolved(&self, etcd: Etcd) -> Etcd {
        let (connect, resolver) = (self.0.connector(), etcd.get_resolver());
        etcd.connector(move |uri| {
            let (connect, resolver) = (connect.clone(), resolver.clone());
            async move {
                let (host, port) = (uri.host().unwrap_or_default(), uri.port_u16());
                let limit = Duration::from_millis(600);
                let found = resolver.resolve(host, port.unwrap_or_default(), limit);
                found.await?;
                connect(uri).await
            }
        })
    }

    /// The server itself, for more faults: one member only, one request only, a silent network, a full queue.
    pub fn server(&self) -> &etcd_fake::FakeEtcd {
        &self.0
    }

    /// The current keys and values.
    #[must_use]
    pub fn keys(&self) -> BTreeMap<String, String> {
        let keys = self.0.keys().into_iter();
        keys.map(|(key, stored)| (key, stored.value)).collect()
    }

    /// Writes a key without a lease, as another client.
    ///
    /// # Panics
    ///
    /// If the key is empty.
    pub fn put(&self, key: &str, value: &str) {
        self.0.put(key, value, 0);
    }

    /// Deletes a key, as another client. Returns whether it was there.
    pub fn delete(&self, key: &str) -> bool {
        self.0.delete(key)
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
        self.0.down();
    }

    /// Starts it again, with its data: every lease gets its full TTL. Does nothing if it runs.
    pub fn start(&self) {
        self.0.up();
    }

    /// Deletes its data, leases included, and restarts it. If it was stopped, it stays stopped.
    pub fn wipe(&self) {
        self.0.wipe();
    }

    /// Delays each request by `time` from now on; a request whose caller gives up before is not applied. Zero ends it.
    ///
    /// A registration waits for a slow etcd for as long as its lease allows. A delay of a TTL is an etcd that hangs.
    pub fn delay(&self, time: Duration) {
        self.0.delay(time);
    }

    /// Denies reads, writes and watches of keys below `prefix` from now on, as for a user without the permission.
    /// Leases are not denied. One prefix at a time; `""` is every key.
    pub fn deny(&self, prefix: &str) {
        self.0.deny(prefix);
    }

    /// Ends [`deny`](Self::deny).
    pub fn allow(&self) {
        self.0.allow();
    }
}
