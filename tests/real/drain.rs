//! Stops of a server: in order, and in time, whatever its clients do.

use crate::setup::{Greeter, LONG, SEC, ended};
use crate::support::etcd::Etcd;
use crate::support::eventually;
use crate::support::observer::Observer;
use crate::support::server::{health_client, health_request};
use greeter::hellos;
use greeter::pb::{HelloRequest, StreamRequest};
#[cfg(feature = "discovery")]
use prost::Message as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};
use tonic::Code;
use tonic_etcd::Ended;

async fn in_flight(greeter: &Greeter, wanted: usize) {
    eventually("requests in flight", LONG, || {
        match greeter.registration.in_flight() {
            count if count == wanted => Ok(()),
            count => Err(format!("{count}, not {wanted}")),
        }
    })
    .await;
}

#[tokio::test]
async fn the_key_goes_first_and_the_port_stays_open_until_the_delay_is_over() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let greeter = Greeter::start(&etcd, |builder| builder.deregistration_delay(SEC * 2)).await;
    let (key, addr) = (greeter.key(), greeter.addr);
    greeter.shutdown.cancel();
    observer.wait_for_no_key(&key, LONG).await;
    let gone = Instant::now();
    let mut calls = 0;
    while gone.elapsed() < SEC {
        let mut client = greeter.client().await;
        client.say_hello(HelloRequest::default()).await.unwrap();
        calls += 1;
    }
    assert!(calls > 10, "{calls} connections after the key was gone");
    assert_eq!(greeter.ended().await, Ended::Deregistered);
    assert!(gone.elapsed() >= SEC, "{:?}", gone.elapsed());
    let refused = TcpStream::connect(addr).await;
    refused.expect_err("the port is closed");
}

#[tokio::test]
async fn an_open_health_watch_does_not_delay_it() {
    let etcd = Etcd::start().await;
    let greeter = Greeter::start_quick(&etcd).await;
    let mut health = health_client(&greeter.url()).await.unwrap();
    let mut watches = vec![];
    for name in ["", tonic_etcd::HEALTH_NAME] {
        let watch = health.watch(health_request(name)).await;
        watches.push(watch.unwrap().into_inner());
    }
    ends_early(greeter).await;
}

/// It stops in a fraction of the drain timeout.
async fn ends_early(greeter: Greeter) {
    let start = Instant::now();
    greeter.shutdown.cancel();
    greeter.ended().await;
    let took = start.elapsed();
    assert!(took < SEC * 5, "far below the drain timeout: {took:?}");
}

#[tokio::test]
async fn a_connection_that_never_sent_a_byte_is_closed_when_the_drain_begins() {
    let etcd = Etcd::start().await;
    let greeter = Greeter::start_quick(&etcd).await;
    let mut silent = TcpStream::connect(greeter.addr).await.unwrap();
    let hello = HelloRequest::default();
    greeter.client().await.say_hello(hello).await.unwrap();
    ends_early(greeter).await;
    // tonic has sent its settings, and then the end.
    let mut rest = vec![];
    let end = timeout(LONG, silent.read_to_end(&mut rest)).await;
    end.unwrap().unwrap();
}

#[tokio::test]
async fn an_idle_client_that_answers_no_ping_is_closed_early_in_the_drain() {
    let etcd = Etcd::start().await;
    let greeter = Greeter::start_quick(&etcd).await;
    let mut silent = TcpStream::connect(greeter.addr).await.unwrap();
    // The preface of HTTP/2 and empty settings, and then nothing any more.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    silent.write_all(preface).await.unwrap();
    let mut settings = [0; 9];
    silent.read_exact(&mut settings).await.unwrap();
    let start = Instant::now();
    greeter.shutdown.cancel();
    greeter.ended().await;
    let took = start.elapsed();
    assert!(took >= SEC, "time for an answer on its way: {took:?}");
    assert!(took < SEC * 10, "far below the drain timeout: {took:?}");
}

