//! Real tonic servers behind pipes that can be cut and frozen, and a channel over them.

use crate::setup::LONG;
use crate::support::eventually;
use greeter::MyGreeter;
use greeter::pb::greeter_client::GreeterClient;
use greeter::pb::greeter_server::GreeterServer;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::io;
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_etcd::Instance;
use tonic_etcd::channel::{BalancedChannel, BalancedChannelBuilder, ConnectivityState};
use tonic_etcd::discovery::Change;
use tonic_health::server::HealthReporter;

/// Servers by their addresses, and the network between.
#[derive(Clone, Default)]
pub struct Net(pub Arc<Mutex<BTreeMap<String, Host>>>);

/// What listens at one address.
pub struct Host {
    pub dials: mpsc::UnboundedSender<DuplexStream>,
    pub frozen: watch::Sender<bool>,
    pub wires: Vec<JoinHandle<()>>,
    pub connects: usize,
    pub stop: CancellationToken,
    pub served: Option<JoinHandle<()>>,
}

/// The writing end of a source of changes.
pub struct Registry(pub mpsc::UnboundedSender<Change>);

pub type Client = GreeterClient<BalancedChannel>;

// === impl Net ===

impl Net {
    /// A greeter at `address`, which greets with it.
    pub fn serve(&self, address: &str) {
        self.serve_with(address, Server::builder());
    }

    pub fn serve_with(&self, address: &str, mut server: Server) {
        let whoami = address.to_owned();
        let router = server.add_service(GreeterServer::new(MyGreeter { whoami }));
        self.serve_router(address, router);
    }

    /// A greeter with a health service.
    pub async fn serve_with_health(&self, address: &str) -> HealthReporter {
        let (reporter, health) = tonic_health::server::health_reporter();
        let whoami = address.to_owned();
        let router = Server::builder()
            .add_service(health)
            .add_service(GreeterServer::new(MyGreeter { whoami }));
        self.serve_router(address, router);
        reporter
    }

