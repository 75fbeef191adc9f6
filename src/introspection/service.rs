//! [`Introspection`]: the requests, checked.

use super::batch::{Batch, MAX_REGISTRATIONS};
use super::pb;
use super::pb::introspection_server;
use super::places::Places;
use super::process::process;
use super::remote::RemotePauses;
use super::snapshot;
use super::sources::{Position, Sources};
use super::watch::Watcher;
use futures_util::stream::{self, Stream};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use tonic::{Request, Response, Status, async_trait};

/// The gRPC service that reports what this process has registered and discovered.
pub struct Introspection {
    sources: Arc<Sources>,
    remote: RemotePauses,
    watches: Arc<Places>,
}

const DEFAULT_PAGE: usize = 100;
/// The longest name of a service.
const MAX_SERVICE: usize = 255;

// === impl Introspection ===

impl Introspection {
    pub(super) fn new(sources: Sources, remote_control: bool) -> Self {
        Self {
            sources: Arc::new(sources),
            remote: RemotePauses::new(remote_control),
            watches: Arc::default(),
        }
    }
}

#[async_trait]
impl introspection_server::Introspection for Introspection {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<pb::WatchResponse, Status>> + Send>>;

    async fn list(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<Response<pb::ListResponse>, Status> {
        let request = request.into_inner();
        let size = page_size(request.page_size)?;
        let after = position(&request.page_token)?;
        check_service(&request.service)?;
        Ok(Response::new(list(&self.sources, &request, size, after)))
    }

    async fn watch(
        &self,
        request: Request<pb::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let pb::WatchRequest { service } = request.into_inner();
        check_service(&service)?;
        // The next message is made when the connection has room for it, so nothing is buffered here.
        let watcher = Watcher::new(self.sources.clone(), service);
        let messages = stream::unfold(watcher, |mut watcher| async move {
            let message = watcher.next().await?;
            Some((message, watcher))
        });
        let place = self.watches.open(Box::pin(messages))?;
        Ok(Response::new(Box::pin(place)))
    }

    async fn pause(
        &self,
        request: Request<pb::PauseRequest>,
    ) -> Result<Response<pb::PauseResponse>, Status> {
        let request = request.into_inner();
        check_service(&request.service)?;
        let registrations = self.remote.pause(&self.sources, &request)?;
        Ok(Response::new(pb::PauseResponse { registrations }))
    }

    async fn resume(
        &self,
        request: Request<pb::ResumeRequest>,
    ) -> Result<Response<pb::ResumeResponse>, Status> {
        let registrations = self.remote.resume(&request.into_inner().name)?;
        Ok(Response::new(pb::ResumeResponse { registrations }))
    }
}

impl fmt::Debug for Introspection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Introspection").finish_non_exhaustive()
    }
}

fn list(
    sources: &Sources,
    request: &pb::ListRequest,
    size: usize,
    after: Position,
) -> pb::ListResponse {
    let mut page = Batch::of(size);
    let mut last = after;
    let mut next_page_token = String::new();
    for (position, registry, entry) in sources.after(after, &request.service) {
        if !page.has_room() {
            next_page_token = last.to_string();
            break;
        }
        page.push(snapshot::registration(position, registry, &entry));
        last = position;
    }
    let is_first = request.page_token.is_empty();
    pb::ListResponse {
        registrations: page.into_registrations(),
        next_page_token,
        process: is_first.then(|| process(sources)),
    }
}

fn page_size(asked: i32) -> Result<usize, Status> {
    match usize::try_from(asked) {
        Ok(0) => Ok(DEFAULT_PAGE),
        Ok(size) => Ok(size.min(MAX_REGISTRATIONS)),
        Err(_) => Err(Status::invalid_argument("page_size is negative")),
    }
}

fn position(token: &str) -> Result<Position, Status> {
    match token {
        "" => Ok(Position::default()),
        token => token
            .parse()
            .map_err(|()| Status::invalid_argument("page_token is none that this server gave")),
    }
}

fn check_service(service: &str) -> Result<(), Status> {
    match service.len() > MAX_SERVICE {
        true => Err(Status::invalid_argument(format!(
            "service has {} bytes, and may have {MAX_SERVICE}",
            service.len()
        ))),
        false => Ok(()),
    }
}
