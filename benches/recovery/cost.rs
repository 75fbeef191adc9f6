//! What clients cost etcd: requests, connections and CPU.

use std::collections::BTreeMap;
use std::time::Duration;
use test_support::etcd::Etcd;
use tokio::time::sleep;

/// What each registrant cost etcd.
#[derive(Default)]
pub struct Cost {
    pub requests: f64,
    pub failed: f64,
    /// Connections that this machine accepted: those of other processes count too.
    pub connections: f64,
    pub methods: String,
}

/// In cores.
#[derive(Default)]
pub struct Cpu {
    pub etcd: f64,
    pub fleet: f64,
}

/// Counts that are compared with later ones.
pub struct Mark {
    started: BTreeMap<String, usize>,
    handled: BTreeMap<String, usize>,
    accepted: usize,
}

impl Mark {
    /// The counts of an etcd that has just started are zero.
    pub fn of_a_new_etcd() -> Self {
        Self {
            started: BTreeMap::new(),
            handled: BTreeMap::new(),
            accepted: accepted(),
        }
    }

    pub async fn of(etcd: &Etcd) -> Self {
        Self {
            started: etcd
                .counters("grpc_server_started_total", "grpc_method")
                .await,
            handled: etcd
                .counters("grpc_server_handled_total", "grpc_code")
                .await,
            accepted: accepted(),
        }
    }
}

impl Cost {
    pub async fn since(etcd: &Etcd, mark: &Mark, size: usize) -> Self {
        let now = Mark::of(etcd).await;
        let more = |now: &BTreeMap<String, usize>, before: &BTreeMap<String, usize>| {
            let more = |(what, n): (&String, &usize)| {
                (what.clone(), n - before.get(what).copied().unwrap_or(0))
            };
            // Ranges are those of this benchmark: no registrant sends any.
            let mut more: BTreeMap<_, _> = now.iter().map(more).collect();
            more.retain(|what, n| what != "Range" && *n > 0);
            more
        };
        let (started, mut handled) = (
            more(&now.started, &mark.started),
            more(&now.handled, &mark.handled),
        );
        handled.remove("OK");
        let each = |n: usize| n as f64 / size as f64;
        Self {
            requests: each(started.values().sum()),
            failed: each(handled.values().sum()),
            connections: each(now.accepted - mark.accepted),
            methods: format!("{started:?} {handled:?}"),
        }
    }
}

impl Cpu {
    /// From now on, for `time`.
    pub async fn over(time: Duration, etcd: &Etcd) -> Self {
        let pids = [etcd.pid().to_string(), "self".to_owned()];
        let before = pids.each_ref().map(|pid| cpu_time(pid));
        sleep(time).await;
        let after = pids.each_ref().map(|pid| cpu_time(pid));
        let cores = |n: usize| (after[n] - before[n]) / time.as_secs_f64();
        Self {
            etcd: cores(0),
            fleet: cores(1),
        }
    }
}

/// Seconds that a process has used, by its user and system times in hundredths of a second.
fn cpu_time(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let (_, after_name) = stat.rsplit_once(')').unwrap_or_default();
    let times = after_name.split_whitespace().skip(11).take(2);
    times
        .filter_map(|time| time.parse::<f64>().ok())
        .sum::<f64>()
        / 100.0
}

/// How many connections this machine has accepted.
fn accepted() -> usize {
    let counts = std::fs::read_to_string("/proc/net/snmp").unwrap_or_default();
    let mut lines = counts.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap_or(""), lines.next().unwrap_or(""));
    let mut pairs = names.split(' ').zip(values.split(' '));
    let opens = pairs.find(|(name, _)| *name == "PassiveOpens");
    opens.map_or(0, |(_, value)| value.parse().unwrap_or(0))
}
