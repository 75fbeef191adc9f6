//! A fleet under restarts and outages: real servers, a real etcd, clients that call all the time.
//!
//! ```sh
//! make fleet                      # all scenarios, about three minutes
//! make fleet FLEET_SCENARIO=rolling     # one scenario
//! ```
//!
//! Each scenario has an etcd, servers and clients of its own. Clients start calls on schedule,
//! whether or not earlier ones have returned; every call is recorded, and checked afterwards ([`test_support::load`]).
//! A second client under the same load uses tonic's
//! channel with a plain watch ([`naive`]), for comparison.
//!
//! | file | |
//! |---|---|
//! | `args.rs` | [`Args`](args::Args): the settings |
//! | `scenario.rs` | what happens to the fleet |
//! | `setup.rs`, `side.rs` | [`Setup`](setup::Setup): etcd, servers, clients and their load |
//! | `servers.rs` | the server processes |
//! | `client.rs`, `naive.rs` | the two clients |
//! | `spread.rs`, `measure.rs`, `host.rs` | how fast a change is seen, and its cost |
//! | `table.rs`, `workdir.rs` | the printed table, and the directory of the processes |
//! | `problem.rs` | an error that stops a scenario |

mod args;
mod client;
mod host;
mod measure;
mod naive;
mod problem;
mod scenario;
mod servers;
mod setup;
mod side;
mod spread;
mod table;
mod workdir;

use args::{Args, Role, Scenario};
use clap::Parser;
use futures_util::FutureExt as _;
use problem::Problem;
use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use table::Table;
use tokio::signal::unix::{SignalKind, signal};
use workdir::Workdir;

#[tokio::main]
async fn main() -> ExitCode {
    greeter::log::start("off");
    let mut args = Args::parse();
    let done = match args.role.take() {
        None => direct(args).await,
        Some(Role::Host(role)) => host::host(role).await.map(|()| ExitCode::SUCCESS),
        Some(Role::Measure(role)) => measure::measure(role).await.map(|()| ExitCode::SUCCESS),
    };
    done.unwrap_or_else(|problem| {
        eprintln!("error: {problem}");
        ExitCode::FAILURE
    })
}

/// Runs all scenarios, unless it is interrupted.
async fn direct(args: Args) -> Result<ExitCode, Problem> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        held = all(&args) => Ok(if held? { ExitCode::SUCCESS } else { ExitCode::FAILURE }),
        // The scenario is dropped, and all its processes with it.
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn all(args: &Args) -> Result<bool, Problem> {
    let mut workdir = Workdir::new()?;
    let mut table = Table::default();
    for scenario in args.scenarios() {
        let performed = async {
            match scenario {
                Scenario::Spread => spread::perform(&workdir, &mut table).await,
                scenario => scenario::perform(scenario, args, &workdir, &mut table).await,
            }
        };
        let done = AssertUnwindSafe(performed).catch_unwind();
        // Helpers of the tests panic where a test would.
        let panicked = |_| Err("a panic, printed above".into());
        if let Err(problem) = done.await.unwrap_or_else(panicked) {
            table.broke(scenario, &problem);
        }
    }
    if !table.held() {
        workdir.keep();
    }
    Ok(table.held())
}
