//! [`Change`]: an instance of a service appeared, changed or went.

use crate::instance::Instance;
use std::sync::Arc;

/// A change of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Change {
    /// An instance appeared, or its value changed.
    #[non_exhaustive]
    Insert {
        /// Its key in etcd, which identifies it.
        key: Arc<str>,
        /// The instance now.
        instance: Arc<Instance>,
    },
    /// The instance is gone.
    #[non_exhaustive]
    Remove {
        /// Its key in etcd.
        key: Arc<str>,
    },
}

// === impl Change ===

impl Change {
    /// An instance appeared under `key`, or its value changed.
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
