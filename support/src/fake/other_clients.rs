//! Changes by other clients: they take effect at once, whatever the faults are.

use etcd_client::proto::PbPutRequest;
use tokio::time::Instant;

use super::FakeEtcd;
use super::state::State;

impl FakeEtcd {
    /// Writes a key. 0 is no lease.
    ///
    /// # Panics
    /// When there is no such lease.
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

    /// Deletes a key; returns whether there was one.
    pub fn delete(&self, key: &str) -> bool {
        self.shared.change(|state| state.keyspace.delete_key(key))
    }

    /// Grants a lease under this id.
    ///
    /// # Panics
    /// When there is one already.
    pub fn grant(&self, id: i64, ttl: i64) {
        let grant = |state: &mut State| state.keyspace.leases.grant(id, ttl, Instant::now());
        let granted = self.shared.change(grant);
        granted.unwrap_or_else(|e| panic!("grant {id}: {e}"));
    }

    /// Revokes a lease and deletes its keys; returns whether there was one.
    pub fn revoke(&self, id: i64) -> bool {
        self.shared
            .change(|state| state.keyspace.revoke(id))
            .is_ok()
    }

    /// Revokes every lease, as after a long freeze of etcd.
    pub fn revoke_all(&self) {
        for id in self.leases().into_keys() {
            self.revoke(id);
        }
    }

    /// Compacts the history at the current revision: watches from earlier revisions are cancelled.
    pub fn compact(&self) {
        self.shared.change(|state| {
            let store = &mut state.keyspace.store;
            // Compacting twice at the same revision is an error for clients; here it is ignored.
            let _done_before = store.compact(store.revision());
        });
    }

    /// TTLs below this many seconds are raised to it; 2 by default.
    pub fn min_ttl(&self, seconds: i64) {
        let set = |state: &mut State| state.keyspace.leases.set_min_ttl(seconds);
        self.shared.change(set);
    }

    /// From now on requests need a token, which this user gets for this password. For a known user it is a new password, and
    /// voids the tokens given for the old one.
    pub fn user(&self, name: &str, password: &str) {
        self.shared.change(|state| state.auth.user(name, password));
    }

    /// Renewals and lease look-ups take any token, as in etcd before 3.4.42, 3.5.28 and 3.6.9. By default they do not.
    pub fn lenient_leases(&self) {
        self.shared.change(|state| state.auth.be_lenient());
    }

    /// Sets the member list.
    pub fn list_members(&self, client_urls: &[&str]) {
        let client_urls = client_urls.iter().map(ToString::to_string).collect();
        self.shared.change(|state| state.member_urls = client_urls);
    }

    /// All tokens are void, as when they are too old, or when etcd was restored from a snapshot.
    pub fn forget_tokens(&self) {
        self.shared.change(|state| state.auth.forget_tokens());
    }
}
