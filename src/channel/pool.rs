//! [`Pool`]: state that the tasks and the calls of one channel share: its subchannels, and their states.

use super::dial::Dialer;
use super::endpoints::{Endpoint, Endpoints, Reported};
use super::lines::LineLimiter;
use super::ready_set::ReadySet;
use super::subchannel::{Connection, Subchannel};
use crate::observe::connectivity::ConnectivityState;
use crate::observe::observer::{EndpointEvent, Observers, ResendEvent};
use crate::runtime::lock::Lock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// One endpoint of a [`BalancedChannel`](super::BalancedChannel), at the time of the call that returned it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointStats {
    /// Where it is dialled: an address, with the prefix `https://` for TLS.
    pub address: Arc<str>,
    /// Its share of the calls, relative to the others.
    pub weight: u32,
    /// Whether it can be called.
    pub state: ConnectivityState,
    /// The calls that have not ended; a stream counts until its end.
    pub in_flight: usize,
    /// All calls that were sent to it.
    pub calls: u64,
}

/// See the [module](self).
pub(super) struct Pool {
    /// The connections that can be called now.
    pub(super) ready: ReadySet<Connection>,
    pub(super) dialer: Dialer,
    /// How long a call waits for an endpoint.
    pub(super) ready_timeout: Duration,
    /// The service whose health is checked at each endpoint, if health is checked.
    pub(super) health_service: Option<String>,
    pub(super) name: OnceLock<String>,
    /// Returns why the source has no instances.
    pub(super) why_none: Option<Box<dyn Fn() -> String + Send + Sync>>,
    pub(super) observers: Observers,
    /// Its task has ended, with the runtime that it was built in: nothing connects any more.
    pub(super) ended: CancellationToken,
    /// How often calls were sent again.
    resent: AtomicU64,
    endpoints: Lock<Endpoints>,
    pub(super) lines: LineLimiter,
    /// Notified when the state of the channel is not the one that was logged last.
    unlogged: Notify,
}

/// A connection that is replaced within this time is no change of state.
const REPLACED: Duration = Duration::from_millis(100);
const ENDED: &str =
    "the runtime that the channel was built in has ended: build it where it is used";
// === impl Pool ===

impl Pool {
    /// Sets the name of the service in errors and logs; the first name stays.
    pub(super) fn set_name(&self, name: &str) {
        self.name.get_or_init(|| name.to_owned());
    }

    pub(super) fn name(&self) -> &str {
        self.name.get().map_or("", String::as_str)
    }

    pub(super) fn insert(&self, subchannel: Arc<Subchannel>) {
        let address = subchannel.address.clone();
        self.lock().insert(subchannel);
        self.notify(&address, None, Some(&ConnectivityState::Idle));
    }

    pub(super) fn set_state(&self, subchannel: &Arc<Subchannel>, state: ConnectivityState) {
        // A connection that was ready is replaced by one that is.
        if self.lock().state_of(subchannel) == Some(&state) {
            return;
        }
        let (service, address) = (self.name(), &*subchannel.address);
        if self.lines.take_debug().is_ok() {
            crate::runtime::logging::debug!(%service, %address, %state, "endpoint");
        }
        let mut all = self.lock();
        let from = all.state_of(subchannel).cloned();
        let to = state.clone();
        all.set_state(subchannel, state);
        drop(all);
        self.log();
        // `None`: it was removed meanwhile.
        if from.is_some() {
            self.notify(address, from.as_ref(), Some(&to));
        }
    }

    /// Removes the subchannel; its later changes of state are ignored.
    pub(super) fn remove(&self, address: &str) {
        let mut all = self.lock();
        let from = all.by_address.get(address).map(|it| it.state.clone());
        all.remove(address);
        drop(all);
        self.log();
        if from.is_some() {
            self.notify(address, from.as_ref(), None);
        }
    }

    /// The endpoints, ordered by address.
    pub(super) fn states(&self) -> Vec<EndpointStats> {
        let all = self.lock();
        let mut states: Vec<_> = all.by_address.values().map(EndpointStats::from).collect();
        drop(all);
        if self.ended.is_cancelled() {
            let reason: Arc<str> = ENDED.into();
            for it in &mut states {
                let reason = reason.clone();
                it.state = ConnectivityState::TransientFailure { reason };
            }
        }
        states
    }

