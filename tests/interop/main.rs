//! The interop suite: programs in Go, with the libraries of three ecosystems, and ours find each other in etcd.
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
//! | `calls.rs` | [`Caller`](calls::Caller): a client that calls all the time, and its results |
//! | `go.rs`, `program.rs`, `rust.rs` | servers and clients |
//! | `setup.rs` | what the tests share |
//!
//! Every test starts the processes that it needs and ends them, also when it panics. No test waits for a fixed
//! time, and asserted times have generous bounds; the numbers are printed.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    missing_docs,
    unreachable_pub
)]

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
