//! One entry leaves while others stay, or all of them leave with the lease.
//!
//! Health reports it first, then the key is deleted. Both have a time limit. A delete that etcd did not
//! answer in time is retried for as long as the lease is held; the handle does not wait for it.

use super::state::{Connection, Deregistration, LeaseState, Revoking};
use super::{Action, Reconciler};
use crate::etcd::{RpcError, RpcErrorKind};
use crate::observe::status::{Ended, RegistrationStatus};
use crate::registrar::ids::EntryId;
use crate::runtime::deadline;
use crate::runtime::logging;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

// === impl Reconciler ===

impl Reconciler {
    pub(super) fn on_stop(&mut self, deadline: Instant) {
        self.is_stopping = true;
        self.stop_deadline = Some(self.stop_deadline.map_or(deadline, |at| at.min(deadline)));
        self.deregister(self.entries.keys().copied().collect(), deadline);
        for deregistration in self.deregistrations.values_mut() {
            deregistration.deadline = deregistration.deadline.map(|at| at.min(deadline));
        }
        if let LeaseState::Revoking(revoking) = &mut self.lease {
            revoking.deadline = revoking.deadline.min(deadline);
        }
    }

    /// Begins to deregister these entries, or shortens the deadlines of those that leave already.
    pub(super) fn deregister(&mut self, entries: Vec<EntryId>, deadline: Instant) {
        let mut begun = vec![];
        for id in entries {
            if let Some(earlier) = self.deregistrations.get_mut(&id) {
                earlier.deadline = earlier.deadline.map(|at| at.min(deadline));
                continue;
            }
            self.entries.remove(&id);
            self.failed.remove(&id);
            let deadline = Some(deadline);
            self.deregistrations.insert(id, Deregistration { deadline });
            self.keys.withdraw(id);
            self.act(Action::Publish(
                id,
                Arc::new(RegistrationStatus::Deregistering),
            ));
            begun.push(id);
        }
        if !begun.is_empty() {
            self.act(Action::AwaitHealth(begun));
        }
    }

    /// No entry is left that needs the lease: it is revoked, and all keys go with it.
    pub(super) fn release_lease(&mut self, now: Instant) {
        let ttl = self.settings.ttl;
        match std::mem::replace(&mut self.lease, LeaseState::None) {
            LeaseState::Granting {
                id,
                first_sent: Some(_),
                ..
            } => {
                let is_granting =
                    matches!(&self.connection, Connection::Open(open) if open.has_request);
                let half = self.settings.revoke_timeout / 2;
                self.begin_revoke(
                    now,
                    id,
                    ttl,
                    is_granting.then(|| deadline::after(now, half)),
                );
            }
            LeaseState::Held(lease) => {
                self.close_streams();
                self.begin_revoke(now, lease.id(), lease.ttl(), None);
            }
            revoking @ LeaseState::Revoking(_) => self.lease = revoking,
            LeaseState::None
            | LeaseState::Granting {
                first_sent: None, ..
            } => {
                let is_needed = self.is_stopping || self.orphans_hold_keys;
                if is_needed
                    && !self.deregistrations.is_empty()
                    && let Some(orphan) = self.orphaned_leases.pop()
                {
                    self.begin_revoke(now, orphan, ttl, None);
                }
            }
        }
    }

    fn begin_revoke(
        &mut self,
        now: Instant,
        lease: i64,
        ttl: Duration,
        grant_deadline: Option<Instant>,
    ) {
        let deadline = deadline::after(now, self.settings.revoke_timeout);
        let mut leases = vec![lease];
        leases.append(&mut self.orphaned_leases);
        // A wait that protects etcd must not make a stop miss its deadline.
        if let Connection::Closed { retry_at } = &mut self.connection {
            *retry_at = None;
        }
        self.lease = LeaseState::Revoking(Revoking {
            leases,
            grant_deadline,
            deadline: self
                .stop_deadline
                .map_or(deadline, |stop| stop.min(deadline)),
            ttl,
            last_error: None,
        });
    }

    pub(super) fn on_revoked(&mut self, now: Instant, lease: i64, result: Result<(), RpcError>) {
        self.request_done(now, result.as_ref().err());
        match (&mut self.lease, result) {
            (LeaseState::Revoking(revoking), Ok(())) => {
                revoking.leases.retain(|id| *id != lease);
                if revoking.leases.is_empty() {
                    self.on_released(None);
                }
            }
            // No keys are under this lease: it is left to expire.
            (LeaseState::Granting { .. }, Err(error))
                if error.kind() == RpcErrorKind::Denied && !self.orphans_hold_keys =>
            {
                logging::warn!(service = %self.services, registrations = self.entries.len(), %error, "a lease that is not used any more cannot be revoked");
                self.orphan_done(lease);
            }
            (_, Ok(())) => self.orphan_done(lease),
            (_, Err(error)) if error.is_busy() => self.on_busy(now, error),
            (_, Err(error)) => self.on_disconnect(now, error),
        }
    }

