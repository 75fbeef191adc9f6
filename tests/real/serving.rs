//! What tonic provides stays the same, and when exactly a server appears.

use crate::setup::{LONG, SEC, ended, register};
use crate::support::certificates::Authority;
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::observer::Observer;
use crate::support::ports::free_addr;
use crate::support::registered_within;
use greeter::MyGreeter;
use greeter::pb::greeter_client::GreeterClient;
use greeter::pb::greeter_server::{Greeter, GreeterServer};
use greeter::pb::{HelloReply, HelloRequest, StreamRequest};
use std::fmt::Display;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_stream::StreamExt as _;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Server, ServerTlsConfig};
use tonic::{Request, Response, Status};
use tonic_etcd::{Etcd, Instance, RegisterError, Registrar, ServeError, ServeRegistered};
use tower::{Layer, Service};

#[derive(Clone)]
enum Greets {
    /// Says who calls.
    WhoCalls,
    AfterAMinute,
}

#[tonic::async_trait]
impl Greeter for Greets {
    type StreamHellosStream = tokio_stream::Empty<Result<HelloReply, Status>>;

    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        if matches!(self, Self::AfterAMinute) {
            tokio::time::sleep(SEC * 60).await;
        }
        let text = |addr: Option<SocketAddr>| addr.map_or_else(String::new, |it| it.to_string());
        let (remote, local) = (text(request.remote_addr()), text(request.local_addr()));
        let certificates = request.peer_certs().map_or(0, |them| them.len());
        let message = format!("{remote} {local} {certificates}");
        Ok(Response::new(HelloReply { message }))
    }

    async fn stream_hellos(
        &self,
        _: Request<StreamRequest>,
    ) -> Result<Response<Self::StreamHellosStream>, Status> {
        Err(Status::unimplemented("not here"))
    }
}

async fn connect(addr: impl Display) -> GreeterClient<Channel> {
    GreeterClient::connect(format!("http://{addr}"))
        .await
        .unwrap()
}

async fn hello(mut client: GreeterClient<Channel>) -> String {
    let reply = client.say_hello(HelloRequest::default()).await;
    reply.unwrap().into_inner().message
}

#[tokio::test]
async fn a_handler_sees_the_peer_address_and_certificates_as_with_tonic() {
    let etcd = EtcdProcess::start().await;
    let (registration, token) = register(&etcd, Instance::new("greeter"));
    let authority = Authority::new("ours");
    let ca = || Certificate::from_pem(&authority.pem);
    let tls = ServerTlsConfig::new()
        .identity(authority.sign("localhost").for_tonic())
        .client_ca_root(ca());
    let incoming = registration.bind(free_addr()).unwrap();
    let addr = incoming.local_addr();
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .layer(registration.layer())
        .add_service(GreeterServer::new(Greets::WhoCalls))
        .serve_registered_with_incoming(incoming);
    let served = tokio::spawn(server);

    let tls = ClientTlsConfig::new()
        .ca_certificate(ca())
        .identity(authority.sign("client").for_tonic())
        .domain_name("localhost");
    let channel = Channel::from_shared(format!("https://{addr}"))
        .unwrap()
        .tls_config(tls)
        .unwrap();
    let said = hello(GreeterClient::new(channel.connect().await.unwrap())).await;
    let [remote, local, certificates] = said.split(' ').collect::<Vec<_>>()[..] else {
        panic!("{said}");
    };
    assert!(remote.starts_with("127.0.0.1:"), "{said}");
    assert_eq!((local, certificates), (&*addr.to_string(), "1"));
    token.cancel();
    ended(served).await;
}

