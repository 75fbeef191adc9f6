//! The balanced channel, on real tonic servers behind pipes that can be cut and frozen.

use crate::setup::{LONG, MS, SEC};
use crate::support::eventually;
use greeter::MyGreeter;
use greeter::pb::greeter_client::GreeterClient;
use greeter::pb::greeter_server::GreeterServer;
use greeter::pb::{HelloRequest, StreamRequest};
use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Code, Request, Status};
use tonic_etcd::discovery::Change;
use tonic_etcd::discovery::channel::{AnsweredBy, Balanced, BalancedBuilder, Condition};
use tonic_etcd::{Error, Instance};
use tonic_health::server::HealthReporter;

#[path = "../../examples/greeter/mod.rs"]
mod greeter;
mod raw;

/// Servers by their addresses, and the network between.
#[derive(Clone, Default)]
struct Net(Arc<Mutex<BTreeMap<String, Host>>>);

/// What listens at one address.
struct Host {
    door: mpsc::UnboundedSender<DuplexStream>,
    frozen: watch::Sender<bool>,
    wires: Vec<JoinHandle<()>>,
    connects: usize,
    stop: CancellationToken,
    served: Option<JoinHandle<()>>,
}

/// The writing end of a source of changes.
struct Registry(mpsc::UnboundedSender<Change>);

type Client = GreeterClient<Balanced>;

// === impl Net ===

impl Net {
    /// A greeter at `address`, which greets with it.
    fn serve(&self, address: &str) {
        let whoami = address.to_owned();
        let router = Server::builder().add_service(GreeterServer::new(MyGreeter { whoami }));
        self.serve_router(address, router);
    }

    /// A greeter with a health service.
    async fn serve_with_health(&self, address: &str) -> HealthReporter {
        let (reporter, health) = tonic_health::server::health_reporter();
        let whoami = address.to_owned();
        let router = Server::builder()
            .add_service(health)
            .add_service(GreeterServer::new(MyGreeter { whoami }));
        self.serve_router(address, router);
        reporter
    }

    fn serve_router(&self, address: &str, router: tonic::transport::server::Router) {
        let stop = CancellationToken::new();
        let mut arriving = self.listen(address, stop.clone());
        let stopping = stop.clone().cancelled_owned();
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(io) = arriving.recv().await {
                if tell.send(Ok::<_, Infallible>(io)).is_err() {
                    return;
                }
            }
        });
        let served = tokio::spawn(async move {
            let incoming = UnboundedReceiverStream::new(told);
            let served = router.serve_with_incoming_shutdown(incoming, stopping);
            served.await.unwrap();
        });
        self.0.lock().unwrap().get_mut(address).unwrap().served = Some(served);
    }

    /// Connections to `address` arrive here.
    fn listen(
        &self,
        address: &str,
        stop: CancellationToken,
    ) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (door, arriving) = mpsc::unbounded_channel();
        let host = Host {
            door,
            frozen: watch::channel(false).0,
            wires: vec![],
            connects: 0,
            stop,
            served: None,
        };
        self.0.lock().unwrap().insert(address.to_owned(), host);
        arriving
    }

    fn connect(&self, address: &str) -> io::Result<DuplexStream> {
        let mut hosts = self.0.lock().unwrap();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let host = hosts.get_mut(address).ok_or_else(refused)?;
        let (near, left) = tokio::io::duplex(64 * 1024);
        let (right, far) = tokio::io::duplex(64 * 1024);
        host.door.send(far).map_err(|_| refused())?;
        host.connects += 1;
        let mut frozen = host.frozen.subscribe();
        host.wires.push(tokio::spawn(async move {
            let freeze = async {
                // A host that is gone does not freeze any more.
                if frozen.wait_for(|frozen| *frozen).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let (from_left, to_left) = tokio::io::split(left);
            let (from_right, to_right) = tokio::io::split(right);
            // Not dropped when frozen: both ends stay open.
            let passing = async {
                tokio::join!(pass(from_left, to_right), pass(from_right, to_left));
            };
            let mut passing = std::pin::pin!(passing);
            tokio::select! {
                biased;
                () = freeze => {}
                () = &mut passing => return,
            }
            std::future::pending::<()>().await;
        }));
        Ok(near)
    }

    /// The process at `address` dies.
    fn kill(&self, address: &str) {
        let host = self.0.lock().unwrap().remove(address).unwrap();
        host.wires.iter().for_each(JoinHandle::abort);
        host.served.iter().for_each(JoinHandle::abort);
    }

    /// The server at `address` closes its port and shuts down gracefully.
    async fn stop(&self, address: &str) {
        let host = self.0.lock().unwrap().remove(address).unwrap();
        host.stop.cancel();
        if let Some(served) = host.served {
            timeout(LONG, served).await.unwrap().unwrap();
        }
    }

    /// Nothing passes any more, in either direction.
    fn freeze(&self, address: &str) {
        let hosts = self.0.lock().unwrap();
        hosts[address].frozen.send_replace(true);
    }

    fn connects(&self, address: &str) -> usize {
        self.0.lock().unwrap()[address].connects
    }

    fn balanced(&self) -> (Registry, BalancedBuilder) {
        let (tell, told) = mpsc::unbounded_channel();
        let net = self.clone();
        let builder = Balanced::builder_from(UnboundedReceiverStream::new(told)).connector(
            move |uri: http::Uri| {
                let connected = net.connect(uri.authority().unwrap().as_str());
                async { connected }
            },
        );
        (Registry(tell), builder)
    }

    /// `n` greeters, and a channel that is connected to all of them.
    async fn greeters(n: usize) -> (Self, Registry, Balanced) {
        let net = Self::default();
        let (registry, builder) = net.balanced();
        for n in 1..=n {
            net.serve(&address(n));
            registry.put(&address(n), 100);
        }
        let balanced = builder.build().unwrap();
        ready(&balanced, n).await;
        (net, registry, balanced)
    }
}

