//! [`Pool`]: state that the tasks and the calls of one channel share: its subchannels, and their states.

use super::connectivity::ConnectivityState;
use super::dial::Dialer;
use super::ready_set::ReadySet;
use super::subchannel::{Connection, Subchannel};
use crate::lock::Lock;
use crate::observer::{EndpointTransition, Observers, Resend};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, MutexGuard, OnceLock};
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// One endpoint of a [`BalancedChannel`](super::BalancedChannel), at the time of the call that returned it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct EndpointState {
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
    /// Limits the connects at the same time: ten thousand at once would exceed the process's limit of file
    /// descriptors, and the last ones would time out.
    pub(super) connecting: Semaphore,
    pub(super) name: OnceLock<String>,
    /// Returns why the source has no instances.
    pub(super) why_none: Option<Box<dyn Fn() -> String + Send + Sync>>,
    pub(super) observers: Observers,
    /// Its task has ended, with the runtime that it was built in: nothing connects any more.
    pub(super) ended: CancellationToken,
    /// How often calls were sent again.
    resent: AtomicU64,
    endpoints: Lock<Endpoints>,
}

/// The subchannels, and the number of them in each state.
#[derive(Debug, Default)]
struct Endpoints {
    by_address: BTreeMap<Arc<str>, Endpoint>,
    ready: usize,
    failing: usize,
    warned: bool,
}

#[derive(Debug)]
struct Endpoint {
    subchannel: Arc<Subchannel>,
    state: ConnectivityState,
    /// Why it is not ready: kept from the failure until it is ready, through all attempts in between.
    failure: Option<Arc<str>>,
}

/// The change of the channel's state that follows from a change of one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transition {
    None,
    FirstReady,
    NoneReady,
    AllFailing,
}

const ENDED: &str =
    "the runtime that the channel was built in has ended: build it where it is used";
