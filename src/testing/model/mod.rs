//! What etcd does to keys, leases and watches. Pure: no tasks, no wire, and the clock is an argument.
//!
//! The fake of the crate's own tests (`tests/support/fake`) includes this folder by its path, so that there is one model:
//! `tests/real/fake_is_faithful.rs` puts the same questions to it and to a real etcd.

// Each of the two uses its own part of it.
#![allow(dead_code)]

mod errors;
pub(crate) mod keyspace;
pub(crate) mod leases;
mod ranges;
pub(crate) mod store;
pub(crate) mod txn;
pub(crate) mod watch;
