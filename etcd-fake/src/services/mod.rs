//! etcd's gRPC services on the wire: each call names what it will do, for the record, and then does it.

mod auth;
mod cluster;
mod kv;
mod lease;
mod watch;

use crate::shared::Shared;
use etcd_client::proto as pb;
use std::sync::Arc;
use tonic::transport::server::Router;
use tonic::{Response, Status, transport::Server};

/// All services of one fake.
#[derive(Clone, Debug)]
pub(crate) struct Services(pub(crate) Arc<Shared>);

type Answer<T> = Result<Response<T>, Status>;

// === impl Services ===

impl Services {
    pub(crate) fn router(self) -> Router {
        Server::builder()
            // After a long hang, many requests that timed out arrive together; etcd allows that.
            .http2_max_pending_accept_reset_streams(Some(100_000))
            .add_service(pb::PbKvServer::new(self.clone()))
            .add_service(pb::PbLeaseServer::new(self.clone()))
            .add_service(pb::PbWatchServer::new(self.clone()))
            .add_service(pb::PbClusterServer::new(self.clone()))
            .add_service(auth::AuthService(self))
    }
}
