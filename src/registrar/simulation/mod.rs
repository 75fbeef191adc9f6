//! The reconciler and a model of etcd, in random order: no wire, no runtime, no real time.
//!
//! A seed draws a configuration and then one thing after another: requests that arrive, are lost,
//! are answered late or are applied after they were given up; time that passes, a process that is
//! frozen; keys and leases that others touch; an etcd that hangs, denies, is full, forgets tokens,
//! loses its data or is restored; handles that register, announce, change and leave; a worker that
//! panics. The invariants of `check.rs` are checked after each event. Between the trouble there is
//! calm, after which everything has to be as it should be, and in the end a stop.
//!
//! `make simulate EVENTS=10000000 SEED=0` runs for long; `make simulate EVENTS=0 SEED=7` runs one
//! seed again, with all that happened before a violation.

mod chaos;
mod check;
mod drive;
mod etcd;
mod world;
