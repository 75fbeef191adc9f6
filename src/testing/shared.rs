//! [`Shared`]: the model, its faults, and the tasks that wait for a change of it.

use super::model::keyspace::Keyspace;
use crate::runtime::lock::Lock;
use etcd_client::proto::PbResponseHeader;
use std::fmt;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Status;

/// The shortest TTL of an etcd with default settings, in seconds.
const MIN_TTL: i64 = 2;
/// How often etcd looks for expired leases.
const SWEEP: Duration = Duration::from_millis(500);

/// State that the handle, the connector and the services share.
pub(super) struct Shared {
    state: Lock<State>,
    changed: watch::Sender<()>,
}

pub(super) struct State {
    pub(super) keyspace: Keyspace,
    /// How long each request is delayed before it is applied.
    pub(super) delay: Duration,
    /// Requests for keys below this prefix are denied.
    pub(super) denied: Option<String>,
    /// The raft term: a new one with every start.
    pub(super) term: u64,
    /// Cancelled when etcd stops, which ends its connections.
    pub(super) running: CancellationToken,
}

// === impl Shared ===

impl Shared {
    pub(super) fn new() -> Self {
        let state = State {
            keyspace: Keyspace::new(MIN_TTL),
            delay: Duration::ZERO,
            denied: None,
            term: 2,
            running: CancellationToken::new(),
        };
        Self {
            state: Lock::new(state),
            changed: watch::Sender::new(()),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }

    /// Changes the state and wakes the tasks that wait for a change.
    pub(super) fn change<R>(&self, how: impl FnOnce(&mut State) -> R) -> R {
        let result = how(&mut self.state());
        self.changed.send_replace(());
        result
    }

    /// A receiver that is notified of each [`change`](Self::change) from now on.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// Revokes expired leases, until `stop`.
    pub(super) async fn sweep(self: Arc<Self>, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(SWEEP)).await.is_some() {
            if !self.state().running.is_cancelled() {
                self.change(|state| state.keyspace.sweep(Instant::now()));
            }
        }
    }

    pub(super) async fn take_time(&self) {
        let delay = self.state().delay;
        if !delay.is_zero() {
            sleep(delay).await;
        }
    }

    /// Handles one request: delays it, denies it if its keys are denied, and applies it.
    pub(super) async fn answer<T>(
        &self,
        keys: &[Vec<u8>],
        apply: impl FnOnce(&mut State) -> Result<T, Status>,
    ) -> Result<T, Status> {
        self.take_time().await;
        self.change(|state| {
            state.allow(keys)?;
            apply(state)
        })
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

// === impl State ===

impl State {
    fn allow(&self, keys: &[Vec<u8>]) -> Result<(), Status> {
        let is_denied = |key: &Vec<u8>| {
            let denied = self.denied.as_ref();
            denied.is_some_and(|prefix| key.starts_with(prefix.as_bytes()))
        };
        match keys.iter().any(is_denied) {
            true => Err(Status::permission_denied("etcdserver: permission denied")),
            false => Ok(()),
        }
    }

    #[allow(clippy::unnecessary_wraps, reason = "as the field of an answer is")]
    pub(super) fn header(&self) -> Option<PbResponseHeader> {
        Some(PbResponseHeader {
            cluster_id: 1,
            member_id: 1,
            revision: self.keyspace.store.revision(),
            raft_term: self.term,
        })
    }
}
