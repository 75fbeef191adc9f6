//! `server --metrics`: what Prometheus reads from the process.

use crate::setup::LONG;
use crate::support::etcd::Etcd;
use crate::support::ports::free_addr;
use crate::support::server::ServerProcess;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
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
    assert!(found.is_ok(), "last: {last:?}");
}
