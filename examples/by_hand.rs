//! A server that accepts its connections itself, with hyper-util, and is registered in etcd.
//!
//! ```sh
//! cargo run --example by_hand
//! curl http://127.0.0.1:9000/
//! ```

mod access;

use access::Access;
use bytes::Bytes;
use clap::Parser;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use std::convert::Infallible;
use std::net::SocketAddr;
use tokio_stream::StreamExt as _;
use tonic_etcd::{Instance, Registrar};
use tower::Layer as _;

/// A server that accepts its connections itself, and is registered in etcd
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    access: Access,
    /// Address to listen on; port 0 finds a free one
    #[arg(long, env = "GREETER_LISTEN", default_value = "127.0.0.1:9000")]
    #[arg(value_name = "ADDR")]
    listen: SocketAddr,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .init();
    let args = Args::parse();
    let registrar = Registrar::builder(args.access.etcd(None)?)
        .shutdown_on_signals()
        .build()?;
    let registration = registrar.register(Instance::new("by-hand"))?;

    let hello = tower::service_fn(async |_: Request<hyper::body::Incoming>| {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from("Hello!\n"))))
    });
    // Counts requests, and ends them at the drain deadline.
    let service = registration.layer().announce(false).layer(hello);

    let builder = auto::Builder::new(TokioExecutor::new());
    let connections = GracefulShutdown::new();
    let mut incoming = registration.bind(args.listen)?;
    println!("listening {}", incoming.local_addr());
    // The first poll announces the server. The stream ends when the drain has begun and the backlog is
    // accepted. `Incoming` yields no errors.
    while let Some(io) = incoming.next().await {
        let Ok(io) = io else {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            continue;
        };
        let service = TowerToHyperService::new(service.clone());
        let connection = builder.serve_connection(TokioIo::new(io), service);
        tokio::spawn(connections.watch(connection.into_owned()));
    }
    // Requests in flight finish. Their connections end at the drain deadline at the latest.
    connections.shutdown().await;
    println!("{}", registration.ended().await);
    Ok(())
}
