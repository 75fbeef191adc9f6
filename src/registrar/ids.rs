//! The identifiers of entries and keys.

use std::sync::Arc;

/// A key in etcd.
pub(crate) type Key = Arc<str>;
/// The number of an entry in its registry.
pub(crate) type EntryId = u64;