// === impl Registry ===

impl Registry {
    fn put(&self, address: &str, weight: u32) {
        let instance = Instance::new("greeter").address(address).weight(weight);
        self.change(Change::put(format!("/greeter/{address}"), instance));
    }

    fn gone(&self, address: &str) {
        self.change(Change::gone(format!("/greeter/{address}")));
    }

    fn change(&self, change: Change) {
        self.0.send(change).unwrap();
    }
}

/// One direction of a connection. As with TCP, that one end is closed to writing takes nothing from
/// what it has sent before.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    if tokio::io::copy(&mut from, &mut to).await.is_ok() {
        let _closed = to.shutdown().await;
    }
}

fn address(n: usize) -> String {
    format!("10.0.0.{n}:9000")
}

async fn ready(balanced: &Balanced, n: usize) {
    eventually("all are ready", LONG, || {
        let endpoints = balanced.endpoints();
        let ready = endpoints.iter().filter(|e| e.condition == Condition::Ready);
        if ready.count() == n && endpoints.len() == n {
            Ok(())
        } else {
            Err(format!("{endpoints:?}"))
        }
    })
    .await;
}

async fn ready_at(balanced: &Balanced, address: &str) {
    eventually("it is ready", LONG, || {
        let endpoints = balanced.endpoints();
        let found = endpoints.iter().find(|e| &*e.address == address);
        let ready = found.is_some_and(|e| e.condition == Condition::Ready);
        ready.then_some(()).ok_or_else(|| format!("{endpoints:?}"))
    })
    .await;
}

async fn hello(client: &mut Client) -> Result<String, Status> {
    let name = "x".to_owned();
    let reply = client.say_hello(HelloRequest { name }).await?;
    let who = reply.extensions().get::<AnsweredBy>();
    assert!(
        who.is_some_and(|who| who.address().starts_with("10.0.0.")),
        "{who:?}"
    );
    let message = reply.into_inner().message;
    Ok(message.trim_start_matches("Hello x! ").to_owned())
}

async fn counts(client: &mut Client, calls: u32) -> HashMap<String, u32> {
    let mut counts = HashMap::new();
    for _ in 0..calls {
        *counts.entry(hello(client).await.unwrap()).or_default() += 1;
    }
    counts
}

fn stream(count: u32) -> StreamRequest {
    StreamRequest {
        name: "x".to_owned(),
        count,
        interval_ms: 100,
    }
}

