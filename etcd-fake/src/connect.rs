//! How connections come in, and the two tasks that run for as long as the fake does.

use crate::pipe::{self, Mode, Pipe};
use crate::record::{Call, Rpc};
use crate::script::Reply;
use crate::services::Services;
use crate::services::auth::AuthService;
use crate::shared::Shared;
use etcd_client::proto as pb;
use http::Uri;
use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Server;

/// How often etcd looks for expired leases.
const SWEEP: Duration = Duration::from_millis(500);

/// Serves the connections as they come. Their tasks end when their pipes are cut.
pub(crate) async fn serve(shared: Arc<Shared>, arriving: mpsc::UnboundedReceiver<Pipe>) {
    let connections = UnboundedReceiverStream::new(arriving).map(Ok::<_, Infallible>);
    let services = Services(shared);
    let server = Server::builder()
        // After a long hang, many requests that timed out arrive together; etcd allows that.
        .http2_max_pending_accept_reset_streams(Some(100_000))
        .add_service(pb::PbKvServer::new(services.clone()))
        .add_service(pb::PbLeaseServer::new(services.clone()))
        .add_service(pb::PbWatchServer::new(services.clone()))
        .add_service(pb::PbClusterServer::new(services.clone()))
        .add_service(AuthService(services));
    // It ends only with an error of `connections`, and that has none.
    let _ended = server.serve_with_incoming(connections).await;
}

/// Revokes leases that have expired.
pub(crate) async fn sweep(shared: Arc<Shared>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.sweep();
    }
}

/// One connect, as a client sees it.
pub(crate) async fn connect(shared: Arc<Shared>, uri: Uri) -> io::Result<DuplexStream> {
    let member = uri.host().unwrap_or_default();
    let arrived = shared.arrived(Call::new(Rpc::Connect, member, 0));
    match arrived.reply {
        Reply::Delay(delay) | Reply::Late(delay) => sleep(delay).await,
        Reply::Never | Reply::DropReply => std::future::pending().await,
        Reply::Normal => {}
        _ => return Err(io::ErrorKind::ConnectionRefused.into()),
    }
    shared.until(|| shared.open(arrived.number, member)).await
}

impl Shared {
    /// A new connection, or its refusal, or `None` while there is no answer.
    fn open(&self, number: usize, member: &str) -> Option<io::Result<DuplexStream>> {
        let mut state = self.state();
        let mode = state.members.mode(member);
        match mode {
            Mode::BlackHole | Mode::NoReplies => None,
            Mode::Down => Some(Err(io::ErrorKind::ConnectionRefused.into())),
            Mode::Up | Mode::Hung => {
                let id = state.members.next_connection();
                let pace = state.members.pace();
                let (client, pipe) = pipe::connect(id, member, mode, pace);
                state.members.connected(pipe.link());
                state.calls[number].connection = id;
                state.calls[number].applied = true;
                let sent = self.inbox.send(pipe);
                let sent = sent.map_err(|_| io::ErrorKind::ConnectionRefused.into());
                Some(sent.map(|()| client))
            }
        }
    }
}
