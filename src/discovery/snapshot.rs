//! [`Snapshot`]: the instances there are, and [`SnapshotWatch`]: each time that changes.

use super::Guard;
use super::shared::Shared;
use crate::Instance;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::watch;

/// The instances of a service at one revision of etcd.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(super) instances: BTreeMap<Arc<str>, Arc<Instance>>,
    pub(super) revision: i64,
    pub(super) skipped: usize,
    pub(super) missing: usize,
    pub(super) trouble: Option<Arc<str>>,
}

/// Gives a [`Snapshot`] each time something changed. Slow readers see fewer of them, and always
/// the last.
#[derive(Debug, Clone)]
pub struct SnapshotWatch {
    shared: Arc<Shared>,
    version: watch::Receiver<u64>,
    _guard: Arc<Guard>,
}

// === impl Snapshot ===

impl Snapshot {
    /// The instances with their keys, in the order of the keys.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Arc<Instance>)> {
        self.instances
            .iter()
            .map(|(key, instance)| (&**key, instance))
    }

    /// The instance under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<Instance>> {
        self.instances.get(key)
    }

    /// How many instances there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// The revision of etcd that is shown at least; 0 before its first answer.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether etcd has answered at all.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.revision > 0
    }

    /// How many keys were passed over, because their values do not read or because there are too
    /// many.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// How many of the instances are not in etcd any more, and are kept for the time being: see
    /// [`grace`](super::DiscoveryBuilder::grace).
    #[must_use]
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Why etcd cannot be watched at the moment. The set may be out of date then.
    #[must_use]
    pub fn trouble(&self) -> Option<&str> {
        self.trouble.as_deref()
    }
}

// === impl SnapshotWatch ===

impl SnapshotWatch {
    pub(super) fn new(shared: Arc<Shared>, guard: Arc<Guard>) -> Self {
        Self {
            version: shared.versions(),
            shared,
            _guard: guard,
        }
    }

    /// What there is now; [`changed`](Self::changed) then waits for what comes after it.
    #[must_use]
    pub fn get(&mut self) -> Arc<Snapshot> {
        self.version.mark_unchanged();
        self.shared.snapshot()
    }

    /// Waits until something changed, and gives what there is then. Cancel safe.
    pub async fn changed(&mut self) -> Arc<Snapshot> {
        if self.version.changed().await.is_err() {
            // The sender lives in what we hold ourselves.
            std::future::pending::<()>().await;
        }
        self.shared.snapshot()
    }
}
