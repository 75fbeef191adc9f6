//! One client in a process of its own: how fast it sees a change, and what that costs it.

use crate::args::{Measure, Measured};
use crate::host::{PREFIX, SERVICE};
use crate::problem::Problem;
use etcd_client::{Client, Txn, TxnOp};
use std::fmt::Write as _;
use std::time::Duration;
use test_support::load::{quantile, time};
use test_support::poll;
use tokio::time::{Instant, timeout};
use tokio_stream::StreamExt as _;
use tonic_etcd::Etcd;
use tonic_etcd::channel::BalancedChannel;
use tonic_etcd::discovery::{Change, Changes, Discovery};

pub(crate) const HEAD: &str = "
| what | instances | runs | median | 99 % | worst |
|---|---|---|---|---|---|";

/// How many times one more instance comes and goes.
const TRIALS: usize = 200;
/// How many times one of many instances is changed.
const CHANGES: usize = 2_000;
const TIMEOUT: Duration = Duration::from_secs(60);
/// As exactly as this is known when an endpoint can be called.
const POLL: Duration = Duration::from_micros(500);
/// Operations in one transaction: etcd takes 128.
const BATCH: usize = 100;

pub(crate) async fn measure(args: Measure) -> Result<(), Problem> {
    let report = match args.what {
        Measured::Spread => spread(&args).await?,
        Measured::Scale => scale(&args).await?,
    };
    Ok(std::fs::write(&args.into, report)?)
}

/// From the put of a key to its `Change`, and to an endpoint that can be called.
async fn spread(args: &Measure) -> Result<String, Problem> {
    let mut writer = Client::connect([&args.etcd], None).await?;
    put_all(&mut writer, args.instances, args.port).await?;
    let discovery = Discovery::builder(Etcd::new([&args.etcd]), SERVICE).build()?;
    let channel = discovery.channel().build()?;
    ready(&channel, args.instances).await?;
    let mut changes = discovery.changes();
    for _ in 0..args.instances {
        next(&mut changes).await?;
    }
    let (extra, value) = entry(args.instances, args.port, 0);
    let address = address(args.instances, args.port);
    let (mut told, mut usable) = (vec![], vec![]);
    for _ in 0..TRIALS {
        let begun = Instant::now();
        let watching = async {
            next(&mut changes).await?;
            told.push(begun.elapsed());
            until_ready(&channel, &address).await?;
            usable.push(begun.elapsed());
            Ok::<_, Problem>(())
        };
        let putting = async { Ok(writer.put(&*extra, &*value, None).await.map(drop)?) };
        tokio::try_join!(putting, watching)?;
        writer.delete(&*extra, None).await?;
        next(&mut changes).await?;
        ready(&channel, args.instances).await?;
    }
    let mut report = String::new();
    row(&mut report, "key put → `Change`", args.instances, told)?;
    row(
        &mut report,
        "key put → endpoint ready",
        args.instances,
        usable,
    )?;
    Ok(report)
}

/// The first list of many; and one change among them.
async fn scale(args: &Measure) -> Result<String, Problem> {
    let (begun, before) = (Instant::now(), resident());
    let discovery = Discovery::builder(Etcd::new([&args.etcd]), SERVICE).build()?;
    let found = discovery.ready().await.len();
    let took = begun.elapsed();
    if found != args.instances {
        return Err(format!("{found} of {} instances in the first list", args.instances).into());
    }
    let mib = resident().saturating_sub(before) as f64 / f64::from(1 << 20);
    let mut report = String::new();
    row(&mut report, "first list", args.instances, vec![took])?;
    writeln!(
        report,
        "| memory of the first list | {found} | 1 | {mib:.1} MiB | | |"
    )?;

    let mut changes = discovery.changes();
    for _ in 0..found {
        next(&mut changes).await?;
    }
    let mut writer = Client::connect([&args.etcd], None).await?;
    let busy = cpu();
    let mut told = vec![];
    for version in 1..=CHANGES {
        let (key, value) = entry(version, args.port, version);
        let begun = Instant::now();
        let watching = async {
            next(&mut changes).await?;
            Ok::<_, Problem>(begun.elapsed())
        };
        let putting = async { Ok(writer.put(key, value, None).await.map(drop)?) };
        told.push(tokio::try_join!(putting, watching)?.1);
    }
    let with_discovery = cpu() - busy;
    // The cost of the writer itself is subtracted.
    drop((changes, discovery));
    let busy = cpu();
    for version in 1..=CHANGES {
        let (key, value) = entry(version, args.port, version + CHANGES);
        writer.put(key, value, None).await?;
    }
    let cost = with_discovery.saturating_sub(cpu() - busy) / CHANGES as u32;
    row(&mut report, "one of them changes → `Change`", found, told)?;
    let micros = cost.as_micros();
    writeln!(
        report,
        "| CPU time for one change | {found} | {CHANGES} | {micros} µs | | |"
    )?;
    Ok(report)
}

