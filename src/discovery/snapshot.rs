//! [`Snapshot`]: the instances of a service at one revision of etcd.

use super::skipped::Skipped;
use crate::instance::Instance;
use std::collections::{BTreeMap, btree_map};
use std::sync::Arc;

/// The instances of a service at one revision of etcd.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub(super) instances: BTreeMap<Arc<str>, Arc<Instance>>,
    pub(super) revision: i64,
    pub(super) skipped: usize,
    pub(super) skipped_by_reason: Vec<Skipped>,
    pub(super) missing: usize,
    pub(super) watch_error: Option<Arc<str>>,
}

/// The instances of a [`Snapshot`] with their keys, in the order of the keys.
#[derive(Debug, Clone)]
pub struct Iter<'a>(btree_map::Iter<'a, Arc<str>, Arc<Instance>>);

// === impl Snapshot ===

impl Snapshot {
    /// The instances with their keys, in the order of the keys.
    #[must_use]
    pub fn iter(&self) -> Iter<'_> {
        Iter(self.instances.iter())
    }

    /// The instance under a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Arc<Instance>> {
        self.instances.get(key)
    }

    /// How many instances there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.instances.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.instances.is_empty()
    }

    /// The revision of etcd that this set has at least; 0 before its first answer.
    #[must_use]
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// Whether etcd has answered at all.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.revision > 0
    }

    /// The number of keys that are skipped, because their values cannot be decoded or because there are too
    /// many.
    #[must_use]
    pub fn skipped(&self) -> usize {
        self.skipped
    }

    /// The skipped keys by reason, the most frequent first, with one key for each. At most ten reasons: further
    /// ones are counted together.
    #[must_use]
    pub fn skipped_by_reason(&self) -> &[Skipped] {
        &self.skipped_by_reason
    }

    /// The number of instances that are not in etcd any more, and are kept for a while: see
    /// [`retention`](super::DiscoveryBuilder::retention).
    #[must_use]
    pub fn missing(&self) -> usize {
        self.missing
    }

    /// Why etcd cannot be watched now. The set may then be out of date.
    #[must_use]
    pub fn watch_error(&self) -> Option<&str> {
        self.watch_error.as_deref()
    }
}

impl<'a> IntoIterator for &'a Snapshot {
    type Item = (&'a str, &'a Arc<Instance>);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

// === impl Iter ===

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a str, &'a Arc<Instance>);

    fn next(&mut self) -> Option<Self::Item> {
        let (key, instance) = self.0.next()?;
        Some((key, instance))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.size_hint()
    }
}

impl ExactSizeIterator for Iter<'_> {}
