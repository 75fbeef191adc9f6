//! Our half: the `server` example as a process, and [`RustClient`].

use crate::calls::{Call, Caller, Calls};
use crate::kind::{Kind, SERVICE};
use crate::setup::LONG;
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use test_support::etcd::Etcd;
use test_support::eventually;
use test_support::server::ServerProcess;
use tokio::task::AbortHandle;
use tokio::time::sleep;
use tonic_etcd::channel::BalancedChannel;
use tonic_etcd::discovery::{Discovery, Snapshot};

/// A server of ours, registered, and what its greetings end with.
pub struct RustServer {
    pub process: ServerProcess,
    pub who: String,
}

/// A client of ours: a discovery and a balanced channel, as a user would use them.
pub struct RustClient {
    discovery: Discovery,
    calls: Arc<Mutex<Vec<Call>>>,
    task: AbortHandle,
}

const INTERVAL: Duration = Duration::from_millis(20);

// === impl RustServer ===

impl RustServer {
    /// Starts one, and waits until it is registered. `flags` are further ones.
    pub async fn start(kind: Kind, etcd: &Etcd, flags: &[&str]) -> Self {
        let format = kind.format();
        let all = [&["--format", format.name()], flags].concat();
        let process = ServerProcess::start(&etcd.endpoint(), &all);
        let who = format!("I am {}.", process.listening().await);
        process.registered().await;
        Self { process, who }
    }

    /// Waits until it has ended, and that it ended well.
    pub async fn ended(&self) {
        let code = self.process.exit(LONG).await;
        assert_eq!(code, 0, "{}", self.process.output());
    }
}

// === impl RustClient ===

impl RustClient {
    /// Starts one that calls every 20 ms. Does not wait.
    pub fn start(kind: Kind, etcd: &Etcd) -> Self {
        let discovery = Discovery::builder(tonic_etcd::Etcd::new([etcd.endpoint()]), SERVICE)
            .format(kind.format())
            .build()
            .unwrap();
        let client = GreeterClient::new(discovery.channel().build().unwrap());
        let calls = Arc::default();
        let task = tokio::spawn(call(client, Arc::clone(&calls))).abort_handle();
        Self {
            discovery,
            calls,
            task,
        }
    }

    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.discovery.snapshot()
    }

    /// Waits until it has found exactly these, in any order.
    pub async fn until_found(&self, what: &str, mut wanted: Vec<String>) {
        wanted.sort();
        eventually(what, LONG, || {
            let found = self.found();
            match found == wanted {
                true => Ok(()),
                false => Err(format!("{found:?}; {}", self.last_error())),
            }
        })
        .await;
    }

    /// The addresses that it has found, each once.
    fn found(&self) -> Vec<String> {
        let snapshot = self.snapshot();
        let addresses = snapshot.iter().map(|(_, instance)| instance.address());
        let mut found: Vec<_> = addresses.flatten().map(str::to_owned).collect();
        found.sort();
        found.dedup();
        found
    }
}

impl Caller for RustClient {
    fn mark(&self) -> usize {
        lock(&self.calls).len()
    }

    fn since(&self, mark: usize) -> Calls {
        Calls(lock(&self.calls)[mark..].to_vec())
    }

    fn last_error(&self) -> String {
        let snapshot = self.snapshot();
        format!("what it has found: {snapshot:?}")
    }
}

impl Drop for RustClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn call(mut client: GreeterClient<BalancedChannel>, calls: Arc<Mutex<Vec<Call>>>) {
    loop {
        let request = HelloRequest {
            name: "rust".to_owned(),
        };
        let call = match client.say_hello(request).await {
            Ok(reply) => Call::Answered(reply.into_inner().message),
            Err(status) => Call::Failed(format!("{:?}: {}", status.code(), status.message())),
        };
        lock(&calls).push(call);
        sleep(INTERVAL).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
