//! Watches: the next one, and what an event changes.

use super::KeyTable;
use super::key_state::{Change, WatchState};
use super::requests::REPAIRS;
use crate::etcd::{Event, EventKind};
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
            if let Some(state) = self.keys.get_mut(&key)
                && let WatchState::Due { from } = state.watch
            {
                state.watch = WatchState::Requested;
                return Some((key, state.watch_id, from));
            }
        }
        None
    }

    /// The next watch to cancel.
    pub(crate) fn next_unwatch(&mut self) -> Option<i64> {
        self.to_unwatch.pop_front()
    }

    /// A key was changed, by another client or by us.
    pub(crate) fn on_watch_event(&mut self, event: Event, now: Instant) {
        let Some((key, _)) = self.keys.get_key_value(event.key.as_str()) else {
            return;
        };
        let key = key.clone();
        let Some(state) = self.keys.get_mut(&key) else {
            return;
        };
        let Some((change, event)) = state.news(event, self.lease) else {
            return;
        };
        self.changed.insert(state.entry);
        let reason;
        (state.observed, reason) = state.after(change, event.revision, self.on_conflict);
        if let Some(reason) = reason {
            state.reason = reason;
            if state.needs_write() {
                state.retry_at = state.repairs.take(REPAIRS, now).err();
            }
        }
        if state.needs_write() {
            self.dirty.insert(key.clone());
        }
        self.note_rival(&key, event, change);
        self.remove_if_done(&key);
    }

    /// Another client took a key that is desired.
    fn note_rival(&mut self, key: &Key, event: Event, change: Change) {
        let state = self.keys.get(key).filter(|state| state.desired.is_some());
        if let (Some(state), Change::Taken { lease }, EventKind::Put { value, .. }) =
            (state, change, event.kind)
        {
            let conflict = match self.on_conflict {
                OnConflict::TakeOver => Conflict::TakenBack,
                OnConflict::Yield => Conflict::Left,
            };
            let rival = Rival::new(conflict, key, self.lease, lease, &value);
            self.rivals.push((state.entry, rival));
        }
    }
}
