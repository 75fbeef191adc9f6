//! [`Entry`]: one registration, and its desired keys.

use super::ids::{EntryId, Key};
use super::reconciler::Desired;
use super::shown::shown;
use crate::address::{Address, Bound};
use crate::error::{RegisterError, Stopped};
use crate::format::{Formats, KeyContext};
use crate::instance::Instance;
use crate::lifecycle::Lifecycle;
use crate::lock::Lock;
use std::net::IpAddr;
use std::sync::{Arc, MutexGuard, Once};

/// One registration: one server under one or more service names.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    pub(crate) lifecycle: Arc<Lifecycle>,
    /// Observers were called with its first status.
    pub(super) announced: Once,
    spec: Lock<Spec>,
}

/// An instance, with its explicit address if it has one.
pub(super) type Addressed = (Instance, Option<Address>);

#[derive(Debug)]
struct Spec {
    instances: Vec<Addressed>,
    bound: Option<Bound>,
    /// Our address that was found for a listener bound to no particular one.
    found: Option<Found>,
    /// The IP addresses that the user gave, as far as they were on an interface of this machine.
    local: Vec<IpAddr>,
    armed: bool,
    leaving: bool,
    /// The reason of each pause.
    pauses: Vec<Arc<str>>,
    /// Those that were in etcd last.
    keys: Arc<[Key]>,
}

#[derive(Debug)]
struct Found {
    address: Address,
    /// It is on no interface any more.
    is_gone: bool,
}

/// An address of this machine that was replaced by another one.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) from: Address,
    pub(super) to: Address,
}

// === impl Entry ===

impl Entry {
    pub(super) fn new(id: EntryId, lifecycle: Lifecycle, instances: Vec<Addressed>) -> Self {
        Self {
            id,
            lifecycle: Arc::new(lifecycle),
            announced: Once::new(),
            spec: Lock::new(Spec {
                instances,
                bound: None,
                found: None,
                local: vec![],
                armed: false,
                leaving: false,
                pauses: vec![],
                keys: Arc::default(),
            }),
        }
    }

    /// Whether every instance has an explicit address.
    pub(crate) fn is_explicit(&self) -> bool {
        let spec = self.spec();
        spec.instances.iter().all(|(_, address)| address.is_some())
    }

    /// Whether any of its keys may have been written.
    pub(crate) fn is_armed(&self) -> bool {
        self.spec().armed
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.spec().leaving
    }

