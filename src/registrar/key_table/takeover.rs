//! From whom a key was taken: etcd is asked in the transaction that takes it. Pure.
//!
//! etcd answers a put with what it replaced, if it is asked to. That costs no request, but the permission to
//! read the key, and an answer as large as the values of others: so only in small transactions, only for
//! keys of which we do not know who holds them, and never again once it was denied.

use super::KeyTable;
use crate::etcd::{Op, Replaced};
use crate::registrar::rivals::{Conflict, Rival};
use tokio::time::Instant;

/// The answer has the value of every key that was replaced.
const MAX_OPS: usize = 16;

// === impl KeyTable ===

impl KeyTable {
    /// Whether the transaction of `ops` is to tell what it replaces.
    pub(crate) fn asks_replaced(&self, ops: &[Op]) -> bool {
        let is_unknown = |op: &Op| {
            let state = self.keys.get(op.key());
            matches!(op, Op::Put { .. }) && state.is_some_and(|state| state.is_holder_unknown)
        };
        !self.may_not_ask && ops.len() <= MAX_OPS && ops.iter().any(is_unknown)
    }

    /// The transaction of `ops` was applied, and this is what it replaced. Comes before what else its answer changes.
    pub(crate) fn on_replaced(&mut self, ops: &[Op], replaced: Vec<Option<Replaced>>) {
        for (op, replaced) in ops.iter().zip(replaced) {
            let key = op.key();
            if let (Some(replaced), Some(state)) = (replaced, self.keys.get(key))
                && state.is_holder_unknown
                && replaced.lease != self.lease
            {
                let (conflict, lease) = (Conflict::TakenOver, replaced.lease);
                let rival = Rival::new(conflict, key, self.lease, lease, &replaced.value);
                self.rivals.push((state.entry, rival));
            }
        }
    }

    /// The transaction of `ops` was denied, maybe for what it asked: it is repeated at once without that.
    pub(crate) fn on_replaced_denied(&mut self, ops: &[Op], now: Instant) {
        self.may_not_ask = true;
        self.on_txn_rejected(ops, now);
    }
}
