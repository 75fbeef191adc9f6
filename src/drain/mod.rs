//! [`Drain`]: how a server stops, once its registration has ended.
//!
//! ```text
//! deregistration_delay -> begin -> backlog accepted, listener closed -> requests finish
//!   -> nothing in flight and no traffic for 1.5 s: abort the remaining connections
//!   -> drain_timeout: end the requests in flight -> 250 ms -> abort the remaining connections
//! ```
//!
//! | file | |
//! |---|---|
//! | `in_flight.rs` | counts the requests in flight |
//! | `listeners.rs` | counts the open listeners |
//!
//! Each signal is a token that is cancelled once. [`Drain::run`] cancels the tokens, and the parts of the server wait for
//! them.

pub(crate) mod in_flight;
mod listeners;

use in_flight::InFlight;
use listeners::Listeners;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

/// How long the steps may take.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DrainTimeouts {
    pub(crate) deregistration_delay: Duration,
    pub(crate) drain: Duration,
}

/// State that the parts of a server share. It is made when the first part uses it: of ten thousand registrations in one
/// process most have no server, and it would be most of the memory of each.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    /// Stop accepting, finish the requests in flight.
    pub(crate) begun: CancellationToken,
    /// Every listener is closed, and nothing is left in its backlog.
    pub(crate) listener_closed: CancellationToken,
    /// Close the connections that are still open.
    pub(crate) aborted: CancellationToken,
    /// The server has returned: no wait is needed any more.
    pub(crate) server_exited: CancellationToken,
    /// The end of the drain was logged.
    pub(crate) reported: CancellationToken,
    pub(crate) in_flight: Arc<InFlight>,
    /// The phase, for code that checks it on every read: the tokens take a lock.
    phase: AtomicU8,
    /// Counts reads and writes on connections after the drain has begun.
    traffic: AtomicU64,
    pub(crate) listeners: Listeners,
    /// Whether requests are counted, so that a count of 0 means that none is in flight.
    is_counted: AtomicBool,
    has_warned: AtomicBool,
    /// The runtime of the server, if it has a listener of ours. The drain runs there too.
    pub(crate) runtime: OnceLock<Handle>,
}

const BEGUN: u8 = 1;
const ABORTED: u8 = 2;

/// Time to write the last responses, between the end of requests and the abort of their connections.
pub(crate) const LAST_ANSWERS: Duration = Duration::from_millis(250);

/// The remaining connections are aborted after this time without a request in flight and without traffic. Their clients do
/// not answer the ping that comes with GOAWAY. A finished response may still be in transit: a TCP segment that was lost
/// twice arrives within 0.6 s, three times within 1.4 s.
const IDLE_LIMIT: Duration = Duration::from_millis(1500);
const IDLE_TICKS: u32 = 6;

impl Drain {
    /// Runs the drain. Returns the number of requests that were ended. `now` skips the remaining waits.
    pub(crate) async fn run(&self, timeouts: DrainTimeouts, now: &CancellationToken) -> usize {
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
        let cut = self.in_flight.count();
        self.in_flight.end();
        // Not skipped by `now`: without this time a request would see a reset instead of its status.
        let _ = timeout(LAST_ANSWERS, self.server_exited.cancelled()).await;
        self.abort_connections();
        cut
    }

    /// Begins the drain and aborts all connections at once, because there is no runtime to wait in.
    pub(crate) fn run_now(&self) {
        self.begin();
        self.abort_connections();
    }

    pub(crate) fn begin(&self) {
        self.phase.fetch_max(BEGUN, Ordering::AcqRel);
        self.begun.cancel();
    }

    fn abort_connections(&self) {
        self.phase.store(ABORTED, Ordering::Release);
        self.aborted.cancel();
    }

    /// Waits for `limit`, or until the server has returned or the waits are skipped.
    async fn wait(&self, limit: Duration, now: &CancellationToken) {
        tokio::select! {
            biased;
            () = now.cancelled() => {}
            () = self.server_exited.cancelled() => {}
            () = sleep(limit) => {}
        }
    }

    /// Resolves once the listener is closed, and there was no request in flight and no traffic for [`IDLE_LIMIT`]. Never
    /// resolves if requests are not counted, or if the connections are not ours to abort.
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

    /// A listener of ours is closed.
    pub(crate) fn close_listener(&self) {
        if self.listeners.close() {
            self.listener_closed.cancel();
        }
    }

    /// Whether there is a server to drain.
    pub(crate) fn has_server(&self) -> bool {
        self.is_counted.load(Ordering::Acquire) || self.listeners.exist()
    }

