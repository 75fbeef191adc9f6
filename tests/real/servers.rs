//! Tests that hold for every kind of server: each kind is a case of each test.

mod client;
mod kind;

use crate::setup::{LONG, SEC};
use crate::support::etcd::Etcd;
use crate::support::observer::Observer;
use crate::support::{eventually, library_etcd, registered_within};
use client::End;
use futures_util::future::join_all;
use kind::{CASES, Kind, Protocol, Target};
use std::future::Future;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::AsyncReadExt as _;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic_etcd::{Instance, Registrar, RegistrarBuilder, Registration};

/// One kind of server, bound and then served.
struct Case {
    kind: Kind,
    protocol: Protocol,
    registrar: Registrar,
    registration: Registration,
    shutdown: CancellationToken,
    shutdown_now: CancellationToken,
    target: Target,
    serving: Option<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>>,
    served: Option<JoinHandle<()>>,
    _dir: TempDir,
}

impl Case {
    fn bind(
        etcd: &Etcd,
        (kind, protocol): (Kind, Protocol),
        configure: impl Fn(RegistrarBuilder) -> RegistrarBuilder,
    ) -> Self {
        let (shutdown, shutdown_now) = (CancellationToken::new(), CancellationToken::new());
        let builder = Registrar::builder(library_etcd([etcd.endpoint()]))
            .deregistration_delay(Duration::ZERO)
            .shutdown_token(shutdown.clone())
            .shutdown_now_token(shutdown_now.clone());
        let registrar = configure(builder).build().unwrap();
        let instance = Instance::new(format!("{kind:?}-{protocol:?}"));
        let registration = registrar.register(match kind {
            Kind::TonicOnUnixSocket => instance.with_address("127.0.0.1:9000"),
            _ => instance,
        });
        let registration = registration.unwrap();
        let bound = kind.bind(&registration);
        Self {
            kind,
            protocol,
            registrar,
            registration,
            shutdown,
            shutdown_now,
            target: bound.target,
            serving: Some(bound.serving),
            served: None,
            _dir: bound.dir,
        }
    }

    /// Serves, and waits until it is registered.
    async fn serve(&mut self) -> String {
        self.served = self.serving.take().map(tokio::spawn);
        let registered = registered_within(LONG, &self.registration).await;
        registered.keys[0].to_string()
    }

    /// Waits until serving has ended.
    async fn ended(&mut self) {
        let served = self.served.take().unwrap();
        let ended = timeout(LONG, served).await;
        ended
            .unwrap_or_else(|_| panic!("{:?} serves on", self.kind))
            .unwrap();
    }

    async fn in_flight(&self, wanted: usize) {
        let what = format!("{wanted} in flight of {:?} {:?}", self.kind, self.protocol);
        eventually(&what, LONG, || match self.registration.in_flight() {
            count if count == wanted => Ok(()),
            count => Err(format!("{count}")),
        })
        .await;
    }
}

/// Runs a row of the table for every kind, all at once on one etcd.
async fn each<F: Future<Output = ()>>(
    configure: impl Fn(RegistrarBuilder) -> RegistrarBuilder,
    row: impl Fn(Case, std::sync::Arc<Observer>) -> F,
) {
    let etcd = Etcd::start().await;
    let observer = std::sync::Arc::new(Observer::start(etcd.endpoint(), "/services/").await);
    let cases = CASES.map(|case| Case::bind(&etcd, case, &configure));
    join_all(cases.map(|case| row(case, observer.clone()))).await;
}

#[tokio::test]
async fn every_kind_appears_when_it_accepts_and_not_when_it_is_bound() {
    each(
        |builder| builder,
        async |mut case, observer| {
            // Registered later, and in etcd already: so ours would be in etcd by now, if it were registered at all.
            let name = format!("other-{:?}-{:?}", case.kind, case.protocol);
            let other = Instance::new(name).with_address("127.0.0.1:1");
            let other = case.registrar.register(other).unwrap();
            other.announce("127.0.0.1:1".parse().unwrap()).unwrap();
            registered_within(LONG, &other).await;
            let status = case.registration.status();
            assert!(!status.is_registered(), "{:?}", case.kind);
            let key = case.serve().await;
            observer.wait_for_key(&key, LONG).await;
            case.target.client(case.protocol).await.hello().await;
        },
    )
    .await;
}

