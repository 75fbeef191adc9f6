//! Code generated from `proto/tonic_etcd/registration/v1/registration.proto`.

#![allow(
    clippy::all,
    clippy::unwrap_used,
    missing_debug_implementations,
    missing_docs,
    rust_2018_idioms,
    unreachable_pub
)]

include!("generated/tonic_etcd.registration.v1.rs");
