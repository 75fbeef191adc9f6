//! [`Changes`]: what happened to a set of instances, one thing after the other.

use crate::Instance;
use crate::isolated::isolated;
use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use tokio_stream::Stream;
use tokio_util::sync::DropGuard;

/// What happened to one key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// An instance appeared, or what is known about it changed.
    #[non_exhaustive]
    Insert {
        /// Its key in etcd, which is what tells it from others.
        key: Arc<str>,
        /// As it is now.
        instance: Arc<Instance>,
    },
    /// The instance is gone.
    #[non_exhaustive]
    Remove {
        /// Its key in etcd.
        key: Arc<str>,
    },
}

/// A stream of [`Change`]s, beginning with an [`Insert`](Change::Insert) for each instance there is.
///
/// However slowly it is read, nothing is lost and no more is kept than the set is large: of several
/// changes of one key only the last is given. It never ends; dropping it is all there is to do.
#[derive(Debug)]
pub struct Changes {
    pending: Arc<Pending>,
    _guard: Arc<DropGuard>,
}

/// The changes that one reader has not read yet.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// The last state of each key that changed; `None`: gone.
    latest: BTreeMap<Arc<str>, Option<Arc<Instance>>>,
    order: VecDeque<Arc<str>>,
    waker: Option<Waker>,
}

// === impl Change ===

impl Change {
    /// An instance that appeared under `key`, or what is known about it now.
    #[must_use]
    pub fn insert(key: impl Into<Arc<str>>, instance: impl Into<Arc<Instance>>) -> Self {
        Self::Insert {
            key: key.into(),
            instance: instance.into(),
        }
    }

    /// The instance under `key` is gone.
    #[must_use]
    pub fn remove(key: impl Into<Arc<str>>) -> Self {
        Self::Remove { key: key.into() }
    }
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

impl Stream for Changes {
    type Item = Change;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Change>> {
        self.pending.poll(cx).map(Some)
    }
}

// === impl Pending ===

impl Pending {
    /// A key changed; `None`: it is gone.
    pub(super) fn push(&self, key: &Arc<str>, instance: Option<Arc<Instance>>) {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if inner.latest.insert(key.clone(), instance).is_none() {
            inner.order.push_back(key.clone());
        }
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            isolated(|| waker.wake());
        }
    }

    fn poll(&self, cx: &mut Context<'_>) -> Poll<Change> {
        let mut inner = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let next = inner.order.pop_front();
        let Some((key, instance)) = next.and_then(|key| inner.latest.remove_entry(&key)) else {
            inner.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        Poll::Ready(match instance {
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
        let instance = |version: &str| Arc::new(Instance::new("greeter").id("i").version(version));
        pending.push(&a, Some(instance("1")));
        pending.push(&b, Some(instance("1")));
        pending.push(&a, None);
        pending.push(&b, Some(instance("2")));
        assert_eq!(next(&pending), Some(Change::Remove { key: a.clone() }));
        let instance = instance("2");
        assert_eq!(next(&pending), Some(Change::Insert { key: b, instance }));
        assert_eq!(next(&pending), None);
        pending.push(&a, None);
        assert_eq!(next(&pending), Some(Change::Remove { key: a }));
    }
}