/// Writes so many instances as they would write themselves, all served by one host.
pub(crate) async fn put_all(
    writer: &mut Client,
    instances: usize,
    port: u16,
) -> Result<(), Problem> {
    let all: Vec<_> = (0..instances).collect();
    for batch in all.chunks(BATCH) {
        let puts = batch.iter().map(|n| entry(*n, port, 0));
        let puts: Vec<_> = puts
            .map(|(key, value)| TxnOp::put(key, value, None))
            .collect();
        writer.txn(Txn::new().and_then(puts)).await?;
    }
    Ok(())
}

/// All of 127.0.0.0/8 is this machine.
fn address(n: usize, port: u16) -> String {
    let n = n + 1;
    format!(
        "127.{}.{}.{}:{port}",
        1 + n / 65_536,
        n / 256 % 256,
        n % 256
    )
}

fn entry(n: usize, port: u16, version: usize) -> (String, String) {
    let value = serde_json::json!({
        "name": SERVICE,
        "id": format!("{n:016x}"),
        "address": address(n, port),
        "version": version.to_string(),
    });
    (format!("{PREFIX}instance-{n}/{port}"), value.to_string())
}

async fn next(changes: &mut Changes) -> Result<Change, Problem> {
    let change = timeout(TIMEOUT, changes.next()).await?;
    change.ok_or_else(|| "the changes have ended".into())
}

/// Waits until exactly so many can be called.
async fn ready(channel: &BalancedChannel, wanted: usize) -> Result<(), Problem> {
    let all_ready = async || {
        let endpoints = channel.endpoints();
        let all = endpoints.len();
        match endpoints.iter().filter(|it| it.state.is_ready()).count() {
            ready if (ready, all) == (wanted, wanted) => Ok(()),
            ready => Err(format!("{ready} of {all} are ready, not {wanted}").into()),
        }
    };
    poll(Duration::from_millis(2), TIMEOUT, all_ready).await
}

async fn until_ready(channel: &BalancedChannel, address: &str) -> Result<(), Problem> {
    let is_ready = async || {
        let endpoints = channel.endpoints();
        let mut ready = endpoints.iter().filter(|it| it.state.is_ready());
        match ready.any(|endpoint| &*endpoint.address == address) {
            true => Ok(()),
            false => Err(format!("{address} does not get ready").into()),
        }
    };
    poll(POLL, TIMEOUT, is_ready).await
}

fn row(
    report: &mut String,
    what: &str,
    instances: usize,
    mut times: Vec<Duration>,
) -> Result<(), Problem> {
    times.sort_unstable();
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|share| time(quantile(&times, share)));
    let runs = times.len();
    Ok(writeln!(
        report,
        "| {what} | {instances} | {runs} | {p50} | {p99} | {max} |"
    )?)
}

/// The memory this process holds, in bytes; pages are of 4 KiB on all that this runs on.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm
        .split_whitespace()
        .nth(1)
        .and_then(|pages| pages.parse().ok());
    pages.unwrap_or(0) * 4096
}

/// The time all threads of this process have run. `/proc/self/stat` has it too, but counts in 10 ms.
fn cpu() -> Duration {
    let threads = std::fs::read_dir("/proc/self/task")
        .into_iter()
        .flatten()
        .flatten();
    let run = threads.filter_map(|thread| {
        let schedstat = std::fs::read_to_string(thread.path().join("schedstat")).ok()?;
        schedstat.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(run.sum())
}
