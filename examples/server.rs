//! A greeter that is registered in etcd for as long as it serves.
//!
//! ```sh
//! cargo run --example server -- --etcd http://127.0.0.1:2379 --listen 127.0.0.1:0
//! ```

mod access;
mod formats;
#[cfg(feature = "introspection")]
mod introspection;
#[cfg(feature = "metrics")]
mod prometheus;

use access::Access;
use clap::Parser;
use formats::FormatName;
use greeter::MyGreeter;
use greeter::pb::greeter_server::GreeterServer;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tonic::transport::Server;
use tonic_etcd::format::Plain;
use tonic_etcd::{
    BuildError, Ended, Etcd, Instance, OnConflict, RegisterError, Registrar, RegistrarBuilder,
    Registration, RegistrationStatus, ServeRegistered, StatusWatch,
};

/// A greeter that is registered in etcd for as long as it serves.
///
/// Prints `listening ADDR` when it is bound and `registered KEY` when it can be found. Stops on
/// SIGTERM and SIGINT, and without waiting on a second one. SIGUSR1 takes its keys out of etcd while
/// it keeps serving, SIGUSR2 puts them back. Exit code 0 after a stop, 1 if
/// serving failed, 2 if the configuration cannot work.
#[derive(Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    access: Access,
    /// How long one attempt to reach a member of etcd may take; by default 600ms, or less with a TTL below 5s
    #[arg(long, env = "ETCD_ATTEMPT_TIMEOUT", value_name = "TIME", help_heading = access::HEADING, value_parser = access::time)]
    attempt_timeout: Option<Duration>,
    /// What to do about a key that another lease holds
    #[arg(long, env = "GREETER_ON_CONFLICT", default_value = "take-over")]
    #[arg(value_enum)]
    on_conflict: Policy,
    /// Format to write; may be repeated, to be found by clients of several ecosystems
    #[arg(long, env = "GREETER_FORMAT", default_value = "plain")]
    #[arg(value_delimiter = ',')]
    format: Vec<FormatName>,
    /// Prefix of the keys of the plain format
    #[arg(long, env = "GREETER_PREFIX", default_value = "/services")]
    prefix: String,
    /// Template of the keys of the plain format, with {prefix} {name} {ip} {port} {addr} {pid} {host} {id} {lease}
    #[arg(long, env = "GREETER_KEY")]
    #[arg(default_value = "{prefix}/{name}/{ip}/{pid}")]
    key: String,
    /// Service name to register under; may be repeated
    #[arg(long, env = "GREETER_NAME", default_value = "greeter")]
    #[arg(value_delimiter = ',')]
    name: Vec<String>,
    /// Address to listen on; port 0 finds a free one
    #[arg(long, env = "GREETER_LISTEN", default_value = "127.0.0.1:0")]
    #[arg(value_name = "ADDR")]
    listen: SocketAddr,
    /// Address to advertise instead of the bound one, host:port
    #[arg(long, env = "GREETER_ADVERTISE", value_name = "ADDR")]
    advertise: Option<String>,
    /// Time after which the key expires after a crash, such as 5s
    #[arg(long, env = "GREETER_TTL", default_value = "5s", value_parser = access::time)]
    ttl: Duration,
    /// Value to write in the plain format instead of the instance as JSON
    #[arg(long, env = "GREETER_VALUE")]
    value: Option<String>,
    /// Time to keep serving after the key is gone
    #[arg(long, env = "GREETER_DEREGISTRATION_DELAY", default_value = "1s", value_parser = access::time)]
    #[arg(alias = "settle")]
    deregistration_delay: Duration,
    /// Time for requests in flight to finish
    #[arg(long, env = "GREETER_DRAIN_TIMEOUT", default_value = "30s", value_parser = access::time)]
    drain_timeout: Duration,
    /// Address to serve metrics on for Prometheus, at /metrics
    #[cfg(feature = "metrics")]
    #[arg(long, env = "GREETER_METRICS", value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    #[cfg(feature = "introspection")]
    #[command(flatten)]
    introspection: introspection::IntrospectionArgs,
}

