//! The real suite: a real etcd, real sockets, real time.
//!
//! Every test starts the processes that it needs and ends them, also when it panics. Times are asserted with
//! generous bounds only: exact ones are in the fast suite, and numbers come from `make measure`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

use test_support as support;

mod access;
#[cfg(target_os = "linux")]
mod addresses;
mod bad_input;
mod blocked;
mod cluster;
#[cfg(feature = "discovery")]
mod discovery;
#[cfg(target_os = "linux")]
mod dns;
mod drain;
mod exhausted;
mod fake_is_faithful;
mod formats;
mod grpc_proxy;
mod listeners;
#[cfg(feature = "metrics")]
mod metrics;
mod names;
mod outages;
mod pause;
mod scale;
#[cfg(feature = "axum")]
mod servers;
mod serving;
mod setup;
mod signals;
#[cfg(feature = "_tls")]
mod tls;
