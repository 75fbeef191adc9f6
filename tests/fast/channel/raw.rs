//! Servers that report, or do not report, that they have not processed a call whose body they have read.

use super::net::{Client, Net, address, ready};
use super::{calls, hello, hello_begun};
use crate::setup::{MS, SEC};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::{Code, Status};
use tonic_etcd::channel::{BalancedChannel, BalancedChannelBuilder};
use tower::ServiceExt as _;

/// What the server does when it has read a message.
#[derive(Clone, Copy, Debug)]
enum Act {
    /// `GOAWAY`, naming this as the last stream, with this code.
    GoAway { last: u32, code: u32 },
    /// `RST_STREAM` with this code.
    Reset { code: u32 },
    /// It closes the connection.
    Close,
    /// It closes the connection on headers already.
    CloseOnHeaders,
}

fn goaway(last: u32, code: u32) -> Act {
    Act::GoAway { last, code }
}

fn reset(code: u32) -> Act {
    Act::Reset { code }
}

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const GOAWAY: u8 = 7;
pub const PREFACE: usize = 24;
const MAX_CONCURRENT_STREAMS: u8 = 3;

const NO_ERROR: u32 = 0;
const REFUSED_STREAM: u32 = 7;
const CANCEL: u32 = 8;
pub const ENHANCE_YOUR_CALM: u32 = 11;

