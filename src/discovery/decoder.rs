//! [`Decoder`]: decodes a key and its value to an instance.

use super::skipped::Reasons;
use super::store::Reading;
use crate::etcd::KeyValue;
use crate::format::{self, DecodeError, Format};
use crate::runtime::backoff::{Bucket, Rate};
use crate::runtime::escaped::Escaped;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// See the [module](self).
pub(super) struct Decoder {
    service: Arc<str>,
    format: Arc<dyn Format>,
    reasons: Reasons,
    warnings: Bucket,
    hasher: RandomState,
}

/// The rate of warnings about values that cannot be decoded; the snapshot has their number.
const WARNINGS: Rate = Rate {
    burst: 5,
    refill: Duration::from_secs(60),
};

// === impl Decoder ===

impl Decoder {
    pub(super) fn new(service: Arc<str>, format: Arc<dyn Format>) -> Self {
        Self {
            service,
            format,
            reasons: Reasons::default(),
            warnings: Bucket::default(),
            hasher: RandomState::new(),
        }
    }

    pub(super) fn digest(&self, value: &[u8]) -> u64 {
        self.hasher.hash_one(value)
    }

    pub(super) fn read(&mut self, found: KeyValue) -> Reading {
        let KeyValue { key, value, seen } = found;
        let read = format::decode(&*self.format, &self.service, &key, &value);
        if let Err(reason) = &read {
            self.warn(&key, reason);
        }
        Reading {
            key,
            seen,
            digest: self.digest(&value),
            instance: read.map_err(|error| self.reasons.shared(&error)),
        }
    }

    fn warn(&mut self, key: &str, reason: &DecodeError) {
        let (service, key) = (&*self.service, Escaped::new(key));
        let may_warn = self.warnings.take(WARNINGS, Instant::now()).is_ok();
        match may_warn {
            true => {
                crate::runtime::logging::warn!(service, %key, %reason, "skipping a value that cannot be decoded")
            }
            false => {
                crate::runtime::logging::debug!(service, %key, %reason, "skipping a value that cannot be decoded")
            }
        }
    }
}
