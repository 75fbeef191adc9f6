//! [`Settings`]: how an etcd is started, and which one it is.

/// How an etcd is started, and in what it differs from a single etcd of the newest version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// `--max-txn-ops`.
    pub max_txn_ops: usize,
    /// `--max-request-bytes`.
    pub max_request_bytes: usize,
    /// The shortest TTL, in seconds: 1.5 times the election timeout, rounded up. A shorter TTL is raised to it.
    pub min_ttl: i64,
    /// As in etcd up to 3.6: a range with `keys_only` has leases, whatever it is sorted by.
    pub keys_only_with_lease: bool,
    /// As in etcd before 3.4.42, 3.5.28 and 3.6.9: renewals and reads of leases accept any token.
    pub lenient_leases: bool,
    /// As with `etcd grpc-proxy`: watches get the ids 0, 1, 2 and so on, not the requested ones.
    pub own_watch_ids: bool,
    /// As behind a proxy that sends each stream to another member: watches are answered by a member of their own.
    pub watches_elsewhere: bool,
}

impl Default for Settings {
    /// Those of a current etcd that is started without options.
    fn default() -> Self {
        Self {
            max_txn_ops: 128,
            max_request_bytes: 1536 * 1024,
            min_ttl: 2,
            keys_only_with_lease: false,
            lenient_leases: false,
            own_watch_ids: false,
            watches_elsewhere: false,
        }
    }
}
