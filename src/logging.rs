//! Logging that cannot end what it logs about.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `log`, and survives when the subscriber panics: tracing-subscriber's default writer does
/// when the reader of stderr has gone away.
pub(crate) fn survive(log: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(log));
}
