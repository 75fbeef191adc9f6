//! `etcdserverpb.Cluster` on the wire: the member list, which tests set.

use std::sync::Arc;

use etcd_client::proto::{
    PbClusterService, PbMember, PbMemberAddRequest, PbMemberAddResponse, PbMemberListRequest,
    PbMemberListResponse, PbMemberPromoteRequest, PbMemberPromoteResponse, PbMemberRemoveRequest,
    PbMemberRemoveResponse, PbMemberUpdateRequest, PbMemberUpdateResponse,
};
use tonic::{Request, Response, Status};

use super::script::Rpc;
use super::serve::{Caller, Shared};
use super::state::State;

/// The members of the cluster.
#[derive(Debug)]
pub(super) struct ClusterCalls(pub(super) Arc<Shared>);

type Answer<T> = Result<Response<T>, Status>;

#[tonic::async_trait]
impl PbClusterService for ClusterCalls {
    async fn member_list(
        &self,
        request: Request<PbMemberListRequest>,
    ) -> Answer<PbMemberListResponse> {
        let caller = Caller::of(&request);
        let call = caller.call(Rpc::MemberList);
        let list = |state: &mut State| {
            let members = state.member_urls.iter().map(|url| PbMember {
                client_ur_ls: vec![url.clone()],
                ..PbMember::default()
            });
            Ok(PbMemberListResponse {
                header: None,
                members: members.collect(),
            })
        };
        self.0.unary(caller, call, list).await
    }

    async fn member_add(&self, _: Request<PbMemberAddRequest>) -> Answer<PbMemberAddResponse> {
        Err(not_here())
    }

    async fn member_remove(
        &self,
        _: Request<PbMemberRemoveRequest>,
    ) -> Answer<PbMemberRemoveResponse> {
        Err(not_here())
    }

    async fn member_update(
        &self,
        _: Request<PbMemberUpdateRequest>,
    ) -> Answer<PbMemberUpdateResponse> {
        Err(not_here())
    }

    async fn member_promote(
        &self,
        _: Request<PbMemberPromoteRequest>,
    ) -> Answer<PbMemberPromoteResponse> {
        Err(not_here())
    }
}

fn not_here() -> Status {
    Status::unimplemented("the fake only lists members")
}
