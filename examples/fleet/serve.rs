//! The processes that serve.

use crate::args::{Host, Serve};
use crate::problem::Problem;
use greeter::MyGreeter;
use greeter::pb::greeter_server::GreeterServer;
use std::net::SocketAddr;
use tokio::net::{TcpListener, TcpStream};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;
use tonic_etcd::{Etcd, Instance, Registrar, Registration, RegistrationStatus, ServeRegistered};

/// A registered greeter, until SIGTERM. Prints `registered` when it can be found. SIGUSR1 pauses it, SIGUSR2 ends the pause.
pub(crate) async fn serve(args: Serve) -> Result<(), Problem> {
    let shutdown = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let stop = shutdown.clone();
    tokio::spawn(async move {
        terminate.recv().await;
        stop.cancel();
    });
    let registrar = Registrar::builder(Etcd::new([&args.etcd]))
        .deregistration_delay(args.deregistration_delay)
        .shutdown_token(shutdown)
        .build()?;
    let registration = registrar.register(Instance::new(SERVICE))?;
    let told = registration.clone();
    tokio::spawn(async move {
        if let Ok(registered) = told.registered().await {
            println!("registered {registered:?}");
        }
    });
    let (pause, resume) = (SignalKind::user_defined1(), SignalKind::user_defined2());
    tokio::spawn(pauses(
        signal(pause)?,
        signal(resume)?,
        registration.clone(),
    ));
    let closed = Server::builder()
        .layer(registration.layer())
        .add_service(registration.health_service())
        .add_service(GreeterServer::new(greeter(args.listen)))
        .serve_registered(args.listen, &registration)
        .await?;
    println!("closed: {closed:?}");
    Ok(())
}

async fn pauses(mut pause: Signal, mut resume: Signal, registration: Registration) {
    let mut statuses = registration.watch();
    for n in 1.. {
        pause.recv().await;
        let Ok(paused) = registration.pause("SIGUSR1") else {
            return;
        };
        println!("pause {n} begins");
        resume.recv().await;
        drop(paused);
        if statuses
            .wait_for(RegistrationStatus::is_registered)
            .await
            .is_none()
        {
            return;
        }
        println!("pause {n} is over");
    }
}

/// A greeter at every address of this machine, for those who come from this machine.
pub(crate) async fn host(args: Host) -> Result<(), Problem> {
    let listener = TcpListener::bind(args.listen).await?;
    println!("registered by nobody");
    let from_here = |stream: &TcpStream| {
        let peer = stream.peer_addr();
        peer.is_ok_and(|peer| peer.ip().is_loopback())
    };
    let incoming = TcpListenerStream::new(listener);
    let incoming = incoming.filter(move |stream| stream.as_ref().is_ok_and(from_here));
    Server::builder()
        .add_service(GreeterServer::new(greeter(args.listen)))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// The name of the service.
pub(crate) const SERVICE: &str = "greeter";
/// Where its keys are.
pub(crate) const PREFIX: &str = "/services/greeter/";

fn greeter(at: SocketAddr) -> MyGreeter {
    MyGreeter {
        whoami: format!("I am {at}."),
    }
}
