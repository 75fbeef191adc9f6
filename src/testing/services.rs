//! The model as gRPC services: etcd's keys, leases and watches, on pipes inside the process.

use super::model::leases::Renewal;
use super::model::txn;
use super::model::watch::{WatchRequest, Watches, refused};
use super::shared::{Shared, State};
use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvServer,
    PbKvService, PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest,
    PbLeaseKeepAliveResponse, PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest,
    PbLeaseRevokeResponse, PbLeaseServer, PbLeaseService, PbLeaseStatus, PbLeaseTimeToLiveRequest,
    PbLeaseTimeToLiveResponse, PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse,
    PbRangeStreamResponse, PbTxnRequest, PbTxnResponse, PbWatchRequest, PbWatchResponse,
    PbWatchServer, PbWatchService,
};
use std::io;
use std::sync::Arc;
use tokio::io::{DuplexStream, copy_bidirectional, duplex};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

/// The buffer of a pipe in each direction, in bytes.
const BUFFER: usize = 64 * 1024;

#[derive(Clone)]
struct Services(Arc<Shared>);

type Answer<T> = Result<Response<T>, Status>;

/// One connection, in this process.
pub(super) async fn connect(shared: Arc<Shared>) -> io::Result<DuplexStream> {
    let running = shared.state().running.clone();
    if running.is_cancelled() {
        return Err(io::ErrorKind::ConnectionRefused.into());
    }
    let (client, mut near) = duplex(BUFFER);
    let (mut far, server) = duplex(BUFFER);
    // A tonic server cannot drop its connections, so each one goes through a pipe that can be closed.
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = running.cancelled() => {}
            _ended = copy_bidirectional(&mut near, &mut far) => {}
        }
    });
    let services = Services(shared);
    let served = Server::builder()
        .add_service(PbKvServer::new(services.clone()))
        .add_service(PbLeaseServer::new(services.clone()))
        .add_service(PbWatchServer::new(services))
        .serve_with_incoming(tokio_stream::iter([Ok::<_, io::Error>(server)]));
    tokio::spawn(served);
    Ok(client)
}

// === impl Services ===

