//! etcd's gRPC services on the wire: each call names what it will do, for the record, and then does it.

pub(crate) mod auth;
mod cluster;
mod kv;
mod lease;
mod watch;

use crate::shared::Shared;
use std::sync::Arc;
use tonic::{Response, Status};

/// All services of one fake.
#[derive(Clone, Debug)]
pub(crate) struct Services(pub(crate) Arc<Shared>);

type Answer<T> = Result<Response<T>, Status>;
