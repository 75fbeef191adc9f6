//! A greeter that nobody registers, and where the registered ones are.

use crate::args::Host;
use crate::problem::Problem;
use greeter::MyGreeter;
use greeter::pb::greeter_server::GreeterServer;
use tokio::net::{TcpListener, TcpStream};
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;

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
        .add_service(GreeterServer::new(MyGreeter::default()))
        .serve_with_incoming(incoming)
        .await?;
    Ok(())
}

/// The name of the service.
pub(crate) const SERVICE: &str = "greeter";
/// Where its keys are.
pub(crate) const PREFIX: &str = "/services/greeter/";
