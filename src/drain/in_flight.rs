//! [`InFlight`]: counts the requests in flight, and ends them at the drain deadline.

use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Each request in flight owns a clone: the number of owners is the count.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    ended: AtomicBool,
    ending: Arc<Notify>,
}

pin_project! {
    /// A request in flight: it is counted until this is dropped. [`cancelled`](Self::cancelled) resolves when it has to end.
    ///
    /// [`Registration::in_flight_guard`](crate::Registration::in_flight_guard) returns one for a request that does not go
    /// through the [layer](crate::RegistrationLayer).
    // To wait for the end takes a lock. Only a request that is pending anyway does it.
    #[derive(Debug)]
    #[must_use = "the request is counted until this is dropped"]
    pub struct InFlightGuard {
        // `None`: not counted, or moved to another guard.
        in_flight: Option<Arc<InFlight>>,
        #[pin]
        ending: Option<OwnedNotified>,
    }
}

// === impl InFlight ===

impl InFlight {
    /// The number of requests in flight. The caller owns one of the clones.
    pub(crate) fn count(self: &Arc<Self>) -> usize {
        Arc::strong_count(self).saturating_sub(1)
    }

    /// Ends the requests in flight, and all later ones.
    pub(crate) fn end(&self) {
        self.ended.store(true, Ordering::Release);
        self.ending.notify_waiters();
    }

    fn is_ended(&self) -> bool {
        self.ended.load(Ordering::Acquire)
    }
}

// === impl InFlightGuard ===

impl InFlightGuard {
    #[inline]
    pub(crate) fn new(in_flight: Arc<InFlight>) -> Self {
        Self {
            in_flight: Some(in_flight),
            ending: None,
        }
    }

    /// A guard that does not count.
    pub(crate) fn uncounted() -> Self {
        Self {
            in_flight: None,
            ending: None,
        }
    }

    /// Resolves when the request has to end: at the drain deadline, or when the waits are skipped. Connections are aborted
    /// 250 ms later. Cancel safe.
    pub async fn cancelled(&self) {
        let Some(in_flight) = &self.in_flight else {
            return std::future::pending().await;
        };
        // Made before the flag is read, so that no change of the flag is missed.
        let ending = in_flight.ending.notified();
        if !in_flight.is_ended() {
            ending.await;
        }
    }

    /// Moves the guard from the future of a request to its body, so that the request is counted once.
    #[inline]
    pub(crate) fn take(self: Pin<&mut Self>) -> Self {
        Self {
            in_flight: self.project().in_flight.take(),
            ending: None,
        }
    }

    /// Whether the request has to end.
    pub(crate) fn is_ended(&self) -> bool {
        self.in_flight.as_ref().is_some_and(|all| all.is_ended())
    }

    /// Resolves when the request has to end.
    pub(crate) fn poll_ended(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let mut this = self.project();
        let Some(in_flight) = this.in_flight else {
            return Poll::Pending;
        };
        if this.ending.is_none() {
            // Made before the flag is read, so that no change of the flag is missed.
            this.ending
                .set(Some(in_flight.ending.clone().notified_owned()));
        }
        if in_flight.is_ended() {
            return Poll::Ready(());
        }
        match this.ending.as_pin_mut() {
            Some(ending) => ending.poll(cx),
            None => Poll::Pending,
        }
    }
}
