//! [`Limits`]: how much etcd accepts in one request.
//!
//! Operators set it with `--max-txn-ops` and `--max-request-bytes`. A client cannot read either. So we begin with
//! etcd's defaults, and halve the size of a refused request.

use crate::etcd::{Op, RpcErrorKind};

/// See the [module](self).
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    ops: usize,
    bytes: usize,
}

/// The size of a request.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    ops: usize,
    has_guard: bool,
    bytes: usize,
}

// === impl Limits ===

impl Default for Limits {
    /// etcd's own limits are 128 operations and 1.5 MiB.
    fn default() -> Self {
        Self {
            ops: 128,
            bytes: 1024 * 1024,
        }
    }
}

impl Limits {
    pub(super) fn allows(&self, size: Size) -> bool {
        size.ops() <= self.ops && size.bytes <= self.bytes
    }

    /// A request of this size was refused.
    pub(super) fn lower(&mut self, refused: Size, kind: RpcErrorKind) {
        match kind {
            RpcErrorKind::TooManyOps => self.ops = self.ops.min(refused.ops() / 2),
            // Bytes have a limit of their own, so that one large value does not shorten the transactions of all others.
            _ => self.bytes = self.bytes.min(refused.bytes / 2),
        }
    }
}

// === impl Size ===

impl Size {
    pub(super) fn add(&mut self, op: &Op) {
        self.ops += 1;
        self.has_guard |= !matches!(op, Op::Put { .. });
        self.bytes += op.weight();
    }

    pub(super) fn add_read(&mut self, key: &str) {
        self.ops += 1;
        self.bytes += key.len();
    }

    /// etcd counts nested operations against the limit too, so each list gets half of it.
    fn ops(self) -> usize {
        match self.has_guard {
            true => 2 * self.ops,
            false => self.ops,
        }
    }
}
