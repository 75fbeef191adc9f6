//! [`Port`]: accepts on one listener, and pauses when that fails.
//!
//! At the limit of file descriptors `accept` fails at once, again and again: a server that tries again at once uses a whole
//! core, at the cost of its calls.

use super::listener::{Accept, Listener};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Sleep, sleep};
use tokio_stream::Stream;

/// See the [module](self).
pub(super) struct Port<L: Listener> {
    accepted: <L as Accept>::Accepted,
    failures: Failures,
    /// The pause after a failure.
    pause: Option<Pin<Box<Sleep>>>,
}

/// The failures since the last connection was accepted.
#[derive(Debug, Default)]
struct Failures {
    of_connections: u32,
    pauses: u32,
}

const FIRST_PAUSE: Duration = Duration::from_millis(5);
const MAX_PAUSE: Duration = Duration::from_secs(1);
/// After this number of failed connections in a row, the listener has failed.
const MAX_OF_CONNECTIONS: u32 = 100;

// === impl Port ===

impl<L: Listener> Port<L> {
    pub(super) fn new(listener: L) -> Self {
        Self {
            accepted: listener.accepted(),
            failures: Failures::default(),
            pause: None,
        }
    }

    pub(super) fn map(mut self, change: impl FnOnce(L::Accepted) -> L::Accepted) -> Self {
        self.accepted = change(self.accepted);
        self
    }

    /// The next connection. An error begins a pause. While the server stops there are no pauses: nothing is accepted after
    /// an error.
    ///
    /// Cancel safe: the pause is kept in `self`.
    pub(super) fn poll_accept(
        &mut self,
        cx: &mut Context<'_>,
        stops: bool,
    ) -> Poll<io::Result<L::Io>> {
        if let (Some(pause), false) = (&mut self.pause, stops) {
            if pause.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.pause = None;
        }
        loop {
            match Pin::new(&mut self.accepted).poll_next(cx) {
                Poll::Ready(Some(Ok(io))) => {
                    self.failures = Failures::default();
                    return Poll::Ready(Ok(io));
                }
                Poll::Ready(Some(Err(error))) => {
                    if let Some(pause) = self.failures.pause_after(&error) {
                        self.pause = Some(Box::pin(sleep(pause)));
                        return Poll::Ready(Err(error));
                    }
                }
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}

// === impl Failures ===

impl Failures {
    /// How long to wait before the next try. `None`: no wait.
    fn pause_after(&mut self, error: &io::Error) -> Option<Duration> {
        if is_of_connection(error) && self.of_connections < MAX_OF_CONNECTIONS {
            self.of_connections += 1;
            return None;
        }
        let doubled = FIRST_PAUSE * 2u32.saturating_pow(self.pauses.min(16));
        self.pauses += 1;
        Some(doubled.min(MAX_PAUSE))
    }
}

/// Whether the error concerns one connection, which `accept` has taken from the backlog, and not the listener. Linux also
/// returns errors that the connection had on the network (accept(2)).
fn is_of_connection(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    let kind = matches!(
        error.kind(),
        Kind::ConnectionAborted
            | Kind::ConnectionRefused
            | Kind::ConnectionReset
            | Kind::BrokenPipe
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::NetworkDown
            | Kind::TimedOut
            | Kind::Interrupted
    );
    kind || is_of_connection_on_linux(error)
}

/// Errors without an [`io::ErrorKind`].
#[cfg(target_os = "linux")]
fn is_of_connection_on_linux(error: &io::Error) -> bool {
    use rustix::io::Errno;
    matches!(
        Errno::from_io_error(error),
        Some(Errno::PROTO | Errno::NOPROTOOPT | Errno::OPNOTSUPP | Errno::HOSTDOWN | Errno::NONET)
    )
}

#[cfg(not(target_os = "linux"))]
fn is_of_connection_on_linux(_: &io::Error) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn pauses_grow_to_a_second_while_nothing_is_accepted() {
        let mut failures = Failures::default();
        let error = io::Error::other("Too many open files");
        let pauses = (0..10).map(|_| failures.pause_after(&error).unwrap());
        let expected = [5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000];
        assert!(pauses.eq(expected.map(|ms| ms * MS)));
        failures.pauses = u32::MAX - 1;
        assert_eq!(failures.pause_after(&error), Some(MAX_PAUSE));
    }

    #[test]
    fn a_connection_that_failed_costs_no_pause_and_a_hundred_do() {
        let mut failures = Failures::default();
        let aborted = || io::Error::from(io::ErrorKind::ConnectionAborted);
        for _ in 0..MAX_OF_CONNECTIONS {
            assert_eq!(failures.pause_after(&aborted()), None);
        }
        assert_eq!(failures.pause_after(&aborted()), Some(FIRST_PAUSE));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn each_error_of_accept_is_of_a_connection_or_of_the_listener() {
        use rustix::io::Errno;
        for errno in [
            Errno::CONNABORTED,
            Errno::PROTO,
            Errno::NETDOWN,
            Errno::NOPROTOOPT,
            Errno::HOSTDOWN,
            Errno::NONET,
            Errno::HOSTUNREACH,
            Errno::OPNOTSUPP,
            Errno::NETUNREACH,
            Errno::INTR,
        ] {
            assert!(is_of_connection(&errno.into()), "{errno:?}");
        }
        // A security module may deny every accept, without taking the connection from the backlog.
        for errno in [
            Errno::MFILE,
            Errno::NFILE,
            Errno::NOBUFS,
            Errno::NOMEM,
            Errno::PERM,
            Errno::ACCESS,
            Errno::INVAL,
            Errno::BADF,
        ] {
            assert!(!is_of_connection(&errno.into()), "{errno:?}");
        }
    }
}