#[tokio::test]
async fn every_kind_serves_on_while_it_is_paused_and_comes_back() {
    each(
        |builder| builder,
        async |mut case, observer| {
            let key = case.serve().await;
            observer.wait_for_key(&key, LONG).await;
            let pause = case.registration.pause("a test").unwrap();
            observer.wait_for_no_key(&key, LONG).await;
            case.target.client(case.protocol).await.hello().await;
            drop(pause);
            observer.wait_for_key(&key, LONG).await;
            let _pause = case.registration.pause("another test").unwrap();
            observer.wait_for_no_key(&key, LONG).await;
            case.shutdown.cancel();
            case.ended().await;
        },
    )
    .await;
}

#[tokio::test]
async fn every_kind_stops_gracefully_around_an_open_stream() {
    each(
        |builder| builder,
        async |mut case, observer| {
            let key = case.serve().await;
            let mut client = case.target.client(case.protocol).await;
            let mut hellos = client.hellos(40, 50).await;
            hellos.next().await;
            case.shutdown.cancel();
            observer.wait_for_no_key(&key, LONG).await;
            assert_eq!(hellos.end().await, End::Complete(39), "{:?}", case.kind);
            drop(client);
            case.ended().await;
            assert!(case.target.connect().await.is_err(), "the port is closed");
        },
    )
    .await;
}

#[tokio::test]
async fn no_kind_waits_for_a_connection_that_never_sent_a_byte() {
    each(
        |builder| builder,
        async |mut case, _| {
            case.serve().await;
            let mut silent = case.target.connect().await.unwrap();
            case.target.client(case.protocol).await.hello().await;
            let start = Instant::now();
            case.shutdown.cancel();
            case.ended().await;
            let took = start.elapsed();
            assert!(took < SEC * 10, "the drain timeout is 30 s: {took:?}");
            let end = timeout(LONG, silent.read_to_end(&mut vec![])).await;
            end.unwrap().unwrap();
        },
    )
    .await;
}

#[tokio::test]
async fn every_kind_ends_its_requests_at_the_drain_deadline() {
    each(
        |builder| builder.drain_timeout(SEC),
        async |mut case, _| {
            case.serve().await;
            let mut clients = [
                case.target.client(case.protocol).await,
                case.target.client(case.protocol).await,
            ];
            let [first, second] = &mut clients;
            let mut hellos = first.hellos(0, 20).await;
            hellos.next().await;
            let stop = async {
                case.in_flight(2).await;
                case.shutdown.cancel();
            };
            let (answer, stream, ()) = tokio::join!(second.never(), hellos.end(), stop);
            let ends = match case.protocol {
                Protocol::Grpc => (End::Unavailable, End::Unavailable),
                Protocol::Http1 => (End::ServiceUnavailable, End::Cut),
            };
            assert_eq!((answer, stream), ends, "{:?}", case.kind);
            // Its clients keep their connections.
            case.ended().await;
            assert_eq!(case.registration.in_flight(), 0);
        },
    )
    .await;
}

#[tokio::test]
async fn every_kind_stops_at_once_on_deregister_now() {
    each(
        |builder| builder.deregistration_delay(SEC * 60),
        async |mut case, _| {
            case.serve().await;
            let mut client = case.target.client(case.protocol).await;
            let mut hellos = client.hellos(0, 20).await;
            hellos.next().await;
            case.shutdown_now.cancel();
            case.ended().await;
            let ends = [End::Unavailable, End::Cut];
            let end = hellos.end().await;
            assert!(ends.contains(&end), "{:?}: {end:?}", case.kind);
        },
    )
    .await;
}

#[tokio::test]
async fn every_kind_counts_each_request_once_until_its_last_frame() {
    each(
        |builder| builder,
        async |mut case, _| {
            case.serve().await;
            let mut client = case.target.client(case.protocol).await;
            client.hello().await;
            case.in_flight(0).await;
            let mut hellos = client.hellos(0, 20).await;
            hellos.next().await;
            case.in_flight(1).await;
            let mut other = case.target.client(case.protocol).await;
            let mut never = Box::pin(other.never());
            let both = case.in_flight(2);
            tokio::select! {
                _ = &mut never => panic!("{:?} answered", case.kind),
                () = both => {}
            }
            drop(never);
            drop(other);
            case.in_flight(1).await;
            drop((hellos, client));
            case.in_flight(0).await;
        },
    )
    .await;
}
