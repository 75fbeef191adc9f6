//! A model of etcd: keys, leases and watches. Pure: no tasks, no gRPC, and the clock is an argument.
//!
//! The fake of the crate's own tests (`support/src/fake`) includes this folder by its path, so that there is one model.
//! `tests/real/fake_is_faithful.rs` sends the same requests to it and to a real etcd.

// Each of the two fakes uses only a part of it.
#![allow(dead_code)]

mod errors;
pub(crate) mod keyspace;
pub(crate) mod leases;
mod ranges;
pub(crate) mod store;
pub(crate) mod txn;
pub(crate) mod watch;
