//! Networks between a server and etcd: balancers that end each connection, `etcd grpc-proxy`, and a time without writes.

use crate::table::Table;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::grpc_proxy::GrpcProxy;
use test_support::library_etcd;
use test_support::observer::Observer;
use test_support::proxy::Proxy;
use test_support::server::{ServerProcess, ms};
use tokio::time::{Instant, interval, sleep, timeout};
use tonic_etcd::discovery::Discovery;
use tonic_etcd::{Instance, Registrar, Registration, RegistrationStatus};

const SEC: Duration = Duration::from_secs(1);
const BETWEEN_CUTS: Duration = Duration::from_secs(8);
const CUTS: Duration = Duration::from_secs(120);
const RELAYED: Duration = Duration::from_secs(60);
const QUIET: Duration = Duration::from_secs(600);

pub async fn all(table: &Table) {
    tokio::join!(
        cuts(table),
        relayed(table, "grpc-proxy", &[]),
        relayed(
            table,
            "grpc-proxy with a namespace",
            &["--namespace=/tenant"]
        ),
    );
}

/// The name of etcd is looked up slower than an attempt of 0.6 s.
pub async fn slow_dns(table: &Table) {
    let etcd = Etcd::start().await;
    let works = SocketAddr::from(([127, 0, 0, 1], etcd.client_port()));
    for delay in [SEC.mul_f64(0.7), SEC * 3] {
        let (mut after, mut lookups) = (vec![], 0);
        for _ in 0..10 {
            let answers = Arc::<Mutex<Vec<Instant>>>::default();
            let answered = answers.clone();
            let etcd = library_etcd(["http://etcd.example:2379"]).resolver(move |_, _| {
                let answered = answered.clone();
                async move {
                    sleep(delay).await;
                    answered.lock().unwrap().push(Instant::now());
                    Ok(vec![works])
                }
            });
            let registration = Registrar::builder(etcd).build().unwrap();
            let registration = registration.register(Instance::new("greeter")).unwrap();
            registration
                .announce("127.0.0.1:9".parse().unwrap())
                .unwrap();
            let registered = timeout(SEC * 30, registration.registered()).await;
            let now = Instant::now();
            let answers = answers.lock().unwrap();
            after.push(match registered {
                Ok(Ok(_)) => ms(answers[0], now),
                _ => f64::INFINITY,
            });
            lookups += answers.len();
        }
        let what = format!("DNS of {delay:?}: registered after its first answer");
        table.each_ms(&what, 1000.0, &after);
        let seen = format!("{lookups} lookups in 10 runs");
        let what = format!("DNS of {delay:?}: one lookup");
        table.holds(&what, lookups == 10, &seen);
    }
}

/// A registration in this process, one in another, and a reader, all at the same endpoint.
struct Setup {
    etcd: Etcd,
    server: ServerProcess,
    _registration: Registration,
    statuses: Arc<Mutex<Vec<RegistrationStatus>>>,
    discovery: Discovery,
    observer: Observer,
    /// The number of calls that etcd has counted before the test.
    authentications: usize,
    events: usize,
}

// === impl Setup ===

impl Setup {
    async fn begin(etcd: Etcd, endpoint: &str, prefix: &str) -> Self {
        let server = ServerProcess::start(endpoint, &[]);
        server.registered().await;
        let registrar = Registrar::builder(library_etcd([endpoint]))
            .build()
            .unwrap();
        let registration = registrar.register(Instance::new("other")).unwrap();
        registration
            .announce("127.0.0.1:9".parse().unwrap())
            .unwrap();
        registration.registered().await.unwrap();
        let discovery = Discovery::builder(library_etcd([endpoint]), "greeter");
        let discovery = discovery.build().unwrap();
        discovery.ready().await;
        let observer = Observer::start(etcd.endpoint(), prefix).await;
        sleep(SEC * 2).await;
        let statuses = Arc::<Mutex<Vec<_>>>::default();
        let (log, mut watch) = (statuses.clone(), registration.watch());
        tokio::spawn(async move {
            while let Some(status) = watch.changed().await {
                log.lock().unwrap().push(status);
            }
        });
        Self {
            authentications: etcd.calls("Authenticate").await,
            events: observer.mark(),
            etcd,
            server,
            _registration: registration,
            statuses,
            discovery,
            observer,
        }
    }

