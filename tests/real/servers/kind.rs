//! The kinds of servers, and what serves in them.

use crate::support::ports::free_addr;
use axum::Router;
use axum::body::Body;
use axum::extract::Path;
use axum::routing::get;
use greeter::MyGreeter;
use greeter::pb::greeter_server::{Greeter, GreeterServer};
use greeter::pb::{HelloReply, HelloRequest, StreamRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::future::{Future, pending};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::UnixListener;
use tokio_stream::StreamExt as _;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};
use tonic_etcd::server::{Incoming, Listener};
use tonic_etcd::{Registration, ServeRegistered as _};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Tonic,
    TonicOnUnixSocket,
    Axum,
    TonicInAxum,
    HyperUtil,
}

/// The protocol of its clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Grpc,
    Http1,
}

/// Every kind, with every protocol that it supports.
pub const CASES: [(Kind, Protocol); 7] = [
    (Kind::Tonic, Protocol::Grpc),
    (Kind::TonicOnUnixSocket, Protocol::Grpc),
    (Kind::Axum, Protocol::Http1),
    (Kind::TonicInAxum, Protocol::Grpc),
    (Kind::TonicInAxum, Protocol::Http1),
    (Kind::HyperUtil, Protocol::Grpc),
    (Kind::HyperUtil, Protocol::Http1),
];

#[derive(Debug, Clone)]
pub enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// A server that is bound, and serves when this is polled.
pub struct Bound {
    pub target: Target,
    pub serving: Pin<Box<dyn Future<Output = ()> + Send>>,
    pub dir: TempDir,
}

impl Kind {
    pub fn bind(self, registration: &Registration) -> Bound {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        if self == Self::TonicOnUnixSocket {
            let listener = UnixListener::bind(&path).unwrap();
            let incoming = registration.incoming(listener).unwrap();
            let serving = Box::pin(tonic(incoming, registration.clone()));
            let target = Target::Unix(path);
            return Bound {
                target,
                serving,
                dir,
            };
        }
        let incoming = registration.bind(free_addr()).unwrap();
        let target = Target::Tcp(incoming.local_addr());
        let registration = registration.clone();
        let serving: Pin<Box<dyn Future<Output = ()> + Send>> = match self {
            Self::Tonic | Self::TonicOnUnixSocket => Box::pin(tonic(incoming, registration)),
            Self::Axum => Box::pin(axum(incoming, http(), registration)),
            Self::TonicInAxum => Box::pin(axum(incoming, both(), registration)),
            Self::HyperUtil => Box::pin(by_hand(incoming, both(), registration)),
        };
        Bound {
            target,
            serving,
            dir,
        }
    }
}

async fn tonic<L: Listener>(incoming: Incoming<L>, registration: Registration) {
    let server = Server::builder()
        .layer(registration.layer())
        .add_service(GreeterServer::new(Service));
    let served = server.serve_registered_with_incoming(incoming).await;
    served.unwrap();
}

async fn axum(incoming: Incoming, app: Router, registration: Registration) {
    let app = app.layer(registration.layer().announce(false));
    let served = axum::serve(incoming, app).with_graceful_shutdown(registration.drain_signal());
    served.await.unwrap();
}

async fn by_hand(mut incoming: Incoming, app: Router, registration: Registration) {
    let app = app.layer(registration.layer().announce(false));
    let builder = auto::Builder::new(TokioExecutor::new());
    let connections = GracefulShutdown::new();
    while let Some(io) = incoming.next().await {
        let service = TowerToHyperService::new(app.clone());
        let connection = builder.serve_connection(TokioIo::new(io.unwrap()), service);
        tokio::spawn(connections.watch(connection.into_owned()));
    }
    connections.shutdown().await;
}

fn both() -> Router {
    http().merge(Routes::new(GreeterServer::new(Service)).into_axum_router())
}

/// The greeter's two calls for HTTP.
fn http() -> Router {
    let hellos = |Path((count, interval)): Path<(usize, u64)>| async move {
        let most = if count == 0 { usize::MAX } else { count };
        let hellos =
            tokio_stream::iter(1..=most).map(|n| Ok::<_, Infallible>(format!("Hello {n}\n")));
        Body::from_stream(hellos.throttle(Duration::from_millis(interval)))
    };
    Router::new()
        .route("/hello", get(async || "Hello"))
        .route("/never", get(async || pending::<String>().await))
        .route("/hellos/{count}/{interval}", get(hellos))
}

/// The greeter, but that it never answers "never".
struct Service;

#[tonic::async_trait]
impl Greeter for Service {
    type StreamHellosStream = <MyGreeter as Greeter>::StreamHellosStream;

    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        if request.get_ref().name == "never" {
            pending::<()>().await;
        }
        MyGreeter::default().say_hello(request).await
    }

    async fn stream_hellos(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Self::StreamHellosStream>, Status> {
        MyGreeter::default().stream_hellos(request).await
    }
}