pub async fn write(io: &mut DuplexStream, kind: u8, stream: u32, payload: &[u8]) {
    let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    frame.extend([kind, 0]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    let _gone = io.write_all(&frame).await;
}

fn max_streams(n: u32) -> Vec<u8> {
    [&[0, MAX_CONCURRENT_STREAMS], &n.to_be_bytes()[..]].concat()
}

/// Implements just enough of HTTP/2 to read messages and to act on each.
async fn speak(mut io: DuplexStream, act: Act) -> Option<()> {
    write(&mut io, SETTINGS, 0, &[]).await;
    listen(&mut io, act).await
}

/// The same after its own settings.
async fn listen(io: &mut DuplexStream, act: Act) -> Option<()> {
    io.read_exact(&mut [0; PREFACE]).await.ok()?;
    loop {
        let mut head = [0; 9];
        io.read_exact(&mut head).await.ok()?;
        let len = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        let mut payload = vec![0; len as usize];
        io.read_exact(&mut payload).await.ok()?;
        if head[3] == HEADERS && matches!(act, Act::CloseOnHeaders) {
            return None;
        }
        if head[3] != DATA || payload.is_empty() {
            continue;
        }
        match act {
            Act::GoAway { last, code } => {
                let payload = [last.to_be_bytes(), code.to_be_bytes()].concat();
                write(io, GOAWAY, 0, &payload).await;
            }
            Act::Reset { code } => write(io, RST_STREAM, stream, &code.to_be_bytes()).await,
            Act::Close | Act::CloseOnHeaders => return None,
        }
    }
}

/// Makes that server listen at the first address.
fn listen_and_act(net: &Net, act: Act) {
    let mut arriving = net.listen(&address(1), CancellationToken::new());
    tokio::spawn(async move {
        while let Some(io) = arriving.recv().await {
            tokio::spawn(speak(io, act));
        }
    });
}

/// A fleet of the server that acts, with by far the greatest weight, and a greeter.
async fn fleet(act: Act) -> BalancedChannel {
    fleet_with(act, |builder| builder).await
}

/// Makes a call that is sent again, on a channel that `change` configures.
pub async fn call_sent_again(
    change: impl Fn(BalancedChannelBuilder) -> BalancedChannelBuilder,
) -> BalancedChannel {
    let balanced = fleet_with(reset(REFUSED_STREAM), change).await;
    hello(&mut Client::new(balanced.clone())).await.unwrap();
    balanced
}

async fn fleet_with(
    act: Act,
    change: impl Fn(BalancedChannelBuilder) -> BalancedChannelBuilder,
) -> BalancedChannel {
    let net = Net::default();
    listen_and_act(&net, act);
    net.serve(&address(2));
    let (registry, builder) = net.balanced();
    registry.put(&address(1), 1_000_000_000);
    registry.put(&address(2), 1);
    let balanced = change(builder).build().unwrap();
    ready(&balanced, 2).await;
    balanced
}

/// Calls such a fleet.
async fn call(act: Act, name: &str) -> (Result<String, Status>, BalancedChannel) {
    let balanced = fleet(act).await;
    let mut client = Client::new(balanced.clone());
    let request = super::HelloRequest {
        name: name.to_owned(),
    };
    let reply = client.say_hello(request).await;
    let reply = reply.map(|reply| reply.into_inner().message);
    (reply, balanced)
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_server_has_not_processed_is_sent_to_another_one() {
    for act in [
        goaway(0, NO_ERROR),
        goaway(0, ENHANCE_YOUR_CALM),
        reset(REFUSED_STREAM),
    ] {
        let name = "x".repeat(60_000);
        let (reply, _) = call(act, &name).await;
        let expected = format!("Hello {name}! {}", address(2));
        assert!(reply.is_ok_and(|reply| reply == expected), "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_it_may_have_worked_on_is_never_repeated() {
    for (act, code) in [
        (Act::Close, Code::Unavailable),
        (reset(CANCEL), Code::Cancelled),
    ] {
        let (reply, balanced) = call(act, "x").await;
        assert_eq!(reply.unwrap_err().code(), code, "{act:?}");
        assert_eq!(calls(&balanced), 1, "{act:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_too_large_to_be_kept_is_not_sent_again() {
    let (reply, _) = call(goaway(0, NO_ERROR), &"x".repeat(70_000)).await;
    let status = reply.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}

#[tokio::test(start_paused = true)]
async fn after_a_goaway_the_old_connection_finishes_and_a_new_one_is_made() {
    let net = Net::default();
    listen_and_act(&net, goaway(1, NO_ERROR));
    let (registry, builder) = net.balanced();
    registry.put(&address(1), 1);
    let balanced = builder.build().unwrap();
    ready(&balanced, 1).await;
    let client = Client::new(balanced.clone());
    let first = hello_begun(&client);
    sleep(MS).await;
    assert_eq!(net.connects(&address(1)), 2, "the GOAWAY is enough");
    assert!(balanced.endpoints()[0].state.is_ready());
    let second = hello_begun(&client);
    sleep(MS * 100).await;
    assert!(!first.is_finished() && !second.is_finished());
    assert_eq!(balanced.endpoints()[0].in_flight, 2);
}

#[tokio::test(start_paused = true)]
async fn a_request_without_a_body_that_may_have_arrived_is_never_repeated() {
    let balanced = fleet(Act::CloseOnHeaders).await;
    let request = http::Request::post("/greeter.v1.Greeter/SayHello");
    let request = request.body(Body::empty()).unwrap();
    let status = balanced.clone().oneshot(request).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert_eq!(calls(&balanced), 1);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_no_streams_gets_no_calls_until_it_does() {
    let net = Net::default();
    let mut arriving = net.listen(&address(1), CancellationToken::new());
    tokio::spawn(async move {
        let mut io = arriving.recv().await.unwrap();
        write(&mut io, SETTINGS, 0, &max_streams(0)).await;
        sleep(SEC * 10).await;
        write(&mut io, SETTINGS, 0, &max_streams(1)).await;
        listen(&mut io, reset(CANCEL)).await;
    });
    let (registry, builder) = net.balanced();
    registry.put(&address(1), 1_000_000_000);
    let balanced = builder.build().unwrap();
    ready(&balanced, 1).await;
    let start = Instant::now();
    let mut client = Client::new(balanced.clone());
    let status = hello(&mut client).await.unwrap_err();
    assert_eq!(
        status.message(),
        "no endpoint of \"greeter\": 1 known, 1 ready, each with as many calls as it accepts"
    );
    assert_eq!(start.elapsed().as_secs(), 2, "its ready timeout");
    net.serve(&address(2));
    registry.put(&address(2), 1);
    ready(&balanced, 2).await;
    let at = Instant::now();
    assert_eq!(hello(&mut client).await.unwrap(), address(2));
    assert!(at.elapsed() <= MS * 10, "{:?}", at.elapsed());
    registry.gone(&address(2));
    ready(&balanced, 1).await;
    sleep(SEC * 9 - start.elapsed()).await;
    let status = hello(&mut client).await.unwrap_err();
    assert_eq!(status.code(), Code::Cancelled, "it arrived: {status}");
    let waited = start.elapsed();
    assert!((MS * 9_900..SEC * 11).contains(&waited), "{waited:?}");
}