    fn orphan_done(&mut self, lease: i64) {
        self.orphaned_leases.retain(|id| *id != lease);
        self.orphans_hold_keys &= !self.orphaned_leases.is_empty();
    }

    pub(super) fn on_revoke_timeout(&mut self) {
        let reason = self.revoke_reason();
        self.disconnect(None);
        self.drop_beside();
        self.on_released(Some(reason));
    }

    /// The lease is revoked, or revoking it failed with `failure`.
    fn on_released(&mut self, failure: Option<Arc<str>>) {
        let lease = std::mem::replace(&mut self.lease, LeaseState::None);
        let LeaseState::Revoking(Revoking { leases, ttl, .. }) = lease else {
            return;
        };
        for (id, deregistration) in std::mem::take(&mut self.deregistrations) {
            if deregistration.deadline.is_some() {
                let status = match &failure {
                    None => RegistrationStatus::Ended(Ended::Deregistered),
                    Some(reason) => self.left(id, ttl, reason.clone()),
                };
                self.act(Action::End(id, status));
            }
        }
        self.orphaned_leases.extend(leases);
        self.orphans_hold_keys &= !self.orphaned_leases.is_empty();
        self.keys.reset(0);
        if self.entries.is_empty() {
            (self.connection_error, self.lease_error) = (None, None);
        }
    }

    /// Ends the entries that have no keys left.
    pub(super) fn end_gone(&mut self) {
        // The last entries end together, with the lease.
        if self.entries.is_empty() && !matches!(self.lease, LeaseState::None)
            || matches!(self.lease, LeaseState::Revoking(_))
            || self.orphans_hold_keys
        {
            return;
        }
        let (keys, actions) = (&mut self.keys, &mut self.actions);
        self.deregistrations.retain(|id, deregistration| {
            let is_gone = keys.is_gone(*id);
            if is_gone {
                keys.forget(*id);
                if deregistration.deadline.is_some() {
                    actions.push_back(Action::End(
                        *id,
                        RegistrationStatus::Ended(Ended::Deregistered),
                    ));
                }
            }
            !is_gone
        });
    }

    /// Ends the entries whose deadline has passed. Their keys are still deleted.
    pub(super) fn end_overdue(&mut self, now: Instant) {
        let is_overdue = |d: &Deregistration| d.deadline.is_some_and(|deadline| deadline <= now);
        if !self.deregistrations.values().any(is_overdue) {
            return;
        }
        let (ttl, reason) = (self.granted_ttl(), self.revoke_reason());
        let overdue = self.deregistrations.iter().filter(|(_, it)| is_overdue(it));
        let ids: Vec<EntryId> = overdue.map(|(id, _)| *id).collect();
        for id in ids {
            let status = self.left(id, ttl, reason.clone());
            self.act(Action::End(id, status));
            let deadline = None;
            self.deregistrations.insert(id, Deregistration { deadline });
        }
    }

    /// The final status of an entry that nobody can deregister any more.
    pub(crate) fn abandoned(&mut self, id: EntryId, reason: &str) -> RegistrationStatus {
        self.keys.withdraw(id);
        self.left(id, self.granted_ttl(), reason.into())
    }

    fn left(&self, id: EntryId, ttl: Duration, reason: Arc<str>) -> RegistrationStatus {
        match self.may_have_keys(id) {
            true => RegistrationStatus::Ended(Ended::LeftToExpire { ttl, reason }),
            false => RegistrationStatus::Ended(Ended::Deregistered),
        }
    }

    /// Whether a key of this entry may be in etcd. A server that never had one leaves none to expire.
    fn may_have_keys(&self, id: EntryId) -> bool {
        self.orphans_hold_keys || !self.keys.is_gone(id)
    }

    fn granted_ttl(&self) -> Duration {
        match &self.lease {
            LeaseState::Held(lease) => lease.ttl(),
            LeaseState::Revoking(revoking) => revoking.ttl,
            LeaseState::None | LeaseState::Granting { .. } => self.settings.ttl,
        }
    }

    /// Why the lease could not be revoked.
    fn revoke_reason(&self) -> Arc<str> {
        let last_error = match &self.lease {
            LeaseState::Revoking(revoking) => revoking.last_error.clone(),
            _ => None,
        };
        last_error.unwrap_or_else(|| self.connection_reason())
    }
}
