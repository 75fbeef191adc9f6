//! Several listeners of one registration, inherited ones, and Unix sockets.

use crate::setup::{LONG, ended, register};
use crate::support::etcd::Etcd as EtcdProcess;
use crate::support::observer::Observer;
use crate::support::ports::{free, free_addr};
use crate::support::{eventually, registered_within};
use greeter::MyGreeter;
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use greeter::pb::greeter_server::GreeterServer;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;
use tokio::net::{TcpStream, UnixListener};
use tokio::time::timeout;
use tokio_stream::StreamExt as _;
use tonic::transport::Server;
use tonic_etcd::server::{Incoming, Listener};
use tonic_etcd::{Ended, Instance, RegisterError, Registration, ServeError, ServeRegistered};

async fn serve<L: Listener>(
    incoming: Incoming<L>,
    registration: Registration,
) -> Result<Ended, ServeError> {
    Server::builder()
        .layer(registration.layer())
        .add_service(GreeterServer::new(MyGreeter::default()))
        .serve_registered_with_incoming(incoming)
        .await
}

/// The address of a listener that there is not.
fn not_listened(error: &RegisterError) -> Option<SocketAddr> {
    match error {
        RegisterError::Listen { addr, .. } => Some(*addr),
        _ => None,
    }
}

async fn key(registration: &Registration) -> String {
    registered_within(LONG, registration).await.keys[0].to_string()
}

async fn hello(addr: SocketAddr) {
    let client = GreeterClient::connect(format!("http://{addr}")).await;
    let hello = HelloRequest::default();
    client.unwrap().say_hello(hello).await.unwrap();
}

#[tokio::test]
async fn two_addresses_of_one_server_are_served_and_leave_together() {
    let etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let (registration, token) = register(&etcd, Instance::new("greeter"));
    let addrs = [free_addr(), free_addr()];
    let incoming = registration.bind_all(addrs).unwrap();
    assert_eq!(incoming.local_addrs(), addrs);
    let served = tokio::spawn(serve(incoming, registration.clone()));
    let held = observer.wait_for_key(&key(&registration).await, LONG).await;
    let advertised = format!(r#""address":"{}""#, addrs[0]);
    let value = String::from_utf8(held.value).unwrap();
    assert!(value.contains(&advertised), "{value}");
    for addr in addrs {
        hello(addr).await;
    }
    token.cancel();
    ended(served).await;
    for addr in addrs {
        assert!(TcpStream::connect(addr).await.is_err(), "{addr} is closed");
    }
}

#[tokio::test]
async fn ipv4_and_ipv6_share_a_port_whatever_the_system_does_by_default() {
    let etcd = EtcdProcess::start().await;
    let (registration, token) = register(&etcd, Instance::new("greeter"));
    let port = free();
    let addrs: [SocketAddr; 2] = [
        (Ipv4Addr::UNSPECIFIED, port).into(),
        (Ipv6Addr::UNSPECIFIED, port).into(),
    ];
    let incoming = registration.bind_all(addrs);
    if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
        // A machine without IPv6: the error says so.
        let error = incoming.unwrap_err();
        assert_eq!(not_listened(&error), Some(addrs[1]));
        return;
    }
    let served = tokio::spawn(serve(incoming.unwrap(), registration.clone()));
    key(&registration).await;
    hello((Ipv4Addr::LOCALHOST, port).into()).await;
    hello((Ipv6Addr::LOCALHOST, port).into()).await;
    token.cancel();
    ended(served).await;
}

#[tokio::test]
async fn listeners_that_cannot_be_used_are_errors_and_nothing_is_written() {
    let etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/").await;
    let (registration, token) = register(&etcd, Instance::new("greeter"));
    let taken = TcpListener::bind(free_addr()).unwrap();
    let (first, second) = (free_addr(), taken.local_addr().unwrap());
    let error = registration.bind_all([first, second]).unwrap_err();
    assert_eq!(not_listened(&error), Some(second), "{error:?}");
    // The child of another test has copies of all descriptors until its exec.
    let bind = || TcpListener::bind(first).map_err(|error| error.to_string());
    drop(eventually("the first is not bound any more", LONG, bind).await);
    // 2001:db8::/32 is for documentation: no machine has an address of it.
    let nowhere = "[2001:db8::1]:9000".parse().unwrap();
    let error = registration.bind_all([first, nowhere]).unwrap_err();
    assert_eq!(not_listened(&error), Some(nowhere), "{error:?}");
    let error = registration.bind_all([]).unwrap_err();
    assert!(matches!(error, RegisterError::NoListener), "{error:?}");
    let dir = tempfile::tempdir().unwrap();
    let unix = UnixListener::bind(dir.path().join("socket")).unwrap();
    let error = registration.incoming(unix).unwrap_err();
    assert!(matches!(error, RegisterError::Address(_)), "{error:?}");
    assert!(error.to_string().contains("Unix socket"), "{error}");
    // It can be bound as before.
    let incoming = registration.bind(first).unwrap();
    let mark = observer.events().len();
    assert_eq!(mark, 0, "{:?}", observer.events());
    let served = tokio::spawn(serve(incoming, registration.clone()));
    key(&registration).await;
    token.cancel();
    ended(served).await;
}

