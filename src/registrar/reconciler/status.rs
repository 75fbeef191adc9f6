//! The status of each entry, computed from the lease, the connection and the key table.

use super::state::{LeaseState, Problem};
use super::{Action, Reconciler};
use crate::etcd::{Op, RpcError};
use crate::observe::observer::WriteReason;
use crate::observe::status::{Registered, RegistrationStatus};
use crate::observe::timestamp::Timestamp;
use crate::registrar::ids::EntryId;
use crate::registrar::key_table::View;
use crate::registrar::shown::shown;
use crate::runtime::logging;
use std::sync::Arc;
use tokio::time::Instant;

// === impl Reconciler ===

impl Reconciler {
    /// etcd is out of reach.
    pub(super) fn set_degraded(&mut self, now: Instant, reason: &str) {
        let since = match &self.connection_error {
            Some(problem) if *problem.reason == *reason => return,
            Some(problem) => problem.since,
            None => {
                let (service, registrations) = (&self.services, self.entries.len());
                logging::warn!(%service, registrations, %reason, "etcd is out of reach, trying until it answers");
                now
            }
        };
        let reason = reason.into();
        self.connection_error = Some(Problem { since, reason });
        self.publish_all(now);
    }

    /// etcd answers, and has our lease and our keys.
    pub(super) fn set_healthy(&mut self, now: Instant) {
        let (problem, lost) = (self.connection_error.take(), self.lease_error.take());
        if let Some(problem) = &problem {
            let (service, registrations) = (&self.services, self.entries.len());
            logging::info!(%service, registrations, after = ?logging::rounded(now - problem.since), "etcd answers again");
        }
        if problem.is_some() || lost.is_some() {
            self.publish_all(now);
        }
    }

    /// The lease is not known to live.
    pub(super) fn set_lease_error(&mut self, now: Instant, reason: &str) {
        let reason = reason.into();
        self.lease_error = Some(Problem { since: now, reason });
        self.publish_all(now);
        if !self.entries.is_empty() {
            self.act(Action::AwaitHealth(self.entries.keys().copied().collect()));
        }
    }

    /// The next lease has to wait. Entries that were lost for another reason report this reason too.
    pub(super) fn say_why_lost(&mut self, wait: &str) {
        let Some(problem) = &mut self.lease_error else {
            return;
        };
        let reason: Arc<str> = format!("{}{wait}", problem.reason).into();
        problem.reason = reason.clone();
        for id in self.entries.keys().copied().collect::<Vec<_>>() {
            let reason = reason.clone();
            let next = match self.status(id) {
                Some(RegistrationStatus::Lost { since, .. }) => RegistrationStatus::Lost {
                    since: *since,
                    reason,
                },
                Some(RegistrationStatus::Registering { .. }) => RegistrationStatus::Registering {
                    reason: Some(reason),
                },
                _ => continue,
            };
            self.publish(id, next);
        }
    }

    /// A write was rejected although the connection works: entries with a missing key get the reason.
    pub(super) fn on_write_rejected(&mut self, now: Instant, ops: &[Op], error: &RpcError) {
        let reason: Arc<str> = error.to_string().into();
        let last = self.write_error.replace(reason.clone());
        if last.is_none_or(|last| last != reason) {
            let key = shown(ops.first().map(Op::key), ops.len());
            logging::warn!(service = %self.services, %key, %reason, "etcd rejected a write, repeating it later");
        }
        let owners = ops.iter().filter_map(|op| self.keys.owner(op.key()));
        for id in owners.collect::<Vec<_>>() {
            let reason = reason.clone();
            match self.status(id) {
                Some(RegistrationStatus::Registering { .. }) => {
                    self.publish(
                        id,
                        RegistrationStatus::Registering {
                            reason: Some(reason),
                        },
                    );
                }
                Some(RegistrationStatus::Lost { since, .. }) => {
                    let since = *since;
                    self.publish(id, RegistrationStatus::Lost { since, reason });
                }
                // Its key may be neither read nor written any more.
                Some(status) if status.is_registered() && !self.keys.view(id).held => {
                    self.publish(
                        id,
                        RegistrationStatus::Lost {
                            since: Timestamp::at(now),
                            reason,
                        },
                    );
                }
                _ => {}
            }
        }
    }

    pub(super) fn connection_reason(&self) -> Arc<str> {
        if let Some(problem) = &self.connection_error {
            return problem.reason.clone();
        }
        match self.rotation.failures() {
            none if none.is_empty() => "etcd did not answer".into(),
            failures => failures.into(),
        }
    }

    /// Publishes what changed in the key table.
    pub(super) fn publish_changed(&mut self, now: Instant) {
        for id in self.keys.take_changed() {
            self.publish_current(now, id);
        }
        self.report_rivals(now);
    }

