//! The `server` example as a process: its signals, and what clients see.

use crate::setup::{LONG, SEC};
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::observer::{Kind, Observer};
use crate::support::server::{ServerProcess, health_client, health_request};
use greeter::hellos;
use greeter::pb::greeter_client::GreeterClient;
use std::process::Command;
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};
use tonic::transport::Channel;
use tonic_etcd::HEALTH_NAME;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

#[tokio::test]
async fn sigterm_and_sigint_deregister_and_end_the_process_with_0() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    for signal in ["TERM", "INT"] {
        let server = ServerProcess::start(&etcd.endpoint(), &["--deregistration-delay", "0s"]);
        let key = server.registered().await;
        let held = observer.wait_for_key(&key, LONG).await;
        assert_ne!(held.lease, 0);
        assert_eq!(key, format!("/services/greeter/127.0.0.1/{}", server.pid()));
        let start = Instant::now();
        server.signal(signal);
        observer.wait_for_no_key(&key, LONG).await;
        assert!(start.elapsed() < SEC, "{signal}: {:?}", start.elapsed());
        assert_eq!(server.exit(LONG).await, 0, "{}", server.output());
        let output = server.output();
        assert!(output.contains("deregistered"), "{output}");
    }
}

#[tokio::test]
async fn a_second_signal_skips_the_waits() {
    let etcd = Etcd::start().await;
    let server = ServerProcess::start(&etcd.endpoint(), &["--deregistration-delay", "60s"]);
    server.registered().await;
    let url = server.url().await;
    let mut client = GreeterClient::connect(url).await.unwrap();
    let _hellos = client.stream_hellos(hellos(0, 50)).await.unwrap();
    // GNU `timeout` sends a signal to the process, and to its group: that is one request.
    server.signal("TERM");
    server.signal("TERM");
    sleep(SEC).await;
    assert_eq!(server.exit_code(), None, "{}", server.output());
    let start = Instant::now();
    server.signal("TERM");
    assert_eq!(server.exit(LONG).await, 0, "{}", server.output());
    assert!(start.elapsed() < SEC * 5, "{:?}", start.elapsed());
}

/// Its main task hangs, or the only thread of its runtime does.
#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_third_signal_ends_a_process_that_hangs() {
    let etcd = Etcd::start().await;
    let workers = ["TOKIO_WORKER_THREADS=1"];
    for (stream, variables) in [(r#">"$0""#, &[][..]), (r#"2>"$0""#, &workers)] {
        for signal in [(15, "TERM"), (2, "INT")] {
            let (server, _full) =
                ServerProcess::start_with_full_pipe(&etcd.endpoint(), stream, variables);
            let (number, name) = signal;
            eventually("its handlers are installed", LONG, || {
                let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
                let status = status.map_err(|error| error.to_string())?;
                let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
                let caught = u64::from_str_radix(caught.unwrap_or_default().trim(), 16);
                let is_caught = caught.unwrap_or_default() & (1 << (number - 1)) != 0;
                is_caught.then_some(()).ok_or(status)
            })
            .await;
            let mut sent = 0;
            let code = eventually("the third signal ends it", LONG, || {
                server.exit_code().ok_or_else(|| {
                    sent += 1;
                    let pid = server.pid().to_string();
                    let _ = Command::new("kill").args(["-s", name, &pid]).status();
                    format!("{sent} signals")
                })
            })
            .await;
            assert_eq!(code, 128 + number, "{stream} {name}");
            assert!(sent >= 3, "{stream} {name}: {sent}");
        }
    }
}

