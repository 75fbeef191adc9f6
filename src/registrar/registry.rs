//! [`Registry`]: the entries that should exist. Handles change it and wake the worker.

use super::draft::Draft;
use super::entry::Entry;
use super::ids::EntryId;
use super::on_conflict::OnConflict;
use super::shown::shown;
use crate::address::{AdvertisedInterface, Bound};
use crate::drain::DrainTimeouts;
use crate::error::{RegisterError, Stopped};
use crate::etcd::Endpoints;
use crate::etcd::local_addr::Interfaces;
use crate::format::Formats;
use crate::instance::Instance;
use crate::observe::lease_expiry::LeaseExpiry;
use crate::observe::observer::Observers;
use crate::observe::stats::EtcdStatsCell;
use crate::registrar::lifecycle::Lifecycle;
use crate::runtime::lock::Lock;
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

/// A checked configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) formats: Formats,
    pub(crate) members: Endpoints,
    pub(crate) advertised: Option<AdvertisedInterface>,
    pub(crate) ttl: Duration,
    pub(crate) attempt: Duration,
    pub(crate) on_conflict: OnConflict,
    pub(crate) allow_loopback: bool,
    pub(crate) interfaces: Interfaces,
    pub(crate) revoke_timeout: Duration,
    pub(crate) drain: DrainTimeouts,
    pub(crate) dedicated_thread: bool,
    pub(crate) observers: Observers,
}

/// What handles and worker share.
#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) config: Config,
    /// A child of the application's token.
    pub(crate) shutdown: CancellationToken,
    pub(crate) shutdown_now: CancellationToken,
    /// Until when the current lease certainly lives.
    pub(crate) lease_expiry: Arc<LeaseExpiry>,
    pub(crate) stats: EtcdStatsCell,
    /// Nobody can register any more.
    pub(crate) abandoned: CancellationToken,
    entries: Lock<Entries>,
    pub(super) changed: Notify,
    /// Numbers for [`Draft`]s.
    drafts: AtomicU64,
}

#[derive(Debug, Default)]
pub(super) struct Entries {
    pub(super) entries: BTreeMap<EntryId, Arc<Entry>>,
    pub(super) by_name: BTreeMap<String, Vec<EntryId>>,
    pub(super) changed: BTreeSet<EntryId>,
    next: EntryId,
    running: bool,
    stopped: bool,
    /// The reason of a pause of all entries, also of later ones.
    pause_of_all: Option<Arc<str>>,
    /// Cancelled with the last entry, or at a stop. Another entry makes another one.
    unused: CancellationToken,
    #[cfg(feature = "introspection")]
    draining: super::draining::Draining,
}

// === impl Registry ===

impl Registry {
    pub(crate) fn new(
        config: Config,
        shutdown: CancellationToken,
        shutdown_now: CancellationToken,
    ) -> Self {
        // A child of the application's token: `Registrar::shutdown` stops the registrar
        // and not the application.
        let shutdown = shutdown.child_token();
        let shutdown_now = shutdown_now.child_token();
        let abandoned = CancellationToken::new();
        let (entries, changed) = (Lock::default(), Notify::new());
        Self {
            config,
            shutdown,
            shutdown_now,
            lease_expiry: Arc::default(),
            stats: EtcdStatsCell::default(),
            abandoned,
            entries,
            changed,
            drafts: AtomicU64::new(1),
        }
    }

    /// Adds an entry. The worker finds it once it is [touched](Self::touch), or at a stop. The second value: this
    /// registrar has no worker yet.
    pub(crate) fn add(
        &self,
        instances: Vec<Instance>,
    ) -> Result<(Arc<Entry>, bool), RegisterError> {
        if instances.is_empty() {
            return Err(RegisterError::NoInstance);
        }
        let runtime = Handle::try_current().map_err(|_| RegisterError::NoRuntime)?;
        let number = self.drafts.fetch_add(1, Ordering::Relaxed);
        let draft = Draft::new(instances, number, &self.config.formats)?;
        for it in draft.instances.iter() {
            if let Some(address) = &it.address {
                self.config.check_reach(&it.instance.name, address)?;
            }
        }
        let mut entries = self.lock();
        if entries.stopped || self.is_stopping() {
            return Err(Stopped.into());
        }
        entries.check_keys(None, &draft)?;
        entries.next += 1;
        let id = entries.next;
        for it in draft.instances.iter() {
            let name = it.instance.name.clone();
            entries.by_name.entry(name).or_default().push(id);
        }
        let lifecycle = Lifecycle::new(
            self.config.drain,
            self.shutdown_now.clone(),
            runtime,
            self.lease_expiry.clone(),
        );
        let entry = Arc::new(Entry::new(id, lifecycle, draft));
        entries.entries.insert(id, entry.clone());
        if entries.unused.is_cancelled() {
            entries.unused = CancellationToken::new();
        }
        let first = !std::mem::replace(&mut entries.running, true);
        Ok((entry, first))
    }

    /// The entry's server accepts connections, at `local` if its instances have no explicit addresses.
    pub(crate) fn announce(
        &self,
        entry: &Entry,
        local: Option<SocketAddr>,
    ) -> Result<(), RegisterError> {
        let bound = local
            .map(|local| self.check_bound(entry, local))
            .transpose()?;
        self.change(entry, &mut |draft| Ok(draft.announced(bound.as_ref())))
    }

