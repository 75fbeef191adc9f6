//! [`Subchannel`]: one address, its load and its counters; [`Connection`]: one connection to it.

use super::dial::Sender;
use super::peer::{Peer, StreamPermit};
use super::ready_set::{Candidate, Position};
use http::Uri;
use http::uri::PathAndQuery;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;

/// One address that is kept connected.
#[derive(Debug)]
pub(super) struct Subchannel {
    pub(super) address: Arc<str>,
    /// Scheme, host and port; the path is ignored.
    pub(super) origin: Uri,
    weight: AtomicU32,
    weight_changed: Notify,
    in_flight: AtomicUsize,
    calls: AtomicU64,
    /// A connection that ended before it had answered counted as useful, and no call was answered since.
    pub(super) is_believed: AtomicBool,
    /// After how many calls its server has ended the last connection gracefully; 0: unknown.
    lifetime: AtomicU64,
}

/// One connection of a subchannel.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) subchannel: Arc<Subchannel>,
    pub(super) sender: Sender,
    pub(super) peer: Arc<Peer>,
    position: Position,
    /// The subchannel's number of calls at its begin, and when its end is near.
    begin: u64,
    near_end: u64,
    end_is_near: Notify,
}

/// One call in flight. The body of the response holds it, because a stream lasts longer than the future that
/// started it.
#[derive(Debug)]
pub(super) struct CallGuard {
    subchannel: Arc<Subchannel>,
    stream: StreamPermit,
}

/// A connection that lasts for fewer calls has no replacement dialled before its end.
const MIN_LIFETIME: u64 = 32;

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
            is_believed: AtomicBool::new(false),
            lifetime: AtomicU64::new(0),
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
    pub(super) fn new(subchannel: Arc<Subchannel>, sender: Sender, peer: Arc<Peer>) -> Self {
        let begin = subchannel.calls();
        let near_end = match subchannel.lifetime.load(Relaxed) {
            lifetime if lifetime >= MIN_LIFETIME => begin + lifetime / 4 * 3,
            _ => u64::MAX,
        };
        Self {
            subchannel,
            sender,
            peer,
            position: Position::default(),
            begin,
            near_end,
            end_is_near: Notify::new(),
        }
    }

    /// Waits until it has had most of the calls after which its server ended the last connection. Cancel safe.
    pub(super) async fn near_end(&self) {
        self.end_is_near.notified().await;
    }

    /// It has ended. The next connection is expected to last for as many calls, if its server ended it gracefully.
    pub(super) fn on_end(&self) {
        let is_planned = self.peer.has_answered() && self.peer.ends_gracefully();
        let lifetime = match is_planned {
            true => self.subchannel.calls() - self.begin,
            false => 0,
        };
        self.subchannel.lifetime.store(lifetime, Relaxed);
    }

    /// Whether it accepts a call now.
    pub(super) fn is_usable(&self) -> bool {
        !self.sender.is_closed() && self.peer.is_usable()
    }

    /// Counts a call, if the peer accepts one more stream.
    pub(super) fn start_call(&self) -> Option<CallGuard> {
        let stream = self.peer.try_acquire()?;
        self.peer.set_called();
        self.subchannel.in_flight.fetch_add(1, Relaxed);
        if self.subchannel.calls.fetch_add(1, Relaxed) == self.near_end {
            self.end_is_near.notify_one();
        }
        Some(CallGuard {
            subchannel: self.subchannel.clone(),
            stream,
        })
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
    /// The call was answered.
    pub(super) fn set_answered(&self) {
        self.peer().set_answered();
        self.subchannel.is_believed.store(false, Relaxed);
    }

    pub(super) fn address(&self) -> &Arc<str> {
        &self.subchannel.address
    }

    pub(super) fn peer(&self) -> &Arc<Peer> {
        self.stream.peer()
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        self.subchannel.in_flight.fetch_sub(1, Relaxed);
    }
}
