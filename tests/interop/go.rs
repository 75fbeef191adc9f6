//! Servers and clients in Go: [`GoServer`] and [`GoClient`].

use crate::calls::{Call, Caller, Calls};
use crate::kind::Kind;
use crate::program::{Event, Program};
use crate::setup::LONG;
use std::net::SocketAddr;
use test_support::etcd::Etcd;
use test_support::{eventually, ports};

/// A greeter that registers itself. Killed on drop.
#[derive(Debug)]
pub struct GoServer {
    program: Program,
    pub addr: SocketAddr,
}

/// A client that finds greeters and calls them. Killed on drop.
#[derive(Debug)]
pub struct GoClient(Program);

// === impl GoServer ===

impl GoServer {
    /// Starts one that answers as `who`, and waits until it is registered and serves.
    pub async fn start(kind: Kind, etcd: &Etcd, who: &str) -> Self {
        Self::start_at(ports::free_addr(), kind, etcd, who).await
    }

    pub async fn start_at(addr: SocketAddr, kind: Kind, etcd: &Etcd, who: &str) -> Self {
        let listen = addr.to_string();
        let flags = ["--listen", &listen, "--answer", who];
        let program = Program::start("serve", kind, etcd, &flags);
        let what = format!("the {} server {who:?} serves", kind.name());
        let serving = |event: &Event| match event {
            Event::Serving { addr } => Some(*addr),
            _ => None,
        };
        let addr = program.until_said(&what, serving).await;
        Self { program, addr }
    }

    /// SIGTERM, and waits until it has ended well.
    pub async fn stop(self) {
        self.program.signal("TERM");
        let stopped = |event: &Event| matches!(event, Event::Stopped).then_some(());
        self.program.until_said("it has stopped", stopped).await;
        let code = eventually("it has ended", LONG, || {
            let code = self.program.exit_code();
            code.ok_or_else(|| self.program.errors())
        });
        assert_eq!(code.await, 0, "{}", self.program.errors());
    }
}

// === impl GoClient ===

impl GoClient {
    /// Starts one that calls every 20 ms. Does not wait.
    pub fn start(kind: Kind, etcd: &Etcd) -> Self {
        Self(Program::start("call", kind, etcd, &["--interval", "20ms"]))
    }
}

impl Caller for GoClient {
    fn mark(&self) -> usize {
        self.0.said(|events| events.len())
    }

    fn since(&self, mark: usize) -> Calls {
        let calls = |events: &[Event]| events[mark..].iter().cloned().map(Call::from).collect();
        Calls(self.0.said(calls))
    }

    fn last_error(&self) -> String {
        self.0.errors()
    }
}

impl From<Event> for Call {
    fn from(event: Event) -> Self {
        match event {
            Event::Call {
                code,
                error,
                message,
            } => match message.is_empty() {
                true => Self::Failed(format!("{code}: {error}")),
                false => Self::Answered(message),
            },
            other => panic!("a client says {other:?}"),
        }
    }
}
