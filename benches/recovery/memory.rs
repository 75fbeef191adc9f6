//! What 10,000 registrations of one process keep in memory, without and with metrics.
//!
//! Each figure comes from a process of its own: memory that one run has freed would be reused by the next one.

use crate::table::{Stat, Table, median};
use clap::ValueEnum;
use metrics_exporter_prometheus::PrometheusBuilder;
use std::time::Duration;
use test_support::etcd::Etcd;
use tokio::process::Command;
use tokio::time::sleep;
use tonic_etcd::format::Plain;
use tonic_etcd::metrics::MetricsObserver;
use tonic_etcd::{Instance, Registrar};

/// What such a process registers, and whether with metrics.
#[derive(Clone, Copy, PartialEq, ValueEnum)]
pub enum Held {
    OneService,
    OneServiceWithMetrics,
    Services,
    ServicesWithMetrics,
}

const COUNT: usize = 10_000;
const RUNS: usize = 3;
/// The gauges and counters of one service.
const SERIES: usize = 16;

pub async fn all(table: &Table) {
    use Held::{OneService, OneServiceWithMetrics, Services, ServicesWithMetrics};
    // Alternating, so that a change of the machine affects both.
    let (mut without, mut with) = (vec![], vec![]);
    for _ in 0..RUNS {
        without.push(measured(OneService).await);
        with.push(measured(OneServiceWithMetrics).await);
    }
    let (without, with) = (median(&without), median(&with));
    let what = format!(
        "10,000 registrations: memory with metrics ({with:.1} MiB), beside {without:.1} MiB"
    );
    table.at_most(&what, "times", 1.1, Stat::Each, &[with / without]);
    // The series of so many services are the recorder's: each service has its own.
    let (without, with) = (
        measured(Services).await,
        measured(ServicesWithMetrics).await,
    );
    let each = (with - without) * 1024.0 * 1024.0 / (COUNT * SERIES) as f64;
    let seen = format!(
        "{with:.1} MiB beside {without:.1} MiB: {each:.0} B for each of {SERIES} series of a service"
    );
    table.holds("10,000 services: memory with metrics", true, &seen);
}

/// Measures in MiB, in a process that does nothing else.
async fn measured(held: Held) -> f64 {
    let etcd = Etcd::start().await;
    let held = held.to_possible_value().unwrap();
    let program = std::env::current_exe().unwrap();
    let mut process = Command::new(program);
    process.args(["--held", held.get_name(), "--etcd", &etcd.endpoint()]);
    let output = process.kill_on_drop(true).output().await.unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let kib: f64 = printed.trim().parse().unwrap_or_else(|_| {
        panic!("{printed} {}", String::from_utf8_lossy(&output.stderr));
    });
    kib / 1024.0
}

/// Registers, waits until all of it is in etcd, and prints how many KiB that took.
pub async fn hold(held: Held, etcd: String) {
    let format = Plain::new().key_template("{prefix}/{name}/{ip}:{port}");
    let mut builder = Registrar::builder(tonic_etcd::Etcd::new([etcd])).format(format);
    let with_metrics = [Held::OneServiceWithMetrics, Held::ServicesWithMetrics];
    if with_metrics.contains(&held) {
        PrometheusBuilder::new().install_recorder().unwrap();
        builder = builder.observer(MetricsObserver::new());
    }
    let registrar = builder.build().unwrap();
    let is_one = matches!(held, Held::OneService | Held::OneServiceWithMetrics);
    // The memory of the first one is mostly that of the connection.
    let first = registrar.register(Instance::new("first")).unwrap();
    first.announce("127.0.0.1:9000".parse().unwrap()).unwrap();
    first.registered().await.unwrap();
    let before = resident();
    let registrations: Vec<_> = (0..COUNT)
        .map(|n| {
            let name = match is_one {
                true => "service".to_owned(),
                false => format!("service-{n}"),
            };
            let registration = registrar.register(Instance::new(name)).unwrap();
            let address = format!("127.0.0.1:{}", 10_000 + n);
            registration.announce(address.parse().unwrap()).unwrap();
            registration
        })
        .collect();
    for registration in &registrations {
        registration.registered().await.unwrap();
    }
    sleep(Duration::from_secs(2)).await;
    println!("{}", resident() - before);
    registrar.shutdown();
    for registration in &registrations {
        registration.ended().await;
    }
}

/// The memory this process holds, in KiB.
pub fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok())
        .unwrap_or_default()
}
