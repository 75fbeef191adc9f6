//! A server that is configured by a TOML file and the environment.
//!
//! ```text
//! cargo run --example config --features tls -- examples/config/server.toml
//! ```
//!
//! It serves only its health, until Ctrl-C.

mod settings;
#[cfg(test)]
mod tests;

use settings::Settings;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_etcd::ServeRegistered as _;

#[tokio::main]
async fn main() -> ExitCode {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env();
    let filter = filter.unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).init();
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Box<dyn Error>> {
    let path = std::env::args_os().nth(1).ok_or("usage: config FILE")?;
    let settings = Settings::load(&PathBuf::from(path), |name| std::env::var(name).ok())?;
    let shutdown = CancellationToken::new();
    let registrar = settings
        .registrar()?
        .shutdown_token(shutdown.clone())
        .build()?;
    let registration = registrar.register(settings.instance())?;
    tokio::spawn(async move {
        if tokio::signal::ctrl_c().await.is_ok() {
            shutdown.cancel();
        }
    });
    let closed = Server::builder()
        .layer(registration.layer())
        .add_service(registration.health_service())
        .serve_registered(settings.listen, &registration)
        .await?;
    println!("{closed}");
    Ok(())
}
