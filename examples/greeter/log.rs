//! The log of the tools, on standard error.

use std::io::{IsTerminal as _, stderr};
use tracing_subscriber::EnvFilter;

/// Starts it, filtered by `RUST_LOG`, or else by `filter`.
pub fn start(filter: &str) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(filter));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(stderr().is_terminal())
        .with_writer(stderr)
        // It would tell stderr that stderr is gone, and panic.
        .log_internal_errors(false)
        .init();
}
