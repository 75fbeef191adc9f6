//! [`Endpoints`]: the subchannels of a channel with their states, and the state of the channel; pure.

use super::subchannel::Subchannel;
use crate::observe::connectivity::ConnectivityState;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

/// The subchannels, and the number of them in each state.
#[derive(Debug, Default)]
pub(super) struct Endpoints {
    pub(super) by_address: BTreeMap<Arc<str>, Endpoint>,
    pub(super) ready: usize,
    failing: usize,
    /// The state of the channel in its last log line.
    pub(super) logged: Reported,
    /// The endpoint that became ready, or ceased to be, last.
    pub(super) last_change: Option<Arc<str>>,
}

#[derive(Debug)]
pub(super) struct Endpoint {
    pub(super) subchannel: Arc<Subchannel>,
    pub(super) state: ConnectivityState,
    /// Why it is not ready: kept from the failure until it is ready, through all attempts in between.
    failure: Option<Arc<str>>,
}

/// The state of the channel, as its log lines have it.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reported {
    #[default]
    Nothing,
    Ready,
    NoneReady,
    AllFailing,
}

/// The most reasons in one error.
const SHOWN: usize = 3;

// === impl Endpoints ===

impl Endpoints {
    pub(super) fn insert(&mut self, subchannel: Arc<Subchannel>) {
        let address = subchannel.address.clone();
        let endpoint = Endpoint {
            subchannel,
            state: ConnectivityState::Idle,
            failure: None,
        };
        self.by_address.insert(address, endpoint);
    }

    /// `None`: it was removed.
    pub(super) fn state_of(&self, subchannel: &Arc<Subchannel>) -> Option<&ConnectivityState> {
        let endpoint = self.by_address.get(&subchannel.address)?;
        Arc::ptr_eq(&endpoint.subchannel, subchannel).then_some(&endpoint.state)
    }

    pub(super) fn set_state(&mut self, subchannel: &Arc<Subchannel>, state: ConnectivityState) {
        let found = self.by_address.get_mut(&subchannel.address);
        let Some(endpoint) = found.filter(|it| Arc::ptr_eq(&it.subchannel, subchannel)) else {
            return;
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
        let address = subchannel.address.clone();
        self.count(before, after, address);
    }

    pub(super) fn remove(&mut self, address: &str) {
        if let Some((address, endpoint)) = self.by_address.remove_entry(address) {
            self.count(endpoint.counts(), (0, 0), address);
        }
    }

    /// The state of one endpoint changed from `before` to `after`.
    fn count(&mut self, before: (usize, usize), after: (usize, usize), address: Arc<str>) {
        if before.0 != after.0 {
            self.last_change = Some(address);
        }
        self.ready = self.ready + after.0 - before.0;
        self.failing = self.failing + after.1 - before.1;
    }

    /// The state of the channel, if it is not the one that was logged last.
    pub(super) fn unreported(&self) -> Reported {
        let all_failing = self.failing > 0 && self.failing == self.by_address.len();
        let state = match self.logged {
            _ if self.ready > 0 => Reported::Ready,
            // Until one can be called again, it is said once.
            Reported::AllFailing => return Reported::Nothing,
            _ if all_failing => Reported::AllFailing,
            Reported::Nothing => return Reported::Nothing,
            Reported::Ready | Reported::NoneReady => Reported::NoneReady,
        };
        match state == self.logged {
            true => Reported::Nothing,
            false => state,
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
            return f.write_str("none connected");
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
    fn each_state_of_the_channel_is_reported_once() {
        use ConnectivityState::{Connecting, Ready};
        let mut all = Endpoints::default();
        let [a, b] = ["a:1", "b:1"].map(subchannel);
        for subchannel in [&a, &b] {
            all.insert(subchannel.clone());
        }
        for (n, (subchannel, state, reported)) in [
            (&a, Connecting, Reported::Nothing),
            (&a, Ready, Reported::Ready),
            (&b, Ready, Reported::Nothing),
            (&a, failure("x"), Reported::Nothing),
            (&b, Connecting, Reported::NoneReady),
            (&a, Connecting, Reported::Nothing),
            (&b, failure("y"), Reported::AllFailing),
            (&b, Connecting, Reported::Nothing),
            (&b, failure("z"), Reported::Nothing),
            (&a, Ready, Reported::Ready),
            (&a, failure("w"), Reported::AllFailing),
        ]
        .into_iter()
        .enumerate()
        {
            all.set_state(subchannel, state);
            assert_eq!(all.unreported(), reported, "{n}");
            if reported != Reported::Nothing {
                all.logged = reported;
            }
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
        all.logged = Reported::Ready;
        all.set_state(&former, failure("x"));
        assert_eq!(all.ready, 2, "another one had that address");
        all.set_state(&a, failure("x"));
        all.remove("b:1");
        assert_eq!(all.unreported(), Reported::AllFailing);
        all.set_state(&b, ConnectivityState::Ready);
        assert_eq!(all.ready, 0);
        all.set_state(&a, ConnectivityState::Ready);
        all.remove("a:1");
        assert_eq!(all.unreported(), Reported::NoneReady);
        assert_eq!(all.to_string(), "none registered");
    }
}
