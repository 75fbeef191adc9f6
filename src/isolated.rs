//! [`isolated`]: the application's code, called by our tasks.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// Runs `call`, which writes a log line or wakes a reader, and survives a panic in it.
///
/// Subscribers and executors are the application's code. tracing-subscriber's default writer panics
/// when nobody reads stderr any more (`server 2>&1 | head -3`), and does so at each line from then
/// on: a task that keeps something true must outlive that without starting over each time.
pub(crate) fn isolated(call: impl FnOnce()) {
    // There is nothing to do about it, and nowhere to say so but in another line.
    let _panicked = catch_unwind(AssertUnwindSafe(call));
}
