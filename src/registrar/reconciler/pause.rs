//! The keys of an entry are withheld for a while, and come back. The lease is kept meanwhile.
//!
//! To withhold them is to desire none: what is there is deleted, a write that is under way is awaited
//! and then deleted, and one that was given up is watched for and deleted when it lands.

use super::{Action, Reconciler};
use crate::registrar::ids::EntryId;
use crate::status::Status;
use std::sync::Arc;
use tokio::time::Instant;

// === impl Reconciler ===

impl Reconciler {
    /// Withholds the keys of an entry. Tells whether health has to report it before they go.
    pub(super) fn pause(&mut self, now: Instant, id: EntryId, reasons: Arc<[Arc<str>]>) -> bool {
        let Some(last) = self.entries.get(&id) else {
            return false;
        };
        let was_registered = last.is_registered();
        let since = match last {
            Status::Paused { since, .. } => *since,
            _ => now,
        };
        self.publish(id, Status::Paused { reasons, since });
        self.keys.withdraw(id);
        was_registered
    }

    /// The keys of these entries go once their health was reported.
    pub(super) fn await_health(&mut self, entries: Vec<EntryId>) {
        if !entries.is_empty() {
            self.act(Action::AwaitHealth(entries));
        }
    }

    /// The keys of an entry are not withheld any more, if they were.
    pub(super) fn resume(&mut self, now: Instant, id: EntryId) {
        if matches!(self.entries.get(&id), Some(Status::Paused { .. })) {
            let registering = Status::Registering { reason: None };
            let next = self.status_for(now, id, &registering);
            self.publish(id, next);
        }
    }
}