    /// Refuses a bound address that cannot be advertised, unless all instances have explicit addresses.
    pub(crate) fn check_bound(
        &self,
        entry: &Entry,
        local: SocketAddr,
    ) -> Result<Bound, RegisterError> {
        let bound = Bound::check(local)?;
        let needed = !entry.draft().is_explicit();
        match (&bound, &self.config.advertised) {
            (Bound::Exact(address), _) if needed => {
                self.config.check_reach(&entry.service(), address)?;
            }
            (Bound::Any { .. }, Some(interface)) if needed => interface.check(&bound, local)?,
            _ => {}
        }
        Ok(bound)
    }

    /// Withholds the keys of the entry until [`resume`](Self::resume).
    pub(super) fn pause(&self, entry: &Entry, reason: &Arc<str>) -> Result<(), Stopped> {
        if self.is_stopping() {
            return Err(Stopped);
        }
        entry.pause(reason.clone())?;
        self.touch(entry.id);
        Ok(())
    }

    /// One pause of the entry is over.
    pub(super) fn resume(&self, entry: &Entry, reason: &Arc<str>) {
        entry.resume(reason);
        self.touch(entry.id);
    }

    /// Begins to deregister the entry.
    pub(crate) fn leave(&self, entry: &Entry) {
        // Under one lock, so that the worker finds this before a new entry with the same keys, or with it.
        let mut entries = self.lock();
        entry.leave();
        entries.changed.insert(entry.id);
        drop(entries);
        self.changed.notify_one();
    }

    pub(crate) fn stop(&self) {
        self.shutdown.cancel();
    }

    pub(crate) fn shutdown_now(&self) {
        self.shutdown_now.cancel();
        self.shutdown.cancel();
    }

    /// Resolves when everything is to be deregistered. Cancel safe.
    pub(crate) async fn stopping(&self) {
        tokio::select! {
            () = self.shutdown.cancelled() => {}
            () = self.shutdown_now.cancelled() => {}
        }
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.shutdown.is_cancelled() || self.shutdown_now.is_cancelled()
    }

    /// The worker for this entry could not be started. The next entry tries again.
    pub(super) fn not_started(&self, entry: &Entry) {
        self.lock().running = false;
        self.forget(entry.id);
    }

    /// No entry will be added any more.
    pub(crate) fn close(&self) {
        let mut entries = self.lock();
        entries.stopped = true;
        entries.unused.cancel();
    }

    /// A token that is cancelled with the last entry, or at a stop.
    pub(super) fn unused(&self) -> CancellationToken {
        self.lock().unused.clone()
    }

    /// Withholds the keys of all entries, also of later ones, until this is called with `None`.
    pub(super) fn pause_all(&self, reason: Option<Arc<str>>) {
        let mut entries = self.lock();
        if entries.pause_of_all == reason {
            return;
        }
        entries.pause_of_all = reason;
        let all: Vec<EntryId> = entries.entries.keys().copied().collect();
        entries.changed.extend(all);
        drop(entries);
        self.changed.notify_one();
    }

    /// The reason of a pause of all entries.
    pub(crate) fn pause_of_all(&self) -> Option<Arc<str>> {
        self.lock().pause_of_all.clone()
    }

    /// Removes an entry that has ended.
    pub(crate) fn forget(&self, id: EntryId) -> Option<Arc<Entry>> {
        let mut entries = self.lock();
        let entry = entries.entries.remove(&id)?;
        if entries.entries.is_empty() {
            entries.unused.cancel();
        }
        for name in entry.names() {
            if let Some(ids) = entries.by_name.get_mut(&name) {
                ids.retain(|other| *other != id);
                if ids.is_empty() {
                    entries.by_name.remove(&name);
                }
            }
        }
        #[cfg(feature = "introspection")]
        entries.draining.add(&entry);
        Some(entry)
    }

    /// The entries that have ended and whose servers still run.
    #[cfg(feature = "introspection")]
    pub(crate) fn draining(&self) -> Vec<Arc<Entry>> {
        self.lock().draining.entries()
    }

    pub(crate) fn entries(&self) -> Vec<Arc<Entry>> {
        self.lock().entries.values().cloned().collect()
    }

    /// The services of all entries, for a log line about all of them.
    pub(super) fn services(&self) -> String {
        let names = &self.lock().by_name;
        shown(names.keys().next(), names.len())
    }

    /// How many entries there are.
    pub(super) fn count(&self) -> usize {
        self.lock().entries.len()
    }

    pub(crate) fn entry(&self, id: EntryId) -> Option<Arc<Entry>> {
        self.lock().entries.get(&id).cloned()
    }

    /// The entries that changed since the last call.
    pub(crate) fn take_changed(&self) -> Vec<EntryId> {
        let changed = std::mem::take(&mut self.lock().changed);
        changed.into_iter().collect()
    }

    /// Resolves after something changed. Cancel safe, and misses nothing.
    pub(crate) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Marks an entry as changed, and wakes the worker.
    pub(crate) fn touch(&self, id: EntryId) {
        self.lock().changed.insert(id);
        self.changed.notify_one();
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock()
    }
}
