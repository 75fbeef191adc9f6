//! Reads watched keys, and compares them with what the watch has reported: see [`watch_check`](super::watch_check).

use super::state::Connection;
use super::watch_check::Check;
use super::{Reconciler, Request};
use crate::etcd::{KeyMeta, RpcError, RpcErrorKind};
use crate::registrar::ids::Key;
use tokio::time::Instant;

/// After this number of checks without an answer the connection is given up.
const MAX_FAILURES: u32 = 3;

// === impl Reconciler ===

impl Reconciler {
    /// When the next check of the watched keys is due.
    pub(super) fn check_due(&self) -> Option<Instant> {
        let Connection::Open(open) = &self.connection else {
            return None;
        };
        let due = open
            .check
            .due(self.settings.ttl, self.settings.cluster.attempt_timeout)?;
        Some(due.max(open.not_before.unwrap_or(due)))
    }

    /// Nothing else is to be done: reads some keys, if a check is due.
    pub(super) fn plan_check(&mut self, now: Instant) {
        let is_due = self.check_due().is_some_and(|at| at <= now);
        let Connection::Open(open) = &mut self.connection else {
            return;
        };
        if !is_due {
            return;
        }
        let (check, keys) = match std::mem::take(&mut open.check.differing) {
            keys if keys.is_empty() => {
                let (keys, requests) = self.keys.next_check();
                open.check.requests = requests;
                (Check::First, keys)
            }
            keys => (Check::Second, keys),
        };
        if keys.is_empty() {
            open.check.last = Some(now);
            return;
        }
        (open.has_request, open.check.under_way) = (true, Some(check));
        open.request_sent = Some(now);
        self.send(Request::Read { keys });
    }

    /// Whether the read that was answered is a check.
    pub(super) fn end_check(&mut self) -> Option<Check> {
        match &mut self.connection {
            Connection::Open(open) => open.check.under_way.take(),
            _ => None,
        }
    }

    pub(super) fn on_checked(
        &mut self,
        now: Instant,
        keys: Vec<Key>,
        check: Check,
        result: Result<(i64, Vec<Option<KeyMeta>>), RpcError>,
    ) {
        use RpcErrorKind::{Busy, Denied, ResourceExhausted, TooLarge, TooManyOps};
        let member = self.member();
        let Connection::Open(open) = &mut self.connection else {
            return;
        };
        (open.check.last, open.check.is_denied) = (Some(now), false);
        let error = match result {
            Ok((revision, found)) => {
                open.check.failures = 0;
                let differing = self.keys.differing(&keys, revision, &found);
                if differing.is_empty() || check == Check::First {
                    open.check.differing = differing;
                    return;
                }
                let what = "the watch is silent, although a key has changed";
                RpcError::broken(member.shown(), what)
            }
            Err(error) => error,
        };
        match error.kind() {
            kind @ (TooManyOps | TooLarge) if keys.len() > 1 => {
                self.keys.on_read_too_large(&keys, kind);
            }
            Denied | TooManyOps | TooLarge => open.check.is_denied = true,
            // Nothing is known to be wrong: renewals are answered.
            Busy | ResourceExhausted if open.check.failures + 1 < MAX_FAILURES => {
                open.check.failures += 1;
            }
            _ => self.on_error(now, error),
        }
    }
}
