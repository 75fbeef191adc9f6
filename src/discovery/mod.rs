//! [`Discovery`]: finds the instances of a service in etcd, and calls them.
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
//!     println!("{key}: {:?}", instance.get_address());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! One [`Discovery`] keeps one watch, however many clones, channels and readers there are of it. It
//! ends when the last of them is dropped.
//!
//! # What is shown
//!
//! A set of instances that is the sum of all that happened in etcd up to some revision, and never
//! older than what was shown before.
//!
//! * While etcd is away the last set stays, for as long as it takes.
//! * After a cut the watch goes on where it was, if etcd still has that history, and if it is still
//!   the same history: an etcd that lost its data accepts a watch from a revision that it has yet
//!   to reach, and is silent. Else the set is read anew, and only differences are passed on.
//! * When etcd lost its data, and just after it was silent for 2 s or more, a set that shrinks to
//!   less than half is not believed at once: servers are still on their way back. What is missing
//!   stays for [`retention`](DiscoveryBuilder::retention).
//! * While nothing happens, a probe asks etcd every second: a read, which counts the keys.
//! * Values that do not read are passed over, counted and reported; the rest is shown.
//!
//! # Files
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | [`DiscoveryBuilder`] |
//! | `changes.rs` | [`Changes`]: what happened, one thing after the other |
//! | `snapshot.rs` | [`Snapshot`]: the instances at one revision |
//! | `snapshot_watch.rs` | [`SnapshotWatch`]: the current snapshot, and each later one |
//! | `store.rs` | events and lists to changes; self-preservation; pure |
//! | `missing.rs` | keys that are kept although etcd does not have them; pure |
//! | `decoder.rs` | from a key and its value to an instance |
//! | `skipped.rs` | [`Skipped`]: keys whose values do not read, and why |
//! | `lister.rs` | all keys, page by page |
//! | `reflector.rs` | from the answers of etcd to the store |
//! | `report.rs` | the log lines |
//! | `shared.rs` | what watcher and readers share |
//! | `watcher.rs` | the task: connect, watch, and what to do when that ends |
//! | `channel/` | [`BalancedChannel`]: a channel that spreads calls over them |

mod builder;
mod changes;
pub mod channel;
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

pub use builder::DiscoveryBuilder;
pub use changes::{Change, Changes};
pub use channel::{BalancedChannel, BalancedChannelBuilder};
pub use skipped::Skipped;
pub use snapshot::{Iter, Snapshot};
pub use snapshot_watch::SnapshotWatch;

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

    /// What the keys that are watched begin with.
    #[cfg(feature = "introspection")]
    pub(crate) fn prefix(&self) -> &str {
        self.shared.prefix()
    }

    /// When etcd last answered.
    #[cfg(feature = "introspection")]
    pub(crate) fn last_answer(&self) -> Option<Instant> {
        self.shared.last_answer()
    }

    /// A channel that spreads calls over the instances, for any generated client.
    ///
    /// Each one has connections of its own; clone it rather than build another.
    pub fn channel(&self) -> BalancedChannelBuilder {
        let shared = self.shared.clone();
        BalancedChannelBuilder::new(self.changes())
            .named(&*self.service)
            .observers(self.shared.observers.clone())
            .why_none(move || shared.why_none())
    }

    /// What happens from now on, beginning with what there is.
    #[must_use]
    pub fn changes(&self) -> Changes {
        Changes::new(self.shared.subscribe(), self.guard.clone())
    }

    /// What there is now. Empty before the first answer of etcd: see [`ready`](Self::ready).
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.snapshot()
    }

    /// What there is, now and each time it changed.
    #[must_use]
    pub fn watch(&self) -> SnapshotWatch {
        SnapshotWatch::new(self.shared.clone(), self.guard.clone())
    }

    /// Waits for the first answer of etcd, and gives what there is. Cancel safe.
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
