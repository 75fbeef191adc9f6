//! Changes keys under a lease, in one transaction.

use super::Session;
use super::reads::{revision_of, without_value};
use crate::etcd::rpc_error::RpcError;
use etcd_client as client;
use std::sync::Arc;

/// One change to make, under our lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Put the key, whoever holds it.
    Put { key: Arc<str>, value: Arc<str> },
    /// Put the key unless another lease holds it.
    PutIfFree { key: Arc<str>, value: Arc<str> },
    /// Delete the key if our lease holds it.
    Delete { key: Arc<str> },
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) revision: i64,
    /// For each [`Op`], the foreign lease that kept a [`Op::PutIfFree`] from being done.
    pub(crate) refused_by: Vec<Option<i64>>,
}

// === impl Session ===

impl Session {
    /// Applies all changes in one transaction under the lease `id`.
    pub(crate) async fn apply(mut self, id: i64, ops: Vec<Op>) -> Result<Applied, RpcError> {
        let txn =
            client::Txn::new().and_then(ops.iter().map(|op| op.request(id)).collect::<Vec<_>>());
        let reply = self.kv.txn(txn).await.map_err(|error| self.error(&error))?;
        let revision = revision_of(reply.header());
        let refused_by = reply.op_responses().iter().map(refused_by).collect();
        Ok(Applied {
            revision,
            refused_by,
        })
    }
}

// === impl Op ===

impl Op {
    /// The key it is about.
    pub(crate) fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { key, .. } | Self::PutIfFree { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Roughly its share of the request, in bytes.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 32;
        OVERHEAD
            + match self {
                Self::Put { key, value } => key.len() + value.len(),
                Self::PutIfFree { key, value } => 4 * key.len() + 2 * value.len(),
                Self::Delete { key } => 2 * key.len(),
            }
    }

    fn request(&self, id: i64) -> client::TxnOp {
        let ours = |key: &str| [client::Compare::lease(key, client::CompareOp::Equal, id)];
        let put = |key: &str, value: &str| {
            client::TxnOp::put(key, value, Some(client::PutOptions::new().with_lease(id)))
        };
        match self {
            Self::Put { key, value } => put(key, value),
            Self::PutIfFree { key, value } => {
                let absent = client::Compare::version(&**key, client::CompareOp::Equal, 0);
                let retake = client::Txn::new()
                    .when(ours(key))
                    .and_then([put(key, value)])
                    .or_else([client::TxnOp::get(&**key, Some(without_value()))]);
                client::TxnOp::txn(
                    client::Txn::new()
                        .when([absent])
                        .and_then([put(key, value)])
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

/// The foreign lease a [`Op::PutIfFree`] met: what the innermost branch read.
fn refused_by(reply: &client::TxnOpResponse) -> Option<i64> {
    match reply {
        client::TxnOpResponse::Get(get) => get.kvs().first().map(client::KeyValue::lease),
        client::TxnOpResponse::Txn(txn) => txn.op_responses().first().and_then(refused_by),
        _ => None,
    }
}
