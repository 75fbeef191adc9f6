//! [`SnapshotWatch`]: the current snapshot, and each later one.

use super::shared::Shared;
use super::snapshot::Snapshot;
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;
use tokio_util::sync::DropGuard;

/// Watches the current [`Snapshot`]. Cheap to clone.
///
/// It returns the latest snapshot. A slow reader misses the ones in between.
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
            // Cannot happen: we hold the sender.
            std::future::pending::<()>().await;
        }
        self.shared.snapshot()
    }

    /// Waits for a snapshot for which `accepts` is true, beginning with the current one. Cancel safe.
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
