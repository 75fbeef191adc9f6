//! [`Places`]: the `Watch` streams that are open at once, a limited number.
//!
//! A client that does not read must not keep another one from watching. So when all places are taken, a new stream gets the
//! place of one whose connection has had no room for a while, or else of the oldest one. What a stream keeps is dropped
//! with its place, also if its client never reads again.

use super::pb;
use crate::runtime::lock::Lock;
use futures_util::stream::{BoxStream, Stream};
use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::time::Instant;
use tonic::Status;

/// See the [module](self).
#[derive(Default)]
pub(super) struct Places(Lock<State>);

#[derive(Default)]
struct State {
    by_number: BTreeMap<u64, Slot>,
    opened: u64,
}

struct Slot {
    /// `None` only while it is polled.
    messages: Option<BoxStream<'static, pb::WatchResponse>>,
    opened: Instant,
    /// When the connection last had room for a message. A stream that waits for a change is polled a few times a second.
    /// (hyper 1.12 takes one message more than there is room for.)
    polled: Instant,
    /// Wakes the stream, so that it can end.
    waker: Option<Waker>,
}

/// A stream and its place, which is free when this is dropped.
pub(super) struct Place {
    places: Arc<Places>,
    number: u64,
    has_ended: bool,
}

/// The most `Watch` streams at once.
const MAX_WATCHES: usize = 16;
/// After so long a client that reads has read a message on any link.
const READ_WITHIN: Duration = Duration::from_secs(5);
/// Until a message waits for room, a client that does not read looks like one that has nothing to read. So the oldest stream
/// makes room, too. It may be opened again at once.
const OPEN_FOR: Duration = Duration::from_secs(60);

// === impl Places ===

impl Places {
    /// A place for a stream.
    pub(super) fn open(
        self: &Arc<Self>,
        messages: BoxStream<'static, pb::WatchResponse>,
    ) -> Result<Place, Status> {
        let now = Instant::now();
        let mut state = self.0.lock();
        let removed = match state.by_number.len() < MAX_WATCHES {
            true => None,
            false => Some(state.make_room(now).ok_or_else(|| {
                Status::resource_exhausted(format!("there are {MAX_WATCHES} watches already"))
            })?),
        };
        state.opened += 1;
        let number = state.opened;
        let slot = Slot {
            messages: Some(messages),
            opened: now,
            polled: now,
            waker: None,
        };
        state.by_number.insert(number, slot);
        drop(state);
        if let Some(waker) = removed.and_then(|slot| slot.waker) {
            waker.wake();
        }
        Ok(Place {
            places: self.clone(),
            number,
            has_ended: false,
        })
    }
}

// === impl State ===

impl State {
    /// Removes the stream that has not been read for longest, or else the oldest one.
    fn make_room(&mut self, now: Instant) -> Option<Slot> {
        let is_over = |since: Instant, limit| now.duration_since(since) >= limit;
        let slots = || self.by_number.iter();
        let unread = slots().filter(|(_, it)| is_over(it.polled, READ_WITHIN));
        let old = slots().filter(|(_, it)| is_over(it.opened, OPEN_FOR));
        let unread = unread.min_by_key(|(_, it)| it.polled);
        let (number, _) = unread.or_else(|| old.min_by_key(|(_, it)| it.opened))?;
        let number = *number;
        self.by_number.remove(&number)
    }
}

// === impl Place ===

impl Place {
    fn slot<T>(&self, change: impl FnOnce(&mut Slot) -> T) -> Option<T> {
        let mut state = self.places.0.lock();
        state.by_number.get_mut(&self.number).map(change)
    }
}

impl Stream for Place {
    type Item = Result<pb::WatchResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        let messages = self.slot(|slot| {
            slot.polled = Instant::now();
            slot.waker = Some(cx.waker().clone());
            slot.messages.take()
        });
        let Some(mut messages) = messages.flatten() else {
            self.has_ended = true;
            let reason = "another watch has this place now: watch again";
            return Poll::Ready(Some(Err(Status::unavailable(reason))));
        };
        // Not under the lock: this takes the locks of the registrars.
        let next = messages.as_mut().poll_next(cx);
        self.slot(|slot| slot.messages = Some(messages));
        next.map(|message| message.map(Ok))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let slot = self.places.0.lock().by_number.remove(&self.number);
        drop(slot);
    }
}