const CONNECTING_AT_ONCE: usize = 256;
/// The most reasons in one error.
const SHOWN: usize = 3;

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
        let (service, address) = (self.name(), &*subchannel.address);
        crate::logging::debug!(%service, %address, %state, "endpoint");
        let mut all = self.lock();
        let from = all.state_of(subchannel).cloned();
        let to = state.clone();
        let transition = all.set_state(subchannel, state);
        drop(all);
        self.log(address, transition);
        // `None`: it was removed meanwhile.
        if from.is_some() {
            self.notify(address, from.as_ref(), Some(&to));
        }
    }

    /// Removes the subchannel; its later changes of state are ignored.
    pub(super) fn remove(&self, address: &str) {
        let mut all = self.lock();
        let from = all.by_address.get(address).map(|it| it.state.clone());
        let transition = all.remove(address);
        drop(all);
        self.log(address, transition);
        if from.is_some() {
            self.notify(address, from.as_ref(), None);
        }
    }

    /// The endpoints, ordered by address.
    pub(super) fn states(&self) -> Vec<EndpointState> {
        let all = self.lock();
        let mut states: Vec<_> = all.by_address.values().map(EndpointState::from).collect();
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
        let resend = Resend {
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
        let transition = EndpointTransition {
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

    /// Logs a change of state. Dropping the channel logs nothing: its tasks end, and its states do not change.
    fn log(&self, address: &str, transition: Transition) {
        let service = self.name();
        match transition {
            Transition::None => {}
            Transition::FirstReady => {
                crate::logging::info!(%service, %address, "endpoints can be called")
            }
            Transition::NoneReady => {
                crate::logging::info!(%service, %address, "no endpoint can be called")
            }
            Transition::AllFailing => {
                // Not under the lock: the subscriber is the application's code.
                let failing = self.lock().to_string();
                crate::logging::warn!(%service, "every endpoint fails: {failing}");
            }
        }
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
            connecting: Semaphore::new(CONNECTING_AT_ONCE),
            name: OnceLock::new(),
            why_none: None,
            observers: Observers::default(),
            ended: CancellationToken::new(),
            resent: AtomicU64::new(0),
            endpoints: Lock::default(),
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

// === impl Endpoints ===

impl Endpoints {
    fn insert(&mut self, subchannel: Arc<Subchannel>) {
        let address = subchannel.address.clone();
        let endpoint = Endpoint {
            subchannel,
            state: ConnectivityState::Idle,
            failure: None,
        };
        self.by_address.insert(address, endpoint);
    }

    /// `None`: it was removed.
    fn state_of(&self, subchannel: &Arc<Subchannel>) -> Option<&ConnectivityState> {
        let endpoint = self.by_address.get(&subchannel.address)?;
        Arc::ptr_eq(&endpoint.subchannel, subchannel).then_some(&endpoint.state)
    }

    fn set_state(&mut self, subchannel: &Arc<Subchannel>, state: ConnectivityState) -> Transition {
        let found = self.by_address.get_mut(&subchannel.address);
        let Some(endpoint) = found.filter(|it| Arc::ptr_eq(&it.subchannel, subchannel)) else {
            return Transition::None;
        };
        let before = endpoint.counts();
        match &state {
            ConnectivityState::Ready => endpoint.failure = None,
            ConnectivityState::TransientFailure { reason } => {
                endpoint.failure = Some(reason.clone());
            }
            ConnectivityState::Idle | ConnectivityState::Connecting => {}
        }
        endpoint.state = state;
        let after = endpoint.counts();
        self.count(before, after)
    }

    fn remove(&mut self, address: &str) -> Transition {
        let removed = self.by_address.remove(address);
        let before = removed.map_or((0, 0), |endpoint| endpoint.counts());
        self.count(before, (0, 0))
    }

    /// The state of one endpoint changed from `before` to `after`.
    fn count(&mut self, before: (usize, usize), after: (usize, usize)) -> Transition {
        let were_ready = self.ready;
        self.ready = self.ready + after.0 - before.0;
        self.failing = self.failing + after.1 - before.1;
        if self.ready > 0 {
            self.warned = false;
        }
        let all_failing = self.failing > 0 && self.failing == self.by_address.len();
        match (were_ready, self.ready) {
            (_, 0) if all_failing && !std::mem::replace(&mut self.warned, true) => {
                Transition::AllFailing
            }
            (0, 1..) => Transition::FirstReady,
            (1.., 0) => Transition::NoneReady,
            _ => Transition::None,
        }
    }
}

/// Why no endpoint can be called.
impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = match self.by_address.len() {
            0 => return f.write_str("none registered"),
            known => known,
        };
        write!(f, "{known} known, ")?;
        if self.ready > 0 {
            return write!(
                f,
                "{} ready, each with as many calls as it accepts",
                self.ready
            );
        }
        if self.failing == 0 {
            return f.write_str("none connected yet");
        }
        f.write_str("none ready: ")?;
        let failing = self.by_address.iter();
        let mut failing = failing.filter_map(|(address, it)| Some((address, it.failure.as_ref()?)));
        for (n, (address, reason)) in failing.by_ref().take(SHOWN).enumerate() {
            let separator = if n > 0 { "; " } else { "" };
            write!(f, "{separator}{address}: {reason}")?;
        }
        match failing.count() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

// === impl Endpoint ===

impl Endpoint {
    /// Its share of the numbers of ready and of failing endpoints: 0 or 1 for each.
    fn counts(&self) -> (usize, usize) {
        let ready = self.state == ConnectivityState::Ready;
        (usize::from(ready), usize::from(self.failure.is_some()))
    }
}

// === impl EndpointState ===

impl From<&Endpoint> for EndpointState {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(reason: &str) -> ConnectivityState {
        let reason = reason.into();
        ConnectivityState::TransientFailure { reason }
    }

    fn subchannel(address: &str) -> Arc<Subchannel> {
        let origin = http::Uri::default();
        Arc::new(Subchannel::new(address.into(), origin, 1))
    }

    #[test]
    fn each_transition_of_the_channel_is_logged_once() {
        use ConnectivityState::{Connecting, Ready};
        let mut all = Endpoints::default();
        let [a, b] = ["a:1", "b:1"].map(subchannel);
        for subchannel in [&a, &b] {
            all.insert(subchannel.clone());
        }
        for (n, (subchannel, state, transition)) in [
            (&a, Connecting, Transition::None),
            (&a, Ready, Transition::FirstReady),
            (&b, Ready, Transition::None),
            (&a, failure("x"), Transition::None),
            (&b, Connecting, Transition::NoneReady),
            (&a, Connecting, Transition::None),
            (&b, failure("y"), Transition::AllFailing),
            (&b, Connecting, Transition::None),
            (&b, failure("z"), Transition::None),
            (&a, Ready, Transition::FirstReady),
            (&a, failure("w"), Transition::AllFailing),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(all.set_state(subchannel, state), transition, "{n}");
        }
        assert_eq!(all.to_string(), "2 known, none ready: a:1: w; b:1: z");
    }

    #[test]
    fn the_last_ready_one_that_is_removed_leaves_none_or_those_that_fail() {
        let mut all = Endpoints::default();
        let [a, b, former] = ["a:1", "b:1", "a:1"].map(subchannel);
        for subchannel in [&a, &b] {
            all.insert(subchannel.clone());
            all.set_state(subchannel, ConnectivityState::Ready);
        }
        assert_eq!(all.set_state(&former, failure("x")), Transition::None);
        all.set_state(&a, failure("x"));
        assert_eq!(all.remove("b:1"), Transition::AllFailing);
        assert_eq!(
            all.set_state(&b, ConnectivityState::Ready),
            Transition::None
        );
        all.set_state(&a, ConnectivityState::Ready);
        assert_eq!(all.remove("a:1"), Transition::NoneReady);
        assert_eq!(all.to_string(), "none registered");
    }
}
