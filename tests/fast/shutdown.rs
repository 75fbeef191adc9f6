//! Shutdown: in order, within its time limits, and final, whatever is under way.

use crate::panics::PanickingSubscriber;
use crate::setup::{
    KEY, MS, SEC, Setup, announce, announced, announced_by, greeter, register, status,
};
use crate::support::fake::{Reply, Rpc};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::time::{Instant, sleep, timeout};
use tonic_etcd::{Ended, Instance, RegisterError, RegistrationStatus, Stopped};
use tower::{Layer as _, Service};

#[tokio::test(start_paused = true)]
async fn a_cancelled_token_revokes_at_once_and_nothing_is_written_afterwards() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let start = Instant::now();
    setup.shutdown.cancel();
    assert_eq!(registration.ended().await, Ended::Deregistered);
    assert!(start.elapsed() <= 10 * MS, "{:?}", start.elapsed());
    assert!(setup.fake.keys().is_empty() && setup.fake.leases().is_empty());
    let revision = setup.fake.revision();
    sleep(SEC * 60).await;
    assert_eq!(setup.fake.revision(), revision);
    assert_eq!(setup.fake.connections_open(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_drain_begins_after_the_delay_and_is_cut_off_at_its_timeout() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let draining = registration.drain_signal();
    let start = Instant::now();
    setup.shutdown.cancel();
    draining.await;
    assert!(!setup.fake.keys().contains_key(KEY), "the key goes first");
    let settled = start.elapsed();
    assert!(settled >= SEC && settled <= SEC + 20 * MS, "{settled:?}");
}

#[tokio::test(start_paused = true)]
async fn a_guard_counts_and_is_ended_at_the_drain_deadline() {
    let setup = Setup::new();
    let registration = setup
        .registered_with(setup.builder().drain_timeout(SEC * 5))
        .await;
    let guard = registration.in_flight_guard();
    assert_eq!(registration.in_flight(), 1);
    setup.shutdown.cancel();
    registration.drain_signal().await;
    let start = Instant::now();
    guard.cancelled().await;
    let ended = start.elapsed();
    assert!(ended >= SEC * 5 && ended <= SEC * 5 + 20 * MS, "{ended:?}");
    // It stays so.
    guard.cancelled().await;
    assert_eq!(start.elapsed(), ended);
    drop(guard);
    assert_eq!(registration.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_second_token_skips_the_waits() {
    for late in [false, true] {
        let setup = Setup::new();
        let registration = setup.registered().await;
        let start = Instant::now();
        if late {
            setup.shutdown.cancel();
            sleep(100 * MS).await;
        }
        setup.shutdown_now.cancel();
        registration.drain_signal().await;
        assert!(start.elapsed() <= 120 * MS, "{:?}", start.elapsed());
        assert_eq!(registration.ended().await, Ended::Deregistered);
        assert!(setup.fake.keys().is_empty(), "the revoke is not skipped");
    }
}

/// What is under way when the stop comes, and how to get there.
const PHASES: [(&str, Rpc, Reply); 10] = [
    ("connecting", Rpc::Connect, Reply::Delay(MS_300)),
    ("connecting, refused", Rpc::Connect, Reply::Reset),
    ("grant sent", GRANT, Reply::Delay(MS_300)),
    ("grant sent, applied late", GRANT, Reply::Late(MS_300)),
    ("grant sent, reply lost", GRANT, Reply::DropReply),
    ("grant sent, connection cut", GRANT, Reply::ApplyThenReset),
    ("put sent", Rpc::Txn, Reply::Delay(MS_300)),
    ("put sent, applied late", Rpc::Txn, Reply::Late(MS_300)),
    ("put sent, reply lost", Rpc::Txn, Reply::DropReply),
    ("watch asked for", Rpc::Watch, Reply::Delay(MS_300)),
];
const GRANT: Rpc = Rpc::LeaseGrant;
const MS_300: std::time::Duration = std::time::Duration::from_millis(300);

#[tokio::test(start_paused = true)]
async fn a_stop_in_any_phase_leaves_neither_key_nor_lease_nor_a_later_write() {
    for (phase, rpc, reply) in PHASES {
        for after in [0, 1, 5, 50, 150, 299, 301, 400, 650, 700, 1000] {
            let setup = Setup::new();
            setup.fake.script(rpc, reply.clone());
            let registration = announced(setup.builder());
            sleep(MS * after).await;
            let start = Instant::now();
            setup.shutdown.cancel();
            let ended = timeout(SEC * 5, registration.ended()).await;
            let at = format!("{phase}, stopped after {after} ms");
            let ended = ended.unwrap_or_else(|_| panic!("{at}: {:?}", registration.status()));
            let took = start.elapsed();
            assert!(took <= SEC + 20 * MS, "{at}: {took:?}");
            assert_eq!(ended, Ended::Deregistered, "{at}");
            sleep(SEC).await;
            let (keys, leases) = (setup.fake.keys(), setup.fake.leases());
            assert!(keys.is_empty(), "{at}: {keys:?}");
            assert!(leases.is_empty(), "{at}: {leases:?}");
            let revision = setup.fake.revision();
            sleep(SEC * 20).await;
            assert_eq!(setup.fake.revision(), revision, "{at}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_during_a_renewal_or_before_its_repetition_is_as_quick() {
    for reply in [Reply::Delay(MS_300), Reply::DropReply, Reply::Reset] {
        for after in [0, 100, 500, 700] {
            let setup = Setup::new();
            let registration = setup.registered().await;
            setup.fake.script(Rpc::LeaseKeepAlive, reply.clone());
            sleep(SEC + 500 * MS + MS * after).await;
            setup.shutdown.cancel();
            let ended = registration.ended().await;
            assert_eq!(ended, Ended::Deregistered, "{reply:?}");
            assert!(setup.fake.keys().is_empty() && setup.fake.leases().is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_without_etcd_ends_left_to_expire_within_the_revoke_timeout() {
    for fault in ["down", "hung", "black hole"] {
        for since in [0, 300, 3000, 20_000] {
            let setup = Setup::new();
            let registration = setup.registered().await;
            match fault {
                "down" => setup.fake.down(),
                "hung" => setup.fake.hang(),
                _ => setup.fake.black_hole(),
            }
            sleep(MS * since).await;
            let start = Instant::now();
            setup.shutdown.cancel();
            let ended = registration.ended().await;
            let took = start.elapsed();
            assert!(took <= SEC + 50 * MS, "{fault}: {took:?}");
            let Ended::LeftToExpire { ttl, reason, .. } = ended else {
                panic!("{ended:?}")
            };
            assert_eq!(ttl, SEC * 5);
            assert!(reason.contains("http://etcd:2379"), "{reason}");
            setup.fake.up();
            setup.fake.heal();
            setup.fake.resume();
            sleep(SEC * 10).await;
            assert!(setup.fake.keys().is_empty(), "{fault}, gone with its lease");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_stop_now_while_etcd_is_down_takes_one_attempt_and_no_more() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    setup.fake.hang();
    sleep(SEC).await;
    let start = Instant::now();
    setup.shutdown_now.cancel();
    let ended = registration.ended().await;
    assert!(matches!(ended, Ended::LeftToExpire { .. }), "{ended:?}");
    assert!(start.elapsed() <= 610 * MS, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_stop_before_anything_was_sent_needs_no_etcd() {
    let setup = Setup::new();
    setup.fake.down();
    let registration = register(setup.builder());
    sleep(SEC).await;
    let start = Instant::now();
    setup.shutdown.cancel();
    assert_eq!(registration.ended().await, Ended::Deregistered);
    assert!(start.elapsed() <= 10 * MS);
}

#[tokio::test(start_paused = true)]
async fn stopping_twice_or_at_once_from_many_places_is_one_stop() {
    let setup = Setup::new();
    let registration = setup.registered().await;
    let handles: Vec<_> = (0..8)
        .map(|n| {
            let (registration, shutdown) = (registration.clone(), setup.shutdown.clone());
            tokio::spawn(async move {
                match n % 3 {
                    0 => shutdown.cancel(),
                    1 => registration.deregister(),
                    _ => registration.deregister_now(),
                }
                registration.ended().await
            })
        })
        .collect();
    for handle in handles {
        assert_eq!(handle.await.unwrap(), Ended::Deregistered);
    }
    assert_eq!(setup.count(Rpc::LeaseRevoke), 1);
}

#[tokio::test(start_paused = true)]
async fn a_stopped_registration_accepts_no_change() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let registration = announced_by(&registrar, greeter());
    registration.registered().await.unwrap();
    registrar.shutdown();
    let other = registrar.register(Instance::new("other")).unwrap_err();
    assert!(matches!(other, RegisterError::Stopped(_)), "{other}");
    let updated = registration.update(|i| i.with_weight(1)).unwrap_err();
    assert!(matches!(updated, RegisterError::Stopped(_)), "{updated}");
    registration.ended().await;
    let Stopped { .. } = registration.registered().await.unwrap_err();
    announce(&registration);
    sleep(SEC * 20).await;
    assert!(setup.fake.keys().is_empty());
    // The application's token is its own.
    assert!(!setup.shutdown.is_cancelled());
}

#[tokio::test(start_paused = true)]
async fn one_of_several_that_leaves_during_an_outage_is_removed_after_it() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let [a, b] = ["a", "b"].map(|name| announced_by(&registrar, Instance::new(name)));
    a.registered().await.unwrap();
    b.registered().await.unwrap();
    setup.fake.down();
    let start = Instant::now();
    a.deregister();
    assert!(matches!(a.ended().await, Ended::LeftToExpire { .. }));
    assert!(start.elapsed() <= SEC + 10 * MS, "{:?}", start.elapsed());
    sleep(SEC).await;
    setup.fake.up();
    b.registered().await.unwrap();
    sleep(SEC).await;
    assert_eq!(setup.key_names(), ["/services/b/10.0.0.1:9000"]);
}

#[tokio::test(start_paused = true)]
async fn a_runtime_that_ends_before_it_ran_leaves_no_caller_waiting() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.unwrap();
    let context = runtime.enter();
    let registration = registrar.register(greeter()).unwrap();
    announce(&registration);
    drop(context);
    runtime.shutdown_background();
    let ended = status(&registration, RegistrationStatus::is_final).await;
    let deregistered = RegistrationStatus::Ended(Ended::Deregistered);
    assert_eq!(ended, deregistered, "nothing was sent");
}

// In real time: the thread of another runtime does not hold a paused clock back.
#[tokio::test]
async fn a_runtime_that_ends_leaves_no_caller_waiting() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let registration = {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build();
        let runtime = runtime.unwrap();
        let _context = runtime.enter();
        let registration = registrar.register(greeter()).unwrap();
        announce(&registration);
        drop(_context);
        runtime.shutdown_background();
        registration
    };
    let ended = status(&registration, RegistrationStatus::is_final).await;
    let is_left = matches!(ended, RegistrationStatus::Ended(Ended::LeftToExpire { .. }));
    assert!(is_left || setup.key_names().is_empty(), "{ended:?}");
}

/// At each line of ours about a registration, its server or its health.
#[tokio::test(start_paused = true)]
async fn a_subscriber_that_panics_ends_neither_a_stop_nor_a_drain() {
    let ours = ["life", "server", "registration", "drain", "health"];
    let ours = ours.map(|module| format!("tonic_etcd::{module}"));
    let (_panics, _log) = PanickingSubscriber::start(move |metadata| {
        let target = metadata.target();
        ours.iter().any(|module| target.starts_with(&**module))
    });
    let setup = Setup::new();
    let registration = register(setup.builder());
    let mut service = registration.layer().layer(Answers);
    announce(&registration);
    registration.registered().await.unwrap();
    let drain_signal = registration.drain_signal();
    let start = Instant::now();
    let _in_flight = service.call(request("application/grpc"));
    setup.shutdown.cancel();
    assert_eq!(registration.ended().await, Ended::Deregistered);
    drain_signal.await;
    assert!(start.elapsed() <= SEC + 20 * MS, "{:?}", start.elapsed());
    assert!(setup.fake.keys().is_empty());
}

/// Never answers a request for `/never`; another one with a frame, and then nothing more.
#[derive(Clone)]
struct Answers;

type Answer = Result<Response<StreamBody<Frames>>, Infallible>;
type Frames = Pin<Box<dyn Stream<Item = Result<Frame<Bytes>, Infallible>> + Send>>;

impl Service<Request<()>> for Answers {
    type Response = Response<StreamBody<Frames>>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Answer> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<()>) -> Self::Future {
        Box::pin(async move {
            if request.uri().path() == "/never" {
                std::future::pending::<()>().await;
            }
            let hello = Ok(Frame::data(Bytes::from_static(b"hello")));
            let frames = stream::iter([hello]).chain(stream::pending());
            Ok(Response::new(StreamBody::new(Box::pin(frames) as Frames)))
        })
    }
}

fn request(content_type: &str) -> Request<()> {
    let request = Request::builder().uri("/never");
    request
        .header("content-type", content_type)
        .body(())
        .unwrap()
}

#[tokio::test(start_paused = true)]
async fn at_the_drain_deadline_grpc_gets_unavailable_and_others_an_error() {
    let setup = Setup::new();
    let registration = setup
        .registered_with(setup.builder().drain_timeout(SEC))
        .await;
    let mut service = registration.layer().layer(Answers);
    let grpc = [
        "application/grpc",
        "application/grpc+proto",
        "application/grpc;x=y",
    ];
    let other = [
        "application/grpc-web",
        "application/json",
        "application/grpcx",
        "",
    ];
    let mut calls = vec![];
    for content_type in grpc.iter().chain(&other) {
        let silent = service.call(request(content_type));
        let mut begun = request(content_type);
        *begun.uri_mut() = "/".parse().unwrap();
        let mut body = Box::pin(service.call(begun).await.unwrap().into_body());
        let hello = body.frame().await.unwrap().unwrap();
        assert_eq!(hello.into_data().unwrap(), "hello");
        calls.push((silent, body));
    }
    setup.shutdown.cancel();
    for (n, (silent, mut body)) in calls.into_iter().enumerate() {
        let (silent, end) = tokio::join!(silent, body.frame());
        let (silent, end) = (silent.unwrap(), end.unwrap());
        if n < grpc.len() {
            assert_eq!(silent.status(), 200);
            assert_eq!(silent.headers()["grpc-status"], "14", "UNAVAILABLE");
            assert_eq!(end.unwrap().into_trailers().unwrap()["grpc-status"], "14");
        } else {
            assert_eq!(silent.status(), 503);
            assert!(!silent.headers().contains_key("grpc-status"));
            let error = end.unwrap_err().to_string();
            assert_eq!(error, "the server is shutting down");
        }
        assert!(Box::pin(silent.into_body()).frame().await.is_none());
        assert!(body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_registration_exists_while_a_handle_a_layer_or_a_service_does() {
    for last in ["handle", "layer", "service", "health service"] {
        let setup = Setup::new();
        let registration = setup.registered().await;
        let ended = {
            let watch = registration.watch();
            async move { watch.clone().wait_for(RegistrationStatus::is_final).await }
        };
        let kept: Box<dyn std::any::Any> = match last {
            "handle" => Box::new(registration.clone()),
            "layer" => Box::new(registration.layer()),
            "service" => Box::new(registration.layer().layer(Answers)),
            _ => Box::new(registration.health_service()),
        };
        drop(registration);
        sleep(SEC * 20).await;
        assert!(setup.fake.keys().contains_key(KEY), "{last} keeps it");
        let start = Instant::now();
        drop(kept);
        let ended = ended.await;
        assert_eq!(
            ended,
            Some(RegistrationStatus::Ended(Ended::Deregistered)),
            "{last} was the last"
        );
        assert!(start.elapsed() <= 10 * MS, "{last}: {:?}", start.elapsed());
        assert!(setup.fake.keys().is_empty(), "{last}");
    }
}