    pub fn serve_router(&self, address: &str, router: tonic::transport::server::Router) {
        let stop = CancellationToken::new();
        let mut arriving = self.listen(address, stop.clone());
        let stopping = stop.clone().cancelled_owned();
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(io) = arriving.recv().await {
                if tell.send(Ok::<_, Infallible>(io)).is_err() {
                    return;
                }
            }
        });
        let served = tokio::spawn(async move {
            let incoming = UnboundedReceiverStream::new(told);
            let served = router.serve_with_incoming_shutdown(incoming, stopping);
            served.await.unwrap();
        });
        self.0.lock().unwrap().get_mut(address).unwrap().served = Some(served);
    }

    /// Connections to `address` arrive here.
    pub fn listen(
        &self,
        address: &str,
        stop: CancellationToken,
    ) -> mpsc::UnboundedReceiver<DuplexStream> {
        let (dials, arriving) = mpsc::unbounded_channel();
        let host = Host {
            dials,
            frozen: watch::channel(false).0,
            wires: vec![],
            connects: 0,
            stop,
            served: None,
        };
        self.0.lock().unwrap().insert(address.to_owned(), host);
        arriving
    }

    pub fn connect(&self, address: &str) -> io::Result<DuplexStream> {
        let mut hosts = self.0.lock().unwrap();
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let host = hosts.get_mut(address).ok_or_else(refused)?;
        let (near, left) = tokio::io::duplex(64 * 1024);
        let (right, far) = tokio::io::duplex(64 * 1024);
        host.dials.send(far).map_err(|_| refused())?;
        host.connects += 1;
        let mut frozen = host.frozen.subscribe();
        host.wires.push(tokio::spawn(async move {
            let freeze = async {
                // A host that is gone does not freeze any more.
                if frozen.wait_for(|frozen| *frozen).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let (from_left, to_left) = tokio::io::split(left);
            let (from_right, to_right) = tokio::io::split(right);
            // Not dropped when frozen: both ends stay open.
            let passing = async {
                tokio::join!(pass(from_left, to_right), pass(from_right, to_left));
            };
            let mut passing = std::pin::pin!(passing);
            tokio::select! {
                biased;
                () = freeze => {}
                () = &mut passing => return,
            }
            std::future::pending::<()>().await;
        }));
        Ok(near)
    }

    /// Kills the process at `address`.
    pub fn kill(&self, address: &str) {
        let host = self.0.lock().unwrap().remove(address).unwrap();
        host.wires.iter().for_each(JoinHandle::abort);
        host.served.iter().for_each(JoinHandle::abort);
    }

    /// The server at `address` closes its port and shuts down gracefully.
    pub async fn stop(&self, address: &str) {
        let host = self.0.lock().unwrap().remove(address).unwrap();
        host.stop.cancel();
        if let Some(served) = host.served {
            timeout(LONG, served).await.unwrap().unwrap();
        }
    }

    /// Nothing passes any more, in either direction.
    pub fn freeze(&self, address: &str) {
        let hosts = self.0.lock().unwrap();
        hosts[address].frozen.send_replace(true);
    }

    /// Waits until no connection to `address` is open.
    pub async fn disconnected(&self, address: &str) {
        eventually("the end of its connections", LONG, || {
            let hosts = self.0.lock().unwrap();
            let ended = hosts[address].wires.iter().all(JoinHandle::is_finished);
            ended.then_some(()).ok_or("open".to_owned())
        })
        .await;
    }

    pub fn connects(&self, address: &str) -> usize {
        self.0.lock().unwrap()[address].connects
    }

    pub fn balanced(&self) -> (Registry, BalancedChannelBuilder) {
        let (tell, told) = mpsc::unbounded_channel();
        let net = self.clone();
        let builder = BalancedChannel::builder(UnboundedReceiverStream::new(told)).connector(
            move |uri: http::Uri| {
                let connected = net.connect(uri.authority().unwrap().as_str());
                async { connected }
            },
        );
        (Registry(tell), builder)
    }

    /// `n` greeters, and a channel that is connected to all of them.
    pub async fn greeters(n: usize) -> (Self, Registry, BalancedChannel) {
        let net = Self::default();
        let (registry, builder) = net.balanced();
        for n in 1..=n {
            net.serve(&address(n));
            registry.put(&address(n), 100);
        }
        let balanced = builder.build().unwrap();
        ready(&balanced, n).await;
        (net, registry, balanced)
    }
}

// === impl Registry ===

impl Registry {
    pub fn put(&self, address: &str, weight: u32) {
        let instance = Instance::new("greeter")
            .with_address(address)
            .with_weight(weight);
        self.change(Change::insert(format!("/greeter/{address}"), instance));
    }

    pub fn gone(&self, address: &str) {
        self.change(Change::remove(format!("/greeter/{address}")));
    }

    pub fn change(&self, change: Change) {
        self.0.send(change).unwrap();
    }
}

/// A connector that nothing listens behind.
pub async fn refuse(_: http::Uri) -> io::Result<DuplexStream> {
    Err(io::ErrorKind::ConnectionRefused.into())
}

/// One direction of a connection. As with TCP, bytes that were sent before an end was closed for writing still
/// arrive.
async fn pass(mut from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    if tokio::io::copy(&mut from, &mut to).await.is_ok() {
        let _closed = to.shutdown().await;
    }
}

pub fn address(n: usize) -> String {
    format!("10.0.0.{n}:9000")
}

pub async fn ready(balanced: &BalancedChannel, n: usize) {
    eventually("all are ready", LONG, || {
        let endpoints = balanced.endpoints();
        let ready = endpoints
            .iter()
            .filter(|e| e.state == ConnectivityState::Ready);
        if ready.count() == n && endpoints.len() == n {
            Ok(())
        } else {
            Err(format!("{endpoints:?}"))
        }
    })
    .await;
}

pub async fn ready_at(balanced: &BalancedChannel, address: &str) {
    eventually("it is ready", LONG, || {
        let endpoints = balanced.endpoints();
        let found = endpoints.iter().find(|e| &*e.address == address);
        let ready = found.is_some_and(|e| e.state == ConnectivityState::Ready);
        ready.then_some(()).ok_or_else(|| format!("{endpoints:?}"))
    })
    .await;
}
