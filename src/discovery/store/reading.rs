//! [`Reading`]: a key with what was read from its value, and what it costs to keep that.

use crate::etcd::KeyMeta;
use crate::instance::Instance;
use std::sync::Arc;

/// A key with what was read from its value.
#[derive(Debug)]
pub(in crate::discovery) struct Reading {
    pub(in crate::discovery) key: String,
    pub(in crate::discovery) seen: KeyMeta,
    /// Or why the value does not read.
    pub(in crate::discovery) instance: Result<Instance, Arc<str>>,
}

/// What a key costs besides its text and its instance, and a pair of metadata besides its texts.
const ENTRY_OVERHEAD: usize = 384;
const PAIR_OVERHEAD: usize = 96;

// === impl Reading ===

impl Reading {
    /// What it costs to keep it, in bytes, roughly.
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
