//! The interop suite: programs in Go, on the libraries of three ecosystems, meet ours in etcd.
//!
//! `make interop` builds the Go half and runs this; `README.md` beside this file says what that
//! half is, and what it is not: **kratos' etcd registry is a stand-in** that was written here.
//!
//! | file | |
//! |---|---|
//! | `go_finds_rust.rs` | clients in Go find and call our server, and see it leave |
//! | `rust_finds_go.rs` | our client finds and calls servers in Go, and sees them leave |
//! | `data_loss.rs` | both, when etcd loses its data under them |
//! | `bytes.rs` | both sides write the same bytes |
//! | `kind.rs` | [`Kind`](kind::Kind): the ecosystems |
//! | `calls.rs` | [`Caller`](calls::Caller): a client that calls all the time, and what came of it |
//! | `go.rs`, `program.rs`, `rust.rs` | servers and clients |
//! | `setup.rs` | what the tests share |
//!
//! Every test starts what it needs and ends it, also when it panics. Nothing waits for a fixed time
//! and no time is asserted but with a generous bound; the numbers are printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

#[path = "../../examples/greeter/mod.rs"]
mod greeter;
#[path = "../support/mod.rs"]
mod support;

#[macro_use]
mod kind;
mod bytes;
mod calls;
mod data_loss;
mod go;
mod go_finds_rust;
mod program;
mod rust;
mod rust_finds_go;
mod setup;
