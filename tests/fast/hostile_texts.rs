//! An etcd and servers that write control characters and very long texts into everything they can send, and one look
//! through every sink of this process. `registryctl/tests/cli/hostile.rs` does the same to registryctl.

use crate::channel::net::{Client, Registry, address};
use crate::introspection::{client, list};
use crate::panics::subscribe;
use crate::setup::{KEY, LONG, MS, SEC, Setup, announce};
use crate::support::fake::{Reply, Rpc};
use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncWriteExt as _, DuplexStream, duplex};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::Code;
use tonic_etcd::OnConflict;
use tonic_etcd::channel::BalancedChannel;
use tonic_etcd::discovery::Discovery;
use tonic_etcd::introspection::Introspection;
use tonic_etcd::observer::{
    ConnectionEvent, EndpointEvent, Observer, RenewalEvent, StatusEvent, WriteEvent,
};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::layer::{Context, Layer};

/// The beginning of each text. It steers a terminal, forges a line and reverses the text after it.
const MARK: &str = "MARK\x1b[2J\r\nINFO forged\u{202e}\u{7}\u{9b}";
/// As much as a status can have: HTTP/2 bounds headers to 16 KiB.
const IN_A_STATUS: usize = 3000;
const IN_A_MESSAGE: usize = 100_000;
/// The longest run of the letter that such a text consists of, in a sink.
const SHOWN: usize = 600;

fn hostile(length: usize) -> &'static str {
    Box::leak(format!("{MARK}{}", "x".repeat(length)).into_boxed_str())
}

/// The sinks of a test, with what they have shown.
#[derive(Clone, Debug, Default)]
struct Sinks(Arc<Mutex<Shown>>);

#[derive(Debug, Default)]
struct Shown {
    /// The sinks that have shown the mark.
    marked: BTreeSet<&'static str>,
    /// Those that have shown it as it came, or a whole text; a panic in a subscriber would be caught.
    harmful: BTreeSet<(&'static str, String)>,
}

impl Sinks {
    fn look(&self, sink: &'static str, text: &str) {
        let steers =
            |c: char| (c.is_control() && c != '\n') || ('\u{202a}'..='\u{202e}').contains(&c);
        let longest = text.split(|c| c != 'x').map(str::len).max();
        let mut shown = self.0.lock().unwrap();
        if text.contains(steers) || text.contains("\nINFO") || longest > Some(SHOWN) {
            let start = text.find("MARK").unwrap_or_default();
            let start = text[start..].chars().take(100).collect();
            shown.harmful.insert((sink, start));
        }
        if text.contains("MARK") {
            shown.marked.insert(sink);
        }
    }

    fn debug(&self, sink: &'static str, shown: impl fmt::Debug) {
        self.look(sink, &format!("{shown:?}"));
    }

    #[track_caller]
    fn check(&self, expected: &[&str]) {
        let shown = self.0.lock().unwrap();
        assert!(shown.harmful.is_empty(), "{:#?}", shown.harmful);
        let marked = &shown.marked;
        let unmarked = expected.iter().filter(|sink| !marked.contains(**sink));
        assert_eq!(unmarked.count(), 0, "it was seen only by {marked:?}");
    }
}

/// The log, before a formatter escapes anything.
impl<S: Subscriber> Layer<S> for Sinks {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if event.metadata().target().starts_with("tonic_etcd") {
            event.record(&mut self.clone());
        }
    }
}

impl Visit for Sinks {
    fn record_str(&mut self, _: &Field, value: &str) {
        self.look("log", value);
    }

    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        self.debug("log", value);
    }
}

impl Observer for Sinks {
    fn on_status(&self, transition: &StatusEvent<'_>) {
        self.look("observer", &transition.to.to_string());
    }

    fn on_renewal(&self, renewal: &RenewalEvent<'_>) {
        self.look("observer", renewal.error.unwrap_or_default());
    }

    fn on_connection(&self, connection: &ConnectionEvent<'_>) {
        self.look("observer", connection.error.unwrap_or_default());
    }

    fn on_write(&self, write: &WriteEvent<'_>) {
        self.look("observer", write.error.unwrap_or_default());
    }

    fn on_endpoint(&self, transition: &EndpointEvent<'_>) {
        self.debug("observer", transition);
    }
}

/// What the hostile etcd does to one kind of request.
fn replies(rpc: Rpc) -> Vec<Reply> {
    let text = hostile(IN_A_STATUS);
    let codes = [
        Code::Unknown,
        Code::PermissionDenied,
        Code::Unauthenticated,
        Code::ResourceExhausted,
    ];
    let mut replies: Vec<_> = codes.map(|code| Reply::Error(code, text)).into();
    if rpc == Rpc::Watch {
        replies.push(Reply::Cancel(hostile(IN_A_MESSAGE)));
    }
    replies
}

