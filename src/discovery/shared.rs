//! [`Shared`]: what the watcher and those who read from it share.

use super::changes::Pending;
use super::fold::{Fold, Step};
use super::snapshot::Snapshot;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::watch;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Shared {
    state: Mutex<State>,
    version: watch::Sender<u64>,
}

#[derive(Debug)]
struct State {
    fold: Fold,
    trouble: Option<Arc<str>>,
    readers: Vec<Weak<Pending>>,
    /// Made when somebody asks, so that a change costs what it changes and not what there is.
    snapshot: Option<Arc<Snapshot>>,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new(max_instances: usize) -> Self {
        Self {
            state: Mutex::new(State {
                fold: Fold::new(max_instances),
                trouble: None,
                readers: vec![],
                snapshot: None,
            }),
            version: watch::Sender::new(0),
        }
    }

    /// Somebody reads from now on, beginning with what there is.
    pub(super) fn subscribe(&self) -> Arc<Pending> {
        let pending = Arc::new(Pending::default());
        let mut state = self.lock();
        for (key, instance) in state.fold.instances() {
            pending.push(key, Some(instance.clone()));
        }
        state.readers.retain(|reader| reader.strong_count() > 0);
        state.readers.push(Arc::downgrade(&pending));
        pending
    }

    pub(super) fn snapshot(&self) -> Arc<Snapshot> {
        let mut state = self.lock();
        if let Some(snapshot) = &state.snapshot {
            return snapshot.clone();
        }
        let fold = &state.fold;
        let snapshot = Arc::new(Snapshot {
            instances: fold
                .instances()
                .map(|(key, instance)| (key.clone(), instance.clone()))
                .collect(),
            revision: fold.revision(),
            skipped: fold.skipped(),
            missing: fold.missing(),
            trouble: state.trouble.clone(),
        });
        state.snapshot = Some(snapshot.clone());
        snapshot
    }

    pub(super) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    /// Lets `change` happen to the fold, and passes on what it says has changed.
    pub(super) fn fold<T>(&self, change: impl FnOnce(&mut Fold, &mut Vec<Step>) -> T) -> T {
        let mut steps = vec![];
        let mut state = self.lock();
        let before = state.fold.figures();
        let out = change(&mut state.fold, &mut steps);
        if steps.is_empty() && state.fold.figures() == before {
            return out;
        }
        for (key, instance) in &steps {
            for reader in state.readers.iter().filter_map(Weak::upgrade) {
                reader.push(key, instance.clone());
            }
        }
        self.changed(state);
        out
    }

    /// What is wrong with etcd, or that nothing is.
    pub(super) fn trouble(&self, why: Option<Arc<str>>) {
        let mut state = self.lock();
        if state.trouble != why {
            state.trouble = why;
            self.changed(state);
        }
    }

    fn changed(&self, mut state: MutexGuard<'_, State>) {
        state.snapshot = None;
        drop(state);
        self.version.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
