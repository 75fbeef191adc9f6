//! [`Batch`]: the registrations of one message.

use super::pb;
use prost::Message as _;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Batch {
    size: usize,
    registrations: Vec<pb::Registration>,
    bytes: usize,
}

pub(super) const MAX_REGISTRATIONS: usize = 1000;
/// A message is at most slightly larger. Clients accept 4 MiB by default.
const MAX_BYTES: usize = 1024 * 1024;

// === impl Batch ===

impl Batch {
    /// At most `size` of them.
    pub(super) fn of(size: usize) -> Self {
        Self {
            size,
            registrations: vec![],
            bytes: 0,
        }
    }

    pub(super) fn has_room(&self) -> bool {
        self.registrations.len() < self.size && self.bytes < MAX_BYTES
    }

    pub(super) fn push(&mut self, registration: pb::Registration) {
        self.bytes += registration.encoded_len();
        self.registrations.push(registration);
    }

    pub(super) fn into_registrations(self) -> Vec<pb::Registration> {
        self.registrations
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_with_its_size_or_after_a_mebibyte() {
        let mut batch = Batch::of(2);
        batch.push(pb::Registration::default());
        assert!(batch.has_room());
        batch.push(pb::Registration::default());
        assert!(!batch.has_room());
        let mut batch = Batch::of(MAX_REGISTRATIONS);
        let large = pb::Registration {
            reason: "x".repeat(MAX_BYTES / 2),
            ..Default::default()
        };
        batch.push(large.clone());
        assert!(batch.has_room());
        batch.push(large);
        assert!(!batch.has_room());
    }
}
