//! The keys of an entry are withheld for a while, and come back. The lease is kept meanwhile.
//!
//! An entry whose keys are withheld desires none. Its keys are deleted. A write that is under way is awaited, and its
//! key is then deleted. A write that timed out may still be applied: its key is watched, and deleted when it appears.

use super::{Action, Reconciler};
use crate::observe::status::RegistrationStatus;
use crate::observe::timestamp::Timestamp;
use crate::registrar::ids::EntryId;
use std::sync::Arc;
use tokio::time::Instant;

// === impl Reconciler ===

impl Reconciler {
    /// Withholds the keys of an entry. Returns whether health has to report it before they are deleted.
    pub(super) fn pause(&mut self, now: Instant, id: EntryId, reasons: Arc<[Arc<str>]>) -> bool {
        let Some(last) = self.status(id) else {
            return false;
        };
        let was_registered = last.is_registered();
        let since = match last {
            RegistrationStatus::Paused { since, .. } => *since,
            _ => Timestamp::at(now),
        };
        self.publish(id, RegistrationStatus::Paused { reasons, since });
        self.keys.withdraw(id);
        was_registered
    }

    /// Deletes the keys of these entries once health has reported their status.
    pub(super) fn await_health(&mut self, entries: Vec<EntryId>) {
        if !entries.is_empty() {
            self.act(Action::AwaitHealth(entries));
        }
    }

    /// Stops withholding the keys of an entry, if they were withheld.
    pub(super) fn resume(&mut self, now: Instant, id: EntryId) {
        if matches!(self.status(id), Some(RegistrationStatus::Paused { .. })) {
            let registering = RegistrationStatus::Registering { reason: None };
            let next = self.status_for(now, id, &registering);
            self.publish(id, next);
        }
    }
}
