//! [`Entry`]: one registration, and its desired keys.

use super::draft::{Draft, Moved};
use super::ids::{EntryId, Key};
use super::reconciler::Desired;
use super::shown::shown;
use crate::address::Address;
use crate::error::Stopped;
use crate::registrar::lifecycle::Lifecycle;
use crate::runtime::lock::Lock;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, MutexGuard};

#[cfg(feature = "introspection")]
use crate::instance::Instance;

/// One registration: one server under one or more service names.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    pub(crate) lifecycle: Arc<Lifecycle>,
    /// Observers were called with its first status.
    observed: AtomicBool,
    /// Its keys and values are being made.
    rendering: AtomicBool,
    spec: Lock<Spec>,
}

#[derive(Debug)]
struct Spec {
    draft: Arc<Draft>,
    listener: Option<SocketAddr>,
    /// The IP addresses that the user gave, as far as they were on an interface of this machine.
    local: Vec<IpAddr>,
    leaving: bool,
    /// The reason of each pause.
    pauses: Vec<Arc<str>>,
    /// Those that were in etcd last.
    keys: Arc<[Key]>,
}

// === impl Entry ===

impl Entry {
    pub(super) fn new(id: EntryId, lifecycle: Lifecycle, draft: Draft) -> Self {
        Self {
            id,
            lifecycle: Arc::new(lifecycle),
            observed: AtomicBool::new(false),
            rendering: AtomicBool::new(false),
            spec: Lock::new(Spec {
                draft: Arc::new(draft),
                listener: None,
                local: vec![],
                leaving: false,
                pauses: vec![],
                keys: Arc::default(),
            }),
        }
    }

    pub(crate) fn draft(&self) -> Arc<Draft> {
        self.spec().draft.clone()
    }

    /// Replaces the draft, if it is still `before`.
    pub(super) fn swap(&self, before: &Arc<Draft>, next: &Arc<Draft>) -> bool {
        let mut spec = self.spec();
        let is_same = Arc::ptr_eq(&spec.draft, before);
        if is_same {
            spec.draft = next.clone();
        }
        is_same
    }

    /// Whether observers have yet to be called with its first status. The caller calls them.
    pub(super) fn begin_observation(&self) -> bool {
        !self.observed.swap(true, Ordering::Relaxed)
    }

    /// Whether its keys and values are to be made by the caller. Afterwards call [`end_rendering`](Self::end_rendering).
    pub(super) fn begin_rendering(&self) -> bool {
        !self.rendering.swap(true, Ordering::Acquire)
    }

    pub(super) fn end_rendering(&self) {
        self.rendering.store(false, Ordering::Release);
    }

    /// The address of its first TCP listener: the address to advertise.
    pub(crate) fn listener(&self) -> Option<SocketAddr> {
        self.spec().listener
    }

    pub(super) fn set_listener(&self, listener: Option<SocketAddr>) {
        self.spec().listener = listener;
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.spec().leaving
    }

    /// Withholds its keys until [`resume`](Self::resume) is called with this very reason.
    pub(super) fn pause(&self, reason: Arc<str>) -> Result<(), Stopped> {
        let mut spec = self.spec();
        if spec.leaving || self.lifecycle.is_leaving() {
            return Err(Stopped);
        }
        spec.pauses.push(reason);
        Ok(())
    }

    pub(super) fn resume(&self, reason: &Arc<str>) {
        self.spec().pauses.retain(|of| !Arc::ptr_eq(of, reason));
    }

    pub(super) fn leave(&self) {
        self.spec().leaving = true;
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let draft = self.draft();
        let names = draft.instances.iter().map(|it| it.instance.name.clone());
        names.collect()
    }

    /// Its services, for a log line.
    pub(super) fn service(&self) -> String {
        let names = self.names();
        shown(names.first(), names.len())
    }

    pub(crate) fn pauses(&self) -> Vec<Arc<str>> {
        self.spec().pauses.clone()
    }

    /// The keys that were in etcd last, if any were.
    pub(crate) fn keys(&self) -> Arc<[Key]> {
        self.spec().keys.clone()
    }

    pub(super) fn set_keys(&self, keys: &Arc<[Key]>) {
        self.spec().keys = keys.clone();
    }

    /// The result of `look` for each instance and its address, as far as that is known.
    #[cfg(feature = "introspection")]
    pub(crate) fn map_instances<T>(
        &self,
        mut look: impl FnMut(&Instance, Option<&Address>) -> T,
    ) -> Vec<T> {
        let draft = self.draft();
        let looked = draft.addressed().map(|(it, address)| look(it, address));
        looked.collect()
    }

    /// Sets the address that others can dial: the best of our addresses `ips`. Returns it if it replaces an address that
    /// is gone.
    pub(super) fn resolve(&self, ips: &[IpAddr]) -> Option<Moved> {
        let mut spec = self.spec();
        let (next, moved) = spec.draft.resolved(ips);
        spec.draft = Arc::new(next);
        moved
    }

    /// Notes whether the address that was found is still one of ours, which are `ips`. Returns whether the worker has to
    /// know: it is not, or it is again.
    pub(super) fn check_found(&self, ips: &[IpAddr]) -> bool {
        let mut spec = self.spec();
        let Some(next) = spec.draft.checked(ips) else {
            return spec.draft.needs_local_ip();
        };
        spec.draft = Arc::new(next);
        true
    }

    /// The addresses that the user gave, that were ours before and are not now, each once.
    pub(super) fn check_given(&self, ips: &[IpAddr]) -> Vec<Address> {
        let mut spec = self.spec();
        let given = spec.draft.given().cloned();
        let (ours, others): (Vec<_>, Vec<_>) = given.partition(|it| it.is_one_of(ips));
        let before = std::mem::take(&mut spec.local);
        spec.local = ours.iter().filter_map(Address::ip).collect();
        let is_gone = |address: &Address| address.is_one_of(&before);
        others.into_iter().filter(is_gone).collect()
    }

    /// Its desired state; keys only under a lease. `pause` is the reason of a pause of all entries.
    pub(super) fn desired(&self, lease: Option<i64>, pause: Option<Arc<str>>) -> Desired {
        let spec = self.spec();
        let draft = spec.draft.clone();
        if spec.leaving {
            let now = self.lifecycle.shutdown_now().is_cancelled();
            return Desired::Gone { now };
        }
        if pause.is_some() || !spec.pauses.is_empty() {
            return Desired::Paused {
                reasons: spec.pauses.iter().cloned().chain(pause).collect(),
                needs_local_ip: draft.needs_local_ip(),
            };
        }
        drop(spec);
        let lease = lease.filter(|_| !draft.needs_local_ip());
        match lease.and_then(|lease| draft.records(lease)) {
            Some(records) => Desired::Keys(records),
            None if lease.is_some() && draft.has_failed() => {
                Desired::Failed("internal error: a format panicked".into())
            }
            None => Desired::Waiting {
                needs_local_ip: draft.needs_local_ip(),
            },
        }
    }

    fn spec(&self) -> MutexGuard<'_, Spec> {
        self.spec.lock()
    }
}
