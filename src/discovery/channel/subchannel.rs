//! [`Subchannel`]: one address, its load and its counters; [`Connection`]: one connection to it.

use super::dial::Sender;
use super::ready_set::{Candidate, Position};
use super::settings::{StreamPermit, StreamQuota};
use http::Uri;
use http::uri::PathAndQuery;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;

/// One address that is kept connected.
#[derive(Debug)]
pub(super) struct Subchannel {
    pub(super) address: Arc<str>,
    /// Scheme, host and port; the path is of no account.
    pub(super) origin: Uri,
    weight: AtomicU32,
    weight_changed: Notify,
    in_flight: AtomicUsize,
    calls: AtomicU64,
}

/// One connection of a subchannel.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) subchannel: Arc<Subchannel>,
    pub(super) sender: Sender,
    pub(super) quota: Arc<StreamQuota>,
    position: Position,
    draining: AtomicBool,
    drain: Notify,
}

/// One call in flight. The body of the response holds it, because a stream lasts longer than the future that
/// started it.
#[derive(Debug)]
pub(super) struct CallGuard {
    subchannel: Arc<Subchannel>,
    _stream: StreamPermit,
}

// === impl Subchannel ===

impl Subchannel {
    pub(super) fn new(address: Arc<str>, origin: Uri, weight: u32) -> Self {
        Self {
            address,
            origin,
            weight: AtomicU32::new(weight),
            weight_changed: Notify::new(),
            in_flight: AtomicUsize::new(0),
            calls: AtomicU64::new(0),
        }
    }

    /// The absolute URI of a path there.
    pub(super) fn uri(&self, path: PathAndQuery) -> Uri {
        let mut parts = self.origin.clone().into_parts();
        parts.path_and_query = Some(path);
        // Scheme and authority are there, too, which is all that could be missed.
        Uri::from_parts(parts).unwrap_or_default()
    }

    pub(super) fn weight(&self) -> u32 {
        self.weight.load(Relaxed)
    }

    pub(super) fn set_weight(&self, weight: u32) {
        self.weight.store(weight, Relaxed);
        self.weight_changed.notify_one();
    }

    /// Waits for the next [`set_weight`](Self::set_weight). Cancel safe.
    pub(super) async fn weight_changed(&self) {
        self.weight_changed.notified().await;
    }

    /// The calls that have not ended.
    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.load(Relaxed)
    }

    /// All calls that were sent.
    pub(super) fn calls(&self) -> u64 {
        self.calls.load(Relaxed)
    }
}

// === impl Connection ===

impl Connection {
    pub(super) fn new(
        subchannel: Arc<Subchannel>,
        sender: Sender,
        quota: Arc<StreamQuota>,
    ) -> Self {
        Self {
            subchannel,
            sender,
            quota,
            position: Position::default(),
            draining: AtomicBool::new(false),
            drain: Notify::new(),
        }
    }

    /// Whether it accepts a call now.
    pub(super) fn is_usable(&self) -> bool {
        !self.draining.load(Relaxed) && !self.sender.is_closed() && self.quota.has_room()
    }

    /// Counts a call, if the peer accepts one more stream.
    pub(super) fn start_call(&self) -> Option<CallGuard> {
        let stream = self.quota.try_acquire()?;
        self.subchannel.in_flight.fetch_add(1, Relaxed);
        self.subchannel.calls.fetch_add(1, Relaxed);
        Some(CallGuard {
            subchannel: self.subchannel.clone(),
            _stream: stream,
        })
    }

    /// The peer accepts no more calls on this connection; those in flight continue.
    pub(super) fn set_draining(&self) {
        self.draining.store(true, Relaxed);
        self.drain.notify_one();
    }

    /// Waits for [`set_draining`](Self::set_draining). Cancel safe; for one task.
    pub(super) async fn draining(&self) {
        self.drain.notified().await;
    }
}

impl Candidate for Connection {
    fn weight(&self) -> u32 {
        self.subchannel.weight()
    }

    fn load(&self) -> usize {
        self.subchannel.in_flight()
    }

    fn position(&self) -> &Position {
        &self.position
    }
}

// === impl CallGuard ===

impl CallGuard {
    pub(super) fn address(&self) -> &Arc<str> {
        &self.subchannel.address
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.subchannel.in_flight.fetch_sub(1, Relaxed);
    }
}