    /// A call is sent again, after `tried` endpoints did not process it.
    pub(super) fn on_resend(&self, tried: usize, reason: &str) {
        self.resent.fetch_add(1, Relaxed);
        let resend = ResendEvent {
            service: self.name(),
            tried,
            reason,
        };
        self.observers
            .notify(|observer| observer.on_resend(&resend));
    }

    pub(super) fn resent(&self) -> u64 {
        self.resent.load(Relaxed)
    }

    fn notify(
        &self,
        address: &str,
        from: Option<&ConnectivityState>,
        to: Option<&ConnectivityState>,
    ) {
        let transition = EndpointEvent {
            service: self.name(),
            address,
            from,
            to,
        };
        self.observers
            .notify(|observer| observer.on_endpoint(&transition));
    }

    /// How many endpoints there are, and how many of them are ready.
    pub(super) fn counts(&self) -> (usize, usize) {
        let all = self.lock();
        let ready = if self.ended.is_cancelled() {
            0
        } else {
            all.ready
        };
        (all.by_address.len(), ready)
    }

    /// Why there is none to call: `no endpoint of "greeter": ...`.
    pub(super) fn why_none(&self) -> String {
        let of = match self.name() {
            "" => String::new(),
            name => format!(" of {name:?}"),
        };
        if self.ended.is_cancelled() {
            return format!("no endpoint{of}: {ENDED}");
        }
        let is_empty = self.lock().by_address.is_empty();
        match &self.why_none {
            Some(why) if is_empty => format!("no endpoint{of}: {}", why()),
            _ => format!("no endpoint{of}: {}", self.lock()),
        }
    }

    /// Logs the channel's state, if it is another one now.
    fn log(&self) {
        let state = self.lock().unreported();
        match state {
            Reported::Nothing => {}
            Reported::NoneReady => self.unlogged.notify_one(),
            Reported::Ready | Reported::AllFailing => {
                if self.log_now().is_err() {
                    self.unlogged.notify_one();
                }
            }
        }
    }

    /// Logs what is not logged at once, when there may be a line and the state is still another one. Never ends; dropping the
    /// channel logs nothing.
    pub(super) async fn log_later(&self) {
        loop {
            self.unlogged.notified().await;
            sleep(REPLACED).await;
            while let Err(until) = self.log_now() {
                sleep_until(until).await;
            }
        }
    }

    /// An error: when there may be a line.
    fn log_now(&self) -> Result<(), Instant> {
        let mut all = self.lock();
        let state = all.unreported();
        if state == Reported::Nothing {
            return Ok(());
        }
        self.lines.take()?;
        all.logged = state;
        let reasons = all.to_string();
        let address = all.last_change.clone().unwrap_or_default();
        drop(all);
        let service = self.name();
        match state {
            Reported::Nothing => {}
            Reported::Ready => {
                crate::runtime::logging::info!(%service, %address, "endpoints can be called")
            }
            Reported::NoneReady => {
                crate::runtime::logging::info!(%service, %address, "no endpoint can be called")
            }
            Reported::AllFailing => {
                crate::runtime::logging::warn!(%service, "every endpoint fails: {reasons}")
            }
        }
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, Endpoints> {
        self.endpoints.lock()
    }
}

/// The defaults of a channel, without endpoints.
impl Default for Pool {
    fn default() -> Self {
        Self {
            ready: ReadySet::default(),
            dialer: Dialer::default(),
            ready_timeout: Duration::from_secs(2),
            health_service: None,
            name: OnceLock::new(),
            why_none: None,
            observers: Observers::default(),
            ended: CancellationToken::new(),
            resent: AtomicU64::new(0),
            endpoints: Lock::default(),
            lines: LineLimiter::default(),
            unlogged: Notify::new(),
        }
    }
}

/// Subtracts the endpoints of this channel from those that observers count.
impl Drop for Pool {
    fn drop(&mut self) {
        if !self.observers.is_empty() {
            for it in self.states() {
                self.notify(&it.address, Some(&it.state), None);
            }
        }
    }
}

// === impl EndpointStats ===

impl From<&Endpoint> for EndpointStats {
    fn from(endpoint: &Endpoint) -> Self {
        let subchannel = &endpoint.subchannel;
        Self {
            address: subchannel.address.clone(),
            weight: subchannel.weight(),
            state: endpoint.state.clone(),
            in_flight: subchannel.in_flight(),
            calls: subchannel.calls(),
        }
    }
}
