//! Shows a registration in outages, changes by others and a shutdown, in about twenty seconds.
//!
//! ```sh
//! make demo              # or: cargo run --release --features discovery --example demo
//! ```
//!
//! It starts a real etcd on loopback and a greeter that is registered in it with the default settings, and causes one fault
//! after the other. Every claim is checked by observers that are independent of the library:
//! a watcher of etcd, a client of the gRPC health service, and callers of the greeter.
//!
//! | file | |
//! |---|---|
//! | `steps/` | the steps, a file for each kind |
//! | `setup.rs` | [`Setup`]: etcd, its watcher, and another client |
//! | `server.rs` | [`Server`](server::Server): the registered server, and how to call it |
//! | `stops.rs` | [`Stops`](stops::Stops): the tokens that SIGTERM cancels |
//! | `health.rs` | [`HealthRecorder`](health::HealthRecorder): the health that the server reports |
//! | `timeline.rs` | [`Timeline`]: the output |

mod health;
mod server;
mod setup;
mod steps;
mod stops;
mod timeline;

use clap::Parser;
use setup::Setup;
use std::process::ExitCode;
use std::time::Duration;
use stops::Stops;
use timeline::Timeline;

/// Shows a registration in outages, changes by others and a shutdown, and checks every step.
///
/// Starts an etcd of its own ($ETCD, or `etcd` on the PATH) on loopback, with its data in a
/// temporary directory; nothing is left behind. Exit code 0 if every step held, 1 if one did not,
/// 130 if it was interrupted. NO_COLOR is respected; RUST_LOG=tonic_etcd=debug shows what the
/// library does.
#[derive(Debug, Clone, Parser)]
#[command(version)]
struct Args {
    /// How long etcd is down when it keeps its data; its start takes another one or two seconds
    #[arg(long, env = "DEMO_DOWN", default_value = "1500ms", value_name = "TIME")]
    #[arg(value_parser = humantime::parse_duration)]
    down: Duration,
}

#[tokio::main]
async fn main() -> ExitCode {
    let args = Args::parse();
    greeter::log::start("off");

    // A step that panics has failed, and the demo continues. Print only one line for it.
    std::panic::set_hook(Box::new(|panic| eprintln!("{panic}")));
    let stops = Stops::default();
    if let Err(error) = stops.listen() {
        eprintln!("error: cannot listen for signals: {error}");
        return ExitCode::FAILURE;
    }
    let mut timeline = Timeline::start();
    tokio::select! {
        all_held = run(args, stops.clone(), &mut timeline) => match all_held {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        },
        // The step is dropped, and etcd with it.
        () = stops.demo.cancelled() => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
    }
}

/// The whole demo. Says whether every step held.
async fn run(args: Args, stops: Stops, timeline: &mut Timeline) -> bool {
    match Setup::raise(args.down, stops).await {
        Ok(mut setup) => {
            timeline.note(&format!(
                "etcd {} runs at {}, with its own data directory",
                setup.version,
                setup.etcd.endpoint()
            ));
            steps::run(&mut setup, timeline).await;
            setup.strike().await;
        }
        Err(fail) => timeline.failed(&fail),
    }
    timeline.curtain()
}
