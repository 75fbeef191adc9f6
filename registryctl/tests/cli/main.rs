//! The program, on a real etcd and in real time, as in `tests/real` of the library.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

mod describe;
#[cfg(target_os = "linux")]
mod dns;
mod doctor;
mod hostile;

use std::time::Duration;

/// The timeout of all waits, long enough also for a busy machine.
const LONG: Duration = Duration::from_secs(20);
