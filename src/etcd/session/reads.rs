//! Reads keys.

use super::Session;
use crate::etcd::rpc_error::RpcError;
use etcd_client as client;
use std::sync::Arc;

/// A key as etcd has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyMeta {
    pub(crate) lease: i64,
    pub(crate) revision: i64,
}

/// Some of the keys below a prefix.
#[cfg(feature = "discovery")]
#[derive(Debug)]
pub(crate) struct Page {
    /// The revision of the answer.
    pub(crate) revision: i64,
    pub(crate) found: Vec<KeyValue>,
    /// The number of keys from the beginning of this page on.
    pub(crate) count: i64,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<Vec<u8>>,
}

/// A key with its value. Keys that are not UTF-8 are skipped.
#[cfg(feature = "discovery")]
#[derive(Debug)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    pub(crate) seen: KeyMeta,
}

/// The largest answer, in bytes. A larger page is requested again with fewer keys. A message of a watch is only that large if
/// etcd accepts larger requests than by default.
#[cfg(feature = "discovery")]
pub(super) const MAX_PAGE: usize = 16 * 1024 * 1024;

// === impl Session ===

impl Session {
    /// Reads the lease and the revision of each of `keys`, at one revision, without the values.
    pub(crate) async fn look(
        mut self,
        keys: Vec<Arc<str>>,
    ) -> Result<(i64, Vec<Option<KeyMeta>>), RpcError> {
        let get = |key: &Arc<str>| client::TxnOp::get(&**key, Some(without_value()));
        let txn = client::Txn::new().and_then(keys.iter().map(get).collect::<Vec<_>>());
        let reply = self.kv.txn(txn).await.map_err(|error| self.error(&error))?;
        let revision = revision_of(reply.header());
        let seen: Vec<_> = reply.op_responses().iter().map(seen).collect();
        if seen.len() != keys.len() {
            return Err(self.broken("answered a transaction with fewer results than operations"));
        }
        Ok((revision, seen))
    }

    /// Reads at most `limit` keys below `prefix`, from `from` on, in order, as they were at
    /// `revision`; 0: as they are now.
    #[cfg(feature = "discovery")]
    pub(crate) async fn page(
        self,
        prefix: &str,
        from: Vec<u8>,
        revision: i64,
        limit: i64,
    ) -> Result<Page, RpcError> {
        let mut reply = self.range(prefix, from, revision, limit).await?;
        let revision = revision_of(reply.header());
        let (more, count, kvs) = (reply.more(), reply.count(), reply.take_kvs());
        let next = kvs.last().filter(|_| more).map(|last| {
            let mut next = last.key().to_vec();
            next.push(0);
            next
        });
        let found = kvs.into_iter().filter_map(|kv| {
            let seen = KeyMeta::of(&kv);
            let (key, value) = kv.into_key_value();
            let key = String::from_utf8(key).ok()?;
            Some(KeyValue { key, value, seen })
        });
        Ok(Page {
            revision,
            found: found.collect(),
            count,
            next,
        })
    }

    /// The same, with keys that are not UTF-8, as etcd answers.
    #[cfg(feature = "discovery")]
    pub(in crate::etcd) async fn range(
        &self,
        prefix: &str,
        from: Vec<u8>,
        revision: i64,
        limit: i64,
    ) -> Result<client::GetResponse, RpcError> {
        let options = client::GetOptions::new()
            .with_range(prefix_end(prefix))
            .with_revision(revision)
            .with_limit(limit);
        let mut kv = self.kv.clone().max_decoding_message_size(MAX_PAGE);
        let reply = kv.get(from, Some(options)).await;
        reply.map_err(|error| self.error(&error))
    }

    /// The current revision of etcd, and the number of keys below `prefix`. With `each` unset, the number of keys
    /// with exactly that name, which is cheap for etcd.
    ///
    /// Not serializable: a member without a quorum, and the cache of `grpc-proxy`, would answer.
    #[cfg(feature = "discovery")]
    pub(crate) async fn count(mut self, prefix: &str, each: bool) -> Result<(i64, i64), RpcError> {
        let options = client::GetOptions::new().with_count_only();
        let options = match each {
            true => options.with_range(prefix_end(prefix)),
            false => options,
        };
        let reply = self.kv.get(prefix, Some(options)).await;
        let reply = reply.map_err(|error| self.error(&error))?;
        Ok((revision_of(reply.header()), reply.count()))
    }

    /// The lease and the revision of each of `keys`, and the number of keys below `prefix`, as they were at `revision`.
    #[cfg(feature = "discovery")]
    pub(crate) async fn sample(
        mut self,
        prefix: &str,
        keys: &[Arc<str>],
        revision: i64,
    ) -> Result<(Vec<Option<KeyMeta>>, i64), RpcError> {
        let get = |key: &Arc<str>| {
            client::TxnOp::get(&**key, Some(without_value().with_revision(revision)))
        };
        let count = client::GetOptions::new()
            .with_range(prefix_end(prefix))
            .with_count_only()
            .with_revision(revision);
        let count = client::TxnOp::get(prefix, Some(count));
        let ops: Vec<_> = keys.iter().map(get).chain([count]).collect();
        let reply = self.kv.txn(client::Txn::new().and_then(ops)).await;
        let replies = reply.map_err(|error| self.error(&error))?.op_responses();
        match &replies[..] {
            [found @ .., client::TxnOpResponse::Get(counted)] if found.len() == keys.len() => {
                Ok((found.iter().map(seen).collect(), counted.count()))
            }
            _ => Err(self.broken("answered a transaction with fewer results than operations")),
        }
    }
}

/// The revision of an answer. Only the end of a watch by compaction has none.
pub(in crate::etcd) fn revision_of(header: Option<&client::ResponseHeader>) -> i64 {
    header.map_or(0, client::ResponseHeader::revision)
}

/// The first key that does not begin with `prefix`, which ends with a slash.
#[cfg(feature = "discovery")]
pub(super) fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Reads the lease and the revision of one key, without its value.
///
/// From 3.7 on etcd answers `keys_only` from an index in memory without leases, unless the range
/// is sorted by value. Before this was sorted, a lease of 0 looked as if another client had overwritten the key.
pub(super) fn without_value() -> client::GetOptions {
    client::GetOptions::new()
        .with_keys_only()
        .with_sort(client::SortTarget::Value, client::SortOrder::Ascend)
}

fn seen(reply: &client::TxnOpResponse) -> Option<KeyMeta> {
    match reply {
        client::TxnOpResponse::Get(get) => get.kvs().first().map(KeyMeta::of),
        _ => None,
    }
}

// === impl KeyMeta ===

impl KeyMeta {
    fn of(kv: &client::KeyValue) -> Self {
        Self {
            lease: kv.lease(),
            revision: kv.mod_revision(),
        }
    }
}
