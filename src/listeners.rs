//! [`Listeners`]: the listeners of one registration, counted.

use crate::lock::Lock;
use std::net::SocketAddr;

/// The registration appears when all of them accept. The drain continues when all of them are closed.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Lock<State>);

#[derive(Debug, Default)]
struct State {
    added: usize,
    accepting: usize,
    closed: usize,
    /// The bound address of the first TCP listener: the address to advertise.
    tcp: Option<SocketAddr>,
}

impl Listeners {
    /// Adds a listener that is bound and will accept later.
    pub(crate) fn add(&self, tcp: Option<SocketAddr>) {
        let mut state = self.0.lock();
        state.added += 1;
        state.tcp = state.tcp.or(tcp);
    }

    /// Another listener accepts from now on. Returns whether all of them do.
    pub(crate) fn accept(&self) -> bool {
        let mut state = self.0.lock();
        state.accepting += 1;
        state.accepting == state.added
    }

    /// Another listener is closed. Returns whether all of them are.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.0.lock();
        state.closed += 1;
        state.closed == state.added
    }

    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        self.0.lock().tcp
    }

    /// Whether there is, or was, any.
    pub(crate) fn exist(&self) -> bool {
        self.0.lock().added > 0
    }
}