#[tokio::test(start_paused = true)]
async fn calls_are_spread_in_proportion_to_the_weights_and_a_new_weight_is_no_new_connection() {
    let (net, registry, balanced) = Net::greeters(3).await;
    let mut client = Client::new(balanced.clone());
    let even = counts(&mut client, 3000).await;
    assert!(even.values().all(|n| (850..1150).contains(n)), "{even:?}");
    registry.put(&address(1), 400);
    registry.put(&address(2), 0);
    sleep(MS).await;
    let weighed = counts(&mut client, 3000).await;
    assert!((2250..2550).contains(&weighed[&address(1)]), "{weighed:?}");
    assert_eq!(weighed.get(&address(2)), None);
    assert_eq!((1..=3).map(|n| net.connects(&address(n))).max(), Some(1));
    let calls: u64 = balanced.endpoints().iter().map(|e| e.calls).sum();
    assert_eq!(calls, 6000);
    assert!(balanced.endpoints().iter().all(|e| e.in_flight == 0));
}

#[tokio::test(start_paused = true)]
async fn one_that_died_is_out_at_once_and_back_when_it_returns() {
    let (net, _registry, balanced) = Net::greeters(2).await;
    let mut client = Client::new(balanced.clone());
    net.kill(&address(1));
    sleep(MS).await;
    for _ in 0..100 {
        assert_eq!(hello(&mut client).await.unwrap(), address(2));
    }
    sleep(SEC * 60).await;
    let down = balanced.endpoints().swap_remove(0);
    assert!(matches!(down.condition, Condition::Down { .. }), "{down:?}");
    net.serve(&address(1));
    sleep(SEC * 5).await;
    assert_eq!(counts(&mut client, 100).await.len(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_endpoint_that_refuses_or_never_answers_connects_costs_no_call() {
    let net = Net::default();
    let (registry, builder) = net.balanced();
    net.serve(&address(1));
    let _silent = net.listen(&address(2), CancellationToken::new());
    (1..=3).for_each(|n| registry.put(&address(n), 100));
    let mut client = Client::new(builder.build().unwrap());
    for _ in 0..100 {
        assert_eq!(hello(&mut client).await.unwrap(), address(1));
    }
}

#[tokio::test(start_paused = true)]
async fn an_empty_set_is_waited_for_or_fails_fast_and_says_why() {
    let net = Net::default();
    for (wait, expected) in [(Duration::ZERO, Duration::ZERO), (SEC * 2, SEC * 2)] {
        let (registry, builder) = net.balanced();
        let mut client = Client::new(builder.named("greeter").wait(wait).build().unwrap());
        let start = Instant::now();
        let status = hello(&mut client).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        assert_eq!(
            status.message(),
            r#"no endpoint of "greeter": none registered"#
        );
        assert!(
            start.elapsed() - expected <= MS * 2,
            "{:?}",
            start.elapsed()
        );
        (1..=5).for_each(|n| registry.put(&address(n), 100));
        sleep(MS).await;
        let status = hello(&mut client).await.unwrap_err();
        assert_eq!(
            status.message(),
            "no endpoint of \"greeter\": 5 known, none reachable: \
             10.0.0.1:9000: connection refused; 10.0.0.2:9000: connection refused; \
             10.0.0.3:9000: connection refused; and 2 more"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_goes_on_when_the_first_endpoint_appears() {
    let net = Net::default();
    let (registry, builder) = net.balanced();
    let mut client = Client::new(builder.build().unwrap());
    let waiting = tokio::spawn(async move { hello(&mut client).await });
    sleep(SEC).await;
    net.serve(&address(1));
    registry.put(&address(1), 100);
    assert_eq!(waiting.await.unwrap().unwrap(), address(1));
}

#[tokio::test(start_paused = true)]
async fn the_deadline_of_a_call_covers_its_wait_and_its_answer() {
    let net = Net::default();
    let (registry, builder) = net.balanced();
    let mut client = Client::new(builder.build().unwrap());
    let mut expire = async || {
        let mut request = Request::new(stream(1));
        request.set_timeout(MS * 700);
        let start = Instant::now();
        let status = client.stream_hellos(request).await.unwrap_err();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{status}");
        assert!(start.elapsed() - MS * 700 <= MS * 2);
    };
    expire().await;
    net.serve(&address(1));
    registry.put(&address(1), 100);
    sleep(MS).await;
    net.freeze(&address(1));
    expire().await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_survives_the_removal_of_its_key_and_counts_until_it_is_dropped() {
    let (net, registry, balanced) = Net::greeters(2).await;
    let mut client = Client::new(balanced.clone());
    registry.gone(&address(2));
    ready(&balanced, 1).await;
    let mut hellos = client.stream_hellos(stream(20)).await.unwrap().into_inner();
    hellos.message().await.unwrap();
    assert_eq!(balanced.endpoints()[0].in_flight, 1);
    registry.put(&address(2), 100);
    registry.gone(&address(1));
    eventually("the move", LONG, || {
        let endpoints = balanced.endpoints();
        let moved = endpoints.len() == 1 && endpoints[0].condition == Condition::Ready;
        moved.then_some(()).ok_or(format!("{endpoints:?}"))
    })
    .await;
    assert_eq!(hello(&mut client).await.unwrap(), address(2));
    let mut more = 1;
    while hellos.message().await.unwrap().is_some() {
        more += 1;
    }
    assert_eq!(more, 20);
    drop(hellos);
    let wires = || net.0.lock().unwrap()[&address(1)].wires[0].is_finished();
    eventually("the connection ends after its last stream", LONG, || {
        wires().then_some(()).ok_or("open".to_owned())
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_clone_ends_all_but_what_is_in_flight() {
    let (net, registry, balanced) = Net::greeters(2).await;
    let mut client = Client::new(balanced.clone());
    let mut hellos = client.stream_hellos(stream(5)).await.unwrap().into_inner();
    drop((client, balanced));
    let mut seen = 0;
    while hellos.message().await.unwrap().is_some() {
        seen += 1;
    }
    assert_eq!(seen, 5);
    drop(hellos);
    sleep(SEC).await;
    for host in net.0.lock().unwrap().values() {
        assert!(host.wires.iter().all(JoinHandle::is_finished));
        assert_eq!(host.connects, 1);
    }
    assert!(registry.0.is_closed(), "nobody reads the source any more");
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_fails_its_calls_at_the_keepalive_deadline_and_gets_no_more() {
    let (net, registry, balanced) = Net::greeters(1).await;
    let mut client = Client::new(balanced.clone());
    hello(&mut client).await.unwrap();
    net.freeze(&address(1));
    let mut caught = client.clone();
    let start = Instant::now();
    let caught = tokio::spawn(async move { (hello(&mut caught).await, Instant::now()) });
    sleep(MS).await;
    net.serve(&address(2));
    registry.put(&address(2), 100);
    ready(&balanced, 2).await;
    for _ in 0..20 {
        assert_eq!(
            hello(&mut client).await.unwrap(),
            address(2),
            "the less loaded"
        );
    }
    let (answer, at) = caught.await.unwrap();
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(at - start <= SEC * 13 + MS * 10, "{:?}", at - start);
    for _ in 0..20 {
        assert_eq!(hello(&mut client).await.unwrap(), address(2));
    }
    let hole = balanced.endpoints().swap_remove(0);
    assert!(!matches!(hole.condition, Condition::Ready), "{hole:?}");
}

#[tokio::test(start_paused = true)]
async fn only_those_that_say_they_serve_are_called() {
    let net = Net::default();
    let (registry, builder) = net.balanced();
    let reporter = net.serve_with_health(&address(1)).await;
    net.serve(&address(2));
    (1..=2).for_each(|n| registry.put(&address(n), 100));
    let balanced = builder.health_check("greeter").build().unwrap();
    let mut client = Client::new(balanced.clone());
    sleep(SEC).await;
    // The first does not know the name; the second has no health service at all.
    assert_eq!(balanced.endpoints()[0].condition, Condition::Unhealthy);
    assert_eq!(counts(&mut client, 50).await.len(), 1);
    for (status, servers) in [
        (tonic_health::ServingStatus::Serving, 2),
        (tonic_health::ServingStatus::NotServing, 1),
        (tonic_health::ServingStatus::Serving, 2),
    ] {
        reporter.set_service_status("greeter", status).await;
        sleep(SEC * 10).await;
        assert_eq!(counts(&mut client, 50).await.len(), servers, "{status}");
    }
    let idle = balanced.endpoints().iter().all(|e| e.in_flight == 0);
    assert!(idle, "a watch is no load");
    assert_eq!(net.connects(&address(1)), 1);
    registry.gone(&address(2));
    reporter
        .set_service_status("greeter", tonic_health::ServingStatus::NotServing)
        .await;
    sleep(MS).await;
    let status = hello(&mut client).await.unwrap_err();
    assert!(
        status.message().ends_with("1 known, none healthy"),
        "{status}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_subset_stays_the_same_and_replaces_one_that_goes() {
    let net = Net::default();
    (1..=20).for_each(|n| net.serve(&address(n)));
    let choice = async |id: &str| {
        let (registry, builder) = net.balanced();
        (1..=20).for_each(|n| registry.put(&address(n), 100));
        let balanced = builder.subset(3).subset_id(id).build().unwrap();
        ready(&balanced, 3).await;
        (registry, balanced)
    };
    let addresses = |balanced: &Balanced| -> Vec<String> {
        let endpoints = balanced.endpoints().into_iter();
        endpoints.map(|e| e.address.to_string()).collect()
    };
    let (registry, first) = choice("a").await;
    let before = addresses(&first);
    assert_eq!(addresses(&choice("a").await.1), before);
    assert_ne!(addresses(&choice("b").await.1), before);
    registry.gone(&before[0]);
    sleep(SEC).await;
    let after = addresses(&first);
    assert_eq!(after.len(), 3);
    assert!(after.contains(&before[1]) && after.contains(&before[2]));
}

/// A rolling update under load: one comes, the oldest of three shuts down gracefully, and only
/// then its key goes.
async fn rolling(rounds: usize, callers: usize, pause: Duration) -> (u64, Vec<Status>) {
    let (net, registry, balanced) = Net::greeters(2).await;
    let stop = CancellationToken::new();
    let mut tasks = vec![];
    for _ in 0..callers {
        let (mut client, stop) = (Client::new(balanced.clone()), stop.clone());
        tasks.push(tokio::spawn(async move {
            let (mut calls, mut failures) = (0, vec![]);
            while !stop.is_cancelled() {
                calls += 1;
                failures.extend(hello(&mut client).await.err());
                if calls % 4 == 0 {
                    sleep(MS).await;
                }
            }
            (calls, failures)
        }));
    }
    for round in 1..=rounds {
        sleep(pause).await;
        let (old, new) = (address(round), address(round + 2));
        net.serve(&new);
        registry.put(&new, 100);
        ready_at(&balanced, &new).await;
        net.stop(&old).await;
        registry.gone(&old);
    }
    stop.cancel();
    let (mut calls, mut failures) = (0, vec![]);
    for task in tasks {
        let (more, failed) = task.await.unwrap();
        calls += more;
        failures.extend(failed);
    }
    (calls, failures)
}

#[tokio::test(start_paused = true)]
async fn a_graceful_shutdown_under_load_fails_no_call() {
    let (calls, failures) = rolling(30, 8, MS * 10).await;
    assert!(calls > 1_000, "{calls}");
    assert!(
        failures.is_empty(),
        "{} of {calls}: {failures:?}",
        failures.len()
    );
}

/// The same on many threads, where everything races.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_graceful_shutdown_under_load_on_many_threads_fails_no_call() {
    let rounds = std::env::var("ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let (calls, failures) = rolling(rounds, 32, MS * 10).await;
    println!(
        "{rounds} rounds, {calls} calls, {} failures",
        failures.len()
    );
    assert!(
        failures.is_empty(),
        "{} of {calls}: {failures:?}",
        failures.len()
    );
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_and_named() {
    let builder = || Balanced::builder_from(tokio_stream::pending());
    for (builder, setter) in [
        (builder().subset(0), "subset"),
        (builder().connect_timeout(Duration::ZERO), "connect_timeout"),
        (builder().keep_alive(Duration::ZERO, SEC), "keep_alive"),
        (builder().keep_alive(SEC, Duration::ZERO), "keep_alive"),
    ] {
        let error = builder.build().unwrap_err();
        assert!(
            matches!(error, Error::Setting { name, .. } if name == setter),
            "{error}"
        );
    }
}

#[test]
fn outside_of_a_runtime_it_says_so() {
    let built = Balanced::builder_from(tokio_stream::pending()).build();
    assert!(matches!(built, Err(Error::NoRuntime)));
}