#[tokio::test]
async fn clients_that_stay_connected_delay_it_by_the_drain_timeout_at_most() {
    let etcd = Etcd::start().await;
    let flags = ["--deregistration-delay", "0s", "--drain-timeout", "2s"];
    let server = ServerProcess::start(&etcd.endpoint(), &flags);
    server.registered().await;
    let addr = server.listening().await;
    let url = format!("http://{addr}");
    let mut health = health_client(&url).await.unwrap();
    let _watch = health.watch(health_request("")).await.unwrap();
    let mut client = GreeterClient::connect(url).await.unwrap();
    let _hellos = client.stream_hellos(hellos(0, 50)).await.unwrap();
    let _silent = TcpStream::connect(addr).await.unwrap();
    let start = Instant::now();
    server.signal("TERM");
    assert_eq!(server.exit(LONG).await, 0, "{}", server.output());
    let took = start.elapsed();
    assert!((SEC * 2..SEC * 6).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_killed_server_is_gone_with_its_lease() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let (server, key) = ServerProcess::start_seen(&etcd.endpoint(), &[], &observer).await;
    let start = Instant::now();
    server.signal("KILL");
    observer.wait_for_no_key(&key, LONG).await;
    let took = start.elapsed();
    assert!((SEC * 3..SEC * 9).contains(&took), "{took:?}");
}

#[tokio::test]
async fn a_frozen_server_is_not_serving_before_it_is_registered_again() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let (server, key) = ServerProcess::start_seen(&etcd.endpoint(), &[], &observer).await;
    let mut health = health_client(&server.url().await).await.unwrap();
    let watch = health.watch(health_request(HEALTH_NAME)).await;
    let mut watch = watch.unwrap().into_inner();
    let mark = observer.mark();
    server.signal("STOP");
    observer.wait_for_no_key(&key, LONG).await;
    sleep(SEC).await;
    server.signal("CONT");
    observer.wait_for_key(&key, SEC * 5).await;
    for expected in [
        ServingStatus::Serving,
        ServingStatus::NotServing,
        ServingStatus::Serving,
    ] {
        let next = tokio::time::timeout(LONG, watch.message()).await.unwrap();
        let said = next.unwrap().unwrap().status;
        assert_eq!(said, expected as i32, "{}", server.output());
    }
    assert_eq!(observer.kinds_since(mark), [Kind::Delete, Kind::Put]);
}

#[tokio::test]
async fn no_check_that_waited_in_a_frozen_server_is_answered_serving() {
    let mut etcd = Etcd::start().await;
    let server = ServerProcess::start(&etcd.endpoint(), &[]);
    server.registered().await;
    let url = server.url().await;
    let mut clients = vec![];
    for _ in 0..10 {
        let mut client = health_client(&url).await.unwrap();
        assert_eq!(check(&mut client).await, ServingStatus::Serving as i32);
        clients.push(client);
    }
    server.signal("STOP");
    let checks: Vec<_> = clients
        .iter()
        .flat_map(|client| (0..30).map(|_| client.clone()))
        .map(|mut client| tokio::spawn(async move { check(&mut client).await }))
        .collect();
    // So that it cannot be registered again before it has answered.
    etcd.kill().await;
    sleep(SEC * 6).await;
    server.signal("CONT");
    for check in checks {
        let status = tokio::time::timeout(LONG, check).await.unwrap().unwrap();
        assert_eq!(status, ServingStatus::NotServing as i32);
    }
}

async fn check(client: &mut HealthClient<Channel>) -> i32 {
    let checked = client.check(health_request(HEALTH_NAME)).await;
    checked.unwrap().into_inner().status
}

/// `server 2>&1 | head -3`, and head has read its three lines.
#[tokio::test]
async fn a_server_without_a_reader_of_stderr_stays_registered_and_stops() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    for stream in [r#"2>"$0""#, r#">"$0""#, r#">"$0" 2>&1"#] {
        let (server, reader) = ServerProcess::start_with_reader(
            &etcd.endpoint(),
            stream,
            &["--deregistration-delay", "0s"],
        );
        let key = format!("/services/greeter/127.0.0.1/{}", server.pid());
        let held = observer.wait_for_key(&key, LONG).await;
        drop(reader);
        let mark = observer.mark();
        let mut client = etcd.client().await;
        client.delete(key.as_str(), None).await.unwrap();
        let again = observer.wait_for_key(&key, LONG).await;
        assert_eq!(again.lease, held.lease, "{stream}: another lease");
        sleep(SEC * 6).await;
        assert_eq!(
            observer.kinds_since(mark),
            [Kind::Delete, Kind::Put],
            "{stream}"
        );
        server.signal("TERM");
        observer.wait_for_no_key(&key, SEC * 3).await;
        assert_eq!(server.exit(LONG).await, 0, "{stream}: {}", server.output());
    }
}
