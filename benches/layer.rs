//! What the registration layer costs per request: `make bench`.
//!
//! * **the call**: a service that answers at once, bare and layered, in nanoseconds. The bare one
//!   is so cheap that nothing hides the difference.
//! * **the server**: a tonic server on loopback under load, bare and layered, as a ratio.
//!
//! Both sides run by turns, many times, in one process, and medians are compared: on a noisy
//! machine only the ratio means anything. Options: `--rounds N` and `--seconds S` per round of
//! the second part.

#![allow(missing_docs)]

#[path = "../examples/greeter/mod.rs"]
mod greeter;

use bytes::Bytes;
use clap::Parser;
use greeter::MyGreeter;
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use greeter::pb::greeter_server::GreeterServer;
use http::{Request, Response};
use http_body_util::Full;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::Instant;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Channel, Server};
use tonic_etcd::{Etcd, Instance, Registrar, Registration};
use tower::{Layer, Service, ServiceExt};

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
    // An etcd that is never there: the layer does the same work, registered or not.
    let registrar = Registrar::builder(Etcd::new(["http://127.0.0.1:1"])).build()?;
    let registration = registrar.register(Instance::new("bench").address("127.0.0.1:9"))?;
    calls(&args, &registration).await?;
    throughput(&args, &registration).await?;
    registration.deregister_now();
    registration.closed().await;
    Ok(())
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

async fn calls(args: &Args, registration: &Registration) -> Result<(), Error> {
    let mut layered = registration.layer().layer(Bare);
    let (mut bare_ns, mut layered_ns) = (vec![], vec![]);
    for _ in 0..=args.rounds {
        bare_ns.push(time(&mut Bare, args.calls).await?);
        layered_ns.push(time(&mut layered, args.calls).await?);
    }
    // The first round warms up.
    let (bare, layered) = (median(&mut bare_ns[1..]), median(&mut layered_ns[1..]));
    println!(
        "the call:   bare {bare:.1} ns, layered {layered:.1} ns: {:.1} ns more",
        layered - bare
    );
    Ok(())
}

async fn time<S, B>(service: &mut S, calls: u32) -> Result<f64, Error>
where
    S: Service<Request<()>, Response = Response<B>, Error = Infallible>,
{
    let start = Instant::now();
    for _ in 0..calls {
        let response = service
            .ready()
            .await?
            .call(black_box(Request::new(())))
            .await?;
        black_box(&response);
    }
    Ok(start.elapsed().as_secs_f64() * 1e9 / f64::from(calls))
}

async fn throughput(args: &Args, registration: &Registration) -> Result<(), Error> {
    let bare =
        serve(Server::builder().add_service(GreeterServer::new(MyGreeter::default()))).await?;
    let mut layered = Server::builder().layer(registration.layer());
    let layered = serve(layered.add_service(GreeterServer::new(MyGreeter::default()))).await?;
    let (mut bare_rate, mut layered_rate, mut ratios) = (vec![], vec![], vec![]);
    for round in 0..=args.rounds {
        // Who goes first alternates, so that neither profits from a warmer or cooler machine.
        let (b, l) = match round % 2 {
            0 => (
                load(args, bare.clone()).await?,
                load(args, layered.clone()).await?,
            ),
            _ => {
                let l = load(args, layered.clone()).await?;
                (load(args, bare.clone()).await?, l)
            }
        };
        if round > 0 {
            bare_rate.push(b);
            layered_rate.push(l);
            ratios.push(l / b);
        }
    }
    let ratio = median(&mut ratios);
    println!(
        "the server: bare {:.0} calls/s, layered {:.0} calls/s: ratio {ratio:.3} \
         (rounds from {:.3} to {:.3})",
        median(&mut bare_rate),
        median(&mut layered_rate),
        ratios[0],
        ratios[ratios.len() - 1],
    );
    Ok(())
}

async fn serve<L, ResBody>(router: tonic::transport::server::Router<L>) -> Result<Channel, Error>
where
    L: Layer<tonic::service::Routes> + Send + 'static,
    L::Service:
        Service<Request<tonic::body::Body>, Response = Response<ResBody>> + Clone + Send + 'static,
    <L::Service as Service<Request<tonic::body::Body>>>::Future: Send,
    <L::Service as Service<Request<tonic::body::Body>>>::Error: Into<Error> + Send,
    ResBody: http_body::Body<Data = Bytes> + Send + 'static,
    ResBody::Error: Into<Error>,
{
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let addr = listener.local_addr()?;
    tokio::spawn(router.serve_with_incoming(TcpListenerStream::new(listener)));
    Ok(Channel::from_shared(format!("http://{addr}"))?
        .connect()
        .await?)
}

/// Calls a second.
async fn load(args: &Args, channel: Channel) -> Result<f64, Error> {
    let (done, stop) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let start = Instant::now();
    let callers: Vec<_> = (0..args.callers)
        .map(|_| {
            let (mut client, done, stop) = (
                GreeterClient::new(channel.clone()),
                done.clone(),
                stop.clone(),
            );
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
