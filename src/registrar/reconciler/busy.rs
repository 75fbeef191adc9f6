//! A member that refuses requests because it is busy: it gets fewer requests, and is left for another one if it continues.

use super::Reconciler;
use super::state::{Connection, LeaseState};
use crate::etcd::RpcError;
use tokio::time::Instant;

/// After this number of refusals in a row, because the member is busy, another one is used, if there is one.
const MAX_REFUSALS: u32 = 3;

// === impl Reconciler ===

impl Reconciler {
    /// The member answers, and cannot say how long the lease lives. Another one may, if there is one.
    pub(super) fn on_renewal_busy(&mut self, now: Instant) {
        let has_other = self.has_other_member(now);
        if let Connection::Open(open) = &mut self.connection
            && !has_other
        {
            open.renewing_since = Some(now);
        }
    }

    pub(super) fn on_renewal_error(&mut self, now: Instant, error: RpcError) {
        let is_busy = error.is_busy() && !self.is_member_busy(now);
        match &self.lease {
            LeaseState::Held(lease) if is_busy => {
                let left = lease.expiry().saturating_duration_since(now);
                let interval = self.renewal_interval();
                let pause = match left.is_zero() {
                    true => interval,
                    false => interval.min(left / 3),
                };
                let pause = pause.mul_f64(0.5 + self.rng.f64() / 2.0);
                if let Connection::Open(open) = &mut self.connection {
                    open.renew_not_before = Some(now + pause);
                }
                let (error, worked) = (self.noted(now, error), self.worked(now));
                let members = &self.settings.cluster.members;
                self.rotation.note(&error, members, worked);
            }
            _ => self.on_failure(now, error),
        }
    }

    /// Counts a refusal. Whether the member has refused so often that another one should be used.
    pub(super) fn is_member_busy(&mut self, now: Instant) -> bool {
        let has_other = self.has_other_member(now);
        let Connection::Open(open) = &mut self.connection else {
            return false;
        };
        open.refusals += 1;
        has_other && open.refusals > MAX_REFUSALS
    }

    /// etcd has too many requests. The connection works, and another one would be one more request.
    pub(super) fn on_busy(&mut self, now: Instant, error: RpcError) {
        if self.is_member_busy(now) {
            return self.on_disconnect(now, error);
        }
        self.pause_requests(now);
        self.report_failure(now, error);
    }
}
