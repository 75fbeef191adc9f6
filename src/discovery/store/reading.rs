//! [`Reading`]: a key with its decoded value, and the memory that it needs.

use crate::etcd::KeyMeta;
use crate::instance::Instance;
use std::sync::Arc;

/// A key with its decoded value.
#[derive(Debug)]
pub(in crate::discovery) struct Reading {
    pub(in crate::discovery) key: String,
    pub(in crate::discovery) seen: KeyMeta,
    /// Of the value, to compare it with a later one. It is comparable within one discovery only.
    pub(in crate::discovery) digest: u64,
    /// The instance, or why the value cannot be decoded.
    pub(in crate::discovery) instance: Result<Instance, Arc<str>>,
}

/// The memory of an entry besides its texts, and of a pair of metadata besides its texts, in bytes.
const ENTRY_OVERHEAD: usize = 384;
const PAIR_OVERHEAD: usize = 96;

// === impl Reading ===

impl Reading {
    /// An estimate of the memory to keep it, in bytes.
    pub(in crate::discovery) fn weight(&self) -> usize {
        weight(&self.key, self.instance.as_ref().ok())
    }
}

pub(super) fn weight(key: &str, instance: Option<&Instance>) -> usize {
    let size = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    let instance = instance.map_or(0, |instance| {
        let pairs = instance.metadata.iter();
        let pairs = pairs.map(|(name, value)| PAIR_OVERHEAD + name.len() + value.len());
        let texts = [&instance.address, &instance.version, &instance.value];
        instance.name.len()
            + instance.id.len()
            + texts.map(size).iter().sum::<usize>()
            + pairs.sum::<usize>()
    });
    ENTRY_OVERHEAD + key.len() + instance
}
