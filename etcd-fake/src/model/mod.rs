//! How etcd treats keys, leases and watches. Pure: no tasks, no gRPC, and the clock is an argument.

pub(crate) mod keyspace;
pub(crate) mod leases;
mod ranges;
pub(crate) mod settings;
pub(crate) mod store;
pub(crate) mod txn;
pub(crate) mod watch;
