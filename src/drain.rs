//! [`Drain`]: how a server stops, once its registration has ended.
//!
//! ```text
//! deregistration_delay -> begin -> listener closed, backlog taken in -> requests finish
//!   -> nothing in flight and no traffic for 1.5 s: abort the connections that are left
//!   -> drain_timeout: end what is in flight -> 250 ms -> abort the connections that are left
//! ```
//!
//! Each signal fires once and stays. [`Drain::run`] fires them; the parts of the server listen.

use crate::in_flight::InFlight;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long the steps may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DrainTimeouts {
    pub(crate) deregistration_delay: Duration,
    pub(crate) drain: Duration,
}

/// What the parts of a server share. Made when the first of them asks for it: most of ten thousand
/// registrations in one process have none, and this is most of what each would weigh.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    /// Stop accepting, finish what is in flight.
    pub(crate) begun: CancellationToken,
    /// The listener is closed, and nothing is left in its backlog.
    pub(crate) listener_closed: CancellationToken,
    /// Close the connections that are still open.
    pub(crate) aborted: CancellationToken,
    /// The server has returned; there is nobody left to wait for.
    pub(crate) server_exited: CancellationToken,
    pub(crate) in_flight: Arc<InFlight>,
    /// For those who ask on every read: the tokens take a lock.
    phase: AtomicU8,
    /// Counts reads and writes on connections after the drain has begun.
    traffic: AtomicU64,
    has_listener: AtomicBool,
    /// The layer counts requests, so that none in flight means that there is none.
    is_counted: AtomicBool,
    has_warned: AtomicBool,
}

const BEGUN: u8 = 1;
const ABORTED: u8 = 2;

/// Time for the last answers to be written, between ending the requests and aborting the
/// connections they are on.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_millis(250);

/// How long nothing may be in flight, and nothing may move on a connection, until the connections
/// that are left are aborted. Their clients do not answer the ping that comes with GOAWAY.
/// An answer that is done may still be on its way: a TCP segment that was lost twice comes within
/// 0.6 s, three times within 1.4 s.
const IDLE_LIMIT: Duration = Duration::from_millis(1500);
const IDLE_TICKS: u32 = 6;

impl Drain {
    /// Runs all of it. `now` skips the waits that are left.
    pub(crate) async fn run(&self, timeouts: DrainTimeouts, now: &CancellationToken) {
        self.wait(timeouts.deregistration_delay, now).await;
        self.begin();
        {
            let mut deadline = pin!(self.wait(timeouts.drain, now));
            tokio::select! {
                biased;
                () = &mut deadline => {}
                () = self.idle() => {
                    self.abort_connections();
                    deadline.await;
                }
            }
        }
        self.in_flight.end();
        // Not skipped by `now`: without it a request would see a reset instead of its status.
        let _ = timeout(LAST_ANSWERS, self.server_exited.cancelled()).await;
        self.abort_connections();
    }

    /// Begins the drain and aborts all connections, where nothing is left that could wait.
    pub(crate) fn run_now(&self) {
        self.begin();
        self.abort_connections();
    }

    fn begin(&self) {
        self.phase.fetch_max(BEGUN, Ordering::AcqRel);
        self.begun.cancel();
    }

    fn abort_connections(&self) {
        self.phase.store(ABORTED, Ordering::Release);
        self.aborted.cancel();
    }

    /// Waits for `limit`, less if the server has returned or the waits are skipped.
    async fn wait(&self, limit: Duration, now: &CancellationToken) {
        tokio::select! {
            biased;
            () = now.cancelled() => {}
            () = self.server_exited.cancelled() => {}
            () = sleep(limit) => {}
        }
    }

    /// Resolves when the listener is closed and for [`IDLE_LIMIT`] nothing was in flight and nothing
    /// moved. Never, if requests are not counted or the connections are not ours to abort.
    async fn idle(&self) {
        self.listener_closed.cancelled().await;
        let (mut ticks, mut seen) = (0, None);
        while ticks < IDLE_TICKS {
            sleep(IDLE_LIMIT / IDLE_TICKS).await;
            let traffic = Some(self.traffic.load(Ordering::Relaxed));
            let is_idle = self.is_counted.load(Ordering::Relaxed)
                && self.in_flight.count() == 0
                && std::mem::replace(&mut seen, traffic) == traffic;
            ticks = if is_idle { ticks + 1 } else { 0 };
        }
    }

    pub(crate) fn is_begun(&self) -> bool {
        self.phase.load(Ordering::Acquire) >= BEGUN
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.phase.load(Ordering::Acquire) == ABORTED
    }

    /// Bytes were read from, or written to, a connection.
    pub(crate) fn on_traffic(&self) {
        if self.is_begun() {
            self.traffic.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A listener of ours exists from now on.
    pub(crate) fn set_listener(&self) {
        self.has_listener.store(true, Ordering::Release);
    }

    pub(crate) fn has_listener(&self) -> bool {
        self.has_listener.load(Ordering::Acquire)
    }

    /// The layer is in place.
    pub(crate) fn set_counted(&self) {
        self.is_counted.store(true, Ordering::Release);
    }

    /// Whether the warning that no address is known was not logged before.
    pub(crate) fn is_first_warning(&self) -> bool {
        !self.has_warned.swap(true, Ordering::Relaxed)
    }

    /// Resolves when the server should stop accepting, and its backlog has been taken in.
    pub(crate) async fn signal(&self) {
        self.begun.cancelled().await;
        if self.has_listener() {
            tokio::select! {
                () = self.listener_closed.cancelled() => {}
                () = self.aborted.cancelled() => {}
            }
        }
    }
}
