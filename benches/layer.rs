//! What the registration layer costs per request, and what metrics add to that: `make bench`.
//!
//! * **the call**: a service that answers at once, bare, layered, and layered with metrics on, in
//!   nanoseconds. The bare one is so fast that the difference is visible.
//! * **the server**: a tonic server on loopback under load, bare and layered with metrics on, as a ratio.
//! * **the channel**: a balanced channel to such a server, without and with metrics, as a ratio.
//!
//! All variants run alternately, many times, in one process, and medians are compared: on a noisy
//! machine only the ratio is meaningful. Options: `--rounds N` and `--seconds S` per round of
//! the second part.

#![allow(missing_docs)]

use bytes::Bytes;
use clap::Parser;
use greeter::MyGreeter;
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use greeter::pb::greeter_server::GreeterServer;
use http::{Request, Response};
use http_body_util::Full;
use metrics_exporter_prometheus::PrometheusBuilder;
use std::convert::Infallible;
use std::future::{Future, Ready, ready};
use std::hint::black_box;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::client::GrpcService;
use tonic::transport::{Channel, Server};
use tonic_etcd::channel::BalancedChannel;
use tonic_etcd::discovery::Change;
use tonic_etcd::metrics::MetricsObserver;
use tonic_etcd::{Etcd, Instance, Registrar, Registration};
use tower::{Layer, Service};

type Error = Box<dyn std::error::Error + Send + Sync>;

/// What the registration layer costs per request
#[derive(Parser)]
struct Args {
    /// Rounds by turns; medians are compared
    #[arg(long, env = "ROUNDS", default_value_t = 15)]
    rounds: usize,
    /// Calls in a round of the first part
    #[arg(long, env = "CALLS", default_value_t = 1_000_000)]
    calls: u32,
    /// Seconds in a round of the second part
    #[arg(long, env = "SECONDS", default_value_t = 1.0)]
    seconds: f64,
    /// Concurrent callers in the second part
    #[arg(long, env = "CALLERS", default_value_t = 32)]
    callers: usize,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    PrometheusBuilder::new().install_recorder()?;
    let observer = MetricsObserver::new();
    let registration = register(None)?;
    let observed = register(Some(&observer))?;
    calls(&args, &registration, &observed)?;
    throughput(&args, &observed).await?;
    channels(&args, &observer).await?;
    for registration in [registration, observed] {
        registration.deregister_now();
        registration.ended().await;
    }
    Ok(())
}

/// Registers with an etcd that does not exist: the layer does the same work, registered or not.
fn register(observer: Option<&MetricsObserver>) -> Result<Registration, Error> {
    let mut builder = Registrar::builder(Etcd::new(["http://127.0.0.1:1"]));
    if let Some(observer) = observer {
        builder = builder.observer(observer.clone());
    }
    let instance = Instance::new("bench").with_address("127.0.0.1:9");
    Ok(builder.build()?.register(instance)?)
}

/// Answers at once.
#[derive(Clone)]
struct Bare;

impl Service<Request<()>> for Bare {
    type Response = Response<Full<Bytes>>;
    type Error = Infallible;
    type Future = Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        ready(Ok(Response::new(Full::new(Bytes::from_static(b"hello")))))
    }
}

fn calls(args: &Args, registration: &Registration, observed: &Registration) -> Result<(), Error> {
    let mut layered = registration.layer().layer(Bare);
    let mut with_metrics = observed.layer().layer(Bare);
    let (mut bare_ns, mut layered_ns, mut metrics_ns) = (vec![], vec![], vec![]);
    for _ in 0..=args.rounds {
        bare_ns.push(time(&mut Bare, args.calls)?);
        layered_ns.push(time(&mut layered, args.calls)?);
        metrics_ns.push(time(&mut with_metrics, args.calls)?);
    }
    // The first round warms up.
    let [bare, layered, with_metrics] =
        [bare_ns, layered_ns, metrics_ns].map(|mut ns| median(&mut ns[1..]));
    println!(
        "the call:    bare {bare:.1} ns, layered {layered:.1} ns: {:.1} ns more",
        layered - bare
    );
    println!(
        "with metrics: layered {with_metrics:.1} ns: {:.1} ns more than bare, {:.1} ns than without metrics",
        with_metrics - bare,
        with_metrics - layered
    );
    Ok(())
}

/// Polled by hand and never inlined: as part of an async block, how much of a call the compiler
/// inlined hung on what else stood in the block, and the same layer took from 10 ns to 32 ns.
#[inline(never)]
fn time<S, B>(service: &mut S, calls: u32) -> Result<f64, Error>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let start = Instant::now();
    for _ in 0..calls {
        let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else {
            return Err("the service is not ready".into());
        };
        let response = pin!(service.call(black_box(Request::new(()))));
        let Poll::Ready(Ok(response)) = response.poll(&mut cx) else {
            return Err("the service did not answer at once".into());
        };
        black_box(&response);
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(calls))
}

