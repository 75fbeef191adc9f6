//! Watches: the next one, and what an event changes.

use super::KeyTable;
use super::key_state::Observed;
use super::requests::REPAIRS;
use crate::etcd::{Event, EventKind};
use crate::observe::observer::WriteReason;
use crate::registrar::ids::Key;
use crate::registrar::on_conflict::OnConflict;
use crate::registrar::rivals::{Conflict, Rival};
use tokio::time::Instant;

// === impl KeyTable ===

impl KeyTable {
    /// The next key to watch, with the id of the watch and the revision to watch from.
    pub(crate) fn next_watch(&mut self) -> Option<(Key, i64, i64)> {
        while let Some(key) = self.to_watch.pop_front() {
            // Since it was put in the queue, the key may have been removed, and added again.
            let state = self.keys.get_mut(&key).filter(|state| state.is_watch_due);
            if let Some(state) = state {
                state.is_watch_due = false;
                return Some((key, state.watch_id, state.watch_from));
            }
        }
        None
    }

    /// The next watch to cancel.
    pub(crate) fn next_unwatch(&mut self) -> Option<i64> {
        self.to_unwatch.pop_front()
    }

    /// A key was changed, by another client or by us. Long, because every combination of what happened and what is
    /// desired is decided here.
    pub(crate) fn on_watch_event(&mut self, event: Event, now: Instant) {
        let Some((key, _)) = self.keys.get_key_value(event.key.as_str()) else {
            return;
        };
        let key = key.clone();
        let Some(state) = self.keys.get_mut(&key) else {
            return;
        };
        let observed = state.observed.as_ref();
        if observed.is_some_and(|observed| event.revision <= observed.revision) {
            return;
        }
        if state.writing.is_some() {
            // Only the revision of our own write tells which change came last.
            state.buffered_event = Some(Box::new(event));
            return;
        }
        self.changed.insert(state.entry);
        let other_lease = match (&event.kind, &state.desired) {
            (EventKind::Put { lease, value }, Some(desired))
                if *lease == self.lease && **value == *desired.as_bytes() =>
            {
                state.observed = Some(Observed::with_value(event.revision, desired.clone()));
                state.is_unconfirmed = false;
                state.author = state.entry;
                return;
            }
            (EventKind::Put { lease, .. }, None) if *lease == self.lease => {
                // A late write of ours was applied: delete it like the one before.
                state.observed = Some(Observed::without_value(event.revision));
                self.dirty.insert(key);
                return;
            }
            (EventKind::Put { lease, value }, desired) => {
                if desired.is_some() && *lease != self.lease {
                    let conflict = match self.on_conflict {
                        OnConflict::TakeOver => Conflict::TakenBack,
                        OnConflict::Yield => Conflict::Left,
                    };
                    let rival = Rival::new(conflict, &key, self.lease, *lease, value);
                    self.rivals.push((state.entry, rival));
                }
                Some(*lease)
            }
            (EventKind::Delete, _) => None,
        };
        // Under our own lease we may delete it when it is not desired any more. It is a late
        // write of ours, if there is one.
        let is_ours = other_lease == Some(self.lease);
        state.reason = match other_lease {
            Some(_) => WriteReason::Overwritten,
            None => WriteReason::Deleted,
        };
        state.observed = is_ours.then(|| Observed::without_value(event.revision));
        state.is_unconfirmed = is_ours && !state.write_may_still_land;
        state.conflicting_lease = match self.on_conflict {
            OnConflict::Yield => other_lease.filter(|_| !is_ours),
            OnConflict::TakeOver => None,
        };
        if state.desired.is_some() && state.conflicting_lease.is_none() {
            state.retry_at = state.repairs.take(REPAIRS, now).err();
            self.dirty.insert(key.clone());
        }
        self.remove_if_done(&key);
    }
}