#[tokio::test(start_paused = true)]
async fn no_text_of_etcd_reaches_a_sink_unescaped_or_whole() {
    let sinks = Sinks::default();
    let _log = subscribe(sinks.clone());
    for rpc in [
        Rpc::Authenticate,
        Rpc::MemberList,
        Rpc::LeaseGrant,
        Rpc::Range,
        Rpc::Count,
        Rpc::Txn,
        Rpc::Watch,
        Rpc::LeaseKeepAlive,
        Rpc::LeaseTimeToLive,
        Rpc::LeaseRevoke,
    ] {
        for reply in replies(rpc) {
            let setup = Setup::new();
            // Somebody else's value at our key.
            setup.fake.grant(7, 60);
            setup.fake.put(KEY, hostile(IN_A_STATUS), 7);
            if rpc == Rpc::Authenticate {
                setup.fake.user("me", "secret");
            }
            let etcd = setup.etcd().sync_members(SEC);
            let etcd = match rpc {
                Rpc::Authenticate => etcd.user("me", "secret"),
                _ => etcd,
            };
            let builder = setup.builder_on(etcd.clone());
            let builder = builder.observer(sinks.clone());
            let builder = match reply {
                Reply::Error(Code::Unknown, _) => builder.on_conflict(OnConflict::Yield),
                _ => builder,
            };
            let registrar = builder.build().unwrap();
            let registration = registrar.register(crate::setup::greeter()).unwrap();
            let found = Discovery::builder(etcd, "greeter");
            let found = found.build().unwrap();
            let introspection = Introspection::builder()
                .registrar(&registrar)
                .discovery(&found);
            let mut client = client(introspection).await;
            if matches!(
                rpc,
                Rpc::LeaseKeepAlive | Rpc::LeaseTimeToLive | Rpc::LeaseRevoke
            ) {
                announce(&registration);
                sleep(SEC).await;
            }
            setup.fake.always(rpc, reply.clone());
            announce(&registration);
            for _ in 0..6 {
                sleep(SEC * 2).await;
                let status = registration.status();
                sinks.look("status", &status.to_string());
                sinks.debug("status, debug", &status);
                sinks.debug("stats", registration.stats());
                sinks.debug("registration", &registration);
                sinks.debug("registrar", &registrar);
                let snapshot = found.snapshot();
                sinks.look("discovery", snapshot.watch_error().unwrap_or_default());
                sinks.debug("discovery, debug", &*snapshot);
                let told = list(&mut client).await;
                sinks.debug("introspection", &told);
                for registrar in &told.process.unwrap().registrars {
                    sinks.look("introspection", &registrar.last_error);
                    for member in &registrar.endpoints {
                        sinks.look("introspection", &member.last_error);
                    }
                }
                for told in &told.registrations {
                    sinks.look("introspection", &told.reason);
                }
            }
            setup.shutdown.cancel();
            let ended = timeout(LONG, registration.ended()).await.unwrap();
            sinks.look("ended", &ended.to_string());
        }
    }
    sinks.check(&[
        "log",
        "observer",
        "status",
        "status, debug",
        "stats",
        "discovery",
        "introspection",
        "ended",
    ]);
}

/// The frames of a server that refuses a connection with a text in its GOAWAY.
async fn goaway(mut io: DuplexStream, text: &str, after_settings: bool) {
    let text = &text.as_bytes()[..text.len().min(16_000)];
    let mut bytes = vec![];
    if after_settings {
        bytes.extend([0, 0, 0, 4, 0, 0, 0, 0, 0]);
    }
    let length = (8 + text.len()) as u32;
    bytes.extend(&length.to_be_bytes()[1..]);
    bytes.extend([7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    bytes.extend(text);
    let _ = io.write_all(&bytes).await;
    sleep(MS * 100).await;
}

#[tokio::test(start_paused = true)]
async fn no_text_of_a_server_reaches_a_sink_unescaped_or_whole() {
    let sinks = Sinks::default();
    let _log = subscribe(sinks.clone());
    for kind in 0..3 {
        let (tell, told) = mpsc::unbounded_channel();
        let connector = move |_| async move {
            let text = hostile(IN_A_MESSAGE);
            // As of a resolver or of TLS, which name what the peer has sent.
            if kind == 0 {
                return Err(io::Error::other(text));
            }
            let (client, server) = duplex(100_000);
            tokio::spawn(goaway(server, text, kind == 1));
            Ok(client)
        };
        let channel = BalancedChannel::builder(UnboundedReceiverStream::new(told));
        let channel = channel.connector(connector).observer(sinks.clone());
        let channel = channel.build().unwrap();
        Registry(tell).put(&address(1), 1);
        let registrar = Setup::new().builder().build().unwrap();
        let introspection = Introspection::builder().registrar(&registrar);
        let mut introspection = client(introspection.channel("greeter", &channel)).await;
        for _ in 0..10 {
            let mut client = Client::new(channel.clone());
            let error = crate::channel::hello(&mut client).await.unwrap_err();
            sinks.look("call", &error.to_string());
            sinks.debug("endpoints", channel.endpoints());
            sinks.debug("channel", &channel);
            sinks.debug("channel's stats", channel.stats());
            let told = list(&mut introspection).await;
            for endpoint in &told.process.unwrap().channels[0].endpoints {
                sinks.look("introspection", &endpoint.reason);
            }
        }
    }
    sinks.check(&["log", "observer", "call", "endpoints", "introspection"]);
}
