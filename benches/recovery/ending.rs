//! Channels beside tonic's own: through servers that end each connection after some requests, and among dead addresses.

use crate::table::{Table, median};
use greeter::MyGreeter;
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use greeter::pb::greeter_server::GreeterServer;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;
use test_support::black_hole::BlackHole;
use test_support::ending::{self, after_requests};
use test_support::ports;
use test_support::server::ms;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tokio_stream::{StreamExt as _, iter, pending};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;
use tonic::body::Body;
use tonic_etcd::Instance;
use tonic_etcd::channel::{BalancedChannel, BalancedChannelBuilder};
use tonic_etcd::discovery::Change;

/// Each channel calls for so long, in turns.
const CALLING: Duration = Duration::from_secs(3);
const TURNS: usize = 5;
const CALLERS: usize = 16;
const DEAD: usize = 20_000;

/// The calls of one channel.
#[derive(Default)]
struct Called {
    a_second: Vec<f64>,
    failed: usize,
}

pub async fn all(table: &Table) {
    for n in [1000, 100] {
        ending_after(table, n).await;
    }
    for refuses in [true, false] {
        among_dead(table, refuses).await;
    }
}

/// A greeter that ends each connection after `n` requests. Dropping the handle closes its port.
async fn greeter(n: usize) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = loop {
        if let Ok(listener) = TcpListener::bind(ports::free_addr()).await {
            break listener;
        }
    };
    let address = listener.local_addr().unwrap();
    let greeter = GreeterServer::new(MyGreeter::default());
    let task = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            stream.set_nodelay(true).unwrap();
            tokio::spawn(ending::serve(stream, greeter.clone(), after_requests(n)));
        }
    });
    (address, AbortOnDropHandle::new(task))
}

fn balanced(addresses: impl IntoIterator<Item = String>) -> BalancedChannelBuilder {
    let changes: Vec<_> = addresses
        .into_iter()
        .map(|address| {
            let instance = Instance::new("greeter").with_address(&address);
            Change::insert(address, instance)
        })
        .collect();
    let changes = iter(changes).chain(pending());
    BalancedChannel::builder(changes)
}

async fn ending_after(table: &Table, n: usize) {
    let (address, _server) = greeter(n).await;
    let ours = balanced([address.to_string()]).build().unwrap();
    ready(&ours, &address).await;
    let theirs = tonic::transport::Endpoint::try_from(format!("http://{address}")).unwrap();
    let theirs = theirs.connect().await.unwrap();
    let (mut our, mut their) = (Called::default(), Called::default());
    for _ in 0..TURNS {
        call(&ours, &mut our).await;
        call(&theirs, &mut their).await;
    }
    let what = format!("connections that end after {n} requests");
    let (ours, tonics) = (median(&our.a_second), median(&their.a_second));
    let share = ours / tonics;
    let seen = format!(
        "{share:.2}: {ours:.0} and {tonics:.0} calls a second, {} of tonic's failed",
        their.failed
    );
    let as_fast = format!("{what}: calls a second, at least 0.95 x tonic's channel");
    table.holds(&as_fast, share >= 0.95, &seen);
    let seen = our.failed.to_string();
    table.holds(&format!("{what}: 0 failed calls"), our.failed == 0, &seen);
}

async fn call<S>(channel: &S, called: &mut Called)
where
    S: tower::Service<http::Request<Body>, Response = http::Response<Body>>
        + Clone
        + Send
        + 'static,
    S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
    S::Future: Send,
{
    let (start, answered) = (Instant::now(), Arc::new(AtomicUsize::new(0)));
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (mut client, answered) = (GreeterClient::new(channel.clone()), answered.clone());
        callers.spawn(async move {
            let mut failed = 0;
            while start.elapsed() < CALLING {
                let name = "x".to_owned();
                let answer: Result<_, Status> = client.say_hello(HelloRequest { name }).await;
                match answer {
                    Ok(_) => drop(answered.fetch_add(1, Relaxed)),
                    Err(_) => failed += 1,
                }
            }
            failed
        });
    }
    called.failed += callers.join_all().await.into_iter().sum::<usize>();
    let calls = answered.load(Relaxed) as f64;
    called.a_second.push(calls / start.elapsed().as_secs_f64());
}

/// The good address is the last one.
async fn among_dead(table: &Table, refuses: bool) {
    let (address, _server) = greeter(usize::MAX).await;
    let (hole, closed) = (BlackHole::open().await, ports::closed());
    let drops = hole.addr();
    let mut took = vec![];
    for _ in 0..3 {
        let dead = (0..u32::try_from(DEAD).unwrap()).map(|n| {
            let ip = Ipv4Addr::from_bits(Ipv4Addr::new(127, 1, 0, 0).to_bits() + n);
            format!("{ip}:{closed}")
        });
        let start = Instant::now();
        let builder = balanced(dead.chain([address.to_string()]));
        let builder = match refuses {
            true => builder,
            // One port that drops packets stands for all of them.
            false => builder.connector(move |uri| {
                let to: SocketAddr = uri.authority().unwrap().as_str().parse().unwrap();
                TcpStream::connect(if to == address { to } else { drops })
            }),
        };
        let channel = builder.build().unwrap();
        ready(&channel, &address).await;
        took.push(ms(start, Instant::now()));
    }
    let how = if refuses { "refuse" } else { "drop packets" };
    let what = format!("a good address behind 20,000 that {how}: ready");
    table.each_ms(&what, 1000.0, &took);
}

async fn ready(channel: &BalancedChannel, address: &SocketAddr) {
    let address = address.to_string();
    while channel.stats().ready == 0 {
        sleep(Duration::from_millis(1)).await;
    }
    let is_ready = |it: &tonic_etcd::channel::EndpointStats| it.state.is_ready();
    let endpoints = channel.endpoints();
    let ready = endpoints.into_iter().find(is_ready);
    assert_eq!(ready.map(|it| it.address.to_string()), Some(address));
}
