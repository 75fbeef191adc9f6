//! Changes keys under a lease, in one transaction.

use super::Session;
use super::reads::{revision_of, without_value};
use crate::etcd::rpc_error::RpcError;
use etcd_client as client;
use std::sync::Arc;

/// One change to make, under our lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Put the key, also if another lease holds it.
    Put { key: Arc<str>, value: Arc<str> },
    /// Put the key unless another lease holds it.
    PutIfFree { key: Arc<str>, value: Arc<str> },
    /// Delete the key if our lease holds it.
    Delete { key: Arc<str> },
}

/// The result of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) revision: i64,
    /// For each [`Op`]: the other lease because of which an [`Op::PutIfFree`] was not done.
    pub(crate) refused_by: Vec<Option<i64>>,
    /// What each [`Op::Put`] replaced, if that was requested.
    pub(crate) replaced: Vec<Option<Replaced>>,
}

/// A key before it was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Replaced {
    pub(crate) lease: i64,
    pub(crate) value: Vec<u8>,
}

// === impl Session ===

impl Session {
    /// Applies all changes in one transaction under the lease `id`. `asks_replaced`: the answer has the values that
    /// the puts replaced (`prev_kv`), which needs the permission to read.
    pub(crate) async fn apply(
        mut self,
        id: i64,
        ops: Vec<Op>,
        asks_replaced: bool,
    ) -> Result<Applied, RpcError> {
        let request = |op: &Op| op.request(id, asks_replaced);
        let txn = client::Txn::new().and_then(ops.iter().map(request).collect::<Vec<_>>());
        let reply = self.kv.txn(txn).await.map_err(|error| {
            let error = self.error(&error);
            match error.is_about_the_answer() {
                true => self.broken("the values that were replaced are too large"),
                false => error,
            }
        })?;
        let revision = revision_of(reply.header());
        let replies = reply.op_responses();
        Ok(Applied {
            revision,
            refused_by: replies.iter().map(refused_by).collect(),
            replaced: replies.into_iter().map(replaced).collect(),
        })
    }
}

// === impl Op ===

impl Op {
    /// Its key.
    pub(crate) fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { key, .. } | Self::PutIfFree { key, .. } | Self::Delete { key } => key,
        }
    }

    /// An estimate of its share of the request, in bytes.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 32;
        OVERHEAD
            + match self {
                Self::Put { key, value } => key.len() + value.len(),
                Self::PutIfFree { key, value } => 4 * key.len() + 2 * value.len(),
                Self::Delete { key } => 2 * key.len(),
            }
    }

    fn request(&self, id: i64, asks_replaced: bool) -> client::TxnOp {
        let ours = |key: &str| [client::Compare::lease(key, client::CompareOp::Equal, id)];
        let leased = || client::PutOptions::new().with_lease(id);
        let put = |key: &str, value: &str, options| client::TxnOp::put(key, value, Some(options));
        match self {
            Self::Put { key, value } if asks_replaced => put(key, value, leased().with_prev_key()),
            Self::Put { key, value } => put(key, value, leased()),
            Self::PutIfFree { key, value } => {
                let absent = client::Compare::version(&**key, client::CompareOp::Equal, 0);
                let retake = client::Txn::new()
                    .when(ours(key))
                    .and_then([put(key, value, leased())])
                    .or_else([client::TxnOp::get(&**key, Some(without_value()))]);
                client::TxnOp::txn(
                    client::Txn::new()
                        .when([absent])
                        .and_then([put(key, value, leased())])
                        .or_else([client::TxnOp::txn(retake)]),
                )
            }
            Self::Delete { key } => {
                let delete = client::TxnOp::delete(&**key, None);
                client::TxnOp::txn(client::Txn::new().when(ours(key)).and_then([delete]))
            }
        }
    }
}

/// The other lease that holds the key of an [`Op::PutIfFree`]: the read in the innermost branch.
fn refused_by(reply: &client::TxnOpResponse) -> Option<i64> {
    match reply {
        client::TxnOpResponse::Get(get) => get.kvs().first().map(client::KeyValue::lease),
        client::TxnOpResponse::Txn(txn) => txn.op_responses().first().and_then(refused_by),
        _ => None,
    }
}

fn replaced(reply: client::TxnOpResponse) -> Option<Replaced> {
    match reply {
        client::TxnOpResponse::Put(mut put) => put.take_prev_key().map(|previous| Replaced {
            lease: previous.lease(),
            value: previous.into_key_value().1,
        }),
        _ => None,
    }
}