/// The listener's own view of the sockets it accepts.
async fn accepted_options(
    configure: impl FnOnce(tonic_etcd::server::Incoming) -> tonic_etcd::server::Incoming,
) -> (bool, bool) {
    let registrar = Registrar::builder(Etcd::new(["http://127.0.0.1:1"])).build();
    let registration = registrar.unwrap().register(Instance::new("greeter"));
    let registration = registration.unwrap();
    let mut incoming = configure(registration.bind(free_addr()).unwrap());
    let addr = incoming.local_addr();
    let _client = TcpStream::connect(addr).await.unwrap();
    let accepted = incoming.next().await.unwrap().unwrap();
    let socket = socket2::SockRef::from(accepted.get_ref());
    (socket.tcp_nodelay().unwrap(), socket.keepalive().unwrap())
}

#[tokio::test]
async fn socket_options_are_tonics_defaults_and_can_be_set() {
    assert_eq!(accepted_options(|incoming| incoming).await, (true, false));
    let configured =
        accepted_options(|incoming| incoming.with_nodelay(false).with_keepalive(Some(SEC * 30)));
    assert_eq!(configured.await, (false, true));
    for extreme in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let configured = accepted_options(|incoming| {
            let incoming = incoming.with_keepalive(Some(extreme));
            incoming.with_keepalive_interval(Some(extreme))
        });
        assert_eq!(configured.await, (true, true), "{extreme:?}");
    }
}

#[tokio::test]
async fn it_is_never_registered_when_the_port_is_taken_and_the_error_names_it() {
    let etcd = EtcdProcess::start().await;
    let taken = tokio::net::TcpListener::bind(free_addr()).await.unwrap();
    let addr = taken.local_addr().unwrap();
    let observer = Observer::start(etcd.endpoint(), "/").await;
    let (registration, _token) = register(&etcd, Instance::new("greeter"));
    let served = Server::builder()
        .layer(registration.layer())
        .add_service(GreeterServer::new(MyGreeter::default()))
        .serve_registered(addr, &registration)
        .await;
    let Err(ServeError::Setup(error @ RegisterError::Listen { .. })) = served else {
        panic!("{served:?}");
    };
    let text = error.to_string();
    for part in [&addr.to_string(), "another process"] {
        assert!(text.contains(part), "{text}");
    }
    tokio::time::sleep(SEC).await;
    assert_eq!(observer.events(), []);
}

#[tokio::test]
async fn port_0_advertises_the_real_port() {
    let etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let (registration, token) = register(&etcd, Instance::new("greeter"));
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let serve = Server::builder()
        .layer(registration.layer())
        .add_service(GreeterServer::new(Greets::WhoCalls))
        .serve_registered(any, &registration);
    let client = async {
        let registered = registration.registered().await.unwrap();
        let value = observer.wait_for_key(&registered.keys[0], LONG).await.value;
        let value: tonic_etcd::InstanceJson = serde_json::from_slice(&value).unwrap();
        let said = hello(connect(&value.address).await).await;
        token.cancel();
        (said, value.address)
    };
    let (served, (said, address)) = tokio::join!(serve, client);
    served.unwrap();
    assert!(
        !address.ends_with(":0") && said.contains(&address),
        "{said}"
    );
}

#[tokio::test]
async fn an_unspecified_address_is_never_advertised_as_it_is() {
    let etcd = EtcdProcess::start().await;
    let (registration, _token) = register(&etcd, Instance::new("greeter"));
    let port = crate::support::ports::free();
    let mut incoming = registration.bind(([0, 0, 0, 0], port).into()).unwrap();
    let accepting = tokio::spawn(async move { incoming.next().await.is_some() });
    let registered = registered_within(LONG, &registration).await;
    let key = &registered.keys[0];
    assert!(!key.contains("0.0.0.0"), "{key:?}");
    accepting.abort();
}

