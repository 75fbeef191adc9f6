//! [`Shared`]: state that the watcher and its readers share.

use super::changes::Pending;
use super::snapshot::Snapshot;
use super::store::{Limits, Store};
use crate::observe::observer::{InstanceCounts, InstancesEvent, Observers};
use crate::runtime::isolated::isolated;
use crate::runtime::lock::Lock;
use std::sync::{Arc, MutexGuard, Weak};
use tokio::sync::watch;
use tokio::time::Instant;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Shared {
    service: Arc<str>,
    prefix: String,
    pub(super) observers: Observers,
    state: Lock<State>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    store: Store,
    watch_error: Option<Arc<str>>,
    readers: Vec<Weak<Pending>>,
    /// Built when it is read, so that the cost of a change does not depend on the size of the set.
    snapshot: Option<Arc<Snapshot>>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(
        service: Arc<str>,
        prefix: String,
        limits: Limits,
        observers: Observers,
    ) -> Self {
        Self {
            service,
            prefix,
            observers,
            state: Lock::new(State {
                store: Store::new(limits),
                watch_error: None,
                readers: vec![],
                snapshot: None,
            }),
            version: watch::Sender::new(0),
        }
    }

    /// Adds a reader, whose queue begins with the current instances.
    pub(super) fn subscribe(&self) -> Arc<Pending> {
        let pending = Arc::new(Pending::default());
        let mut state = self.lock();
        for (key, instance) in state.store.instances() {
            pending.push(key, Some(instance.clone()), true);
        }
        state.readers.retain(|reader| reader.strong_count() > 0);
        state.readers.push(Arc::downgrade(&pending));
        pending
    }

    #[cfg(feature = "introspection")]
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    #[cfg(feature = "introspection")]
    pub(super) fn last_answer(&self) -> Option<Instant> {
        self.lock().store.last_answer
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        let mut state = self.lock();
        if let Some(snapshot) = &state.snapshot {
            return snapshot.clone();
        }
        let store = &state.store;
        let snapshot = Arc::new(Snapshot {
            instances: store
                .instances()
                .map(|(key, instance)| (key.clone(), instance.clone()))
                .collect(),
            revision: store.revision(),
            skipped: store.skipped(),
            skipped_by_reason: store.skipped_by_reason(),
            missing: store.missing(),
            watch_error: state.watch_error.clone(),
        });
        state.snapshot = Some(snapshot.clone());
        snapshot
    }

    /// Why there may be no instance to call.
    pub(super) fn why_none(&self) -> String {
        let now = self.snapshot();
        let error = |before: &str| match now.watch_error() {
            Some(error) => format!("{before}{error}"),
            None => String::new(),
        };
        if !now.is_ready() {
            return format!("etcd has not answered yet{}", error(": "));
        }
        let registered = match now.len() {
            0 => "none".to_owned(),
            some => some.to_string(),
        };
        let skipped = match now.skipped() {
            0 => String::new(),
            skipped => format!(", {skipped} passed over"),
        };
        format!(
            "{registered} registered under {} at revision {}{skipped}{}",
            self.prefix,
            now.revision(),
            error("; etcd cannot be watched: "),
        )
    }

    pub(super) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Changes the store, and reports the changes to readers.
    pub(super) fn store<T>(&self, change: impl FnOnce(&mut Store) -> T) -> T {
        let mut state = self.lock();
        let before = state.store.figures();
        let out = change(&mut state.store);
        let (updates, after) = (state.store.take_updates(), state.store.figures());
        if updates.is_empty() && after == before {
            return out;
        }
        let mut wakers = vec![];
        for update in &updates {
            for reader in state.readers.iter().filter_map(Weak::upgrade) {
                wakers.extend(reader.push(&update.key, update.instance.clone(), update.is_new));
            }
        }
        self.changed(state);
        for waker in wakers {
            isolated(|| waker.wake());
        }
        self.notify_if_changed(before.0, after.0);
        out
    }

    /// etcd answered. Call it before the answer is applied.
    pub(super) fn on_answer(&self) {
        self.store(|store| store.on_answer(Instant::now()));
    }

    /// Sets why etcd cannot be watched; `None`: it can.
    pub(super) fn set_watch_error(&self, reason: Option<Arc<str>>) {
        let mut state = self.lock();
        if state.watch_error != reason {
            state.watch_error = reason;
            self.changed(state);
        }
    }

    /// Makes the first call of observers, before the first answer of etcd.
    pub(super) fn announce(&self) {
        self.notify_observers(InstanceCounts::default(), InstanceCounts::default());
    }

    /// Calls observers with a change. They see the changes in order, because only the watcher changes the store.
    fn notify_if_changed(&self, from: InstanceCounts, to: InstanceCounts) {
        if from != to {
            self.notify_observers(from, to);
        }
    }

    fn notify_observers(&self, from: InstanceCounts, to: InstanceCounts) {
        let service = &*self.service;
        let change = InstancesEvent { service, from, to };
        self.observers
            .notify(|observer| observer.on_instances(&change));
    }

    fn changed(&self, mut state: MutexGuard<'_, State>) {
        state.snapshot = None;
        drop(state);
        isolated(|| self.version.send_modify(|version| *version += 1));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        let (last, ..) = self.lock().store.figures();
        self.notify_if_changed(last, InstanceCounts::default());
    }
}
