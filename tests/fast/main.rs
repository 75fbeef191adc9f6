//! The fast suite: no sockets, no processes, no waiting.
//!
//! A fake etcd answers over gRPC, in the same runtime, and tokio's clock is paused:
//! hours pass in milliseconds, and exact times can be asserted.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

use test_support as support;

mod access;
mod allocations;
#[cfg(feature = "discovery")]
mod channel;
#[cfg(feature = "discovery")]
mod channel_soak;
mod commands;
mod deploy;
#[cfg(feature = "discovery")]
mod discovery;
#[cfg(feature = "discovery")]
mod discovery_history;
#[cfg(feature = "discovery")]
mod discovery_hostile;
#[cfg(feature = "discovery")]
mod discovery_soak;
mod durations;
mod fleet;
mod formats;
mod generated_code;
mod grpc_proxy;
mod handles;
mod handover;
mod health;
mod health_followed;
#[cfg(all(feature = "discovery", feature = "introspection"))]
mod hostile_texts;
#[cfg(feature = "introspection")]
mod introspection;
#[cfg(feature = "test-util")]
mod kit;
mod layer;
mod limits;
mod log;
mod log_contract;
mod members;
#[cfg(all(feature = "metrics", feature = "discovery"))]
mod metrics;
mod names;
mod observer;
mod overload;
mod panics;
mod pause;
mod public_api;
mod readiness;
mod recovery;
mod registration;
mod runtimes;
mod scale;
mod setup;
mod shutdown;
#[cfg(feature = "test-util")]
mod soak;
mod source;
mod structure;
mod takeover;
mod user_code;
mod words;
