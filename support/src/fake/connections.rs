//! How connections come in, and the two tasks that run for as long as the fake does.

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::proto::{PbClusterServer, PbKvServer, PbLeaseServer, PbWatchServer};
use http::Uri;
use tokio::io::DuplexStream;
use tokio::sync::mpsc;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_stream::StreamExt;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::transport::Server;

use super::auth::AuthService;
use super::cluster_calls::ClusterCalls;
use super::kv::Kv;
use super::lease_calls::LeaseCalls;
use super::members::OnConnect;
use super::record::Call;
use super::script::{Reply, Rpc};
use super::serve::Shared;
use super::watch_calls::WatchCalls;
use super::wire::{self, Pipe};

/// How often etcd looks for expired leases.
const SWEEP: Duration = Duration::from_millis(500);

/// Serves the connections as they come. Their tasks end when their pipes are cut.
pub(super) async fn serve(shared: Arc<Shared>, arriving: mpsc::UnboundedReceiver<Pipe>) {
    let connections = UnboundedReceiverStream::new(arriving).map(Ok::<_, Infallible>);
    let served = Server::builder()
        // After a long hang, many requests that timed out arrive together; etcd allows that.
        .http2_max_pending_accept_reset_streams(Some(100_000))
        .add_service(PbKvServer::new(Kv(shared.clone())))
        .add_service(PbLeaseServer::new(LeaseCalls(shared.clone())))
        .add_service(PbWatchServer::new(WatchCalls(shared.clone())))
        .add_service(PbClusterServer::new(ClusterCalls(shared.clone())))
        .add_service(AuthService(shared))
        .serve_with_incoming(connections)
        .await;
    served.unwrap_or_else(|e| panic!("the fake's server failed: {e}"));
}

/// Revokes leases that have expired.
pub(super) async fn sweep_for_ever(shared: Arc<Shared>) {
    let mut ticks = interval(SWEEP);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        shared.sweep();
    }
}

/// One connect, as a client sees it.
pub(super) async fn connect(shared: Arc<Shared>, uri: Uri) -> io::Result<DuplexStream> {
    let member = uri.host().unwrap_or_default().to_owned();
    let (number, reply, ..) = shared.arrived(Call::new(Rpc::Connect, &member, 0));
    match reply {
        Reply::Delay(delay) | Reply::Late(delay) => sleep(delay).await,
        Reply::Never | Reply::DropReply => std::future::pending().await,
        Reply::Normal => {}
        _ => return Err(io::ErrorKind::ConnectionRefused.into()),
    }
    let mut changes = shared.changes();
    loop {
        changes.forget();
        if let Some(connected) = shared.open(number, &member) {
            return connected;
        }
        changes.changed().await;
    }
}

impl Shared {
    /// A new connection, or its refusal, or `None` while there is no answer.
    fn open(&self, number: usize, member: &str) -> Option<io::Result<DuplexStream>> {
        let mut state = self.state();
        let mode = state.members.mode(member);
        match mode.on_connect() {
            OnConnect::Silent => None,
            OnConnect::Refused => Some(Err(io::ErrorKind::ConnectionRefused.into())),
            OnConnect::Open => {
                let id = state.members.next_connection();
                let pace = state.members.pace();
                let (client, pipe) = wire::connect(id, member, mode.traffic(), pace);
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
