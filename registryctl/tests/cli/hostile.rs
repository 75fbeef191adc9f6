//! An etcd and a server, in one, that write control characters and very long texts into everything they can send, and
//! one look at the output of each command of registryctl. `tests/fast/hostile_texts.rs` does the same to a process that uses
//! the library.

use crate::LONG;
use bytes::Bytes;
use http_body_util::StreamBody;
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;
use test_support::ports::free_addr;
use test_support::server::ServerProcess;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio::process::Command;
use tokio::time::timeout;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Code, Status};
use tonic_etcd::introspection::pb;

/// The beginning of each text. It steers a terminal, forges a line and reverses the text after it.
const MARK: &str = "MARK\x1b[2J\r\nINFO forged\u{202e}\u{7}\u{9b}";
/// As much as a status can have: HTTP/2 bounds headers to 16 KiB.
const IN_A_STATUS: usize = 3000;
const IN_A_MESSAGE: usize = 100_000;
/// The longest run of the letter that such a text consists of, in an output.
const SHOWN: usize = 1000;
/// How long a command that does not end by itself is watched.
const WATCHED: Duration = Duration::from_secs(3);

fn hostile(length: usize) -> String {
    format!("{MARK}{}", "x".repeat(length))
}

#[derive(Clone, Copy, Debug)]
enum Speaks {
    /// A status for every call.
    Statuses(Code),
    /// Answers, with texts in them.
    Messages,
    /// The same, and a status for every call to a server.
    ServerStatuses,
}

#[derive(Message)]
struct Header {
    #[prost(uint64, tag = "2")]
    member: u64,
    #[prost(int64, tag = "3")]
    revision: i64,
}

#[derive(Message)]
struct StatusAnswer {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(uint64, tag = "4")]
    leader: u64,
    #[prost(string, repeated, tag = "8")]
    errors: Vec<String>,
}

#[derive(Message)]
struct KeyValue {
    #[prost(bytes, tag = "1")]
    key: Vec<u8>,
    #[prost(int64, tag = "3")]
    revision: i64,
    #[prost(bytes, tag = "5")]
    value: Vec<u8>,
    #[prost(int64, tag = "6")]
    lease: i64,
}

#[derive(Message)]
struct RangeAnswer {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    kvs: Vec<KeyValue>,
    #[prost(int64, tag = "4")]
    count: i64,
}

#[derive(Message)]
struct WatchAnswer {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(bool, tag = "3")]
    created: bool,
    #[prost(bool, tag = "4")]
    canceled: bool,
    #[prost(string, tag = "6")]
    reason: String,
}

fn header() -> Option<Header> {
    Some(Header {
        member: 1,
        revision: 5,
    })
}

/// The messages of an answer; `None`: a status.
fn answer(path: &str, addr: SocketAddr) -> Option<Vec<Vec<u8>>> {
    let text = || hostile(IN_A_MESSAGE);
    let one = |message: Vec<u8>| Some(vec![message]);
    match path.rsplit('/').next().unwrap_or_default() {
        "Status" => one(StatusAnswer {
            header: header(),
            version: text(),
            leader: 1,
            errors: vec![text()],
        }
        .encode_to_vec()),
        "Range" => {
            let value = serde_json::json!({
                "name": "greeter", "id": text(), "address": addr.to_string(), "version": text(),
                "metadata": {text(): text()},
            });
            let kv = |key: String, value: String| KeyValue {
                key: key.into(),
                revision: 5,
                value: value.into(),
                lease: 7,
            };
            let kvs = vec![
                kv(format!("/services/greeter/{}", text()), value.to_string()),
                kv(format!("/services/greeter/{}/1", hostile(10)), text()),
            ];
            let (header, count) = (header(), 2);
            one(RangeAnswer { header, kvs, count }.encode_to_vec())
        }
        "Watch" if path.contains("etcdserverpb") => Some(
            [(true, false), (false, true)]
                .map(|(created, canceled)| {
                    let (header, reason) = (header(), text());
                    let answer = WatchAnswer {
                        header,
                        created,
                        canceled,
                        reason,
                    };
                    answer.encode_to_vec()
                })
                .into(),
        ),
        "List" => one(listed(text).encode_to_vec()),
        "Pause" => one(pb::PauseResponse { registrations: 1 }.encode_to_vec()),
        _ => None,
    }
}

fn listed(text: impl Fn() -> String) -> pb::ListResponse {
    let endpoint = pb::EtcdEndpoint {
        url: text(),
        last_error: text(),
        last_error_age_ms: Some(1),
        ..Default::default()
    };
    let discovery = pb::Discovery {
        service: text(),
        prefix: text(),
        watch_error: text(),
        skipped_by_reason: vec![pb::Skipped {
            reason: text(),
            keys: 1,
            example: text(),
        }],
        ..Default::default()
    };
    let registrar = pb::Registrar {
        endpoints: vec![endpoint],
        last_error: text(),
        not_ready: text(),
        ..Default::default()
    };
    let registration = pb::Registration {
        instances: vec![pb::Instance {
            service: "greeter".to_owned(),
            id: text(),
            address: text(),
        }],
        keys: vec![text(), format!("/services/greeter/{}", text())],
        keys_total: 2,
        lease: 1,
        reason: text(),
        pauses: vec![text()],
        formats: vec![text()],
        ..Default::default()
    };
    pb::ListResponse {
        registrations: vec![registration],
        next_page_token: String::new(),
        process: Some(pb::Process {
            registrars: vec![registrar],
            discoveries: vec![discovery],
            ..Default::default()
        }),
    }
}

