//! [`Rivals`]: other clients that write our keys too, each reported once a minute. Pure.

use super::ids::Key;
use crate::runtime::escaped::Escaped;
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// Another client that wrote one of our keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rival {
    pub(crate) conflict: Conflict,
    pub(crate) key: Key,
    /// Our own lease.
    pub(crate) ours: i64,
    /// 0: it wrote the key without a lease.
    pub(crate) lease: i64,
    /// The value that it wrote, in one line of at most 200 bytes.
    pub(crate) value: String,
}

/// Which of the two wrote the other's key, and what we do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conflict {
    /// It wrote our key, and we write it again.
    TakenBack,
    /// It wrote our key, and we leave it.
    Left,
    /// We wrote its key.
    TakenOver,
}

/// Which leases were reported, and when.
#[derive(Debug, Default)]
pub(crate) struct Rivals(HashMap<i64, Instant>);

const PAUSE: Duration = Duration::from_secs(60);
/// The most rivals a minute: a client may use a new lease each time.
const MAX_RIVALS: usize = 16;
/// How much of a value is read to make the 200 bytes that are shown.
const MAX_READ: usize = 1024;

// === impl Rival ===

impl Rival {
    pub(crate) fn new(conflict: Conflict, key: &Key, ours: i64, lease: i64, value: &[u8]) -> Self {
        let read = &value[..value.len().min(MAX_READ)];
        Self {
            conflict,
            key: key.clone(),
            ours,
            lease,
            value: Escaped::new(&String::from_utf8_lossy(read)).to_string(),
        }
    }
}

// === impl Rivals ===

impl Rivals {
    /// Whether to report this lease now.
    pub(crate) fn is_due(&mut self, lease: i64, now: Instant) -> bool {
        self.0.retain(|_, at| now < *at + PAUSE);
        if self.0.len() >= MAX_RIVALS || self.0.contains_key(&lease) {
            return false;
        }
        self.0.insert(lease, now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rival_is_reported_once_a_minute_and_few_of_them() {
        let (mut rivals, now) = (Rivals::default(), Instant::now());
        let ms = Duration::from_millis(1);
        assert!(rivals.is_due(1, now));
        assert!(!rivals.is_due(1, now + PAUSE - ms));
        assert!(rivals.is_due(2, now + PAUSE - ms));
        assert!(rivals.is_due(1, now + PAUSE));
        let many = (10..1000).filter(|lease| rivals.is_due(*lease, now + PAUSE));
        assert_eq!(many.count(), MAX_RIVALS - 2);
    }

    #[test]
    fn the_value_of_a_rival_is_one_line_of_at_most_200_bytes() {
        let rival = Rival::new(Conflict::Left, &"/k".into(), 5, 7, b"a\nb\xff");
        assert_eq!(rival.value, "a\\nb\u{fffd}");
        let long = vec![b'\n'; 1_000_000];
        assert!(
            Rival::new(Conflict::Left, &"/k".into(), 5, 7, &long)
                .value
                .len()
                <= 200
        );
    }
}
