//! [`Replacement`]: the connection that replaces one whose end is near, so that no call waits for it.

use super::dial::Dialled;
use super::pool::Pool;
use super::subchannel::Subchannel;
use crate::observe::connectivity::ConnectivityState;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

/// See the [module](self).
pub(super) struct Replacement {
    since: Instant,
    dial: AbortOnDropHandle<Result<Dialled, String>>,
}

// === impl Replacement ===

impl Replacement {
    /// How long it is kept unused: nobody would notice that its peer is gone.
    pub(super) const UNUSED_LIMIT: Duration = Duration::from_secs(1);

    pub(super) fn dial(pool: &Pool, subchannel: &Subchannel, turn: usize) -> Self {
        let (dialer, origin) = (pool.dialer.clone(), subchannel.origin.clone());
        let dialling = async move { dialer.dial(&origin, turn).await };
        Self {
            since: Instant::now(),
            dial: AbortOnDropHandle::new(tokio::spawn(dialling)),
        }
    }

    /// Waits until there is one that was not used for too long. Cancel safe.
    pub(super) async fn unused(this: Option<&Self>) {
        match this {
            Some(this) => sleep_until(this.since + Self::UNUSED_LIMIT).await,
            None => std::future::pending().await,
        }
    }

    /// Its connection, if there is one that accepts calls.
    pub(super) async fn take(self, pool: &Pool, subchannel: &Arc<Subchannel>) -> Option<Dialled> {
        // It cannot be called before it is dialled, and its health service has answered.
        if !self.dial.is_finished() || pool.health_service.is_some() {
            pool.set_state(subchannel, ConnectivityState::Connecting);
        }
        self.dial.await.ok()?.ok().filter(Dialled::is_open)
    }
}
