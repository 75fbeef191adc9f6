//! [`KeepAlive`]: when a connection is pinged, and when it is dead; pure.
//!
//! Servers of grpc-go end a connection for its third ping in less than five minutes in which they sent neither headers nor data
//! (`too_many_pings`), and an answer to a ping is neither. So one silence has two pings. A call that begins in it is worth a
//! third one, because the peer may have stopped since. The next ones are five minutes apart. TCP's own keepalive, which no
//! HTTP/2 peer counts, continues meanwhile on the connections that the channel opens itself.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::time::Instant;

/// The interval of the pings of one channel.
#[derive(Debug)]
pub(super) struct PingInterval(AtomicU64);

/// See the [module](self).
#[derive(Debug)]
pub(super) struct KeepAlive {
    interval: Duration,
    timeout: Duration,
    /// When anything arrived.
    received: Instant,
    /// The pings since headers or data arrived.
    pings: u32,
    last_ping: Instant,
    /// A call began after the last ping.
    has_new_call: bool,
    awaits_answer: bool,
}

/// What is due at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Due {
    Ping(Instant),
    /// The peer counts as dead.
    Dead(Instant),
}

/// The pings of one silence without a new call.
const PINGS: u32 = 2;
/// grpc-go's `MinTime`.
const RARE: Duration = Duration::from_secs(5 * 60);
/// The longest interval that is learned.
const RAREST: Duration = Duration::from_secs(2 * 60 * 60);

// === impl PingInterval ===

impl PingInterval {
    pub(super) fn new(interval: Duration) -> Self {
        Self(AtomicU64::new(millis(interval)))
    }

    pub(super) fn get(&self) -> Duration {
        Duration::from_millis(self.0.load(Relaxed))
    }

    /// A peer has refused pings of this interval: gRPC requires that it is doubled (proposal A8). The complaints of several
    /// connections about the same interval count once.
    pub(super) fn too_many(&self, interval: Duration) {
        let longer = interval.saturating_mul(2).min(RAREST).max(interval);
        let (now, longer) = (millis(interval), millis(longer));
        let _changed_already = self.0.compare_exchange(now, longer, Relaxed, Relaxed);
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

// === impl KeepAlive ===

impl KeepAlive {
    pub(super) fn new(interval: Duration, timeout: Duration, now: Instant) -> Self {
        Self {
            interval,
            timeout,
            received: now,
            pings: 0,
            last_ping: now,
            has_new_call: false,
            awaits_answer: false,
        }
    }

    /// Anything arrived.
    pub(super) fn on_received(&mut self, now: Instant) {
        self.received = now;
        self.awaits_answer = false;
    }

    /// Headers or data arrived: the silence is over.
    pub(super) fn on_answer(&mut self) {
        self.pings = 0;
    }

    /// The headers of a call were sent.
    pub(super) fn on_call(&mut self) {
        self.has_new_call = true;
    }

    pub(super) fn on_ping(&mut self, now: Instant) {
        self.pings = self.pings.saturating_add(1);
        self.last_ping = now;
        self.has_new_call = false;
        self.awaits_answer = true;
    }

    /// What is due next while calls are in flight. `None`: later than the clock can represent.
    pub(super) fn due(&self) -> Option<Due> {
        if self.awaits_answer {
            return self.last_ping.checked_add(self.timeout).map(Due::Dead);
        }
        let at = self.received.checked_add(self.interval)?;
        let is_free = self.pings < PINGS || (self.pings == PINGS && self.has_new_call);
        Some(Due::Ping(match is_free {
            true => at,
            false => at.max(self.last_ping + RARE),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEC: Duration = Duration::from_secs(1);

    /// The times of pings in seconds, for a peer that answers each at once and sends nothing else.
    fn silent(alive: &mut KeepAlive, start: Instant, pings: usize) -> Vec<u64> {
        let due = |alive: &KeepAlive| match alive.due() {
            Some(Due::Ping(at)) => at,
            other => panic!("{other:?}"),
        };
        let mut times = vec![];
        for _ in 0..pings {
            let at = due(alive);
            alive.on_ping(at);
            assert_eq!(alive.due(), Some(Due::Dead(at + SEC * 3)));
            alive.on_received(at);
            times.push((at - start).as_secs());
        }
        times
    }

    #[test]
    fn a_silence_has_two_pings_a_call_in_it_one_more_and_then_few() {
        let start = Instant::now();
        let mut alive = KeepAlive::new(SEC * 10, SEC * 3, start);
        assert_eq!(silent(&mut alive, start, 4), [10, 20, 320, 620]);
        alive.on_answer();
        assert_eq!(silent(&mut alive, start, 2), [630, 640]);
        alive.on_call();
        assert_eq!(silent(&mut alive, start, 2), [650, 950]);
        alive.on_call();
        assert_eq!(silent(&mut alive, start, 1), [1250]);
    }

    #[test]
    fn an_interval_is_doubled_once_for_all_that_used_it() {
        let interval = PingInterval::new(SEC * 10);
        for _ in 0..3 {
            interval.too_many(SEC * 10);
        }
        assert_eq!(interval.get(), SEC * 20);
        for _ in 0..20 {
            interval.too_many(interval.get());
        }
        assert_eq!(interval.get(), RAREST);
        let longest = PingInterval::new(RAREST * 2);
        longest.too_many(RAREST * 2);
        assert_eq!(longest.get(), RAREST * 2);
    }
}
