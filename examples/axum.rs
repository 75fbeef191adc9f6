//! One port for axum and tonic, registered in etcd for as long as it serves.
//!
//! ```sh
//! cargo run --example axum --features axum
//! curl http://127.0.0.1:9000/hello
//! ```

mod access;

use access::Access;
use axum::Router;
use axum::routing::get;
use clap::Parser;
use greeter::MyGreeter;
use greeter::pb::greeter_server::GreeterServer;
use std::net::SocketAddr;
use tonic::service::Routes;
use tonic_etcd::{Instance, Registrar};

/// One port for axum and tonic, registered in etcd for as long as it serves
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
    // The full name of the service, as generated; it does not depend on the implementation.
    let registration = registrar.register(Instance::of::<GreeterServer<()>>())?;

    let grpc = Routes::new(GreeterServer::new(MyGreeter::default()))
        .add_service(registration.health_service());
    let app = Router::new()
        .route("/hello", get(async || "Hello over HTTP!\n"))
        .merge(grpc.into_axum_router())
        // axum applies layers now, when nothing listens yet: the listener announces.
        .layer(registration.layer().announce(false));

    let listener = registration.bind(args.listen)?;
    println!("listening {}", listener.local_addr());
    axum::serve(listener, app)
        .with_graceful_shutdown(registration.drain_signal())
        .await?;
    println!("{}", registration.ended().await);
    Ok(())
}
