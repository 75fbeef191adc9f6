//! `etcdserverpb.Lease` on the wire.

use std::sync::Arc;

use etcd_client::proto::{
    PbLeaseGrantRequest, PbLeaseGrantResponse, PbLeaseKeepAliveRequest, PbLeaseKeepAliveResponse,
    PbLeaseLeasesRequest, PbLeaseLeasesResponse, PbLeaseRevokeRequest, PbLeaseRevokeResponse,
    PbLeaseService, PbLeaseStatus, PbLeaseTimeToLiveRequest, PbLeaseTimeToLiveResponse,
};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Response, Status, Streaming};

use super::model::leases::Renewal;
use super::record::Call;
use super::script::Rpc;
use super::serve::{Caller, Replies, Shared, once_it_answers};
use super::state::State;

/// Grants, renewals, revokes.
#[derive(Debug)]
pub(super) struct LeaseCalls(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl PbLeaseService for LeaseCalls {
    async fn lease_grant(
        &self,
        request: Request<PbLeaseGrantRequest>,
    ) -> Result<Response<PbLeaseGrantResponse>, Status> {
        let caller = Caller::of(&request);
        let PbLeaseGrantRequest { id, ttl } = request.into_inner();
        let call = Call {
            lease: id,
            ttl,
            ..caller.call(Rpc::LeaseGrant)
        };
        let apply = move |state: &mut State| state.grant(id, ttl);
        self.0.unary(caller, call, apply).await
    }

    async fn lease_revoke(
        &self,
        request: Request<PbLeaseRevokeRequest>,
    ) -> Result<Response<PbLeaseRevokeResponse>, Status> {
        let caller = Caller::of(&request);
        let PbLeaseRevokeRequest { id } = request.into_inner();
        let call = Call {
            lease: id,
            ..caller.call(Rpc::LeaseRevoke)
        };
        let apply = move |state: &mut State| {
            state.keyspace.revoke(id)?;
            Ok(PbLeaseRevokeResponse::default())
        };
        self.0.unary(caller, call, apply).await
    }

    type LeaseKeepAliveStream = Replies<PbLeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<PbLeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let caller = Caller::of(&request);
        let (replies, receiver) = mpsc::channel(16);
        let shared = self.0.clone();
        let requests = request.into_inner();
        self.0.spawn(async move {
            let gone = replies.clone();
            tokio::select! {
                biased;
                () = gone.closed() => {}
                () = renewals(&shared, &caller, requests, replies) => {}
            }
        });
        once_it_answers(receiver).await
    }

    async fn lease_time_to_live(
        &self,
        request: Request<PbLeaseTimeToLiveRequest>,
    ) -> Result<Response<PbLeaseTimeToLiveResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let call = Call {
            lease: request.id,
            ..caller.call(Rpc::LeaseTimeToLive)
        };
        let apply = move |state: &mut State| {
            let answer = state.keyspace.leases.time_to_live(&request, Instant::now());
            let is_this =
                |call: &&mut Call| call.rpc == Rpc::LeaseTimeToLive && call.lease == request.id;
            if let Some(call) = state.calls.iter_mut().rev().find(is_this) {
                call.ttl = answer.ttl;
            }
            Ok(answer)
        };
        self.0.unary(caller, call, apply).await
    }

    async fn lease_leases(
        &self,
        request: Request<PbLeaseLeasesRequest>,
    ) -> Result<Response<PbLeaseLeasesResponse>, Status> {
        let caller = Caller::of(&request);
        let call = caller.call(Rpc::LeaseLeases);
        let apply = |state: &mut State| {
            let ids = state.keyspace.leases.iter().map(|(id, _)| id);
            Ok(PbLeaseLeasesResponse {
                header: None,
                leases: ids.map(|id| PbLeaseStatus { id }).collect(),
            })
        };
        self.0.unary(caller, call, apply).await
    }
}

/// One renewal after the other, in the order they come, until the client closes the stream or an error ends it.
async fn renewals(
    shared: &Shared,
    caller: &Caller,
    mut requests: Streaming<PbLeaseKeepAliveRequest>,
    replies: mpsc::Sender<Result<PbLeaseKeepAliveResponse, Status>>,
) {
    while let Ok(Some(PbLeaseKeepAliveRequest { id })) = requests.message().await {
        let Some(reply) = renewal(shared, caller, id).await else {
            continue;
        };
        let ended = reply.is_err();
        if replies.send(reply).await.is_err() || ended {
            return;
        }
    }
}

async fn renewal(
    shared: &Shared,
    caller: &Caller,
    id: i64,
) -> Option<Result<PbLeaseKeepAliveResponse, Status>> {
    let call = Call {
        lease: id,
        ..caller.call(Rpc::LeaseKeepAlive)
    };
    let mut renewal = Renewal::Gone;
    let apply = |state: &mut State| {
        renewal = state.keyspace.leases.renew(id, Instant::now());
        Ok(renewed(id, renewal))
    };
    let mut reply = shared.perform(caller, call, apply).await?;
    if renewal == Renewal::Expiring {
        let renewal = swept(shared, id).await;
        if matches!(renewal, Renewal::Renewed(_)) {
            // An election has extended it while its renewal waited for the sweep.
            shared.state().had_its_effect(caller, Rpc::LeaseKeepAlive);
        }
        let settled = renewed(id, renewal);
        reply = reply.map(|reply| PbLeaseKeepAliveResponse {
            header: reply.header,
            ..settled
        });
    }
    Some(reply.map(|reply| PbLeaseKeepAliveResponse {
        id: if reply.id == 0 { id } else { reply.id },
        ..reply
    }))
}

/// A lease that has expired exists until the sweep; a renewal waits for that.
async fn swept(shared: &Shared, id: i64) -> Renewal {
    let mut changes = shared.changes();
    loop {
        changes.forget();
        let renewal = shared.state().keyspace.leases.renew(id, Instant::now());
        if renewal != Renewal::Expiring {
            return renewal;
        }
        changes.changed().await;
    }
}

fn renewed(id: i64, renewal: Renewal) -> PbLeaseKeepAliveResponse {
    let ttl = match renewal {
        Renewal::Renewed(ttl) => ttl,
        Renewal::Gone | Renewal::Expiring => 0,
    };
    PbLeaseKeepAliveResponse {
        header: None,
        id,
        ttl,
    }
}

impl State {
    /// The last such request of that connection was applied in the end.
    fn had_its_effect(&mut self, caller: &Caller, rpc: Rpc) {
        let connection = caller.call(rpc).connection;
        let mut calls = self.calls.iter_mut().rev();
        let last = calls.find(|call| call.rpc == rpc && call.connection == connection);
        if let Some(last) = last {
            last.applied = true;
        }
    }

    fn grant(&mut self, id: i64, ttl: i64) -> Result<PbLeaseGrantResponse, Status> {
        let id = match id {
            0 => self.rng.i64(1..),
            chosen => chosen,
        };
        let ttl = self.keyspace.leases.grant(id, ttl, Instant::now())?;
        Ok(PbLeaseGrantResponse {
            id,
            ttl,
            ..PbLeaseGrantResponse::default()
        })
    }
}