    /// Requests are counted from now on: by the layer, or by guards.
    pub(crate) fn set_counted(&self) {
        self.is_counted.store(true, Ordering::Release);
    }

    /// Whether the warning about a missing address has yet to be logged.
    pub(crate) fn is_first_warning(&self) -> bool {
        !self.has_warned.swap(true, Ordering::Relaxed)
    }

    /// Resolves when the server should stop accepting, and has accepted its backlog.
    pub(crate) async fn signal(&self) {
        self.begun.cancelled().await;
        if self.listeners.exist() {
            tokio::select! {
                () = self.listener_closed.cancelled() => {}
                () = self.aborted.cancelled() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drain::in_flight::InFlightGuard;
    use tokio::time::Instant;

    const MS: Duration = Duration::from_millis(1);
    const TIMEOUTS: DrainTimeouts = DrainTimeouts {
        deregistration_delay: Duration::from_millis(100),
        drain: Duration::from_secs(30),
    };

    /// A drain with a listener that closes at once, and with requests that are counted.
    fn draining() -> (Arc<Drain>, Instant) {
        let drain = Arc::new(Drain::default());
        drain.listeners.add();
        drain.set_counted();
        let (listener, run) = (drain.clone(), drain.clone());
        tokio::spawn(async move {
            listener.begun.cancelled().await;
            listener.close_listener();
        });
        tokio::spawn(async move { run.run(TIMEOUTS, &CancellationToken::new()).await });
        (drain, Instant::now() + TIMEOUTS.deregistration_delay)
    }

    #[tokio::test(start_paused = true)]
    async fn connections_are_aborted_once_nothing_is_in_flight_or_moves() {
        let (drain, begun) = draining();
        drain.aborted.cancelled().await;
        let took = begun.elapsed();
        assert!(took >= IDLE_LIMIT && took <= 2000 * MS, "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_flight_or_traffic_keeps_connections_open() {
        let (drain, begun) = draining();
        let guard = InFlightGuard::new(drain.in_flight.clone());
        sleep(10_000 * MS).await;
        drop(guard);
        for _ in 0..10 {
            sleep(1000 * MS).await;
            assert!(!drain.is_aborted());
            drain.on_traffic();
        }
        let quiet = Instant::now();
        drain.aborted.cancelled().await;
        let took = quiet.elapsed();
        assert!(took >= IDLE_LIMIT && took <= 2000 * MS, "{took:?}");
        assert!(begun.elapsed() < TIMEOUTS.drain);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_count_or_a_listener_the_drain_timeout_decides() {
        for (counted, listener) in [(false, true), (true, false)] {
            let drain = Arc::new(Drain::default());
            if counted {
                drain.set_counted();
            }
            if listener {
                drain.listeners.add();
                drain.close_listener();
            }
            let start = Instant::now();
            drain.run(TIMEOUTS, &CancellationToken::new()).await;
            let whole = TIMEOUTS.deregistration_delay + TIMEOUTS.drain + LAST_ANSWERS;
            assert!(start.elapsed() >= whole, "{:?}", start.elapsed());
            assert!(drain.is_aborted());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_drain_signal_waits_until_every_listener_is_closed() {
        let drain = Drain::default();
        drain.listeners.add();
        drain.listeners.add();
        drain.begin();
        drain.close_listener();
        let signal = drain.signal();
        assert!(timeout(1000 * MS, signal).await.is_err());
        drain.close_listener();
        timeout(1000 * MS, drain.signal()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_returns_or_a_second_token_skips_the_waits() {
        for returns in [true, false] {
            let (drain, now) = (Drain::default(), CancellationToken::new());
            match returns {
                true => drain.server_exited.cancel(),
                false => now.cancel(),
            }
            let start = Instant::now();
            drain.run(TIMEOUTS, &now).await;
            assert!(start.elapsed() <= LAST_ANSWERS, "{:?}", start.elapsed());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn any_duration_is_a_limit_of_the_drain() {
        let timeouts = DrainTimeouts {
            deregistration_delay: Duration::ZERO,
            drain: Duration::MAX,
        };
        let (drain, now) = (Arc::new(Drain::default()), CancellationToken::new());
        let (run, token) = (drain.clone(), now.clone());
        let run = tokio::spawn(async move { run.run(timeouts, &token).await });
        sleep(1_000_000_000 * MS).await;
        assert!(drain.is_begun() && !drain.is_aborted());
        now.cancel();
        run.await.unwrap();
    }
}
