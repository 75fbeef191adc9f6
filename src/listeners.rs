//! [`Listeners`]: the listeners of one registration, counted.

use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The registration appears when all of them accept. The drain continues when all of them are closed.
#[derive(Debug, Default)]
pub(crate) struct Listeners(Mutex<State>);

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
        let mut state = self.lock();
        state.added += 1;
        state.tcp = state.tcp.or(tcp);
    }

    /// Another listener accepts from now on. Returns whether all of them do.
    pub(crate) fn accept(&self) -> bool {
        let mut state = self.lock();
        state.accepting += 1;
        state.accepting == state.added
    }

    /// Another listener is closed. Returns whether all of them are.
    pub(crate) fn close(&self) -> bool {
        let mut state = self.lock();
        state.closed += 1;
        state.closed == state.added
    }

    pub(crate) fn tcp(&self) -> Option<SocketAddr> {
        self.lock().tcp
    }

    /// Whether there is, or was, any.
    pub(crate) fn exist(&self) -> bool {
        self.lock().added > 0
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
