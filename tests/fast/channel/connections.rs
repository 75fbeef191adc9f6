//! Connections that end, addresses that are dead, and how often they are dialled.

use super::hello;
use super::net::{Client, Net, Registry, address, ready, ready_at};
use super::raw::{DATA, HEADERS, PREFACE, SETTINGS, write};
use crate::log::Log;
use crate::setup::{MS, SEC};
use crate::support::ending::{self, Ends};
use greeter::MyGreeter;
use greeter::pb::greeter_server::GreeterServer;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use tokio::io::{AsyncReadExt as _, DuplexStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_etcd::channel::{BalancedChannel, BalancedChannelBuilder};

/// A greeter that ends each of its connections.
pub fn serve_ending(net: &Net, address: &str, ends: Ends) {
    let mut arriving = net.listen(address, CancellationToken::new());
    let whoami = address.to_owned();
    let greeter = GreeterServer::new(MyGreeter { whoami });
    tokio::spawn(async move {
        while let Some(io) = arriving.recv().await {
            tokio::spawn(ending::serve(io, greeter.clone(), ends));
        }
    });
}

async fn ending(ends: Ends) -> (Net, BalancedChannel, Registry) {
    let net = Net::default();
    serve_ending(&net, &address(1), ends);
    let (registry, builder) = net.balanced();
    registry.put(&address(1), 100);
    let balanced = builder.build().unwrap();
    ready(&balanced, 1).await;
    (net, balanced, registry)
}

/// A channel whose connector counts, and the writing end of its source.
fn counted<C>(
    connect: impl Fn(&str) -> C + Send + Sync + 'static,
) -> (Registry, BalancedChannelBuilder, Arc<AtomicUsize>)
where
    C: Future<Output = io::Result<DuplexStream>> + Send + 'static,
{
    let (tell, told) = mpsc::unbounded_channel();
    let dials = Arc::new(AtomicUsize::new(0));
    let count = dials.clone();
    let builder = BalancedChannel::builder(UnboundedReceiverStream::new(told));
    let builder = builder.connector(move |uri: http::Uri| {
        count.fetch_add(1, Relaxed);
        connect(uri.authority().unwrap().as_str())
    });
    (Registry(tell), builder, dials)
}

fn dead(n: usize) -> String {
    format!("10.1.{}.{}:9000", n / 256, n % 256)
}

#[tokio::test(start_paused = true)]
async fn connections_that_end_after_n_calls_fail_none() {
    for (n, callers) in [(1000, 20), (100, 20), (10, 64), (1, 3)] {
        let (net, balanced, _registry) = ending(ending::after_requests(n)).await;
        let start = Instant::now();
        let mut callers = Vec::from_iter((0..callers).map(|_| {
            let mut client = Client::new(balanced.clone());
            tokio::spawn(async move {
                for _ in 0..150 {
                    hello(&mut client).await?;
                }
                Ok::<_, tonic::Status>(())
            })
        }));
        for caller in &mut callers {
            caller.await.unwrap().unwrap();
        }
        let took = start.elapsed();
        assert!(took < SEC, "after {n} calls each: {took:?}");
        let (calls, dials) = (150 * callers.len(), net.connects(&address(1)));
        assert!(dials <= calls / n + 2, "{dials} for {calls} of {n} each");
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_connection_is_made_before_the_end_of_one_that_ends_after_as_many_calls_as_the_last()
 {
    let net = Net::default();
    serve_ending(&net, &address(1), ending::after_requests(100));
    let hosts = net.clone();
    let (registry, builder, dials) = counted(move |to| {
        let connected = hosts.connect(to);
        async move {
            sleep(MS * 20).await;
            connected
        }
    });
    registry.put(&address(1), 100);
    let balanced = builder.build().unwrap();
    ready(&balanced, 1).await;
    let mut client = Client::new(balanced);
    let mut slow = vec![];
    for n in 0..1000 {
        let start = Instant::now();
        hello(&mut client).await.unwrap();
        if start.elapsed() > MS * 2 {
            slow.push(n);
        }
        sleep(MS).await;
    }
    assert_eq!(slow, [100], "the first end is not expected");
    assert!((10..=12).contains(&dials.load(Relaxed)), "{dials:?}");
    // A replacement that is not used is closed.
    for _ in 0..80 {
        hello(&mut client).await.unwrap();
    }
    sleep(SEC * 3).await;
    let before = dials.load(Relaxed);
    for _ in 0..20 {
        hello(&mut client).await.unwrap();
    }
    sleep(MS * 100).await;
    assert_eq!(dials.load(Relaxed), before + 1);
}

#[tokio::test(start_paused = true)]
async fn connections_that_end_by_their_age_delay_no_call() {
    for (age, pause) in [(700, 10), (700, 1500), (100, 30)] {
        let (net, balanced, _registry) = ending(ending::after(MS * age)).await;
        let mut client = Client::new(balanced);
        for n in 0..200 {
            let start = Instant::now();
            hello(&mut client).await.unwrap();
            // Without calls a connection may be useless, and its successor wait for a second.
            let limit = MS * if pause > age { 1_100 } else { 5 };
            assert!(start.elapsed() <= limit, "{n}: {:?}", start.elapsed());
            sleep(MS * pause).await;
        }
        let dials = u32::try_from(net.connects(&address(1))).unwrap();
        assert!(dials <= 200 * pause / age + 2, "{dials}, age {age} ms");
    }
}

#[tokio::test(start_paused = true)]
async fn a_good_address_among_20_000_dead_ones_is_ready_within_a_second() {
    for refuses in [false, true] {
        let net = Net::default();
        net.serve(&address(1));
        let (registry, builder, _) = counted(move |to| {
            let good = to.starts_with("10.0.0.").then(|| net.connect(to));
            async move {
                match good {
                    Some(connected) => connected,
                    None if refuses => Err(io::ErrorKind::ConnectionRefused.into()),
                    None => std::future::pending().await,
                }
            }
        });
        (0..20_000).for_each(|n| registry.put(&dead(n), 100));
        registry.put(&address(1), 100);
        let start = Instant::now();
        let balanced = builder.build().unwrap();
        ready_at(&balanced, &address(1)).await;
        let took = start.elapsed();
        assert!(took < SEC, "refuses {refuses}: {took:?}");
        // Nor do the dead ones delay it when its connection is lost.
        sleep(SEC * 5).await;
        hello(&mut Client::new(balanced)).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn redials_of_dead_addresses_are_bounded_for_the_channel() {
    let net = Net::default();
    net.serve(&address(1));
    let hosts = net.clone();
    let (registry, builder, dials) = counted(move |to| {
        let connected = hosts.connect(to);
        async { connected }
    });
    (0..5_000).for_each(|n| registry.put(&dead(n), 100));
    registry.put(&address(1), 100);
    let balanced = builder.build().unwrap();
    ready_at(&balanced, &address(1)).await;
    sleep(SEC * 5).await;
    let before = dials.load(Relaxed);
    sleep(SEC * 60).await;
    let redials = dials.load(Relaxed) - before;
    assert!((60..=60 * 40).contains(&redials), "{redials} in a minute");
    // One that worked is not behind them.
    net.kill(&address(1));
    sleep(SEC * 60).await;
    net.serve(&address(1));
    let start = Instant::now();
    ready_at(&balanced, &address(1)).await;
    assert!(start.elapsed() <= SEC * 5, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn peers_that_close_at_once_are_dialled_at_a_bounded_rate() {
    let (registry, builder, dials) = counted(|_| async {
        let (near, mut far) = tokio::io::duplex(1024);
        write(&mut far, SETTINGS, 0, &[]).await;
        Ok(near)
    });
    (0..300).for_each(|n| registry.put(&dead(n), 100));
    let _balanced = builder.build().unwrap();
    sleep(SEC * 5).await;
    let before = dials.load(Relaxed);
    sleep(SEC * 60).await;
    let redials = dials.load(Relaxed) - before;
    assert!((60..=60 * 40).contains(&redials), "{redials} in a minute");
}

#[tokio::test(start_paused = true)]
async fn headers_that_may_have_arrived_are_never_sent_again() {
    let seen = Arc::new(AtomicUsize::new(0));
    let headers = seen.clone();
    let (registry, builder, _) = counted(move |_| {
        let (near, mut far) = tokio::io::duplex(64 * 1024);
        let headers = headers.clone();
        tokio::spawn(async move {
            // With a window of zero no body is read.
            write(&mut far, SETTINGS, 0, &[0, 4, 0, 0, 0, 0]).await;
            far.read_exact(&mut [0; PREFACE]).await.ok()?;
            loop {
                let mut head = [0; 9];
                far.read_exact(&mut head).await.ok()?;
                let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                far.read_exact(&mut vec![0; len as usize]).await.ok()?;
                assert_ne!(head[3], DATA);
                if head[3] == HEADERS {
                    headers.fetch_add(1, Relaxed);
                    return None::<()>;
                }
            }
        });
        async { Ok(near) }
    });
    (1..=3).for_each(|n| registry.put(&address(n), 100));
    let balanced = builder.build().unwrap();
    ready(&balanced, 3).await;
    let status = hello(&mut Client::new(balanced)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(seen.load(Relaxed), 1);
}

/// The lines in half a minute, after the first seconds.
async fn lines_in_30_s(log: &Log) -> usize {
    sleep(SEC * 15).await;
    let before = log.lines().len();
    sleep(SEC * 30).await;
    log.lines().len() - before
}

#[tokio::test(start_paused = true)]
async fn connections_that_end_and_health_that_flaps_log_few_lines() {
    for level in ["info", "debug"] {
        let log = Log::of(&format!("tonic_etcd={level}"));
        let (_net, balanced, _registry) = ending(ending::after_requests(10)).await;
        let mut client = Client::new(balanced);
        let calling = tokio::spawn(async move {
            loop {
                let _late = hello(&mut client).await;
                sleep(MS * 10).await;
            }
        });
        let lines = lines_in_30_s(&log).await;
        calling.abort();
        let limit = if level == "info" { 0 } else { 30 * 11 };
        assert!(lines <= limit, "{level}: {lines} lines, connections end");
        let net = Net::default();
        let reporter = net.serve_with_health(&address(1)).await;
        let (registry, builder) = net.balanced();
        registry.put(&address(1), 100);
        let balanced = builder.health_check("greeter").build().unwrap();
        let flapping = tokio::spawn(async move {
            loop {
                for status in [
                    tonic_health::ServingStatus::Serving,
                    tonic_health::ServingStatus::NotServing,
                ] {
                    reporter.set_service_status("greeter", status).await;
                    sleep(MS * 5).await;
                }
            }
        });
        let lines = lines_in_30_s(&log).await;
        flapping.abort();
        drop(balanced);
        let limit = if level == "info" { 6 } else { 30 * 11 + 6 };
        assert!(lines <= limit, "{level}: {lines} lines, health flaps");
    }
}

#[tokio::test(start_paused = true)]
async fn the_log_says_at_last_how_it_is() {
    let log = Log::start();
    let (net, registry, balanced) = Net::greeters(1).await;
    // Uses up the lines.
    for _ in 0..50 {
        registry.gone(&address(1));
        sleep(MS * 200).await;
        registry.put(&address(1), 100);
        sleep(MS * 200).await;
    }
    registry.gone(&address(1));
    sleep(SEC * 30).await;
    let last = log.lines().pop().unwrap();
    assert!(last.contains("no endpoint can be called"), "{last}");
    drop((net, balanced));
}
