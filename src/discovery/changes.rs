//! [`Changes`]: a stream of the changes of a set of instances.

use crate::change::Change;
use crate::instance::Instance;
use crate::runtime::lock::Lock;
use std::collections::BTreeMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use tokio_stream::Stream;
use tokio_util::sync::DropGuard;

/// A stream of [`Change`]s, beginning with an [`Insert`](Change::Insert) for each current instance.
///
/// A slow reader misses no final state. Of several unread changes of one key only the last one is returned, and an
/// instance that came and went unread is left out. So the memory is bounded by the size of the set. The stream
/// never ends; drop it to stop.
pub struct Changes {
    pending: Arc<Pending>,
    _guard: Arc<DropGuard>,
}

/// The changes that one reader has not read yet.
#[derive(Debug, Default)]
pub(super) struct Pending(Lock<Inner>);

#[derive(Debug, Default)]
struct Inner {
    latest: BTreeMap<Arc<str>, Latest>,
    /// The keys by consecutive numbers, in the order of their first unread change.
    order: BTreeMap<u64, Arc<str>>,
    next: u64,
    waker: Option<Waker>,
}

/// The last state of a key that changed.
#[derive(Debug)]
struct Latest {
    /// `None`: gone.
    instance: Option<Arc<Instance>>,
    /// The reader has not read any change of the key.
    is_new: bool,
    number: u64,
}

// === impl Changes ===

impl Changes {
    pub(super) fn new(pending: Arc<Pending>, guard: Arc<DropGuard>) -> Self {
        Self {
            pending,
            _guard: guard,
        }
    }
}

impl fmt::Debug for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Changes")
            .field("unread", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl Stream for Changes {
    type Item = Change;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Change>> {
        self.pending.poll(cx).map(Some)
    }
}

// === impl Pending ===

impl Pending {
    fn len(&self) -> usize {
        self.0.lock().latest.len()
    }

    /// A key changed; `None`: it is gone. `is_new`: there was no instance under it before. Returns the waker of the
    /// reader, to be woken without a lock: an executor may run the reader in it.
    pub(super) fn push(
        &self,
        key: &Arc<str>,
        instance: Option<Arc<Instance>>,
        is_new: bool,
    ) -> Option<Waker> {
        let mut inner = self.0.lock();
        match inner.latest.get_mut(key) {
            // An instance that came and went unread is forgotten: otherwise different keys would add up.
            Some(latest) if latest.is_new && instance.is_none() => {
                let number = latest.number;
                inner.order.remove(&number);
                inner.latest.remove(key);
                return None;
            }
            Some(latest) => latest.instance = instance,
            None => {
                let number = inner.next;
                inner.next += 1;
                inner.order.insert(number, key.clone());
                let latest = Latest {
                    instance,
                    is_new,
                    number,
                };
                inner.latest.insert(key.clone(), latest);
            }
        }
        inner.waker.take()
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Change> {
        let waker = cx.waker().clone();
        let mut inner = self.0.lock();
        let next = inner.order.pop_first();
        let Some((key, latest)) = next.and_then(|(_, key)| inner.latest.remove_entry(&key)) else {
            let before = inner.waker.replace(waker);
            drop(inner);
            drop(before);
            return Poll::Pending;
        };
        drop(inner);
        Poll::Ready(match latest.instance {
            Some(instance) => Change::Insert { key, instance },
            None => Change::Remove { key },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(pending: &Pending) -> Option<Change> {
        match pending.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(change) => Some(change),
            Poll::Pending => None,
        }
    }

    #[test]
    fn a_slow_reader_gets_the_last_state_of_each_key_once() {
        let pending = Pending::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        let instance =
            |version: &str| Arc::new(Instance::new("greeter").with_id("i").with_version(version));
        pending.push(&a, Some(instance("1")), false);
        pending.push(&b, Some(instance("1")), true);
        pending.push(&a, None, false);
        pending.push(&b, Some(instance("2")), false);
        assert_eq!(next(&pending), Some(Change::Remove { key: a.clone() }));
        let instance = instance("2");
        assert_eq!(next(&pending), Some(Change::Insert { key: b, instance }));
        assert_eq!(next(&pending), None);
        pending.push(&a, None, false);
        assert_eq!(next(&pending), Some(Change::Remove { key: a }));
    }

    #[test]
    fn instances_that_come_and_go_unread_do_not_add_up() {
        let pending = Pending::default();
        let instance =
            |version: &str| Some(Arc::new(Instance::new("greeter").with_version(version)));
        let stays: Arc<str> = "stays".into();
        pending.push(&stays, instance("1"), true);
        for n in 0..10_000 {
            let key: Arc<str> = format!("{n}").into();
            pending.push(&key, instance("1"), true);
            pending.push(&key, instance("2"), false);
            pending.push(&key, None, false);
        }
        {
            let inner = pending.0.lock();
            assert_eq!((inner.latest.len(), inner.order.len()), (1, 1));
        }
        assert!(matches!(next(&pending), Some(Change::Insert { key, .. }) if key == stays));
        // The reader has read its insert, so it also gets the removal.
        pending.push(&stays, None, false);
        pending.push(&stays, instance("2"), true);
        pending.push(&stays, None, false);
        assert_eq!(next(&pending), Some(Change::Remove { key: stays }));
        assert_eq!(next(&pending), None);
    }
}
