//! The metrics, as Prometheus reads them, compared with the table in the manual.

use crate::channel::net::refuse;
use crate::channel::raw::call_sent_again;
use crate::discovery::{key, put};
use crate::setup::{
    KEY, SEC, Setup, announce, announced_by, greeter, is_lost, is_paused, is_registered, register,
    status,
};
use crate::source;
use metrics::LocalRecorderGuard;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::sleep;
use tonic_etcd::RegistrationStatus;
use tonic_etcd::discovery::Discovery;
use tonic_etcd::metrics::MetricsObserver;

/// The metrics of this thread.
struct Scrape {
    handle: PrometheusHandle,
    _local: LocalRecorderGuard<'static>,
}

impl Scrape {
    fn start() -> Self {
        let recorder = PrometheusBuilder::new().build_recorder();
        let handle = recorder.handle();
        // The guard borrows it; one for each test.
        let recorder: &'static PrometheusRecorder = Box::leak(Box::new(recorder));
        Self {
            handle,
            _local: metrics::set_default_local_recorder(recorder),
        }
    }

    /// Each series with its value.
    fn series(&self) -> BTreeMap<String, f64> {
        let text = self.handle.render();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let pairs = lines.filter_map(|line| line.rsplit_once(' '));
        pairs
            .map(|(series, value)| (series.to_owned(), value.parse().unwrap()))
            .collect()
    }

    fn value(&self, series: &str) -> f64 {
        let all = self.series();
        *all.get(series)
            .unwrap_or_else(|| panic!("no {series} in {all:#?}"))
    }

    /// The states that registrations of the service `greeter` are in, with their number.
    fn states(&self) -> BTreeMap<String, f64> {
        self.gauge("tonic_etcd_registration_state")
    }

    /// The states of a gauge of the service `greeter` that are not 0.
    fn gauge(&self, name: &str) -> BTreeMap<String, f64> {
        let start = format!("{name}{{service=\"greeter\",state=\"");
        let all = self.series().into_iter();
        let ours = all.filter_map(|(series, value)| {
            let state = series.strip_prefix(&start)?.strip_suffix("\"}")?;
            (value != 0.0).then(|| (state.to_owned(), value))
        });
        ours.collect()
    }

    fn transitions(&self, to: &str) -> f64 {
        let name = "tonic_etcd_registration_transitions_total";
        self.value(&format!("{name}{{service=\"greeter\",to=\"{to}\"}}"))
    }
}

fn only(state: &str) -> BTreeMap<String, f64> {
    BTreeMap::from([(state.to_owned(), 1.0)])
}

#[tokio::test(start_paused = true)]
async fn states_and_counts_follow_a_registration_through_its_states() {
    let (setup, scrape) = (Setup::new(), Scrape::start());
    let observer = MetricsObserver::new();
    let registration = register(setup.builder().observer(observer));
    assert_eq!(scrape.states(), only("registering"));
    announce(&registration);
    status(&registration, is_registered).await;
    assert_eq!(scrape.states(), only("registered"));

    sleep(SEC).await;
    setup.fake.down();
    status(&registration, |s| {
        matches!(s, RegistrationStatus::Suspect { .. })
    })
    .await;
    assert_eq!(scrape.states(), only("suspect"));
    status(&registration, is_lost).await;
    assert_eq!(scrape.states(), only("lost"));
    setup.fake.wipe();
    setup.fake.up();
    status(&registration, is_registered).await;
    assert_eq!(scrape.states(), only("registered"));
    let transitions = ["lost", "registered"].map(|to| scrape.transitions(to));
    assert_eq!(transitions, [1.0, 2.0]);

    let pause = registration.pause("warming cache").unwrap();
    status(&registration, is_paused).await;
    assert_eq!(scrape.states(), only("paused"));
    drop(pause);
    status(&registration, is_registered).await;
    sleep(SEC * 5).await;

    registration.deregister();
    registration.ended().await;
    assert_eq!(scrape.states(), only("ended"), "and nothing else stays");
    assert_eq!(scrape.transitions("ended"), 1.0);
    // New, after the wipe, the pause, the return.
    assert_eq!(scrape.value("tonic_etcd_writes_total{result=\"ok\"}"), 4.0);
    assert!(scrape.value("tonic_etcd_renewals_total{result=\"ok\"}") >= 1.0);
    assert!(scrape.value("tonic_etcd_connections_total{result=\"error\"}") >= 5.0);
    assert!(scrape.value("tonic_etcd_connections_total{result=\"ok\"}") >= 2.0);
}

#[tokio::test(start_paused = true)]
async fn two_registrations_of_a_service_are_both_counted() {
    let (setup, scrape) = (Setup::new(), Scrape::start());
    let registrar = setup.builder().observer(MetricsObserver::new());
    let registrar = registrar.build().unwrap();
    let addresses = ["10.0.0.1:9000", "10.0.0.2:9000"];
    let registrations =
        addresses.map(|address| announced_by(&registrar, greeter().with_address(address)));
    for registration in &registrations {
        status(registration, is_registered).await;
    }
    assert_eq!(scrape.states()["registered"], 2.0);
    drop(registrations);
    sleep(SEC * 5).await;
    assert_eq!(scrape.states(), BTreeMap::from([("ended".to_owned(), 2.0)]));
}

