//! How fast a registration is right again, and what a stop looks like from outside: `make measure`.
//!
//! The `server` example in release, a real etcd, an independent watcher, all on loopback. Every
//! row names its bound; a row that misses it makes the exit code 1. Takes about five minutes,
//! most of them outages.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

#[path = "../examples/greeter/mod.rs"]
mod greeter;
#[path = "recovery/outages.rs"]
mod outages;
#[path = "recovery/scale.rs"]
mod scale;
#[path = "recovery/stops.rs"]
mod stops;
#[path = "../tests/support/mod.rs"]
mod support;
#[path = "recovery/table.rs"]
mod table;

use std::process::ExitCode;
use table::Table;

#[tokio::main]
async fn main() -> ExitCode {
    let table = Table::default();
    println!("{}", Table::HEAD);
    stops::all(&table).await;
    outages::quick(&table).await;
    scale::all(&table).await;
    // Outages are long and mostly waiting: each has an etcd of its own, and they run together.
    outages::long(&table).await;
    match table.missed() {
        0 => ExitCode::SUCCESS,
        missed => {
            println!("{missed} rows missed their bound");
            ExitCode::FAILURE
        }
    }
}