    fn report_rivals(&mut self, now: Instant) {
        for (id, rival) in self.keys.take_rivals() {
            if self.rivals.is_due(rival.lease, now) {
                self.act(Action::Rival(id, rival));
            }
        }
    }

    /// The reason for writing the keys of an entry.
    pub(super) fn write_reason(&self, id: EntryId) -> WriteReason {
        match self.status(id) {
            Some(RegistrationStatus::Paused { .. }) => WriteReason::Resumed,
            Some(RegistrationStatus::Lost { .. }) => WriteReason::LeaseLost,
            Some(status) if status.is_registered() => WriteReason::Updated,
            _ => WriteReason::New,
        }
    }

    /// Reports a transaction to observers, if there are any.
    pub(super) fn report_write(&mut self, ops: &[Op], error: Option<&RpcError>) {
        if self.is_observed {
            let reasons = self.keys.reasons(ops);
            self.act(Action::Wrote(reasons, error.map(RpcError::to_string)));
        }
    }

    fn publish_all(&mut self, now: Instant) {
        for id in self.entries.keys().copied().collect::<Vec<_>>() {
            self.publish_current(now, id);
        }
    }

    pub(super) fn publish_current(&mut self, now: Instant, id: EntryId) {
        if let Some(last) = self.status(id) {
            let next = self.status_for(now, id, last);
            self.publish(id, next);
        }
    }

    pub(super) fn publish(&mut self, id: EntryId, next: RegistrationStatus) {
        if let Some(last) = self.entries.get_mut(&id)
            && **last != next
        {
            *last = Arc::new(next);
            let next = last.clone();
            self.act(Action::Publish(id, next));
        }
    }

    /// The status of an entry that should be there, as it was published last.
    pub(super) fn status(&self, id: EntryId) -> Option<&RegistrationStatus> {
        self.entries.get(&id).map(|status| &**status)
    }

    pub(super) fn status_for(
        &self,
        now: Instant,
        id: EntryId,
        last: &RegistrationStatus,
    ) -> RegistrationStatus {
        // A paused entry misses no key.
        if let RegistrationStatus::Paused { .. } = last {
            return last.clone();
        }
        if let Some(Problem { since, reason }) = &self.lease_error {
            return lost(last, Timestamp::at(*since), reason.clone());
        }
        let View {
            keys,
            held,
            missing,
            revision,
            conflicting_lease,
            contested,
            waits_for,
        } = self.keys.view(id);
        if let Some(key) = waits_for {
            let reason = format!("another registration here has the key {key:?}").into();
            // It may have been lost for another reason before.
            return match last {
                RegistrationStatus::Lost { since, .. } => RegistrationStatus::Lost {
                    since: *since,
                    reason,
                },
                last => lost(last, Timestamp::at(now), reason),
            };
        }
        if let Some(to_lease) = conflicting_lease {
            return RegistrationStatus::Yielding { to_lease };
        }
        let is_moving = missing == Some(WriteReason::Updated) && !contested;
        let registered = match (&self.lease, last.registered()) {
            (LeaseState::Held(lease), before) if held => Registered {
                lease: lease.id(),
                keys: keys.into(),
                revision,
                since: before.map_or(Timestamp::at(now), |registered| registered.since),
            },
            // It moves to another address. Until the new key is written, the former one is there.
            (LeaseState::Held(_), Some(before)) if is_moving => before.clone(),
            _ => {
                return match self.missing_reason(last, missing, contested) {
                    Some(reason) => lost(last, Timestamp::at(now), reason),
                    None => last.clone(),
                };
            }
        };
        match self.connection_error.clone() {
            None => RegistrationStatus::Registered(registered),
            Some(Problem { since, reason }) => RegistrationStatus::Suspect {
                registered,
                since: Timestamp::at(since),
                reason,
            },
        }
    }

    /// Why the keys of an entry are missing, if that changes its status.
    fn missing_reason(
        &self,
        last: &RegistrationStatus,
        missing: Option<WriteReason>,
        contested: bool,
    ) -> Option<Arc<str>> {
        if let Some(problem) = &self.connection_error {
            return Some(problem.reason.clone());
        }
        let reason = match missing {
            _ if contested => "somebody rewrites the key again and again, waiting",
            _ if !last.is_registered() => return None,
            Some(WriteReason::Deleted) => "the key was deleted, alone or with its lease",
            Some(WriteReason::Overwritten) => "another client overwrote the key",
            _ => "the key was deleted or overwritten",
        };
        Some(reason.into())
    }
}

/// The status after `last` when the keys are missing.
fn lost(last: &RegistrationStatus, since: Timestamp, reason: Arc<str>) -> RegistrationStatus {
    match last {
        RegistrationStatus::Lost { .. } => last.clone(),
        RegistrationStatus::Registering { .. } => RegistrationStatus::Registering {
            reason: Some(reason),
        },
        _ => RegistrationStatus::Lost { since, reason },
    }
}
