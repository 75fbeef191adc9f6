//! A fake etcd with gRPC, for the paused clock.
//!
//! The real etcd-client uses it over HTTP/2 and gRPC, through pipes inside the runtime. There are no sockets, no threads and no
//! real time: an hour of renewals takes a fraction of a second, and the same seed gives the same run.
//!
//! ```text
//! let etcd = FakeEtcd::new();
//! let connect = etcd.connector();              // Fn(Uri) -> io::Result<DuplexStream>: give it to the code under test
//! etcd.script(Rpc::LeaseGrant, Reply::DropReply);   // the next grant works, but its answer is lost
//! etcd.hang();                                 // frozen, like SIGSTOP
//! assert_eq!(etcd.count(Rpc::LeaseKeepAlive), 3);
//! ```
//!
//! | to | see |
//! |---|---|
//! | break things: down, wipe, hang, partition, one member only, scripted replies | [`faults`] |
//! | overload it: a queue served at so many requests a second | [`capacity`] |
//! | act as another client: put, delete, revoke, compact | [`other_clients`] |
//! | see the requests and their effects | [`FakeEtcd::history`], [`FakeEtcd::changes`], [`FakeEtcd::keys`] |
//!
//! `tests/real/fake_is_faithful.rs` sends the same requests to it and to a real etcd. Known to be
//! simpler: one history for all members (no stale reads), no permissions beyond "has a token", no progress notifications by
//! itself, no alarms (script the error), and leases expire exactly every 0.5 s from the start of the fake.

mod answer;
mod auth;
pub mod capacity;
mod cluster_calls;
mod connections;
mod errors;
pub mod faults;
mod kv;
mod lease_calls;
mod members;
#[path = "../../../src/testing/model/mod.rs"]
mod model;
mod notifier;
pub mod other_clients;
mod record;
mod script;
mod serve;
mod state;
mod watch_calls;
mod wire;

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;

use etcd_client::{Client, ConnectOptions, Error};
use http::Uri;
use hyper_util::rt::TokioIo;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::Endpoint;

pub use capacity::Capacity;
pub use members::Mode;
pub use record::{Call, Change, Stored};
pub use script::{Reply, Rpc};

use connections::{connect, serve, sweep_for_ever};
use serve::Shared;
use state::State;

/// A fake etcd. Dropping it cuts all connections and ends all of its tasks.
#[derive(Debug)]
pub struct FakeEtcd {
    shared: Arc<Shared>,
}

/// A connect under way.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>>;

impl FakeEtcd {
    /// An empty etcd that serves. Must be called inside a runtime.
    pub fn new() -> Self {
        Self::seeded(0)
    }

    /// Like [`FakeEtcd::new`]; lease ids and latencies follow from the seed.
    pub fn seeded(seed: u64) -> Self {
        let (inbox, arriving) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(State::new(seed), inbox));
        shared.spawn(serve(shared.clone(), arriving));
        shared.spawn(sweep_for_ever(shared.clone()));
        Self { shared }
    }

    /// The connector for a client, instead of TCP. Each call is a new connection; while the fake is down it is refused.
    pub fn connector(&self) -> impl Fn(Uri) -> Connecting + Clone + Send + Sync + 'static {
        let shared = self.shared.clone();
        move |uri: Uri| -> Connecting { Box::pin(connect(shared.clone(), uri)) }
    }

    /// A client for the test itself, through member `test`; it is subject to the faults like any other.
    pub async fn client(&self) -> Client {
        self.client_of("test", None).await
    }

    /// A client of one member, with options, for example a user.
    pub async fn client_of(&self, member: &str, options: Option<ConnectOptions>) -> Client {
        let client = self.try_client_of(member, options).await;
        client.unwrap_or_else(|e| panic!("no client for the fake: {e}"))
    }

    /// Like [`client_of`](Self::client_of), for users that may be refused.
    pub async fn try_client_of(
        &self,
        member: &str,
        options: Option<ConnectOptions>,
    ) -> Result<Client, Error> {
        let connect = self.connector();
        let connect = tower::service_fn(move |uri| {
            let connecting = connect(uri);
            async move { connecting.await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_shared(format!("http://{member}:2379"))?;
        let channel = endpoint.connect_with_connector_lazy(connect);
        Client::from_channel(etcd_client::Channel::Tonic(channel), options).await
    }

    /// Every request, in order of arrival.
    pub fn history(&self) -> Vec<Call> {
        self.shared.state().calls.clone()
    }

    /// The requests of one kind.
    pub fn calls(&self, rpc: Rpc) -> Vec<Call> {
        let state = self.shared.state();
        let of_kind = state.calls.iter().filter(|call| call.rpc == rpc);
        of_kind.cloned().collect()
    }

    /// How many requests of that kind have arrived.
    pub fn count(&self, rpc: Rpc) -> usize {
        self.calls(rpc).len()
    }

    /// Every PUT and DELETE so far, of all clients; a wipe keeps them.
    pub fn changes(&self) -> Vec<Change> {
        self.shared.state().changes.clone()
    }

    /// The keys that exist now.
    pub fn keys(&self) -> BTreeMap<String, Stored> {
        let state = self.shared.state();
        let live = state.keyspace.store.live().values();
        live.map(Stored::of).collect()
    }

    /// The leases that exist now, and when each expires.
    pub fn leases(&self) -> BTreeMap<i64, Instant> {
        let state = self.shared.state();
        let leases = state.keyspace.leases.iter();
        leases.map(|(id, lease)| (id, lease.expires)).collect()
    }

    /// The revision of the store.
    pub fn revision(&self) -> i64 {
        self.shared.state().keyspace.store.revision()
    }

    /// The connections that are open, as the server sees it.
    pub fn connections_open(&self) -> usize {
        self.shared.state().members.links(None).count()
    }
}

impl Default for FakeEtcd {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for FakeEtcd {
    fn drop(&mut self) {
        self.down();
        self.shared.stop.cancel();
    }
}
