//! Changes of a registration: computed without a lock, then checked and swapped in under it.

use super::draft::{Addressed, Draft};
use super::entry::Entry;
use super::ids::EntryId;
use super::registry::{Entries, Registry};
use crate::error::{RegisterError, Stopped};
use crate::format::could_be_same;
use crate::instance::Instance;
use std::cell::RefCell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// Marks an entry as being changed by this thread, until it is dropped. The application's code in a change (the closure
/// of `update`, a format) may not change the same entry: the outer change would start again, forever.
struct Changing(*const Entry);

thread_local! {
    static CHANGING: RefCell<Vec<*const Entry>> = const { RefCell::new(vec![]) };
}

// === impl Registry ===

impl Registry {
    pub(crate) fn update(
        &self,
        entry: &Entry,
        change: &mut dyn FnMut(Instance) -> Instance,
    ) -> Result<(), RegisterError> {
        if self.is_stopping() {
            return Err(Stopped.into());
        }
        self.change(entry, &mut |draft| match entry.is_leaving() {
            true => Err(Stopped.into()),
            false => draft.updated(change, &self.config.formats),
        })
    }

    /// Replaces the draft of the entry by the one that `make` returns. `make` runs the application's code, without a lock.
    /// It is called again if there was another change meanwhile.
    pub(super) fn change(
        &self,
        entry: &Entry,
        make: &mut dyn FnMut(&Draft) -> Result<Draft, RegisterError>,
    ) -> Result<(), RegisterError> {
        let _changing = Changing::begin(entry)?;
        loop {
            let before = entry.draft();
            let next = Arc::new(make(&before)?.rendered(&self.config.formats));
            let mut entries = self.lock();
            if next.has_other_keys(&before) {
                entries.check_keys(Some(entry.id), &next)?;
            }
            if entry.swap(&before, &next) {
                entries.changed.insert(entry.id);
                drop(entries);
                self.changed.notify_one();
                return Ok(());
            }
        }
    }

    /// Renders the keys and values of these entries on another thread, because formats are the application's code. Resolves
    /// when that is done.
    pub(super) fn render(
        self: &Arc<Self>,
        entries: Vec<Arc<Entry>>,
    ) -> impl Future<Output = ()> + use<> {
        let mut rendering = None;
        if !entries.is_empty() {
            let (on_other, all) = (self.clone(), entries.clone());
            let spawn = || tokio::task::spawn_blocking(move || on_other.render_here(&all));
            // It panics if no thread can be started.
            rendering = catch_unwind(AssertUnwindSafe(spawn)).ok();
            if rendering.is_none() {
                self.render_here(&entries);
            }
        }
        async move {
            if let Some(rendering) = rendering {
                let _is_done_or_panicked = rendering.await;
            }
        }
    }

    fn render_here(&self, entries: &[Arc<Entry>]) {
        for entry in entries {
            let _stays_after_an_error = self.change(entry, &mut |draft| Ok(draft.clone()));
            entry.end_rendering();
        }
    }
}

// === impl Entries ===

impl Entries {
    /// Refuses a draft that may have a key of another entry, or the same key twice. `own` is the entry of the draft.
    pub(super) fn check_keys(
        &self,
        own: Option<EntryId>,
        draft: &Draft,
    ) -> Result<(), RegisterError> {
        for (index, it) in draft.instances.iter().enumerate() {
            let is_ours = |taken: &&String| it.outlines.iter().any(|key| could_be_same(key, taken));
            let refuse_if_same = |other: &Addressed| {
                let is_same_name = other.instance.name == it.instance.name;
                let mut taken = other.outlines.iter().filter(|_| is_same_name);
                match taken.find(is_ours) {
                    None => Ok(()),
                    Some(key) => Err(RegisterError::SameKey {
                        name: other.instance.name.clone(),
                        key: key.clone(),
                    }),
                }
            };
            draft.instances[..index]
                .iter()
                .try_for_each(refuse_if_same)?;
            for id in self.by_name.get(&it.instance.name).into_iter().flatten() {
                let entry = self.entries.get(id).filter(|_| Some(*id) != own);
                if let Some(entry) = entry.filter(|entry| !entry.is_leaving()) {
                    entry
                        .draft()
                        .instances
                        .iter()
                        .try_for_each(refuse_if_same)?;
                }
            }
        }
        Ok(())
    }
}

// === impl Changing ===

impl Changing {
    fn begin(entry: &Entry) -> Result<Self, RegisterError> {
        let entry = std::ptr::from_ref(entry);
        CHANGING.with_borrow_mut(|changing| {
            if changing.contains(&entry) {
                return Err(RegisterError::Nested);
            }
            changing.push(entry);
            Ok(Self(entry))
        })
    }
}

impl Drop for Changing {
    fn drop(&mut self) {
        CHANGING.with_borrow_mut(|changing| changing.retain(|entry| *entry != self.0));
    }
}