type Frames = Vec<Result<Frame<Bytes>, Infallible>>;
type Body = StreamBody<tokio_stream::Iter<std::vec::IntoIter<Result<Frame<Bytes>, Infallible>>>>;

fn respond(
    request: &http::Request<Incoming>,
    speaks: Speaks,
    addr: SocketAddr,
) -> http::Response<Body> {
    let path = request.uri().path();
    let is_etcd = path.contains("etcdserverpb");
    let (code, messages) = match speaks {
        Speaks::Statuses(code) => (code, None),
        Speaks::ServerStatuses if !is_etcd => (Code::Unknown, None),
        _ => (Code::Unknown, answer(path, addr)),
    };
    let body = |frames: Frames| StreamBody::new(tokio_stream::iter(frames));
    let Some(messages) = messages else {
        let status = Status::new(code, hostile(IN_A_STATUS)).into_http::<()>();
        return status.map(|()| body(vec![]));
    };
    let mut frames: Frames = vec![];
    for message in messages {
        let mut framed = vec![0];
        framed.extend((message.len() as u32).to_be_bytes());
        framed.extend(message);
        frames.push(Ok(Frame::data(framed.into())));
    }
    let mut trailers = http::HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    frames.push(Ok(Frame::trailers(trailers)));
    let response = http::Response::builder().header("content-type", "application/grpc");
    response.body(body(frames)).unwrap()
}

async fn serve(speaks: Speaks) -> (SocketAddr, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind(free_addr()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(move |request| async move {
                Ok::<_, Infallible>(respond(&request, speaks, addr))
            });
            tokio::spawn(async move {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let _ = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    (addr, AbortOnDropHandle::new(task))
}

/// What the command printed, until it ended or was watched for long enough.
async fn printed(etcd: SocketAddr, args: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_registryctl"));
    command
        .args(args)
        .args(["--etcd", &format!("http://{etcd}")]);
    command
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let (mut out, mut err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    let (mut text, mut errors) = (vec![], vec![]);
    let reading = async { tokio::join!(out.read_to_end(&mut text), err.read_to_end(&mut errors)) };
    let _ = timeout(WATCHED, reading).await;
    text.extend(errors);
    String::from_utf8(text).unwrap()
}

#[tokio::test]
async fn no_text_of_a_peer_reaches_the_terminal_unescaped_or_whole() {
    for speaks in [
        Speaks::Messages,
        Speaks::ServerStatuses,
        Speaks::Statuses(Code::Unknown),
        Speaks::Statuses(Code::Unavailable),
        Speaks::Statuses(Code::PermissionDenied),
    ] {
        let (addr, _serving) = serve(speaks).await;
        let at = addr.to_string();
        for args in [
            &["list"][..],
            &["list", "--json"],
            &["watch"],
            &["doctor", "greeter"],
            &["doctor", "greeter", "--json"],
            &["describe", &at],
            &["describe", "greeter"],
            &["pause", &at, "--reason", "x"],
            &["resume", &at],
        ] {
            let text = printed(addr, args).await;
            let context = format!("{speaks:?} {args:?}");
            assert!(
                text.contains("MARK") || args[0] == "pause",
                "{context}: {text}"
            );
            let steers =
                |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
            let start: String = text.chars().take(3000).collect();
            assert!(!text.contains(steers), "{context}: {start:?}");
            assert!(!text.contains("\nINFO"), "{context}: {start}");
            let longest = text.split(|c| c != 'x').map(str::len).max();
            // JSON has the whole values.
            if args != ["list", "--json"] {
                assert!(longest <= Some(SHOWN), "{context}: {longest:?} of {start}");
            }
        }
    }
}

#[tokio::test]
async fn a_password_in_an_endpoint_is_shown_nowhere() {
    for url in [
        "http://me:canary@127.0.0.1:1",
        "http://me:canary%40127.0.0.1:1",
    ] {
        for args in [
            &["list"][..],
            &["doctor", "greeter"],
            &["watch"],
            &["list", "--help"],
        ] {
            for by_environment in [false, true] {
                let mut command = Command::new(env!("CARGO_BIN_EXE_registryctl"));
                command.args(args);
                match by_environment {
                    true => command.env("ETCD_ENDPOINTS", url),
                    false => command.args(["--etcd", url]),
                };
                let output = command.output().await.unwrap();
                let text = [output.stdout, output.stderr].concat();
                let text = String::from_utf8(text).unwrap();
                assert!(
                    !text.is_empty() && !text.contains("canary"),
                    "{args:?}: {text}"
                );
            }
        }
        let server = ServerProcess::start(url, &[]);
        assert_eq!(server.exit(LONG).await, 2);
        assert!(!server.output().contains("canary"), "{}", server.output());
    }
}