/// A fact that the layer alone depends on: tonic applies layers after it has bound, and not when it
/// cannot bind.
#[tokio::test]
async fn tonic_applies_layers_after_it_has_bound_its_listener() {
    #[derive(Clone)]
    struct Probe(SocketAddr, Arc<AtomicUsize>);
    impl<S> Layer<S> for Probe {
        type Service = S;
        fn layer(&self, inner: S) -> S {
            let bound = std::net::TcpListener::bind(self.0).is_err();
            self.1
                .fetch_add(if bound { 1 } else { 100 }, Ordering::Relaxed);
            inner
        }
    }
    let (addr, applied) = (free_addr(), Arc::new(AtomicUsize::new(0)));
    let serve = |signal: CancellationToken| {
        let probe = Probe(addr, applied.clone());
        Server::builder()
            .layer(probe)
            .add_service(GreeterServer::new(Greets::WhoCalls))
            .serve_with_shutdown(addr, async move { signal.cancelled().await })
    };
    let stopped = CancellationToken::new();
    stopped.cancel();
    serve(stopped.clone()).await.unwrap();
    assert_eq!(applied.load(Ordering::Relaxed), 1);
    let _taken = std::net::TcpListener::bind(addr).unwrap();
    serve(stopped).await.unwrap_err();
    let applied = applied.load(Ordering::Relaxed);
    assert_eq!(applied, 1, "not applied on a busy port");
}

#[tokio::test]
async fn the_layer_alone_registers_an_explicit_address_under_plain_serve() {
    let etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let addr = free_addr();
    let (registration, token) = register(&etcd, Instance::new("greeter").with_address(addr));
    let served = tokio::spawn(
        Server::builder()
            .layer(registration.layer())
            .add_service(GreeterServer::new(Greets::WhoCalls))
            .serve_with_shutdown(addr, registration.drain_signal()),
    );
    let registered = registered_within(LONG, &registration).await;
    observer.wait_for_key(&registered.keys[0], LONG).await;
    hello(connect(addr).await).await;
    token.cancel();
    ended(served).await;
    observer.wait_for_no_key(&registered.keys[0], LONG).await;
}

#[tokio::test]
async fn a_server_whose_listener_is_dropped_is_deregistered() {
    let etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let (registration, _token) = register(&etcd, Instance::new("greeter"));
    let incoming = registration.bind(free_addr()).unwrap();
    let served = tokio::spawn(
        Server::builder()
            .layer(registration.layer())
            .add_service(GreeterServer::new(Greets::WhoCalls))
            .serve_registered_with_incoming(incoming),
    );
    let registered = registered_within(LONG, &registration).await;
    observer.wait_for_key(&registered.keys[0], LONG).await;
    served.abort();
    observer.wait_for_no_key(&registered.keys[0], LONG).await;
}

/// As tower-http's `TimeoutLayer`: answers itself, with a body that is the default one.
#[derive(Clone)]
struct Deadline<S>(S);

impl<S, B> Service<http::Request<B>> for Deadline<S>
where
    S: Service<http::Request<B>>,
    S::Response: Default,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            match tokio::time::timeout(Duration::from_millis(200), answer).await {
                Ok(answer) => answer,
                Err(_elapsed) => Ok(S::Response::default()),
            }
        })
    }
}

#[tokio::test]
async fn a_layer_outside_of_ours_may_make_up_a_response_with_a_default_body() {
    let etcd = EtcdProcess::start().await;
    let (registration, token) = register(&etcd, Instance::new("greeter"));
    let incoming = registration.bind(free_addr()).unwrap();
    let addr = incoming.local_addr();
    let server = Server::builder()
        .layer(tower::layer::layer_fn(Deadline))
        .layer(registration.layer())
        .add_service(GreeterServer::new(Greets::AfterAMinute))
        .serve_registered_with_incoming(incoming);
    let served = tokio::spawn(server);
    let mut client = connect(addr).await;
    let answer = client.say_hello(HelloRequest::default()).await;
    // A response of status 200 without a body is no gRPC answer, but it comes at once.
    assert!(answer.is_err(), "{answer:?}");
    assert_eq!(registration.in_flight(), 0);
    drop(client);
    token.cancel();
    ended(served).await;
}