/// [`OnConflict`] on a command line.
#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Policy {
    /// Write the key anyway
    TakeOver,
    /// Leave it until it is free
    Yield,
}

/// The command line or the environment is wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Usage(String);

#[tokio::main]
async fn main() -> ExitCode {
    greeter::log::start("info");
    match run(Args::parse()).await {
        Ok(ended) => {
            say(&ended);
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "error: {error}");
            let is_setup = error.is::<Usage>() || error.is::<BuildError>();
            match is_setup || error.is::<RegisterError>() {
                true => ExitCode::from(2),
                false => ExitCode::FAILURE,
            }
        }
    }
}

async fn run(args: Args) -> Result<Ended, Box<dyn std::error::Error>> {
    let etcd = args.access.etcd(args.attempt_timeout).map_err(Usage)?;
    let registrar = registrar(&args, etcd)?;
    let registration = register(&args, &registrar)?;
    let incoming = registration.bind(args.listen)?;
    let local = incoming.local_addr();
    say(&format_args!("listening {local}"));
    tokio::spawn(tell(registration.watch()));
    tokio::spawn(pause_on_signals(
        signal(SignalKind::user_defined1())?,
        signal(SignalKind::user_defined2())?,
        registration.clone(),
    ));

    let reflection = || {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(greeter::DESCRIPTOR)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET);
        #[cfg(feature = "introspection")]
        let reflection = args.introspection.describe(reflection);
        reflection
    };
    let greeter = MyGreeter {
        whoami: format!("I am {local}."),
    };
    let server = Server::builder()
        .layer(registration.layer())
        .add_service(registration.health_service())
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(GreeterServer::new(greeter));
    #[cfg(feature = "introspection")]
    let server = server.add_optional_service(args.introspection.service(&registrar));
    Ok(server.serve_registered_with_incoming(incoming).await?)
}

fn registrar(args: &Args, etcd: Etcd) -> Result<Registrar, Box<dyn std::error::Error>> {
    let plain = Plain::new().prefix(&args.prefix).key_template(&args.key);
    let formats = args.format.iter().map(|name| name.format(&plain));
    let registrar = formats
        .fold(Registrar::builder(etcd), RegistrarBuilder::format)
        .ttl(args.ttl)
        .on_conflict(match args.on_conflict {
            Policy::TakeOver => OnConflict::TakeOver,
            Policy::Yield => OnConflict::Yield,
        })
        .deregistration_delay(args.deregistration_delay)
        .drain_timeout(args.drain_timeout)
        .shutdown_on_signals();
    #[cfg(feature = "metrics")]
    let registrar = match args.metrics {
        Some(addr) => registrar.observer(prometheus::serve(addr)?),
        None => registrar,
    };
    Ok(registrar.build()?)
}

fn register(args: &Args, registrar: &Registrar) -> Result<Registration, RegisterError> {
    registrar.register_all(args.name.iter().map(|name| {
        let mut instance = Instance::new(name).with_version(env!("CARGO_PKG_VERSION"));
        if let Some(address) = &args.advertise {
            instance = instance.with_address(address);
        }
        if let Some(value) = &args.value {
            instance = instance.with_value(value);
        }
        instance
    }))
}

/// Prints a line. `println!` would panic, and end the server, when stdout is closed.
fn say(line: &dyn std::fmt::Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Prints each key when it can be found, also after it was lost and came back.
async fn tell(mut statuses: StatusWatch) {
    let mut held = false;
    while let Some(status) = statuses.changed().await {
        if let (RegistrationStatus::Registered(registered), false) = (&status, held) {
            for key in &*registered.keys {
                say(&format_args!("registered {key}"));
            }
        }
        held = status.is_registered();
    }
}

/// SIGUSR1 pauses the registration, SIGUSR2 ends the pause. It leaves all the same when its listener closes.
async fn pause_on_signals(mut pause: Signal, mut resume: Signal, registration: Registration) {
    let mut paused = None;
    loop {
        tokio::select! {
            _ = pause.recv() => {
                if paused.is_none() {
                    // An error means that it leaves anyway.
                    paused = registration.pause("SIGUSR1").ok();
                }
            }
            _ = resume.recv() => paused = None,
        }
    }
}