    /// Its server accepts connections, at `bound` if that is known.
    pub(super) fn arm(&self, bound: Option<Bound>) {
        let mut spec = self.spec();
        if bound.is_some() && bound != spec.bound {
            (spec.bound, spec.found) = (bound, None);
        }
        spec.armed = true;
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

    /// Replaces each instance by what `change` makes of it. An error changes nothing.
    pub(super) fn update(
        &self,
        mut change: impl FnMut(&Instance) -> Result<Instance, RegisterError>,
    ) -> Result<(), RegisterError> {
        let mut spec = self.spec();
        if spec.leaving {
            return Err(Stopped.into());
        }
        let instances = spec.instances.iter();
        let next = instances.map(|(instance, address)| Ok((change(instance)?, address.clone())));
        let mut next = next.collect::<Result<Vec<_>, RegisterError>>()?;
        next.shrink_to_fit();
        spec.instances = next;
        Ok(())
    }

    pub(crate) fn names(&self) -> Vec<String> {
        let spec = self.spec();
        let names = spec.instances.iter().map(|(it, _)| it.name.clone());
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
        let spec = self.spec();
        let bound = spec.exact();
        let instances = spec.instances.iter();
        let looked =
            instances.map(|(instance, explicit)| look(instance, explicit.as_ref().or(bound)));
        looked.collect()
    }

    pub(super) fn for_each(&self, look: impl FnMut(&Addressed)) {
        self.spec().instances.iter().for_each(look);
    }

    pub(super) fn try_for_each(
        &self,
        look: impl FnMut(&Addressed) -> Result<(), RegisterError>,
    ) -> Result<(), RegisterError> {
        self.spec().instances.iter().try_for_each(look)
    }

    pub(super) fn needs_local_ip(&self) -> bool {
        self.spec().needs_local_ip()
    }

    /// Sets the address that others can dial: the best of our addresses `ips`. Returns it if it replaces an address that
    /// is gone.
    pub(super) fn resolve(&self, ips: &[IpAddr]) -> Option<Moved> {
        let mut spec = self.spec();
        let Spec { bound, found, .. } = &mut *spec;
        let bound = bound.as_ref()?;
        let Some(last) = found else {
            let address = bound.resolve(ips);
            *found = Some(Found {
                address,
                is_gone: false,
            });
            return None;
        };
        last.is_gone = false;
        // Without an address that others can dial, the machine is being set up: the next connection checks again.
        if !ips.iter().any(|ip| bound.serves(ip)) || last.is_usable(bound, ips) {
            return None;
        }
        let to = bound.resolve(ips);
        let from = std::mem::replace(&mut last.address, to.clone());
        Some(Moved { from, to })
    }

    /// Whether it has an address that the machine may lose.
    pub(super) fn depends_on_interfaces(&self) -> bool {
        let spec = self.spec();
        let may_go = |address: &Address| address.ip().is_some() && !address.is_loopback();
        spec.found.is_some() || spec.given().any(may_go)
    }

    /// Notes whether the address that was found is still one of ours, which are `ips`. Returns whether it is not.
    pub(super) fn check_found(&self, ips: &[IpAddr]) -> bool {
        let mut spec = self.spec();
        let Spec { bound, found, .. } = &mut *spec;
        let (Some(bound), Some(found)) = (bound, found) else {
            return false;
        };
        found.is_gone = !found.is_usable(bound, ips);
        found.is_gone
    }

    /// The addresses that the user gave, that were ours before and are not now, each once.
    pub(super) fn check_given(&self, ips: &[IpAddr]) -> Vec<Address> {
        let mut spec = self.spec();
        let given = spec.given().cloned();
        let (ours, others): (Vec<_>, Vec<_>) = given.partition(|it| it.is_one_of(ips));
        let before = std::mem::take(&mut spec.local);
        spec.local = ours.iter().filter_map(Address::ip).collect();
        let is_gone = |address: &Address| address.is_one_of(&before);
        others.into_iter().filter(is_gone).collect()
    }

    /// Its desired state; keys only if there is a lease to make them for.
    ///
    /// `not_ready` withholds them as a pause does.
    pub(super) fn desired(
        &self,
        formats: &Formats,
        lease: Option<i64>,
        not_ready: Option<Arc<str>>,
    ) -> Desired {
        let spec = self.spec();
        if spec.leaving {
            let now = self.lifecycle.shutdown_now().is_cancelled();
            return Desired::Gone { now };
        }
        if not_ready.is_some() || !spec.pauses.is_empty() {
            return Desired::Paused {
                reasons: spec.pauses.iter().cloned().chain(not_ready).collect(),
                needs_local_ip: spec.needs_local_ip(),
            };
        }
        let lease = lease.filter(|_| !spec.needs_local_ip());
        match lease.and_then(|lease| spec.records(formats, lease)) {
            Some(records) => Desired::Keys(records),
            None => Desired::Waiting {
                needs_local_ip: spec.needs_local_ip(),
            },
        }
    }

    fn spec(&self) -> MutexGuard<'_, Spec> {
        self.spec.lock()
    }
}

// === impl Found ===

impl Found {
    /// Whether it is one of our addresses `ips`. The loopback address serves only until there is another one.
    fn is_usable(&self, bound: &Bound, ips: &[IpAddr]) -> bool {
        let is_last_resort = self.address.is_loopback() && ips.iter().any(|ip| bound.serves(ip));
        self.address.is_one_of(ips) && !is_last_resort
    }
}

// === impl Spec ===

impl Spec {
    /// Whether the address to advertise has yet to be found, for the first time or again.
    fn needs_local_ip(&self) -> bool {
        self.armed
            && matches!(self.bound, Some(Bound::Any { .. }))
            && self.found.as_ref().is_none_or(|found| found.is_gone)
            && self.instances.iter().any(|(_, address)| address.is_none())
    }

    /// The address it is bound to, or that was found for it.
    fn exact(&self) -> Option<&Address> {
        match &self.bound {
            Some(Bound::Exact(address)) => Some(address),
            _ => self.found.as_ref().map(|found| &found.address),
        }
    }

    /// The addresses that the user gave: to instances, or to the listener.
    fn given(&self) -> impl Iterator<Item = &Address> {
        let explicit = self.instances.iter().map(|(_, address)| address.as_ref());
        let is_bound = self.instances.iter().any(|(_, address)| address.is_none());
        let bound = match &self.bound {
            Some(Bound::Exact(address)) if is_bound => Some(address),
            _ => None,
        };
        explicit.flatten().chain(bound)
    }

    /// Keys and values, once they are to be written and every address is known.
    fn records(&self, formats: &Formats, lease: i64) -> Option<Vec<(Key, Arc<str>)>> {
        if !self.armed {
            return None;
        }
        let bound = self.exact();
        let mut records = vec![];
        for (instance, explicit) in &self.instances {
            let address = explicit.as_ref().or(bound)?;
            let context = KeyContext::new(instance, address, lease);
            records.extend(formats.records(&context, address));
        }
        Some(records)
    }
}
