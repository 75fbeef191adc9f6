//! The balanced channel, with real tonic servers behind pipes that can be cut and frozen.

use crate::log::Log;
use crate::setup::{LONG, MS, SEC};
use crate::support::eventually;
use greeter::hellos;
use greeter::pb::{HelloReply, HelloRequest};
use rustix::io::Errno;
use std::collections::HashMap;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic::{Code, Request, Status, Streaming};
use tonic_etcd::BuildError;
use tonic_etcd::channel::{AnsweredBy, BalancedChannel, ConnectivityState};

mod caller_span;
pub mod connections;
pub mod net;
mod pings;
pub mod raw;

use net::{Client, Net, address, ready, ready_at};

pub async fn hello(client: &mut Client) -> Result<String, Status> {
    let name = "x".to_owned();
    let reply = client.say_hello(HelloRequest { name }).await?;
    let who = reply.extensions().get::<AnsweredBy>();
    let is_one = who.is_some_and(|who| who.address().starts_with("10.0.0."));
    assert!(is_one, "{who:?}");
    let message = reply.into_inner().message;
    Ok(message.trim_start_matches("Hello x! ").to_owned())
}

fn is_failing(state: &ConnectivityState) -> bool {
    matches!(state, ConnectivityState::TransientFailure { .. })
}

async fn counts(client: &mut Client, calls: u32) -> HashMap<String, u32> {
    let mut counts = HashMap::new();
    for _ in 0..calls {
        *counts.entry(hello(client).await.unwrap()).or_default() += 1;
    }
    counts
}

/// Begins a call, and returns its answer.
fn hello_begun(client: &Client) -> JoinHandle<Result<String, Status>> {
    let mut client = client.clone();
    tokio::spawn(async move { hello(&mut client).await })
}

/// A stream of greetings, one every 100 ms.
async fn stream(client: &mut Client, count: u32) -> Streaming<HelloReply> {
    let hellos = client.stream_hellos(hellos(count, 100)).await;
    hellos.unwrap().into_inner()
}

/// The number of greetings until the stream ends without an error.
async fn rest_of(hellos: &mut Streaming<HelloReply>) -> u32 {
    let mut count = 0;
    while hellos.message().await.unwrap().is_some() {
        count += 1;
    }
    count
}

/// A call whose first greeting comes after 100 ms, with a deadline.
async fn stream_within(client: &mut Client, deadline: Duration) -> Result<(), Status> {
    let mut request = Request::new(hellos(1, 100));
    request.set_timeout(deadline);
    client.stream_hellos(request).await.map(drop)
}

/// The calls that were sent to any endpoint.
fn calls(balanced: &BalancedChannel) -> u64 {
    balanced.endpoints().iter().map(|e| e.calls).sum()
}