#[tokio::test]
async fn two_servers_appear_when_both_accept_and_leave_when_one_closes() {
    let etcd = EtcdProcess::start().await;
    let observer = Observer::start(etcd.endpoint(), "/services/").await;
    let (registration, _token) = register(&etcd, Instance::new("greeter"));
    let first = registration.bind(free_addr()).unwrap();
    let second = registration.bind(free_addr()).unwrap();
    let second_addr = second.local_addr();
    let advertised = format!(r#""address":"{}""#, first.local_addr());
    let second = tokio::spawn(serve(second, registration.clone()));
    // It accepts, so that its first poll has been.
    hello(second_addr).await;
    let early = timeout(Duration::from_millis(300), registration.registered()).await;
    assert!(early.is_err(), "the first does not accept yet");
    let first = tokio::spawn(serve(first, registration.clone()));
    let key = key(&registration).await;
    let held = observer.wait_for_key(&key, LONG).await;
    let value = String::from_utf8(held.value).unwrap();
    assert!(value.contains(&advertised), "{value}");
    second.abort();
    observer.wait_for_no_key(&key, LONG).await;
    ended(first).await;
}

#[tokio::test]
async fn an_inherited_listener_that_blocks_is_served() {
    let etcd = EtcdProcess::start().await;
    let (registration, token) = register(&etcd, Instance::new("greeter"));
    let listener = TcpListener::bind(free_addr()).unwrap();
    listener.set_nonblocking(false).unwrap();
    let addr = listener.local_addr().unwrap();
    let incoming = registration.incoming(listener).unwrap();
    let served = tokio::spawn(serve(incoming, registration.clone()));
    key(&registration).await;
    hello(addr).await;
    token.cancel();
    ended(served).await;
}

#[tokio::test]
async fn a_listener_outside_of_a_runtime_is_an_error_and_not_a_panic() {
    let etcd = EtcdProcess::start().await;
    let (registration, _token) = register(&etcd, Instance::new("greeter"));
    let outside = std::thread::spawn(move || registration.bind(free_addr()).map(drop));
    let error = outside.join().unwrap().unwrap_err();
    assert!(matches!(error, RegisterError::NoRuntime), "{error:?}");
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn accept_returns_the_backlog_then_stays_pending_and_is_cancel_safe() {
    use axum::serve::Listener as _;
    let etcd = EtcdProcess::start().await;
    let (registration, token) = register(&etcd, Instance::new("greeter"));
    let mut incoming = registration.bind(free_addr()).unwrap();
    let addr = incoming.local_addr();
    let short = Duration::from_millis(50);
    for _ in 0..3 {
        assert!(timeout(short, incoming.accept()).await.is_err());
    }
    let waiting = [
        TcpStream::connect(addr).await.unwrap(),
        TcpStream::connect(addr).await.unwrap(),
    ];
    token.cancel();
    timeout(LONG, registration.ended()).await.unwrap();
    for client in &waiting {
        let (_, peer) = timeout(LONG, incoming.accept()).await.unwrap();
        assert_eq!(peer, client.local_addr().unwrap());
    }
    assert!(timeout(short, incoming.accept()).await.is_err());
    let refused = TcpStream::connect(addr).await;
    refused.expect_err("the port is closed");
    timeout(LONG, registration.drain_signal()).await.unwrap();
    assert!(incoming.next().await.is_none());
}

#[cfg(feature = "axum")]
#[tokio::test]
async fn a_request_of_axum_shorter_than_the_preface_is_not_cut() {
    use axum::extract::ConnectInfo;
    use axum::routing::get;
    use axum::serve::ListenerExt as _;
    use std::future::IntoFuture as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let etcd = EtcdProcess::start().await;
    let (registration, token) = register(&etcd, Instance::new("greeter"));
    let incoming = registration.bind(free_addr()).unwrap();
    let addr = incoming.local_addr();
    let slow = async |ConnectInfo(peer): ConnectInfo<SocketAddr>| {
        tokio::time::sleep(Duration::from_secs(2)).await;
        peer.to_string()
    };
    let app = axum::Router::new().route("/", get(slow));
    let app = app.layer(registration.layer().announce(false));
    let app = app.into_make_service_with_connect_info::<SocketAddr>();
    let server = axum::serve(incoming.tap_io(|_| ()), app);
    let server = server.with_graceful_shutdown(registration.drain_signal());
    let served = tokio::spawn(server.into_future());
    key(&registration).await;
    let mut client = TcpStream::connect(addr).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\n\r\n").await.unwrap();
    crate::support::eventually("it is in flight", LONG, || match registration.in_flight() {
        1 => Ok(()),
        count => Err(count.to_string()),
    })
    .await;
    token.cancel();
    let mut answer = String::new();
    client.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 200 OK"), "{answer:?}");
    let peer = client.local_addr().unwrap().to_string();
    assert!(answer.ends_with(&peer), "{answer:?}");
    ended(served).await;
}
