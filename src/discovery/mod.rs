//! [`Discovery`]: discovers the instances of a service in etcd, and calls them.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! use tonic_etcd::Etcd;
//! use tonic_etcd::discovery::Discovery;
//!
//! let etcd = Etcd::new(["http://127.0.0.1:2379"]);
//! let greeters = Discovery::builder(etcd, "greeter").build()?;
//! let channel = greeters.channel().build()?; // for any generated client: GreeterClient::new(channel)
//!
//! for (key, instance) in &*greeters.ready().await {
//!     println!("{key}: {:?}", instance.address());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! One [`Discovery`] has one watch, however many clones, channels and readers it has. The watch
//! ends when the last of them is dropped.
//!
//! # The set of instances
//!
//! The set is the state of etcd at some revision, and never older than the set before.
//!
//! * While etcd is unreachable the last set stays, for as long as it takes.
//! * After a lost connection the watch continues at its last revision, if etcd had the same keys then. An etcd that
//!   lost its data would accept the watch from a revision that it has not reached, and send nothing; one that was restored
//!   from an older copy has other keys. So otherwise the set is listed again, and only differences are reported. Up to 100
//!   keys are compared as a whole. Of more keys a sample is compared, and the set is listed once more within 50 ms for
//!   each key.
//! * After etcd lost its data, or was silent for 2 s or more, the set does not shrink to
//!   less than half at once, because servers are still registering again. Missing instances
//!   stay for [`retention`](DiscoveryBuilder::retention).
//! * While there are no events, the watcher probes etcd every second with a read that counts the keys.
//! * Values that cannot be decoded are skipped, counted and reported; the other instances are in the set.
//!
//! # Files
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | [`DiscoveryBuilder`] |
//! | `changes.rs` | [`Changes`]: a stream of the changes of the set |
//! | `snapshot.rs` | [`Snapshot`]: the instances at one revision |
//! | `snapshot_watch.rs` | [`SnapshotWatch`]: the current snapshot, and each later one |
//! | `store/` | turns lists and events into changes; the check of the history; self-preservation; pure |
//! | `missing.rs` | keys that are kept although etcd does not have them; pure |
//! | `decoder.rs` | decodes a key and its value to an instance |
//! | `skipped.rs` | [`Skipped`]: keys that are skipped, and why |
//! | `lister.rs` | lists all keys, page by page |
//! | `reflector.rs` | applies the answers of etcd to the store |
//! | `report.rs` | the log lines |
//! | `shared.rs` | state that the watcher and its readers share |
//! | `watcher.rs` | the task: connect, list, watch, and reconnect |

mod builder;
mod changes;
mod decoder;
mod lister;
mod missing;
mod reflector;
mod report;
mod shared;
mod skipped;
mod snapshot;
mod snapshot_watch;
mod store;
mod watcher;

pub use crate::change::Change;
pub use builder::DiscoveryBuilder;
pub use changes::Changes;
pub use skipped::Skipped;
pub use snapshot::{Iter, Snapshot};
pub use snapshot_watch::SnapshotWatch;

use crate::channel::BalancedChannelBuilder;
use shared::Shared;
use std::fmt;
use std::sync::Arc;
#[cfg(feature = "introspection")]
use tokio::time::Instant;
use tokio_util::sync::DropGuard;

/// The instances of one service, as etcd has them. See the [module](self).
///
/// Cheap to clone; every clone shares the same watch.
#[derive(Clone)]
pub struct Discovery {
    service: Arc<str>,
    shared: Arc<Shared>,
    /// Held by everything that needs the watch; the last one to drop it ends the watch.
    guard: Arc<DropGuard>,
}

// === impl Discovery ===

impl Discovery {
    /// The name of the service.
    #[must_use]
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The prefix of the watched keys.
    #[cfg(feature = "introspection")]
    pub(crate) fn prefix(&self) -> &str {
        self.shared.prefix()
    }

    /// When etcd last answered.
    #[cfg(feature = "introspection")]
    pub(crate) fn last_answer(&self) -> Option<Instant> {
        self.shared.last_answer()
    }

    /// A channel that balances calls over the instances, for any generated client.
    ///
    /// Each channel has connections of its own; clone it rather than build another.
    pub fn channel(&self) -> BalancedChannelBuilder {
        let shared = self.shared.clone();
        BalancedChannelBuilder::new(self.changes())
            .service(&*self.service)
            .observers(self.shared.observers.clone())
            .why_none(move || shared.why_none())
    }

    /// A stream of changes, beginning with the current instances.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes::new(self.shared.subscribe(), self.guard.clone())
    }

    /// The current set. Empty before the first answer of etcd: see [`ready`](Self::ready).
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot()
    }

    /// A watch of the current set and its changes.
    #[must_use]
    pub fn watch(&self) -> SnapshotWatch {
        SnapshotWatch::new(self.shared.clone(), self.guard.clone())
    }

    /// Waits for the first answer of etcd, and returns the current set. Cancel safe.
    pub async fn ready(&self) -> Arc<Snapshot> {
        self.watch().wait_for(Snapshot::is_ready).await
    }
}

impl fmt::Debug for Discovery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let snapshot = self.snapshot();
        f.debug_struct("Discovery")
            .field("service", &self.service)
            .field("instances", &snapshot.len())
            .field("revision", &snapshot.revision())
            .finish_non_exhaustive()
    }
}