#[tokio::test(start_paused = true)]
async fn what_is_dropped_is_in_no_gauge_any_more() {
    let (setup, scrape) = (Setup::new(), Scrape::start());
    let observer = MetricsObserver::new();
    let builder = setup.builder().observer(observer.clone());
    let registration = setup.registered_with(builder).await;
    let discovery = Discovery::builder(setup.etcd(), "greeter").observer(observer);
    let discovery = discovery.build().unwrap();
    let channel = discovery.channel().connector(refuse).build().unwrap();
    setup.fake.put("/services/greeter/broken", "{", 0);
    sleep(SEC).await;
    let instances = scrape.gauge("tonic_etcd_discovery_instances");
    assert_eq!(instances["skipped"], 2.0, "{KEY} has no JSON");
    assert_eq!(instances.get("missing"), None);
    put(&setup.fake, [1]);
    sleep(SEC).await;
    assert_eq!(scrape.gauge("tonic_etcd_discovery_instances")["found"], 1.0);
    let endpoints = scrape.gauge("tonic_etcd_endpoints");
    assert_eq!(endpoints.values().sum::<f64>(), 1.0, "{endpoints:?}");
    setup.fake.delete(&key(1));
    sleep(SEC).await;
    assert_eq!(scrape.gauge("tonic_etcd_endpoints"), BTreeMap::new());
    put(&setup.fake, [2]);
    sleep(SEC).await;
    let endpoints = scrape.gauge("tonic_etcd_endpoints");
    assert_eq!(endpoints.values().sum::<f64>(), 1.0, "{endpoints:?}");
    drop((channel, discovery));
    sleep(SEC).await;
    assert_eq!(scrape.gauge("tonic_etcd_endpoints"), BTreeMap::new());
    let instances = scrape.gauge("tonic_etcd_discovery_instances");
    assert_eq!(instances, BTreeMap::new());
    drop(registration);
}

/// The metrics in the manual, each with its labels.
fn contract() -> BTreeMap<String, BTreeSet<String>> {
    let manual = include_str!("../../src/manual/metrics.md");
    let rows = manual
        .lines()
        .filter(|line| line.starts_with("| `tonic_etcd_"));
    let code = |cell: &str| {
        let words = cell.split('`').skip(1).step_by(2).map(str::to_owned);
        words.collect::<BTreeSet<_>>()
    };
    rows.map(|row| {
        let cells: Vec<_> = row.split('|').collect();
        (code(cells[1]).pop_first().unwrap(), code(cells[3]))
    })
    .collect()
}

/// The metrics that were emitted, each with its labels.
fn emitted(scrape: &Scrape) -> BTreeMap<String, BTreeSet<String>> {
    let mut emitted: BTreeMap<_, BTreeSet<String>> = BTreeMap::new();
    for series in scrape.series().into_keys() {
        let (name, labels) = series.split_once('{').unwrap_or((&series, ""));
        // A summary, as the exporter shows histograms by default.
        let name = ["_sum", "_count"]
            .iter()
            .fold(name, |name, end| name.trim_end_matches(end));
        let labels = labels
            .trim_end_matches('}')
            .split(',')
            .filter(|label| !label.is_empty());
        let labels = labels.map(|label| label.split('=').next().unwrap().to_owned());
        let labels = labels.filter(|label| label != "quantile");
        emitted.entry(name.to_owned()).or_default().extend(labels);
    }
    emitted
}

#[tokio::test(start_paused = true)]
async fn every_metric_of_the_manual_is_emitted_and_no_other() {
    let (setup, scrape) = (Setup::new(), Scrape::start());
    let observer = MetricsObserver::new();
    let builder = setup.builder().observer(observer.clone());
    let registration = setup.registered_with(builder).await;
    let discovery = Discovery::builder(setup.etcd(), "greeter").observer(observer.clone());
    let discovery = discovery.build().unwrap();
    sleep(SEC * 3).await;
    let channel = call_sent_again(|builder| builder.observer(observer.clone())).await;
    assert_eq!(channel.stats().resent, 1);
    assert_eq!(channel.stats().endpoints.len(), 2);
    assert_eq!(channel.stats().service, "greeter");
    let resent = "tonic_etcd_calls_resent_total{service=\"greeter\"}";
    assert_eq!(scrape.value(resent), 1.0);
    assert_eq!(emitted(&scrape), contract());
    drop((registration, discovery));
}

#[test]
fn dashboard_and_alerts_name_no_metric_that_is_not_there() {
    let deploy = |file: &str| source::read(format!("examples/deploy/{file}"));
    let contract = contract();
    let mut unused: BTreeSet<_> = contract.keys().cloned().collect();
    for file in ["grafana-dashboard.json", "prometheus-alerts.yaml"] {
        let text = deploy(file);
        let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = text
            .split(|c| !is_word(c))
            .filter(|word| word.starts_with("tonic_etcd_"));
        for word in words {
            let name = ["_bucket", "_sum", "_count"]
                .iter()
                .fold(word, |name, end| name.trim_end_matches(end));
            assert!(contract.contains_key(name), "{file}: {word}");
            unused.remove(name);
        }
    }
    assert!(unused.is_empty(), "on no dashboard: {unused:?}");
    let dashboard = deploy("grafana-dashboard.json");
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() >= 6, "{panels:?}");
    let alerts = deploy("prometheus-alerts.yaml");
    assert_eq!(alerts.matches("- alert:").count(), 4);
}
