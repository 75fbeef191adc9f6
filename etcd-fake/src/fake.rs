//! [`FakeEtcd`]: how clients reach it, and what a test sees of it.

use crate::connect::{connect, serve, sweep};
use crate::pipe::Mode;
use crate::record::{Call, Change, Rpc, Stored};
use crate::shared::Shared;
use crate::state::State;
use http::Uri;
use hyper_util::rt::TokioIo;
use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint};

/// An etcd inside the test: see the [crate](crate).
///
/// Its methods take effect at once; clients notice that as they notice the real event. Dropping it cuts all connections
/// and ends its tasks.
#[derive(Debug)]
pub struct FakeEtcd {
    pub(crate) shared: Arc<Shared>,
}

/// A connect under way.
pub type Connecting = Pin<Box<dyn Future<Output = io::Result<DuplexStream>> + Send>>;

// === impl FakeEtcd ===

impl FakeEtcd {
    /// An empty etcd that serves.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn new() -> Self {
        Self::seeded(0)
    }

    /// Like [`new`](Self::new); lease ids and latencies follow from the seed.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let (inbox, arriving) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::new(State::new(seed), inbox));
        shared.spawn(serve(shared.clone(), arriving));
        shared.spawn(sweep(shared.clone()));
        Self { shared }
    }

    /// A channel to one member, for a client: see the example of the [crate](crate).
    ///
    /// # Panics
    ///
    /// If `member` is no name of a host.
    #[allow(clippy::expect_used, reason = "a test that fails ends")]
    pub fn channel(&self, member: &str) -> Channel {
        let connect = self.connector();
        let connect = tower::service_fn(move |uri| {
            let connecting = connect(uri);
            async move { connecting.await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_shared(format!("http://{member}:2379"));
        let endpoint = endpoint.expect("the name of a host");
        endpoint.connect_with_connector_lazy(connect)
    }

    /// For clients that connect by themselves, instead of TCP. The host of the address names the member.
    pub fn connector(&self) -> impl Fn(Uri) -> Connecting + Clone + Send + Sync + 'static {
        let shared = self.shared.clone();
        move |uri: Uri| -> Connecting { Box::pin(connect(shared.clone(), uri)) }
    }

    /// Calls `look` now and after each change of keys, leases or faults, until it returns something. Cancel safe.
    pub async fn until<T>(&self, look: impl FnMut() -> Option<T>) -> T {
        self.shared.until(look).await
    }

    /// Every request, in order of arrival.
    pub fn history(&self) -> Vec<Call> {
        self.shared.state().calls.clone()
    }

    /// The requests of one kind, in order of arrival.
    pub fn calls(&self, rpc: Rpc) -> Vec<Call> {
        let state = self.shared.state();
        let of_kind = state.calls.iter().filter(|call| call.rpc == rpc);
        of_kind.cloned().collect()
    }

    /// How many requests of one kind have arrived.
    pub fn count(&self, rpc: Rpc) -> usize {
        self.calls(rpc).len()
    }

    /// Every put and deletion of a key so far, by all clients; a wipe keeps them.
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

    /// The current revision.
    pub fn revision(&self) -> i64 {
        self.shared.state().keyspace.store.revision()
    }

    /// The number of open connections.
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
        self.shared.set(None, Mode::Down);
        self.shared.stop.cancel();
    }
}