#[tonic::async_trait]
impl PbKvService for Services {
    async fn range(&self, request: Request<PbRangeRequest>) -> Answer<PbRangeResponse> {
        let request = request.into_inner();
        let keys = [request.key.clone()];
        let apply = |state: &mut State| {
            let mut answer = state.keyspace.range(&request)?;
            answer.header = state.header();
            Ok(answer)
        };
        self.0.answer(&keys, apply).await.map(Response::new)
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Answer<PbPutResponse> {
        let request = request.into_inner();
        let keys = [request.key.clone()];
        let apply = |state: &mut State| {
            let mut answer = state.keyspace.put(&request)?;
            answer.header = state.header();
            Ok(answer)
        };
        self.0.answer(&keys, apply).await.map(Response::new)
    }

    async fn delete_range(&self, request: Request<PbDeleteRequest>) -> Answer<PbDeleteResponse> {
        let request = request.into_inner();
        let keys = [request.key.clone()];
        let apply = |state: &mut State| {
            let mut answer = state.keyspace.delete(&request)?;
            answer.header = state.header();
            Ok(answer)
        };
        self.0.answer(&keys, apply).await.map(Response::new)
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Answer<PbTxnResponse> {
        let request = request.into_inner();
        let mut keys: Vec<_> = request.compare.iter().map(|c| c.key.clone()).collect();
        for branch in [&request.success, &request.failure] {
            let (puts, deletes) = txn::written(branch);
            keys.extend(puts);
            keys.extend(deletes);
        }
        let apply = |state: &mut State| {
            let mut answer = state.keyspace.txn(&request)?;
            answer.header = state.header();
            Ok(answer)
        };
        self.0.answer(&keys, apply).await.map(Response::new)
    }

    async fn compact(&self, request: Request<PbCompactionRequest>) -> Answer<PbCompactionResponse> {
        let revision = request.into_inner().revision;
        let apply = |state: &mut State| {
            state.keyspace.store.compact(revision)?;
            Ok(PbCompactionResponse {
                header: state.header(),
            })
        };
        self.0.answer(&[], apply).await.map(Response::new)
    }

    type RangeStreamStream = ReceiverStream<Result<PbRangeStreamResponse, Status>>;

    async fn range_stream(&self, _: Request<PbRangeRequest>) -> Answer<Self::RangeStreamStream> {
        let unknown = "unknown method RangeStream for service etcdserverpb.KV";
        Err(Status::unimplemented(unknown))
    }
}

#[tonic::async_trait]
impl PbLeaseService for Services {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Answer<PbLeaseGrantResponse> {
        let PbLeaseGrantRequest { id, ttl } = request.into_inner();
        let id = if id == 0 { fastrand::i64(1..) } else { id };
        let apply = |state: &mut State| {
            let ttl = state.keyspace.leases.grant(id, ttl, Instant::now())?;
            let header = state.header();
            Ok(PbLeaseGrantResponse {
                header,
                id,
                ttl,
                ..PbLeaseGrantResponse::default()
            })
        };
        self.0.answer(&[], apply).await.map(Response::new)
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Answer<PbLeaseRevokeResponse> {
        let id = request.into_inner().id;
        let apply = |state: &mut State| {
            state.keyspace.revoke(id)?;
            let header = state.header();
            Ok(PbLeaseRevokeResponse { header })
        };
        self.0.answer(&[], apply).await.map(Response::new)
    }

    type LeaseKeepAliveStream = ReceiverStream<Result<PbLeaseKeepAliveResponse, Status>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let mut requests = request.into_inner();
        let (replies, receiver) = mpsc::channel(16);
        let shared = self.0.clone();
        tokio::spawn(async move {
            while let Ok(Some(PbLeaseKeepAliveRequest { id })) = requests.message().await {
                let renewal = shared.renew(id).await;
                if replies.send(Ok(renewal)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Answer<PbLeaseTimeToLiveResponse> {
        let request = request.into_inner();
        let apply = |state: &mut State| {
            let leases = &state.keyspace.leases;
            let mut answer = leases.time_to_live(&request, Instant::now());
            answer.header = state.header();
            Ok(answer)
        };
        self.0.answer(&[], apply).await.map(Response::new)
    }

    async fn lease_leases(
        &self,
        _: Request<PbLeaseLeasesRequest>,
    ) -> Answer<PbLeaseLeasesResponse> {
        let apply = |state: &mut State| {
            let ids = state.keyspace.leases.iter().map(|(id, _)| id);
            Ok(PbLeaseLeasesResponse {
                leases: ids.map(|id| PbLeaseStatus { id }).collect(),
                header: state.header(),
            })
        };
        self.0.answer(&[], apply).await.map(Response::new)
    }
}

impl Shared {
    /// A lease that has expired exists until the sweep; a renewal waits for that, as in etcd.
    async fn renew(&self, id: i64) -> PbLeaseKeepAliveResponse {
        self.take_time().await;
        let mut changes = self.changes();
        loop {
            let (renewal, header) = {
                let mut state = self.state();
                let renewal = state.keyspace.leases.renew(id, Instant::now());
                (renewal, state.header())
            };
            let ttl = match renewal {
                Renewal::Renewed(ttl) => ttl,
                Renewal::Gone => 0,
                Renewal::Expiring => {
                    let _changed = changes.changed().await;
                    continue;
                }
            };
            return PbLeaseKeepAliveResponse { header, id, ttl };
        }
    }
}

#[tonic::async_trait]
impl PbWatchService for Services {
    type WatchStream = ReceiverStream<Result<PbWatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Answer<Self::WatchStream> {
        let (replies, receiver) = mpsc::channel(16);
        let (shared, requests) = (self.0.clone(), request.into_inner());
        tokio::spawn(async move {
            let gone = replies.clone();
            tokio::select! {
                biased;
                () = gone.closed() => {}
                _ended = shared.serve_watches(requests, replies) => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Shared {
    /// One stream of watches, until the client closes it.
    async fn serve_watches(
        &self,
        mut requests: Streaming<PbWatchRequest>,
        replies: mpsc::Sender<Result<PbWatchResponse, Status>>,
    ) -> Option<()> {
        let mut changes = self.changes();
        let mut watches = Watches::default();
        loop {
            let asked = tokio::select! {
                biased;
                request = requests.message() => request.ok()??.request_union,
                _changed = changes.changed() => None,
            };
            let mut answers = vec![];
            if let Some(request) = asked {
                answers.extend(self.asked(WatchRequest::of(request), &mut watches).await);
            }
            let header = {
                let state = self.state();
                answers.extend(watches.news(&state.keyspace.store));
                state.header()
            };
            for answer in answers {
                replies
                    .send(Ok(PbWatchResponse { header, ..answer }))
                    .await
                    .ok()?;
            }
        }
    }

    async fn asked(&self, request: WatchRequest, watches: &mut Watches) -> Option<PbWatchResponse> {
        match request {
            WatchRequest::Create(wanted) => {
                let keys = [wanted.key.clone()];
                let create = |state: &mut State| Ok(watches.create(wanted, &state.keyspace.store));
                let created = self.answer(&keys, create).await;
                // A watch without permission is created and cancelled at once; the reason is a Go error's text.
                Some(created.unwrap_or_else(|status| {
                    let (code, text) = (status.code(), status.message());
                    refused(format!("rpc error: code = {code:?} desc = {text}"))
                }))
            }
            WatchRequest::Cancel(id) => watches.cancel(id),
            WatchRequest::Progress => watches.progress(&self.state().keyspace.store),
        }
    }
}