async fn throughput(args: &Args, registration: &Registration) -> Result<(), Error> {
    let bare = serve(Server::builder()).await?;
    let layered = serve(Server::builder().layer(registration.layer())).await?;
    let (bare, layered) = (connect(bare).await?, connect(layered).await?);
    let bare = || load(args, GreeterClient::new(bare.clone()));
    let layered = || load(args, GreeterClient::new(layered.clone()));
    compare(
        args,
        ("the server:  bare", bare),
        ("layered with metrics", layered),
    )
    .await
}

async fn connect(addr: SocketAddr) -> Result<Channel, Error> {
    let endpoint = Channel::from_shared(format!("http://{addr}"))?;
    Ok(endpoint.connect().await?)
}

async fn channels(args: &Args, observer: &MetricsObserver) -> Result<(), Error> {
    let addr = serve(Server::builder()).await?;
    let channel = |observer: Option<&MetricsObserver>| {
        let instance = Instance::new("bench").with_address(addr.to_string());
        let builder = BalancedChannel::builder(found(Change::insert("/bench/1", instance)));
        let builder = builder.service("bench");
        match observer {
            Some(observer) => builder.observer(observer.clone()).build(),
            None => builder.build(),
        }
    };
    let (plain, observed) = (channel(None)?, channel(Some(observer))?);
    let plain = || load(args, GreeterClient::new(plain.clone()));
    let observed = || load(args, GreeterClient::new(observed.clone()));
    compare(
        args,
        ("the channel: without", plain),
        ("with metrics", observed),
    )
    .await
}

/// That one instance, for good.
fn found(change: Change) -> impl tokio_stream::Stream<Item = Change> + Send {
    tokio_stream::once(change).chain(tokio_stream::pending())
}

/// Two loads alternately, and the ratio of the second to the first.
async fn compare<F, G>(
    args: &Args,
    (first_name, first): (&str, impl Fn() -> F),
    (second_name, second): (&str, impl Fn() -> G),
) -> Result<(), Error>
where
    F: Future<Output = Result<f64, Error>>,
    G: Future<Output = Result<f64, Error>>,
{
    let (mut first_rate, mut second_rate, mut ratios) = (vec![], vec![], vec![]);
    for round in 0..=args.rounds {
        // The order alternates, so that a change of the machine affects both.
        let (a, b) = match round % 2 {
            0 => (first().await?, second().await?),
            _ => {
                let b = second().await?;
                (first().await?, b)
            }
        };
        if round > 0 {
            first_rate.push(a);
            second_rate.push(b);
            ratios.push(b / a);
        }
    }
    let ratio = median(&mut ratios);
    println!(
        "{first_name} {:.0} calls/s, {second_name} {:.0} calls/s: ratio {ratio:.3} \
         (rounds from {:.3} to {:.3})",
        median(&mut first_rate),
        median(&mut second_rate),
        ratios[0],
        ratios[ratios.len() - 1],
    );
    Ok(())
}

async fn serve<L, ResBody>(mut server: Server<L>) -> Result<SocketAddr, Error>
where
    L: Layer<tonic::service::Routes> + Clone + Send + 'static,
    L::Service:
        Service<Request<tonic::body::Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    <L::Service as Service<Request<tonic::body::Body>>>::Future: Send,
    <L::Service as Service<Request<tonic::body::Body>>>::Error: Into<Error> + Send,
    ResBody: http_body::Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<Error>,
{
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let addr = listener.local_addr()?;
    let router = server.add_service(GreeterServer::new(MyGreeter::default()));
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok(addr)
}

/// Calls a second.
async fn load<T>(args: &Args, client: GreeterClient<T>) -> Result<f64, Error>
where
    T: GrpcService<tonic::body::Body> + Clone + Send + 'static,
    T::Future: Send,
    T::Error: Into<Error>,
    T::ResponseBody: http_body::Body<Data = Bytes> + Send + 'static,
    <T::ResponseBody as http_body::Body>::Error: Into<Error> + Send,
{
    let (done, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let start = Instant::now();
    let callers: Vec<_> = (0..args.callers)
        .map(|_| {
            let (mut client, done, stop) = (client.clone(), done.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    client.say_hello(HelloRequest { name: "x".into() }).await?;
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok::<_, tonic::Status>(())
            })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await??;
    }
    let done = done.load(Ordering::Relaxed);
    Ok(done as f64 / start.elapsed().as_secs_f64())
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
