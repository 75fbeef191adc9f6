//! A server that has no file descriptor left, and a process that does not end at its stop.

use crate::setup::{LONG, SEC};
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::observer::Observer;
use crate::support::server::ServerProcess;
use greeter::hellos;
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use tokio::time::{Instant, sleep, timeout};
use tonic::transport::{Channel, Endpoint};

/// Starts the `server` example with 40 file descriptors at most.
fn with_few_descriptors(etcd: &Etcd) -> ServerProcess {
    let shell = ["sh", "-c", r#"ulimit -n 40; exec "$@""#, "sh"];
    ServerProcess::start_with_env(&etcd.endpoint(), &["--deregistration-delay", "0s"], &shell)
}

/// More clients than it has descriptors for.
async fn clients(url: &str) -> Vec<Channel> {
    let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
    let mut clients = vec![];
    for _ in 0..80 {
        clients.push(endpoint.connect().await.unwrap());
    }
    clients
}

/// The clock ticks of the processor that the process has used, 100 a second.
#[cfg(target_os = "linux")]
fn ticks(server: &ServerProcess) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).unwrap();
    let (_, rest) = stat.rsplit_once(')').unwrap();
    let fields: Vec<_> = rest.split_whitespace().collect();
    fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_a_free_descriptor_a_server_serves_on_and_stops_as_usual() {
    const WARNING: &str = "cannot accept connections";
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let server = with_few_descriptors(&etcd);
    let key = server.registered().await;
    let url = server.url().await;
    let mut first = GreeterClient::connect(url.clone()).await.unwrap();
    let mut hellos = first
        .stream_hellos(hellos(0, 50))
        .await
        .unwrap()
        .into_inner();
    hellos.message().await.unwrap().unwrap();
    let mut waiting = clients(&url).await;
    eventually("the server says that it cannot accept", LONG, || {
        let output = server.output();
        output.contains(WARNING).then_some(()).ok_or(output)
    })
    .await;

    let (before, start) = (ticks(&server), Instant::now());
    while start.elapsed() < SEC * 2 {
        // Who is connected is served.
        hellos.message().await.unwrap().unwrap();
    }
    let share = (ticks(&server) - before) as f64 / start.elapsed().as_secs_f64() / 100.0;
    assert!(share < 0.4, "{share} of a core");
    assert_eq!(server.output().matches(WARNING).count(), 1);
    let held = observer.wait_for_key(&key, LONG).await;
    assert_ne!(held.lease, 0);

    // Descriptors that become free are used.
    let mut last = GreeterClient::new(waiting.pop().unwrap());
    waiting.truncate(10);
    let answer = timeout(LONG, last.say_hello(HelloRequest::default())).await;
    answer.unwrap().unwrap();

    let more = clients(&url).await;
    drop(hellos);
    let start = Instant::now();
    server.signal("TERM");
    observer.wait_for_no_key(&key, LONG).await;
    assert_eq!(server.exit(LONG).await, 0, "{}", server.output());
    let took = start.elapsed();
    assert!(took < SEC * 10, "far below the drain timeout: {took:?}");
    drop((waiting, more));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn without_a_free_descriptor_a_lost_etcd_is_reported_with_the_remedy() {
    let mut etcd = Etcd::start().await;
    let server = with_few_descriptors(&etcd);
    server.registered().await;
    let _waiting = clients(&server.url().await).await;
    let server = &server;
    let says = |what: &'static str| {
        eventually(what, LONG, move || {
            let output = server.output();
            output.contains(what).then_some(()).ok_or(output)
        })
    };
    says("cannot accept connections").await;
    // Its descriptor is taken by a client that waits.
    etcd.kill().await;
    says("etcd is out of reach").await;
    let (before, start) = (ticks(server), Instant::now());
    sleep(SEC * 2).await;
    let share = (ticks(server) - before) as f64 / start.elapsed().as_secs_f64() / 100.0;
    assert!(share < 0.4, "{share} of a core");
    let output = server.output();
    assert!(output.contains("raise its limit, ulimit -n"), "{output}");
    assert!(output.lines().count() < 20, "{output}");
    server.signal("TERM");
    assert_eq!(server.exit(LONG).await, 0, "{}", server.output());
}
