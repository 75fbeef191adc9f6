//! A greeter on inherited sockets (`LISTEN_FDS`, as systemd passes them), or on several of its own.
//!
//! ```sh
//! systemfd -s http::9000 -- cargo run --example sockets
//! cargo run --example sockets -- --listen 0.0.0.0:9000 --listen [::]:9000
//! cargo run --example sockets -- --unix /run/greeter.sock --advertise proxy.example:443
//! ```

mod access;

use access::Access;
use clap::Parser;
use greeter::MyGreeter;
use greeter::pb::greeter_server::GreeterServer;
use listenfd::ListenFd;
use std::net::SocketAddr;
use std::path::PathBuf;
use tokio::net::UnixListener;
use tonic::transport::Server;
use tonic_etcd::server::{Incoming, Listener};
use tonic_etcd::{Ended, Instance, Registrar, Registration, ServeError, ServeRegistered};

/// A greeter on inherited sockets, or on several of its own
#[derive(Parser)]
struct Args {
    #[command(flatten)]
    access: Access,
    /// Address to listen on, unless sockets were inherited; may be repeated, the first is advertised
    #[arg(long, env = "GREETER_LISTEN", value_delimiter = ',')]
    #[arg(default_value = "127.0.0.1:9000", value_name = "ADDR")]
    listen: Vec<SocketAddr>,
    /// Unix socket to listen on instead; needs --advertise
    #[arg(long, env = "GREETER_UNIX", value_name = "PATH")]
    unix: Option<PathBuf>,
    /// Address to advertise instead of the bound one, host:port
    #[arg(long, env = "GREETER_ADVERTISE", value_name = "ADDR")]
    advertise: Option<String>,
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
    let mut instance = Instance::new("greeter");
    if let Some(address) = args.advertise {
        instance = instance.with_address(address);
    }
    let registration = registrar.register(instance)?;

    let closed = match args.unix {
        Some(path) => {
            // Another run may have left it there.
            let _ = std::fs::remove_file(&path);
            serve(
                registration.incoming(UnixListener::bind(&path)?)?,
                &registration,
            )
            .await?
        }
        None => {
            let inherited = inherited()?;
            let incoming = match inherited.is_empty() {
                true => registration.bind_all(args.listen)?,
                false => registration.incoming_all(inherited)?,
            };
            println!("listening {:?}", incoming.local_addrs());
            serve(incoming, &registration).await?
        }
    };
    println!("{closed}");
    Ok(())
}

/// The sockets that the parent process has bound.
fn inherited() -> std::io::Result<Vec<std::net::TcpListener>> {
    let mut passed = ListenFd::from_env();
    let listeners = (0..passed.len()).map(|at| passed.take_tcp_listener(at));
    listeners.filter_map(Result::transpose).collect()
}

async fn serve<L: Listener>(
    incoming: Incoming<L>,
    registration: &Registration,
) -> Result<Ended, ServeError> {
    Server::builder()
        .layer(registration.layer())
        .add_service(GreeterServer::new(MyGreeter::default()))
        .serve_registered_with_incoming(incoming)
        .await
}
