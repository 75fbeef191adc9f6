//! [`LineLimiter`]: bounds the log lines of one channel, whatever its peers do.

use crate::runtime::backoff::{Bucket, Rate};
use crate::runtime::lock::Lock;
use tokio::time::Instant;

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct LineLimiter {
    lines: Lock<Bucket>,
    debug_lines: Lock<Bucket>,
}

/// Ten lines, then ten a minute.
const LINES: Rate = Rate {
    burst: 10,
    refill: std::time::Duration::from_secs(6),
};
/// A hundred lines, then ten a second.
const DEBUG_LINES: Rate = Rate {
    burst: 100,
    refill: std::time::Duration::from_millis(100),
};

// === impl LineLimiter ===

impl LineLimiter {
    /// Whether a line above DEBUG may be written, or when.
    pub(super) fn take(&self) -> Result<(), Instant> {
        self.lines.lock().take(LINES, Instant::now())
    }

    /// The same for a line at DEBUG.
    pub(super) fn take_debug(&self) -> Result<(), Instant> {
        self.debug_lines.lock().take(DEBUG_LINES, Instant::now())
    }
}
