//! [`Peer`]: what the peer of one connection has said and done: how many streams it accepts, and whether it ends the connection.

use super::frames::GoAway;
use crate::runtime::lock::Lock;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use tokio::sync::Notify;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Peer {
    /// Open streams.
    open: AtomicUsize,
    /// How many it accepts.
    limit: AtomicUsize,
    /// Notified when a stream has ended, or when the limit has risen.
    freed: Arc<Notify>,
    was_called: AtomicBool,
    was_pinged: AtomicBool,
    has_answered: AtomicBool,
    is_draining: AtomicBool,
    drain: Notify,
    go_away: Lock<Option<GoAway>>,
}

/// A permit for one open stream.
#[derive(Debug)]
pub(super) struct StreamPermit(Arc<Peer>);

// === impl Peer ===

impl Peer {
    /// No limit of streams, until the peer sends one.
    pub(super) fn new(freed: Arc<Notify>) -> Self {
        Self {
            open: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            freed,
            was_called: AtomicBool::new(false),
            was_pinged: AtomicBool::new(false),
            has_answered: AtomicBool::new(false),
            is_draining: AtomicBool::new(false),
            drain: Notify::new(),
            go_away: Lock::default(),
        }
    }

    /// Whether it accepts a call now.
    pub(super) fn is_usable(&self) -> bool {
        !self.is_draining() && self.has_room()
    }

    pub(super) fn is_draining(&self) -> bool {
        self.is_draining.load(Relaxed)
    }

    pub(super) fn has_room(&self) -> bool {
        self.open.load(Relaxed) < self.limit.load(Relaxed)
    }

    /// Its open streams.
    pub(super) fn streams(&self) -> usize {
        self.open.load(Relaxed)
    }

    pub(super) fn try_acquire(self: &Arc<Self>) -> Option<StreamPermit> {
        let limit = self.limit.load(Relaxed);
        let more = |open| (open < limit).then_some(open + 1);
        self.open.fetch_update(Relaxed, Relaxed, more).ok()?;
        Some(StreamPermit(self.clone()))
    }

    /// Wakes one call if the limit has risen, and that call wakes the next one: a peer that changes its limit all the time
    /// must not wake all calls each time.
    pub(super) fn set_limit(&self, limit: u32) {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if self.limit.swap(limit, Relaxed) < limit {
            self.freed.notify_one();
        }
    }

    /// A call that waited has got a stream: there may be one for the next.
    pub(super) fn wake_next(&self) {
        if self.limit.load(Relaxed) != usize::MAX && self.has_room() {
            self.freed.notify_one();
        }
    }

    /// A call is sent to it: one of the application's, not a watch of its health.
    pub(super) fn set_called(&self) {
        set(&self.was_called);
    }

    /// A ping was sent to it.
    pub(super) fn set_pinged(&self) {
        set(&self.was_pinged);
    }

    /// Whether it complains about too many pings, and there were some.
    pub(super) fn has_too_many_pings(&self) -> bool {
        let complaint = self.complaint();
        self.was_pinged.load(Relaxed) && complaint.is_some_and(|it| it.is_too_many_pings())
    }

    /// It answered a call.
    pub(super) fn set_answered(&self) {
        set(&self.has_answered);
    }

    pub(super) fn has_answered(&self) -> bool {
        self.has_answered.load(Relaxed)
    }

    pub(super) fn was_called(&self) -> bool {
        self.was_called.load(Relaxed)
    }

    /// Whether the connection was of use: the peer answered a call, or accepted one before it began to end the connection.
    pub(super) fn was_useful(&self) -> bool {
        let accepts = |it: &GoAway| it.is_graceful() && it.last_stream > 0;
        let accepts = || self.go_away.lock().as_ref().is_some_and(accepts);
        self.has_answered() || (self.was_called() && accepts())
    }

    /// It accepts no more calls on this connection; those in flight continue.
    pub(super) fn set_draining(&self) {
        self.is_draining.store(true, Relaxed);
        self.drain.notify_one();
    }

    /// Waits for [`set_draining`](Self::set_draining). Cancel safe; for one task.
    pub(super) async fn draining(&self) {
        self.drain.notified().await;
    }

    pub(super) fn on_go_away(&self, go_away: GoAway) {
        *self.go_away.lock() = Some(go_away);
        self.set_draining();
    }

    /// Whether it ends the connection, without an error.
    pub(super) fn ends_gracefully(&self) -> bool {
        let go_away = self.go_away.lock();
        go_away.as_ref().is_some_and(GoAway::is_graceful)
    }

    /// The last `GOAWAY`, if it ended the connection for an error.
    pub(super) fn complaint(&self) -> Option<GoAway> {
        let go_away = self.go_away.lock().clone();
        go_away.filter(|it| !it.is_graceful())
    }
}

/// Most calls find it set, and leave the cache line to other threads.
fn set(flag: &AtomicBool) {
    if !flag.load(Relaxed) {
        flag.store(true, Relaxed);
    }
}

// === impl StreamPermit ===

impl StreamPermit {
    pub(super) fn peer(&self) -> &Arc<Peer> {
        &self.0
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Relaxed);
        // Wake one waiter for one stream: waking all at each end would be n² work.
        if self.0.limit.load(Relaxed) != usize::MAX {
            self.0.freed.notify_one();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn permits_are_given_up_to_the_limit_and_freed_ones_notify() {
        let freed = Arc::new(Notify::new());
        let peer = Arc::new(Peer::new(freed.clone()));
        peer.set_limit(2);
        let (first, _second) = (peer.try_acquire().unwrap(), peer.try_acquire().unwrap());
        assert!(!peer.has_room() && peer.try_acquire().is_none());
        drop(first);
        freed.notified().await;
        let _third = peer.try_acquire().unwrap();
        let raised = freed.notified();
        peer.set_limit(3);
        raised.await;
        assert!(peer.has_room());
    }
}
