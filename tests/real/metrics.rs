//! `server --metrics` and `caller --metrics`: what Prometheus reads from the processes.

use crate::setup::LONG;
use crate::support::etcd::Etcd;
use crate::support::ports::free_addr;
use crate::support::server::{ServerProcess, example};
use etcd_client::GetOptions;
use std::io;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::process::Command;
use tokio::time::{sleep, timeout};

async fn scrape(addr: SocketAddr) -> io::Result<String> {
    let mut stream = TcpStream::connect(addr).await?;
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    Ok(text)
}

#[tokio::test]
async fn prometheus_reads_from_the_server_that_it_is_registered() {
    let (etcd, addr) = (Etcd::start().await, free_addr());
    let flags = ["--metrics", &addr.to_string()];
    let server = ServerProcess::start(&etcd.endpoint(), &flags);
    server.registered().await;
    let wanted = [
        "HTTP/1.1 200 OK",
        "tonic_etcd_registration_state{service=\"greeter\",state=\"registered\"} 1\n",
        "tonic_etcd_registration_state{service=\"greeter\",state=\"registering\"} 0\n",
        "tonic_etcd_writes_total{result=\"ok\"} 1\n",
        "tonic_etcd_renewal_duration_seconds_bucket{le=\"0.6\"}",
    ];
    shows(addr, &wanted).await;
}

/// Waits until the process at `addr` shows all of these lines.
async fn shows(addr: SocketAddr, wanted: &[&str]) {
    let mut last = Ok(String::new());
    let all = async {
        loop {
            last = scrape(addr).await;
            if matches!(&last, Ok(text) if wanted.iter().all(|line| text.contains(line))) {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    let found = timeout(LONG, all).await;
    assert!(found.is_ok(), "{wanted:?}, last: {last:?}");
}

/// Through a restart of etcd, without its data, and the end of the server.
#[tokio::test]
async fn prometheus_reads_from_the_caller_whom_it_knows_and_can_call() {
    let mut etcd = Etcd::start_with(&[]).await;
    let server = ServerProcess::start(&etcd.endpoint(), &[]);
    server.registered().await;
    let addr = free_addr();
    let mut caller = Command::new(example("caller"));
    caller.args(["--etcd", &etcd.endpoint(), "--interval", "20ms"]);
    caller.args(["--metrics", &addr.to_string()]);
    let caller = caller.stdout(Stdio::null()).kill_on_drop(true).spawn();
    let _caller = caller.unwrap();
    let can_call = [
        "tonic_etcd_discovery_instances{service=\"greeter\",state=\"found\"} 1\n",
        "tonic_etcd_discovery_instances{service=\"greeter\",state=\"missing\"} 0\n",
        "tonic_etcd_discovery_instances{service=\"greeter\",state=\"skipped\"} 0\n",
        "tonic_etcd_endpoints{service=\"greeter\",state=\"ready\"} 1\n",
        "tonic_etcd_endpoints{service=\"greeter\",state=\"transient_failure\"} 0\n",
        "tonic_etcd_calls_resent_total{service=\"greeter\"} 0\n",
    ];
    let never_failed = "tonic_etcd_connections_total{result=\"error\"} 0\n";
    shows(addr, &[&can_call[..], &[never_failed]].concat()).await;

    etcd.kill().await;
    timeout(LONG, async {
        while scrape(addr).await.unwrap().contains(never_failed) {
            sleep(Duration::from_millis(20)).await;
        }
    })
    .await
    .expect("connections that fail are counted");
    shows(addr, &can_call).await;
    etcd.wipe();
    etcd.start_again();
    etcd.wait_serving().await;
    server_is_registered_again(&etcd).await;
    shows(addr, &can_call).await;

    server.signal("KILL");
    let nobody = [
        "tonic_etcd_discovery_instances{service=\"greeter\",state=\"found\"} 0\n",
        "tonic_etcd_endpoints{service=\"greeter\",state=\"ready\"} 0\n",
        "tonic_etcd_endpoints{service=\"greeter\",state=\"transient_failure\"} 0\n",
    ];
    shows(addr, &nobody).await;
}

async fn server_is_registered_again(etcd: &Etcd) {
    let mut client = etcd.client().await;
    let back = async {
        loop {
            let options = Some(GetOptions::new().with_prefix());
            let found = client.get("/services/greeter/", options).await;
            if matches!(found, Ok(found) if found.count() == 1) {
                break;
            }
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, back).await.expect("the key is back");
}