#[tokio::test(start_paused = true)]
async fn calls_follow_the_weights_and_a_new_weight_is_no_new_connection() {
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
    assert_eq!(calls(&balanced), 6000);
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
    let down = balanced.endpoints().swap_remove(0).state;
    assert!(is_failing(&down), "{down:?}");
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
async fn without_a_file_descriptor_calls_and_states_say_what_to_do() {
    let (registry, builder) = Net::default().balanced();
    let no_descriptor = || Err::<DuplexStream, _>(std::io::Error::from(Errno::MFILE));
    let builder = builder.connector(move |_| std::future::ready(no_descriptor()));
    registry.put(&address(1), 100);
    let balanced = builder.build().unwrap();
    let status = hello(&mut Client::new(balanced.clone())).await.unwrap_err();
    assert!(status.message().contains("ulimit -n"), "{status}");
    let state = balanced.endpoints().swap_remove(0).state;
    assert!(state.to_string().contains("ulimit -n"), "{state}");
}

#[tokio::test(start_paused = true)]
async fn an_empty_set_is_waited_for_or_fails_fast_and_says_why() {
    let net = Net::default();
    for (wait, expected) in [(Duration::ZERO, Duration::ZERO), (SEC * 2, SEC * 2)] {
        let (registry, builder) = net.balanced();
        let builder = builder.service("greeter").ready_timeout(wait);
        let mut client = Client::new(builder.build().unwrap());
        let start = Instant::now();
        let status = hello(&mut client).await.unwrap_err();
        assert_eq!(status.code(), Code::Unavailable);
        let none = r#"no endpoint of "greeter": none registered"#;
        assert_eq!(status.message(), none);
        let waited = start.elapsed();
        assert!(waited - expected <= MS * 2, "{waited:?}");
        (1..=5).for_each(|n| registry.put(&address(n), 100));
        sleep(MS).await;
        let status = hello(&mut client).await.unwrap_err();
        assert_eq!(
            status.message(),
            "no endpoint of \"greeter\": 5 known, none ready: \
             10.0.0.1:9000: connection refused; 10.0.0.2:9000: connection refused; \
             10.0.0.3:9000: connection refused; and 2 more"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_goes_on_when_the_first_endpoint_appears() {
    let net = Net::default();
    let (registry, builder) = net.balanced();
    let waiting = hello_begun(&Client::new(builder.build().unwrap()));
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
        let start = Instant::now();
        let status = stream_within(&mut client, MS * 700).await.unwrap_err();
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
async fn a_stream_survives_the_removal_of_its_key_and_counts_until_dropped() {
    let (net, registry, balanced) = Net::greeters(2).await;
    let mut client = Client::new(balanced.clone());
    registry.gone(&address(2));
    ready(&balanced, 1).await;
    let mut hellos = stream(&mut client, 20).await;
    hellos.message().await.unwrap();
    assert_eq!(balanced.endpoints()[0].in_flight, 1);
    registry.put(&address(2), 100);
    registry.gone(&address(1));
    eventually("the move", LONG, || {
        let endpoints = balanced.endpoints();
        let is_new = endpoints.len() == 1 && endpoints[0].address.contains(&address(2));
        let moved = is_new && endpoints[0].state == ConnectivityState::Ready;
        moved.then_some(()).ok_or(format!("{endpoints:?}"))
    })
    .await;
    assert_eq!(hello(&mut client).await.unwrap(), address(2));
    assert_eq!(rest_of(&mut hellos).await, 19);
    drop(hellos);
    net.disconnected(&address(1)).await;
}

#[tokio::test(start_paused = true)]
async fn dropping_the_last_clone_ends_all_but_what_is_in_flight() {
    let (net, registry, balanced) = Net::greeters(2).await;
    let mut client = Client::new(balanced.clone());
    let mut hellos = stream(&mut client, 5).await;
    drop((client, balanced));
    assert_eq!(rest_of(&mut hellos).await, 5);
    drop(hellos);
    sleep(SEC).await;
    for host in net.0.lock().unwrap().values() {
        assert!(host.wires.iter().all(JoinHandle::is_finished));
        assert_eq!(host.connects, 1);
    }
    assert!(registry.0.is_closed(), "nobody reads the source any more");
}

#[tokio::test(start_paused = true)]
async fn a_black_hole_fails_its_calls_at_the_keepalive_and_gets_no_more() {
    let (net, registry, balanced) = Net::greeters(1).await;
    let mut client = Client::new(balanced.clone());
    hello(&mut client).await.unwrap();
    net.freeze(&address(1));
    let start = Instant::now();
    let caught = hello_begun(&client);
    let caught = tokio::spawn(async move { (caught.await.unwrap(), Instant::now()) });
    sleep(MS).await;
    net.serve(&address(2));
    registry.put(&address(2), 100);
    ready(&balanced, 2).await;
    for _ in 0..20 {
        let called = hello(&mut client).await.unwrap();
        assert_eq!(called, address(2), "the less loaded");
    }
    let (answer, at) = caught.await.unwrap();
    let status = answer.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(at - start <= SEC * 13 + MS * 10, "{:?}", at - start);
    for _ in 0..20 {
        assert_eq!(hello(&mut client).await.unwrap(), address(2));
    }
    let hole = balanced.endpoints().swap_remove(0);
    assert!(!matches!(hole.state, ConnectivityState::Ready), "{hole:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_no_longer_for_a_stream_than_for_an_endpoint() {
    let net = Net::default();
    let (registry, builder) = net.balanced();
    for n in 1..=2 {
        net.serve_with(&address(n), Server::builder().max_concurrent_streams(2));
        registry.put(&address(n), 100);
    }
    let balanced = builder.build().unwrap();
    ready(&balanced, 2).await;
    let mut client = Client::new(balanced.clone());
    let mut streams = vec![];
    for _ in 0..4 {
        streams.push(stream(&mut client, 1_000_000).await);
    }
    let start = Instant::now();
    let status = stream_within(&mut client, SEC * 30).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let waited = start.elapsed();
    assert!(waited - SEC * 2 <= MS * 10, "{waited:?}");
    let calls = Vec::from_iter((0..100).map(|_| hello_begun(&client)));
    sleep(SEC).await;
    drop(streams.pop());
    for call in calls {
        call.await.unwrap().unwrap();
    }
    assert!(balanced.endpoints().iter().all(|e| e.in_flight <= 2));
}

#[tokio::test(start_paused = true)]
async fn only_endpoints_whose_health_is_serving_are_called() {
    let net = Net::default();
    let (registry, builder) = net.balanced();
    let reporter = net.serve_with_health(&address(1)).await;
    net.serve(&address(2));
    (1..=2).for_each(|n| registry.put(&address(n), 100));
    let balanced = builder.health_check("greeter").build().unwrap();
    let mut client = Client::new(balanced.clone());
    sleep(SEC).await;
    // The first does not know the name; the second has no health service at all.
    let unhealthy = balanced.endpoints().swap_remove(0).state;
    assert!(is_failing(&unhealthy), "{unhealthy:?}");
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
    let reason = "10.0.0.1:9000: its health service says that it does not serve";
    let end = format!("1 known, none ready: {reason}");
    assert!(status.message().ends_with(&end), "{status}");
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
    let addresses = |balanced: &BalancedChannel| -> Vec<String> {
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

/// A rolling update under load: one server starts, the oldest of three shuts down gracefully, and only
/// then its key is deleted.
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
    let failed = failures.len();
    assert_eq!(failed, 0, "of {calls}: {failures:?}");
}

/// The same on many threads, where everything races.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_graceful_shutdown_under_load_on_many_threads_fails_no_call() {
    let rounds = std::env::var("ROUNDS").map_or(20, |rounds| rounds.parse().unwrap());
    let (calls, failures) = rolling(rounds, 32, MS * 10).await;
    let failed = failures.len();
    println!("{rounds} rounds, {calls} calls, {failed} failures");
    assert_eq!(failed, 0, "of {calls}: {failures:?}");
}

#[tokio::test(start_paused = true)]
async fn the_longest_times_mean_for_ever() {
    let net = Net::default();
    let (registry, builder) = net.balanced();
    let longest = builder
        .ready_timeout(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .http2_keep_alive_interval(Duration::MAX)
        .keep_alive_timeout(Duration::MAX);
    let mut client = Client::new(longest.build().unwrap());
    let waiting = hello_begun(&client);
    sleep(SEC * 60 * 60 * 24).await;
    net.serve(&address(1));
    registry.put(&address(1), 100);
    assert_eq!(waiting.await.unwrap().unwrap(), address(1));
    let mut request = Request::new(hellos(3, 100));
    let longest = "99999999H".parse().unwrap();
    request.metadata_mut().insert("grpc-timeout", longest);
    let answer = client.stream_hellos(request).await.unwrap();
    assert_eq!(rest_of(&mut answer.into_inner()).await, 3);
    // One keepalive is sent, and its answer is waited for.
    let (registry, builder) = net.balanced();
    let builder = builder.http2_keep_alive_interval(MS * 100);
    let balanced = builder.keep_alive_timeout(Duration::MAX).build().unwrap();
    registry.put(&address(1), 100);
    ready(&balanced, 1).await;
    net.freeze(&address(1));
    let status = stream_within(&mut Client::new(balanced), SEC * 60).await;
    assert_eq!(status.unwrap_err().code(), Code::DeadlineExceeded);
}

#[tokio::test(start_paused = true)]
async fn that_no_endpoint_is_left_is_logged_unless_the_channel_ends() {
    let (net, registry, balanced) = Net::greeters(1).await;
    let log = Log::of("info");
    registry.gone(&address(1));
    eventually("the removal", LONG, || {
        let text = log.text();
        let logged = text.contains("no endpoint can be called");
        logged.then_some(()).ok_or(text)
    })
    .await;
    registry.put(&address(1), 100);
    ready(&balanced, 1).await;
    let before = log.text();
    drop(balanced);
    net.disconnected(&address(1)).await;
    assert_eq!(log.text(), before);
}

#[tokio::test]
async fn settings_that_cannot_work_are_refused_and_named() {
    let builder = || BalancedChannel::builder(tokio_stream::pending());
    let (zero, kept_alive) = (Duration::ZERO, builder().http2_keep_alive_interval(SEC));
    let (interval, timeout) = ("http2_keep_alive_interval", "keep_alive_timeout");
    for (builder, setter) in [
        (builder().subset(0), "subset"),
        (builder().connect_timeout(zero), "connect_timeout"),
        (builder().http2_keep_alive_interval(zero), interval),
        (builder().keep_alive_timeout(zero), timeout),
        (kept_alive.keep_alive_timeout(zero), timeout),
    ] {
        let error = builder.build().unwrap_err();
        let is_named = matches!(error, BuildError::Setting { name, .. } if name == setter);
        assert!(is_named, "{error}");
    }
}

#[test]
fn outside_of_a_runtime_build_returns_an_error() {
    let built = BalancedChannel::builder(tokio_stream::pending()).build();
    assert!(matches!(built, Err(BuildError::NoRuntime)));
}
