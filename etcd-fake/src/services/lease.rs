//! `etcdserverpb.Lease`: grants, renewals, revokes.

use super::{Answer, Services};
use crate::model::leases::Renewal;
use crate::record::{Call, Rpc};
use crate::shared::{Caller, Replies, Shared, once_it_answers};
use crate::state::State;
use etcd_client::proto as pb;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tonic::{Request, Status, Streaming};

type Renewed = Result<pb::PbLeaseKeepAliveResponse, Status>;

#[tonic::async_trait]
impl pb::PbLeaseService for Services {
    async fn lease_grant(
        &self,
        request: Request<pb::PbLeaseGrantRequest>,
    ) -> Answer<pb::PbLeaseGrantResponse> {
        let caller = Caller::of(&request);
        let pb::PbLeaseGrantRequest { id, ttl } = request.into_inner();
        let call = Call {
            lease: id,
            ttl,
            ..caller.call(Rpc::LeaseGrant)
        };
        let apply = move |state: &mut State| {
            let id = match id {
                0 => state.rng.i64(1..),
                chosen => chosen,
            };
            let ttl = state.keyspace.grant(id, ttl, Instant::now())?;
            Ok(pb::PbLeaseGrantResponse {
                id,
                ttl,
                ..Default::default()
            })
        };
        self.0.unary(caller, call, apply).await
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::PbLeaseRevokeRequest>,
    ) -> Answer<pb::PbLeaseRevokeResponse> {
        let caller = Caller::of(&request);
        let lease = request.into_inner().id;
        let call = Call {
            lease,
            ..caller.call(Rpc::LeaseRevoke)
        };
        let apply = move |state: &mut State| {
            state.keyspace.revoke(lease)?;
            Ok(pb::PbLeaseRevokeResponse::default())
        };
        self.0.unary(caller, call, apply).await
    }

    type LeaseKeepAliveStream = Replies<pb::PbLeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::PbLeaseKeepAliveRequest>>,
    ) -> Answer<Self::LeaseKeepAliveStream> {
        let caller = Caller::of(&request);
        let (replies, receiver) = mpsc::channel(16);
        let (shared, requests) = (self.0.clone(), request.into_inner());
        self.0.spawn(async move {
            let gone = replies.clone();
            tokio::select! {
                biased;
                () = gone.closed() => {}
                () = shared.renewals(&caller, requests, replies) => {}
            }
        });
        once_it_answers(receiver).await
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::PbLeaseTimeToLiveRequest>,
    ) -> Answer<pb::PbLeaseTimeToLiveResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let call = Call {
            lease: request.id,
            ..caller.call(Rpc::LeaseTimeToLive)
        };
        let apply = move |state: &mut State| {
            let answer = state.keyspace.leases.time_to_live(&request, Instant::now());
            let mut calls = state.calls.iter_mut().rev();
            let of_this = |c: &&mut Call| c.rpc == Rpc::LeaseTimeToLive && c.lease == request.id;
            if let Some(call) = calls.find(of_this) {
                call.ttl = answer.ttl;
            }
            Ok(answer)
        };
        self.0.unary(caller, call, apply).await
    }

    async fn lease_leases(
        &self,
        request: Request<pb::PbLeaseLeasesRequest>,
    ) -> Answer<pb::PbLeaseLeasesResponse> {
        let caller = Caller::of(&request);
        let call = caller.call(Rpc::LeaseLeases);
        let apply = |state: &mut State| {
            let ids = state.keyspace.leases.iter().map(|(id, _)| id);
            Ok(pb::PbLeaseLeasesResponse {
                header: None,
                leases: ids.map(|id| pb::PbLeaseStatus { id }).collect(),
            })
        };
        self.0.unary(caller, call, apply).await
    }
}

// === impl Shared ===

impl Shared {
    /// One renewal after the other, in the order they come, until the client closes the stream or an error ends it.
    async fn renewals(
        &self,
        caller: &Caller,
        mut requests: Streaming<pb::PbLeaseKeepAliveRequest>,
        replies: mpsc::Sender<Renewed>,
    ) {
        while let Ok(Some(pb::PbLeaseKeepAliveRequest { id })) = requests.message().await {
            self.travel().await;
            let Some(reply) = self.renewal(caller, id).await else {
                continue;
            };
            let ended = reply.is_err();
            if replies.send(reply).await.is_err() || ended {
                return;
            }
        }
    }

    async fn renewal(&self, caller: &Caller, id: i64) -> Option<Renewed> {
        let call = Call {
            lease: id,
            ..caller.call(Rpc::LeaseKeepAlive)
        };
        let mut renewal = Renewal::Gone;
        let apply = |state: &mut State| {
            renewal = state.keyspace.leases.renew(id, Instant::now());
            let ttl = renewal.ttl();
            Ok(pb::PbLeaseKeepAliveResponse {
                id,
                ttl,
                ..Default::default()
            })
        };
        let mut reply = match self.perform(caller, call, apply).await? {
            Ok(reply) => reply,
            Err(status) => return Some(Err(status)),
        };
        if renewal == Renewal::Expiring {
            reply.ttl = self.swept(id).await.ttl();
            if reply.ttl > 0 {
                // An election has extended the lease while its renewal waited for the sweep.
                self.was_renewed(caller);
            }
        }
        if reply.id == 0 {
            reply.id = id;
        }
        Some(Ok(reply))
    }

    /// A lease that has expired exists until the sweep; a renewal waits for that.
    async fn swept(&self, id: i64) -> Renewal {
        let renew = |now| self.state().keyspace.leases.renew(id, now);
        self.until(|| Some(renew(Instant::now())).filter(|it| *it != Renewal::Expiring))
            .await
    }

    /// The last renewal on that connection was applied in the end.
    fn was_renewed(&self, caller: &Caller) {
        let mut state = self.state();
        let mut calls = state.calls.iter_mut().rev();
        let is_its =
            |call: &&mut Call| call.rpc == Rpc::LeaseKeepAlive && call.connection == caller.link.id;
        if let Some(last) = calls.find(is_its) {
            last.applied = true;
        }
    }
}
