//! Pings of a silent connection, at peers that refuse too many of them as grpc-go does.

use super::net::{Client, Net, Registry, address, ready};
use super::raw::{ENHANCE_YOUR_CALM, GOAWAY, PREFACE, SETTINGS, write};
use super::{hello_begun, stream};
use crate::log::Log;
use crate::setup::{MS, SEC};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::Code;
use tonic_etcd::channel::BalancedChannel;

const PING: u8 = 6;
/// grpc-go's `MinTime`, and how many earlier pings it tolerates while it sends no data.
const MIN_TIME: Duration = Duration::from_secs(5 * 60);
const STRIKES: u32 = 2;

/// When pings arrived.
type Pings = Arc<Mutex<Vec<Instant>>>;

/// Answers pings and no calls; after too many pings it ends the connection.
async fn silent(mut io: DuplexStream, strikes: u32, pings: Pings) -> Option<()> {
    write(&mut io, SETTINGS, 0, &[]).await;
    io.read_exact(&mut [0; PREFACE]).await.ok()?;
    let (mut last, mut struck) = (None::<Instant>, 0);
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; len as usize];
        io.read_exact(&mut payload).await.ok()?;
        if head[3] != PING {
            continue;
        }
        pings.lock().unwrap().push(Instant::now());
        let frame = [&[0, 0, 8, PING, 1, 0, 0, 0, 0], &payload[..]].concat();
        io.write_all(&frame).await.ok()?;
        if last.is_some_and(|last| last.elapsed() < MIN_TIME) {
            struck += 1;
        }
        last = Some(Instant::now());
        if struck > strikes {
            let id = 1_u32.to_be_bytes();
            let goaway = [
                &id,
                &ENHANCE_YOUR_CALM.to_be_bytes(),
                &b"too_many_pings"[..],
            ]
            .concat();
            write(&mut io, GOAWAY, 0, &goaway).await;
            return None;
        }
    }
}

fn serve_silent(net: &Net, address: &str, strikes: u32) -> Pings {
    let pings = Pings::default();
    let (told, mut arriving) = (pings.clone(), net.listen(address, CancellationToken::new()));
    tokio::spawn(async move {
        while let Some(io) = arriving.recv().await {
            tokio::spawn(silent(io, strikes, told.clone()));
        }
    });
    pings
}

async fn one(net: &Net) -> (Registry, BalancedChannel) {
    let (registry, builder) = net.balanced();
    registry.put(&address(1), 100);
    let balanced = builder.build().unwrap();
    ready(&balanced, 1).await;
    (registry, balanced)
}

#[tokio::test(start_paused = true)]
async fn a_silent_call_outlives_a_peer_that_refuses_pings() {
    let net = Net::default();
    let pings = serve_silent(&net, &address(1), STRIKES);
    let (_registry, balanced) = one(&net).await;
    let start = Instant::now();
    let silent = hello_begun(&Client::new(balanced.clone()));
    sleep(SEC * 60 * 60).await;
    assert!(!silent.is_finished(), "{:?}", silent.await);
    assert_eq!(net.connects(&address(1)), 1);
    let pings = pings.lock().unwrap().clone();
    let early = pings.iter().filter(|at| **at - start < MIN_TIME).count();
    assert!((2..=3).contains(&early), "{early} pings");
    let later = pings.len() - early;
    assert!((10..=12).contains(&later), "{later} pings in an hour");
}

#[tokio::test(start_paused = true)]
async fn each_silence_has_pings_of_its_own() {
    let (net, _registry, balanced) = Net::greeters(1).await;
    let mut client = Client::new(balanced);
    let mut hellos = stream(&mut client, 3).await;
    while hellos.message().await.unwrap().is_some() {}
    for _ in 0..5 {
        // Silent for longer than its pings, until it speaks again.
        let hellos = client.stream_hellos(super::hellos(2, 60_000)).await;
        let mut hellos = hellos.unwrap().into_inner();
        while hellos.message().await.unwrap().is_some() {}
    }
    // And a peer that hangs later is found by the pings of a new silence.
    let mut hellos = stream(&mut client, 0).await;
    hellos.message().await.unwrap();
    net.freeze(&address(1));
    let start = Instant::now();
    let status = hellos.message().await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    let took = start.elapsed();
    assert!(took <= SEC * 13 + MS * 10, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_call_in_a_long_silence_notices_a_peer_that_hangs() {
    let net = Net::default();
    let _pings = serve_silent(&net, &address(1), STRIKES);
    let (_registry, balanced) = one(&net).await;
    let client = Client::new(balanced);
    let first = hello_begun(&client);
    sleep(SEC * 100).await;
    assert!(!first.is_finished());
    net.freeze(&address(1));
    let start = Instant::now();
    let second = hello_begun(&client);
    let status = second.await.unwrap().unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(start.elapsed() <= SEC * 13 + MS * 10);
}

#[tokio::test(start_paused = true)]
async fn too_many_pings_is_named_and_learned_for_the_whole_channel() {
    let net = Net::default();
    let strict = serve_silent(&net, &address(1), 0);
    let (registry, balanced) = one(&net).await;
    let mut client = Client::new(balanced.clone());
    let request = super::HelloRequest {
        name: "x".to_owned(),
    };
    let status = client.say_hello(request).await.unwrap_err();
    let named = status.message().contains("too_many_pings");
    assert!(named, "{status}");
    assert_eq!(strict.lock().unwrap().len(), 2);
    registry.gone(&address(1));
    let pings = serve_silent(&net, &address(2), 0);
    registry.put(&address(2), 100);
    ready(&balanced, 1).await;
    let start = Instant::now();
    let _silent = hello_begun(&client);
    sleep(SEC * 35).await;
    let pings = pings.lock().unwrap().clone();
    assert_eq!(pings.len(), 1, "every 20 s instead of 10");
    assert!(pings[0] - start >= SEC * 19);
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_asked_for_are_no_log_lines_however_they_are_cut() {
    let log = Log::of("warn");
    let net = Net::default();
    let mut arriving = net.listen(&address(1), CancellationToken::new());
    let (registry, builder) = net.balanced();
    registry.put(&address(1), 100);
    let _balanced = builder.build().unwrap();
    let mut io = arriving.recv().await.unwrap();
    write(&mut io, SETTINGS, 0, &[]).await;
    let pong = [&[0, 0, 8, PING, 1, 0, 0, 0, 0], &[7; 8][..]].concat();
    for cut in 0..pong.len() {
        for piece in [&pong[..cut], &pong[cut..]] {
            io.write_all(piece).await.unwrap();
            sleep(MS).await;
        }
    }
    assert_eq!(log.text(), "");
    assert_eq!(net.connects(&address(1)), 1);
}
