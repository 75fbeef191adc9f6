//! [`InFlight`]: the requests in flight, counted, and how they are told to end.

use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

/// Held by every request in flight: the number of its owners is the count.
#[derive(Debug, Default)]
pub(crate) struct InFlight {
    ended: AtomicBool,
    ending: Arc<Notify>,
}

pin_project! {
    /// A request in flight: counted while this is held, and told when it has to end.
    ///
    /// [`Registration::in_flight_guard`](crate::Registration::in_flight_guard) gives one for what the
    /// [layer](crate::RegistrationLayer) does not see.
    // Waiting for the end takes a lock, so it is arranged only for a request that has to wait for
    // something else anyway: one that is answered at once never pays for it.
    #[derive(Debug)]
    #[must_use = "the request is counted until this is dropped"]
    pub struct InFlightGuard {
        // `None`: not counted, or handed on.
        in_flight: Option<Arc<InFlight>>,
        #[pin]
        ending: Option<OwnedNotified>,
    }
}

// === impl InFlight ===

impl InFlight {
    /// How many requests are in flight. Whoever asks holds one of the clones.
    pub(crate) fn count(self: &Arc<Self>) -> usize {
        Arc::strong_count(self).saturating_sub(1)
    }

    /// Tells those in flight, and those to come, to end.
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

    /// Of nothing that is counted.
    pub(crate) fn uncounted() -> Self {
        Self {
            in_flight: None,
            ending: None,
        }
    }

    /// Resolves when the request has to end: at the drain deadline, or when the waits are skipped.
    /// At once if that has passed. Connections are aborted 250 ms later. Cancel safe.
    pub async fn ended(&self) {
        let Some(in_flight) = &self.in_flight else {
            return std::future::pending().await;
        };
        // Made before the flag is read, it cannot miss that the flag is set.
        let ending = in_flight.ending.notified();
        if !in_flight.is_ended() {
            ending.await;
        }
    }

    /// Hands the request on, from its future to its body: counted once all the way.
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
            // Made before the flag is read, it cannot miss that the flag is set.
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
