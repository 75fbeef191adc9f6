//! [`SnapshotWatch`]: the current snapshot, and each later one.

use super::shared::Shared;
use super::snapshot::Snapshot;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

/// A view of a [`Snapshot`] that changes. Cheap to clone.
///
/// It shows the latest snapshot, not each one that ever was: a slow reader sees fewer of them.
#[derive(Clone)]
pub struct SnapshotWatch {
    shared: Arc<Shared>,
    version: watch::Receiver<u64>,
    _guard: Arc<DropGuard>,
}

// === impl SnapshotWatch ===

impl SnapshotWatch {
    pub(super) fn new(shared: Arc<Shared>, guard: Arc<DropGuard>) -> Self {
        Self {
            version: shared.versions(),
            shared,
            _guard: guard,
        }
    }

    /// The snapshot now.
    #[must_use]
    pub fn get(&self) -> Arc<Snapshot> {
        self.shared.snapshot()
    }

    /// Waits until something changed since this watch was made, or since this last returned, and
    /// gives the snapshot then. Cancel safe.
    pub async fn changed(&mut self) -> Arc<Snapshot> {
        if self.version.changed().await.is_err() {
            // The sender lives in what we hold ourselves.
            std::future::pending::<()>().await;
        }
        self.shared.snapshot()
    }

    /// Waits for a snapshot that `accepts` takes; the one of now may be it. Cancel safe.
    pub async fn wait_for(&mut self, mut accepts: impl FnMut(&Snapshot) -> bool) -> Arc<Snapshot> {
        self.version.mark_unchanged();
        let mut snapshot = self.get();
        while !accepts(&snapshot) {
            snapshot = self.changed().await;
        }
        snapshot
    }
}

impl fmt::Debug for SnapshotWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.get();
        f.debug_struct("SnapshotWatch")
            .field("instances", &snapshot.len())
            .field("revision", &snapshot.revision())
            .finish_non_exhaustive()
    }
}
