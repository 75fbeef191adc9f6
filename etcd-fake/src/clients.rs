//! Other clients, and the operator: what they do takes effect at once, whatever the faults are.

#![allow(clippy::panic, reason = "a test that fails ends")]

use crate::fake::FakeEtcd;
use crate::model::settings::Settings;
use crate::state::State;
use etcd_client::proto::PbPutRequest;
use tokio::time::Instant;

// === impl FakeEtcd ===

/// Other clients, and the operator: what they do takes effect at once, whatever the faults are.
impl FakeEtcd {
    /// Writes a key. Lease 0 is none.
    ///
    /// # Panics
    ///
    /// If the key is empty, or there is no such lease.
    pub fn put(&self, key: &str, value: &str, lease: i64) {
        let request = PbPutRequest {
            key: key.into(),
            value: value.into(),
            lease,
            ..PbPutRequest::default()
        };
        let put = self.shared.change(|state| state.keyspace.put(&request));
        put.unwrap_or_else(|e| panic!("put {key}: {e}"));
    }

    /// Deletes a key. Returns whether it was there.
    pub fn delete(&self, key: &str) -> bool {
        self.shared.change(|state| state.keyspace.delete_key(key))
    }

    /// Grants a lease under this id, for `ttl` seconds.
    ///
    /// # Panics
    ///
    /// If there is a lease with that id.
    pub fn grant(&self, id: i64, ttl: i64) {
        let grant = |state: &mut State| state.keyspace.grant(id, ttl, Instant::now());
        let granted = self.shared.change(grant);
        granted.unwrap_or_else(|e| panic!("grant {id}: {e}"));
    }

    /// Revokes a lease and deletes its keys. Returns whether it was there.
    pub fn revoke(&self, id: i64) -> bool {
        let revoked = self.shared.change(|state| state.keyspace.revoke(id));
        revoked.is_ok()
    }

    /// Revokes every lease, as after a long freeze of etcd.
    pub fn revoke_all(&self) {
        for id in self.leases().into_keys() {
            self.revoke(id);
        }
    }

    /// Compacts the history up to now: watches from earlier revisions are cancelled.
    pub fn compact(&self) {
        self.shared.change(|state| {
            let store = &mut state.keyspace.store;
            // For clients it is an error to compact the same revision twice; here it is ignored.
            let _done_before = store.compact(store.revision());
        });
    }

    /// Changes how it is started, at once.
    pub fn configure(&self, change: impl FnOnce(&mut Settings)) {
        change(&mut self.shared.state().keyspace.store.settings);
    }

    /// Sets the member list.
    pub fn list_members(&self, client_urls: &[&str]) {
        let client_urls = client_urls.iter().map(ToString::to_string).collect();
        self.shared.change(|state| state.member_urls = client_urls);
    }

    /// Requests need a token from now on, which this user gets for this password. For a known user it is a new password, and
    /// voids the tokens given for the old one.
    pub fn user(&self, name: &str, password: &str) {
        self.shared.change(|state| state.auth.user(name, password));
    }

    /// All tokens are void, as when they are too old, or when etcd was restored from a snapshot.
    pub fn forget_tokens(&self) {
        self.shared.change(|state| state.auth.forget_tokens());
    }
}