    /// Checks that no status changed, no WARN was logged and no key was put.
    async fn end(&self, table: &Table, what: &str) {
        let statuses = self.statuses.lock().unwrap().clone();
        let warnings = self.server.output().matches(" WARN ").count();
        let events = self.observer.events().len() - self.events;
        let authentications = self.etcd.calls("Authenticate").await - self.authentications;
        let seen = format!(
            "{} changes of status, {warnings} WARNs, {events} PUTs and DELETEs, {authentications} authentications",
            statuses.len()
        );
        let snapshot = self.discovery.snapshot();
        let error = snapshot.watch_error();
        let holds = statuses.is_empty()
            && (warnings, events, authentications) == (0, 0, 0)
            && error.is_none();
        let what = format!("{what}: 0 changes of status, WARNs, PUTs, DELETEs, authentications");
        let why = format!("{seen}; {statuses:?}, {error:?}");
        table.holds(&what, holds, if holds { &seen } else { &why });
    }
}

/// A balancer that ends every connection when it is 8 s old.
async fn cuts(table: &Table) {
    let etcd = Etcd::start().await;
    let proxy = Proxy::to_port(etcd.client_port()).await;
    let setup = Setup::begin(etcd, &proxy.endpoint(), "/services/").await;
    let (start, mut cuts) = (Instant::now(), interval(BETWEEN_CUTS));
    while start.elapsed() < CUTS {
        cuts.tick().await;
        proxy.reset();
    }
    let what = "connections cut every 8 s for 2 minutes";
    setup.end(table, what).await;
    leaves_after_cuts(table, &setup, &proxy).await;
}

/// A server that leaves 0.5 s after a cut is gone for readers at once.
async fn leaves_after_cuts(table: &Table, setup: &Setup, proxy: &Proxy) {
    let mut gone = vec![];
    for _ in 0..5 {
        let leaving = ServerProcess::start(&proxy.endpoint(), &["--deregistration-delay", "0s"]);
        let key = leaving.registered().await;
        let shown = || setup.discovery.snapshot().iter().any(|(it, _)| it == key);
        until(&shown).await;
        proxy.reset();
        sleep(SEC / 2).await;
        leaving.signal("TERM");
        setup.observer.wait_for_no_key(&key, SEC * 5).await;
        let deleted = Instant::now();
        until(|| !shown()).await;
        gone.push(ms(deleted, Instant::now()));
        sleep(SEC * 3).await;
    }
    table.each_ms(
        "a server that leaves 0.5 s after a cut: gone for a reader after the DELETE",
        100.0,
        &gone,
    );
}

async fn until(is: impl Fn() -> bool) {
    let start = Instant::now();
    while !is() && start.elapsed() < SEC * 30 {
        sleep(Duration::from_millis(1)).await;
    }
}

/// etcd's own relay, for a minute.
async fn relayed(table: &Table, what: &str, flags: &[&str]) {
    let etcd = Etcd::start().await;
    let relay = GrpcProxy::start(&etcd, flags).await;
    let setup = Setup::begin(etcd, &relay.endpoint(), "").await;
    sleep(RELAYED).await;
    setup.end(table, &format!("{what}, for a minute")).await;
}

/// A reader at an etcd that nobody writes to: its watch stays open.
pub async fn quiet(table: &Table) {
    let etcd = Etcd::start().await;
    let reader = Discovery::builder(library_etcd([etcd.endpoint()]), "greeter");
    let reader = reader.build().unwrap();
    reader.ready().await;
    let before = etcd.calls("Watch").await;
    sleep(QUIET).await;
    let opened = etcd.calls("Watch").await - before;
    let error = reader.snapshot().watch_error().map(ToString::to_string);
    let seen = format!("{opened} reopened, error: {error:?}");
    let holds = opened == 0 && error.is_none();
    let what = "discovery at an etcd without writes for 10 minutes: 0 reopened watches";
    table.holds(what, holds, &seen);
}
