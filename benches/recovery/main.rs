//! Times of recovery and shutdown, as seen from outside: `make measure`.
//!
//! The `server` example in release mode, a real etcd, an independent watcher, all on loopback. Every
//! row has a bound; a row that misses it makes the exit code 1. Takes about twenty minutes,
//! ten of them without a write; `PARTS=many,passwords make measure` measures only these parts.

#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    unreachable_pub
)]

mod bare;
mod cost;
mod ending;
mod many;
mod memory;
mod networks;
mod outages;
mod pages;
mod passwords;
mod pauses;
mod registrants;
mod scale;
mod stops;
mod table;

use clap::Parser;
use std::process::ExitCode;
use table::Table;

/// Times of recovery and shutdown
#[derive(Parser)]
struct Args {
    /// What to measure: stops, pauses, repairs, channels, scale, memory, many, passwords, registrants, outages, networks, names, quiet
    #[arg(long, env = "PARTS", value_delimiter = ',')]
    #[arg(
        default_value = "stops,pauses,repairs,channels,scale,memory,many,passwords,registrants,outages,networks,names,quiet"
    )]
    parts: Vec<String>,
    /// Given to the processes of the part `memory`
    #[arg(long, hide = true, requires = "etcd")]
    held: Option<memory::Held>,
    /// The same
    #[arg(long, hide = true)]
    etcd: Option<String>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    if let (Some(held), Some(etcd)) = (args.held, args.etcd) {
        memory::hold(held, etcd).await;
        return ExitCode::SUCCESS;
    }
    let table = Table::default();
    println!("{}", Table::HEAD);
    for part in args.parts {
        match &*part {
            "stops" => stops::all(&table).await,
            "pauses" => pauses::all(&table).await,
            "repairs" => outages::quick(&table).await,
            "channels" => ending::all(&table).await,
            "scale" => scale::all(&table).await,
            "memory" => memory::all(&table).await,
            "many" => many::all(&table).await,
            "passwords" => passwords::all(&table).await,
            "registrants" => registrants::all(&table).await,
            // These wait most of the time: each has an etcd of its own, and they run concurrently.
            "outages" => outages::long(&table).await,
            "networks" => networks::all(&table).await,
            "names" => networks::slow_dns(&table).await,
            "quiet" => networks::quiet(&table).await,
            other => table.holds(other, false, "there is no such part"),
        }
    }
    match table.missed() {
        0 => ExitCode::SUCCESS,
        missed => {
            println!("{missed} rows missed their bound");
            ExitCode::FAILURE
        }
    }
}
