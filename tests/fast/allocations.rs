//! The layer allocates nothing for a request.
//!
//! Every allocation of the thread is counted, with the layer and without it.

use crate::setup::{SEC, Setup, greeter, register_as};
use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame};
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, Waker};
use tower::{Layer as _, Service};

/// Answers on the second poll, with a body that has its frame on the second poll: so that waiting
/// is counted too.
#[derive(Clone)]
struct Slow;

struct SlowAnswer(bool);
struct SlowBody(u8);

impl Service<Request<()>> for Slow {
    type Response = Response<SlowBody>;
    type Error = Infallible;
    type Future = SlowAnswer;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> SlowAnswer {
        SlowAnswer(false)
    }
}

impl Future for SlowAnswer {
    type Output = Result<Response<SlowBody>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.0, true) {
            true => Poll::Ready(Ok(Response::new(SlowBody(0)))),
            false => Poll::Pending,
        }
    }
}

impl Body for SlowBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        match self.0 {
            1 => Poll::Pending,
            2 => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"hello"))))),
            _ => Poll::Ready(None),
        }
    }
}

/// For a future that wakes nobody.
fn poll_until_ready<T>(future: impl Future<Output = Result<T, Infallible>>) -> T {
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(Ok(out)) = future.as_mut().poll(&mut cx) {
            return out;
        }
    }
}

/// Runs one request to its last frame; gives the number of frames.
fn run<S, B>(service: &mut S) -> usize
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
    B: Body<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let response = poll_until_ready(service.call(Request::new(())));
    let mut body = pin!(response.into_body());
    let mut frames = 0;
    loop {
        match body.as_mut().poll_frame(&mut cx) {
            Poll::Ready(Some(_)) => frames += 1,
            Poll::Ready(None) => return frames,
            Poll::Pending => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_layer_allocates_nothing_for_a_request() {
    let setup = Setup::new();
    let registration = register_as(setup.builder(), greeter().with_address("10.0.0.1:9000"));
    let mut layered = registration.layer().layer(Slow);
    let count = |service: &mut dyn FnMut() -> usize| {
        let counted = allocation_counter::measure(|| {
            for _ in 0..1000 {
                assert_eq!(service(), 1);
            }
        });
        counted.count_total
    };
    let bare = count(&mut || run(&mut Slow));
    let with_layer = count(&mut || run(&mut layered));
    assert_eq!(with_layer, bare, "allocations in 1000 requests");
    let one = allocation_counter::measure(|| drop(Box::new(1)));
    assert!(one.count_total > 0, "it does count");
}

#[tokio::test(start_paused = true)]
async fn a_request_is_in_flight_from_its_call_to_the_end_of_its_body() {
    let setup = Setup::new();
    let registration = register_as(setup.builder(), greeter().with_address("10.0.0.1:9000"));
    let mut layered = registration.layer().layer(Slow);
    let other = layered.clone();
    // Neither layer nor service counts.
    assert_eq!(registration.in_flight(), 0);
    let future = layered.call(Request::new(()));
    assert_eq!(registration.in_flight(), 1);
    let response = poll_until_ready(future);
    assert_eq!(registration.in_flight(), 1);
    let body = response.into_body();
    assert_eq!(registration.in_flight(), 1);
    drop((body, other));
    assert_eq!(registration.in_flight(), 0);
    drop(layered.call(Request::new(())));
    // A cancelled request is not in flight.
    assert_eq!(registration.in_flight(), 0);
    tokio::time::sleep(SEC).await;
}

/// The memory of a registration before it is in etcd; `make measure` measures the rest.
#[tokio::test(start_paused = true)]
async fn one_of_many_registrations_takes_less_than_1200_bytes() {
    let setup = Setup::new();
    let registrar = setup.builder().build().unwrap();
    let _first = registrar
        .register(greeter().with_address("10.0.0.1:1"))
        .unwrap();
    let mut registrations = Vec::with_capacity(1000);
    let counted = allocation_counter::measure(|| {
        for port in 2..1002 {
            let instance = greeter().with_address(format!("10.0.0.1:{port}"));
            registrations.push(registrar.register(instance).unwrap());
        }
    });
    let each = counted.bytes_current / 1000;
    assert!(each < 1200, "{each} bytes");
}
