//! The lease and value that a takeover replaced, from the answer of the put that replaces them. Pure.
//!
//! With `prev_kv`, etcd answers a put with the value that it replaced. That needs no extra request, but the permission
//! to read the key, and the answer contains the values of other clients. So it is used only in small transactions, only
//! for keys whose holder is unknown, and never again once it was denied.

use super::KeyTable;
use super::key_state::Observed;
use crate::etcd::{Op, Replaced};
use crate::registrar::rivals::{Conflict, Rival};
use tokio::time::Instant;

/// The answer has the value of every key that was replaced.
const MAX_OPS: usize = 16;

// === impl KeyTable ===

impl KeyTable {
    /// Whether to send the transaction of `ops` with `prev_kv`.
    pub(crate) fn asks_replaced(&self, ops: &[Op]) -> bool {
        let is_unknown = |op: &Op| {
            let state = self.keys.get(op.key());
            matches!(op, Op::Put { .. })
                && state.is_some_and(|state| matches!(state.observed, Observed::Unknown))
        };
        !self.prev_kv_denied && ops.len() <= MAX_OPS && ops.iter().any(is_unknown)
    }

    /// The transaction of `ops` was applied and replaced these values. Call it before
    /// [`on_txn`](Self::on_txn), which changes the state that this reads.
    pub(crate) fn on_replaced(&mut self, ops: &[Op], replaced: Vec<Option<Replaced>>) {
        for (op, replaced) in ops.iter().zip(replaced) {
            let key = op.key();
            if let (Some(replaced), Some(state)) = (replaced, self.keys.get(key))
                && matches!(state.observed, Observed::Unknown)
                && replaced.lease != self.lease
            {
                let (conflict, lease) = (Conflict::TakenOver, replaced.lease);
                let rival = Rival::new(conflict, key, self.lease, lease, &replaced.value);
                self.rivals.push((state.entry, rival));
            }
        }
    }

    /// The transaction of `ops` was denied, maybe because of `prev_kv`: it is repeated at once without.
    pub(crate) fn on_replaced_denied(&mut self, ops: &[Op], now: Instant) {
        self.prev_kv_denied = true;
        self.on_txn_rejected(ops, now);
    }
}
