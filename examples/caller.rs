//! Finds greeters in etcd and calls them, again and again.
//!
//! ```sh
//! cargo run --features discovery --example caller -- --interval 200ms
//! cargo run --features discovery --example caller -- --format kratos --count 100 --json
//! ```

mod access;
mod event;
mod formats;
#[cfg(feature = "metrics")]
mod prometheus;

use access::Access;
use clap::Parser;
use event::Event;
use formats::FormatName;
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic_etcd::BuildError;
use tonic_etcd::channel::BalancedChannel;
use tonic_etcd::discovery::{Changes, Discovery};
use tonic_etcd::format::Plain;

/// Finds greeters in etcd and calls them, again and again.
///
/// Prints a line for each call, with who answered and how long it took, and one for each greeter that
/// appears (`+`) or goes (`-`). Ends after --count calls, on SIGTERM and on SIGINT. Exit code 0 if
/// every call was answered, 1 if one was not, 2 if the configuration cannot work.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    #[command(flatten)]
    access: Access,
    /// How long one attempt to reach a member of etcd may take; by default 600ms
    #[arg(long, env = "ETCD_ATTEMPT_TIMEOUT", value_name = "TIME", help_heading = access::HEADING)]
    #[arg(value_parser = access::time)]
    attempt_timeout: Option<Duration>,
    /// Name of the service to find
    #[arg(long, env = "CALLER_SERVICE", default_value = "greeter")]
    #[arg(value_name = "NAME")]
    service: String,
    /// Format that its servers are registered in
    #[arg(long, env = "CALLER_FORMAT", default_value = "plain")]
    format: FormatName,
    /// Prefix of the keys of the plain format
    #[arg(long, env = "CALLER_PREFIX", default_value = "/services")]
    prefix: String,
    /// Time from one call to the next
    #[arg(long, env = "CALLER_INTERVAL", default_value = "1s")]
    #[arg(value_name = "TIME")]
    #[arg(value_parser = access::time)]
    interval: Duration,
    /// Calls to make; without it they go on until a signal
    #[arg(long, env = "CALLER_COUNT", value_name = "CALLS")]
    count: Option<u64>,
    /// How long a call waits for a greeter while there is none (ready_timeout)
    #[arg(long, env = "CALLER_WAIT", default_value = "2s", value_name = "TIME")]
    #[arg(value_parser = access::time)]
    wait: Duration,
    /// How long a call may take, that wait included
    #[arg(long, env = "CALLER_DEADLINE", default_value = "5s")]
    #[arg(value_name = "TIME")]
    #[arg(value_parser = access::time)]
    deadline: Duration,
    /// How long missing greeters are kept after etcd was away (retention)
    #[arg(long, env = "CALLER_GRACE", default_value = "30s", value_name = "TIME")]
    #[arg(value_parser = access::time)]
    grace: Duration,
    /// Connect to at most this number of greeters
    #[arg(long, env = "CALLER_SUBSET", value_name = "GREETERS")]
    subset: Option<usize>,
    /// Id of this client for the subset: the same id chooses the same greeters
    #[arg(long, env = "CALLER_SUBSET_ID", value_name = "ID", requires = "subset")]
    subset_id: Option<String>,
    /// Print JSON, one object in a line
    #[arg(long, env = "CALLER_JSON")]
    json: bool,
    /// Address to serve metrics on for Prometheus, at /metrics
    #[cfg(feature = "metrics")]
    #[arg(long, env = "CALLER_METRICS", value_name = "ADDR")]
    metrics: Option<std::net::SocketAddr>,
}

/// Why it ended before its time.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Setup(#[from] BuildError),
    #[error("{0}")]
    Io(#[from] io::Error),
}

#[tokio::main]
async fn main() -> ExitCode {
    greeter::log::start("info");
    match run(&Args::parse()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_failed) => ExitCode::FAILURE,
        // The reader has closed the pipe: `caller | head`.
        Err(Failure::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(failure) => {
            let _ = writeln!(io::stderr(), "error: {failure}");
            match failure {
                Failure::Usage(_) | Failure::Setup(_) => ExitCode::from(2),
                Failure::Io(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// Returns the number of calls that failed.
async fn run(args: &Args) -> Result<u64, Failure> {
    let stop = stop_on_signals()?;
    let discovery = discover(args)?;
    tokio::spawn(tell(discovery.changes(), args.json, stop.clone()));
    let mut client = GreeterClient::new(channel(args, &discovery)?);
    // An interval of 0 would panic; this one is practically 0.
    let mut ticks = interval(args.interval.max(Duration::from_nanos(1)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut made, mut failed) = (0, 0);
    while args.count.is_none_or(|count| made < count) {
        let next = async {
            ticks.tick().await;
            call(&mut client, args.deadline).await
        };
        let event = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            event = next => event,
        };
        made += 1;
        failed += u64::from(matches!(event, Event::Failed { .. }));
        event.print(args.json)?;
    }
    let _ = writeln!(io::stderr(), "{made} calls, {failed} failed");
    Ok(failed)
}

fn discover(args: &Args) -> Result<Discovery, Failure> {
    let etcd = args
        .access
        .etcd(args.attempt_timeout)
        .map_err(Failure::Usage)?;
    let plain = Plain::new().prefix(&args.prefix);
    let discovery = Discovery::builder(etcd, &args.service)
        .format(args.format.format(&plain))
        .retention(args.grace);
    #[cfg(feature = "metrics")]
    let discovery = match args.metrics {
        Some(addr) => {
            let observer = prometheus::serve(addr);
            discovery.observer(observer.map_err(|error| Failure::Usage(error.to_string()))?)
        }
        None => discovery,
    };
    Ok(discovery.build()?)
}

fn channel(args: &Args, discovery: &Discovery) -> Result<BalancedChannel, BuildError> {
    let mut channel = discovery
        .channel()
        .service(&args.service)
        .ready_timeout(args.wait);
    if let Some(subset) = args.subset {
        channel = channel.subset(subset);
    }
    if let Some(id) = &args.subset_id {
        channel = channel.subset_id(id);
    }
    channel.build()
}

async fn call(client: &mut GreeterClient<BalancedChannel>, deadline: Duration) -> Event {
    let mut request = Request::new(HelloRequest {
        name: "caller".to_owned(),
    });
    request.set_timeout(deadline);
    let sent = Instant::now();
    let answer = client.say_hello(request).await;
    Event::of_call(answer, sent.elapsed())
}

/// Prints the greeters that appear and go. Stops the program when stdout is closed.
async fn tell(mut changes: Changes, json: bool, stop: CancellationToken) {
    while let Some(change) = changes.next().await {
        if Event::of_change(change).print(json).is_err() {
            return stop.cancel();
        }
    }
}

fn stop_on_signals() -> io::Result<CancellationToken> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stopped.cancel();
    });
    Ok(stop)
}
