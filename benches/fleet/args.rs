//! [`Args`]: the settings.

use clap::{Parser, Subcommand, ValueEnum};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Servers as processes, clients that call them all the time, and what happens to a fleet.
///
/// Starts an etcd of its own ($ETCD, or `etcd` on the PATH), everything on loopback; nothing is
/// left behind. Prints one row for each scenario and client. Exit code 0 if every bound held for the
/// balanced client, 1 if one did not (then the output of all processes is kept, and its directory is
/// printed), 130 if it was interrupted. RUST_LOG=tonic_etcd=debug shows what the library does.
#[derive(Debug, Clone, Parser)]
#[command(version)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) role: Option<Role>,
    /// Scenario; may be repeated. By default all of them, one after the other
    #[arg(long, env = "FLEET_SCENARIO", value_delimiter = ',', value_enum)]
    scenario: Vec<Scenario>,
    /// Who calls
    #[arg(long, env = "FLEET_CLIENT", value_enum, default_value = "both")]
    pub(crate) client: Who,
    /// How many servers
    #[arg(long, env = "FLEET_SERVERS", default_value_t = 3)]
    #[arg(value_parser = clap::value_parser!(u16).range(2..))]
    pub(crate) servers: u16,
    /// How many clients of each kind, with connections and a watch of their own
    #[arg(long, env = "FLEET_CLIENTS", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) clients: u16,
    /// Unary calls a second, by all clients of a kind together
    #[arg(long, env = "FLEET_RATE", default_value_t = 1000)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: u32,
    /// Streams started per second, by all clients of a kind together; each takes one second
    #[arg(long, env = "FLEET_STREAMS", default_value_t = 10)]
    pub(crate) streams: u32,
    /// Deadline of a call
    #[arg(long, env = "FLEET_DEADLINE", default_value = "5s", value_parser = humantime::parse_duration)]
    pub(crate) deadline: Duration,
    /// Time without data after which clients ping a connection
    #[arg(long, env = "FLEET_KEEP_ALIVE", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) keep_alive: Duration,
    /// Time without an answer to the ping after which they close it
    #[arg(long, env = "FLEET_KEEP_ALIVE_TIMEOUT", default_value = "1s")]
    #[arg(value_parser = humantime::parse_duration)]
    pub(crate) keep_alive_timeout: Duration,
    /// rolling: how often all servers are restarted
    #[arg(long, env = "FLEET_ROUNDS", default_value_t = 10)]
    pub(crate) rounds: u32,
    /// Time servers keep serving after their key is gone
    #[arg(long, env = "FLEET_DEREGISTRATION_DELAY", default_value = "1s")]
    #[arg(alias = "settle", value_parser = humantime::parse_duration)]
    pub(crate) deregistration_delay: Duration,
    /// etcd-down: how long etcd is away
    #[arg(long, env = "FLEET_OUTAGE", default_value = "30s", value_parser = humantime::parse_duration)]
    pub(crate) outage: Duration,
    /// hang: how long a server is stopped
    #[arg(long, env = "FLEET_HANG", default_value = "8s", value_parser = humantime::parse_duration)]
    pub(crate) hang: Duration,
    /// Time before the first event
    #[arg(long, env = "FLEET_WARM_UP", default_value = "2s", value_parser = humantime::parse_duration)]
    pub(crate) warm_up: Duration,
    /// Time after the last event
    #[arg(long, env = "FLEET_COOL_DOWN", default_value = "3s", value_parser = humantime::parse_duration)]
    pub(crate) cool_down: Duration,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

/// What happens to the fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Scenario {
    /// All servers are restarted, one after the other, with SIGTERM: no call may fail
    Rolling,
    /// Each server is paused and comes back, one after the other: no call may fail
    Paused,
    /// One server is killed: only what is in flight there may fail
    Kill,
    /// etcd is killed and comes back with its data: no call may fail
    EtcdDown,
    /// etcd is killed and comes back empty, one server has moved meanwhile: no call may fail
    EtcdWiped,
    /// One server is stopped (SIGSTOP): calls must go to other servers within the keepalive
    Hang,
    /// One more instance registers: how fast it is seen, and the cost
    Spread,
}

/// Whose calls are made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Who {
    /// The library's: `Discovery` and its channel
    Balanced,
    /// tonic's `balance_channel`, fed by a plain list and watch
    Naive,
    /// Both at the same time, with as many calls each
    Both,
}

/// The roles of the processes that a scenario starts.
#[derive(Debug, Clone, Subcommand)]
pub(crate) enum Role {
    #[command(hide = true)]
    Host(Host),
    #[command(hide = true)]
    Measure(Measure),
}

/// A server that nobody registers.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Host {
    #[arg(long)]
    pub(crate) listen: SocketAddr,
}

/// A client in a process of its own, so that its memory and its time are its own.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Measure {
    #[arg(value_enum)]
    pub(crate) what: Measured,
    #[arg(long)]
    pub(crate) etcd: String,
    #[arg(long)]
    pub(crate) instances: usize,
    #[arg(long)]
    pub(crate) port: u16,
    #[arg(long)]
    pub(crate) into: PathBuf,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Measured {
    Spread,
    Scale,
}

// === impl Args ===

impl Args {
    pub(crate) fn scenarios(&self) -> Vec<Scenario> {
        match &*self.scenario {
            [] => Scenario::value_variants().to_vec(),
            chosen => chosen.to_vec(),
        }
    }
}

// === impl Scenario ===

impl Scenario {
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}