#[cfg(feature = "discovery")]
#[tokio::test]
async fn an_answer_on_its_way_to_a_slow_client_is_not_cut() {
    let etcd = Etcd::start().await;
    let greeter = Greeter::start_quick(&etcd).await;
    let tcp = TcpStream::connect(greeter.addr).await.unwrap();
    let (mut client, connection) = h2::client::handshake(tcp).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::post("http://greeter/greeter.v1.Greeter/SayHello")
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    let (response, mut upload) = client
        .send_request(request.body(()).unwrap(), false)
        .unwrap();
    let name = HelloRequest {
        name: "x".repeat(500_000),
    };
    let message = name.encode_to_vec();
    let mut framed = vec![0];
    framed.extend(u32::try_from(message.len()).unwrap().to_be_bytes());
    framed.extend(message);
    upload.send_data(framed.into(), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    // The answer is done for the server.
    in_flight(&greeter, 0).await;
    let start = Instant::now();
    greeter.shutdown.cancel();
    let mut received = 0;
    while let Some(chunk) = body.data().await {
        let chunk = chunk.unwrap_or_else(|e| panic!("cut after {received} bytes: {e}"));
        received += chunk.len();
        tokio::time::sleep(Duration::from_millis(150)).await;
        body.flow_control().release_capacity(chunk.len()).unwrap();
    }
    let trailers = body.trailers().await.unwrap().unwrap();
    assert_eq!(trailers["grpc-status"], "0");
    assert!(received > 500_000, "{received}");
    assert!(start.elapsed() > SEC * 3, "slow: {:?}", start.elapsed());
    greeter.ended().await;
}

#[tokio::test]
async fn a_stream_that_ends_in_time_is_not_cut() {
    let etcd = Etcd::start().await;
    let greeter = Greeter::start_quick(&etcd).await;
    let mut client = greeter.client().await;
    let mut hellos = client
        .stream_hellos(hellos(50, 20))
        .await
        .unwrap()
        .into_inner();
    hellos.message().await.unwrap().unwrap();
    assert_eq!(greeter.registration.in_flight(), 1);
    greeter.shutdown.cancel();
    let mut count = 1;
    while hellos.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 50);
    let registration = greeter.registration.clone();
    greeter.ended().await;
    assert_eq!(registration.in_flight(), 0);
}

#[tokio::test]
async fn a_spawned_server_keeps_its_registration_without_a_handle() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let greeter = Greeter::start_quick(&etcd).await;
    let key = greeter.key();
    let mut client = greeter.client().await;
    let Greeter {
        registration,
        shutdown,
        served,
        ..
    } = greeter;
    drop(registration);
    tokio::time::sleep(SEC).await;
    assert!(observer.keys().contains_key(&key), "the listener holds it");
    let mut hellos = client
        .stream_hellos(hellos(50, 20))
        .await
        .unwrap()
        .into_inner();
    shutdown.cancel();
    let mut count = 0;
    while hellos.message().await.unwrap().is_some() {
        count += 1;
    }
    assert_eq!(count, 50, "and the drain is not skipped when it goes");
    drop(client);
    assert_eq!(ended(served).await, Ended::Deregistered);
}

#[tokio::test]
async fn requests_left_after_the_drain_timeout_end_with_unavailable() {
    let etcd = Etcd::start().await;
    let greeter = Greeter::start_draining(&etcd, SEC).await;
    let mut client = greeter.client().await;
    let mut hellos = client
        .stream_hellos(hellos(0, 20))
        .await
        .unwrap()
        .into_inner();
    hellos.message().await.unwrap().unwrap();
    let start = Instant::now();
    greeter.shutdown.cancel();
    let status = loop {
        if let Err(status) = hellos.message().await {
            break status;
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(status.message(), "the server is shutting down");
    assert!(start.elapsed() >= SEC, "{:?}", start.elapsed());
    greeter.ended().await;
    assert!(start.elapsed() < SEC * 5, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_second_token_skips_the_drain() {
    let etcd = Etcd::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let greeter = Greeter::start(&etcd, |builder| builder.deregistration_delay(SEC * 30)).await;
    let key = greeter.key();
    let mut client = greeter.client().await;
    let _hellos = client.stream_hellos(hellos(0, 20)).await.unwrap();
    let start = Instant::now();
    greeter.shutdown.cancel();
    observer.wait_for_no_key(&key, LONG).await;
    greeter.shutdown_now.cancel();
    assert_eq!(greeter.ended().await, Ended::Deregistered);
    assert!(start.elapsed() < SEC * 10, "{:?}", start.elapsed());
}

#[tokio::test]
async fn a_peer_that_does_not_read_delays_it_by_the_drain_timeout_at_most() {
    let etcd = Etcd::start().await;
    let greeter = Greeter::start_draining(&etcd, SEC).await;
    let mut client = greeter.client().await;
    let request = StreamRequest {
        name: "x".repeat(1 << 16),
        ..hellos(0, 1)
    };
    // Opened and never read: windows and buffers fill up.
    let hellos = client.stream_hellos(request).await.unwrap();
    in_flight(&greeter, 1).await;
    tokio::time::sleep(SEC).await;
    let start = Instant::now();
    greeter.shutdown.cancel();
    greeter.ended().await;
    assert!(start.elapsed() < SEC * 6, "{:?}", start.elapsed());
    drop(hellos);
}

#[tokio::test]
async fn a_stop_while_etcd_is_down_still_drains_and_says_what_is_left() {
    let mut etcd = Etcd::start().await;
    let greeter = Greeter::start_quick(&etcd).await;
    etcd.kill().await;
    let start = Instant::now();
    greeter.shutdown.cancel();
    let ended = greeter.ended().await;
    assert!(matches!(ended, Ended::LeftToExpire { .. }), "{ended:?}");
    assert!(start.elapsed() < SEC * 6, "{:?}", start.elapsed());
}
