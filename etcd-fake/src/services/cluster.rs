//! `etcdserverpb.Cluster`: the member list, which tests set.

use super::{Answer, Services};
use crate::record::Rpc;
use crate::shared::Caller;
use crate::state::State;
use etcd_client::proto as pb;
use tonic::{Request, Status};

#[tonic::async_trait]
impl pb::PbClusterService for Services {
    async fn member_list(
        &self,
        request: Request<pb::PbMemberListRequest>,
    ) -> Answer<pb::PbMemberListResponse> {
        let caller = Caller::of(&request);
        let call = caller.call(Rpc::MemberList);
        let list = |state: &mut State| {
            let members = state.member_urls.iter().map(|url| pb::PbMember {
                client_ur_ls: vec![url.clone()],
                ..Default::default()
            });
            Ok(pb::PbMemberListResponse {
                header: None,
                members: members.collect(),
            })
        };
        self.0.unary(caller, call, list).await
    }

    async fn member_add(
        &self,
        _: Request<pb::PbMemberAddRequest>,
    ) -> Answer<pb::PbMemberAddResponse> {
        Err(not_here())
    }

    async fn member_remove(
        &self,
        _: Request<pb::PbMemberRemoveRequest>,
    ) -> Answer<pb::PbMemberRemoveResponse> {
        Err(not_here())
    }

    async fn member_update(
        &self,
        _: Request<pb::PbMemberUpdateRequest>,
    ) -> Answer<pb::PbMemberUpdateResponse> {
        Err(not_here())
    }

    async fn member_promote(
        &self,
        _: Request<pb::PbMemberPromoteRequest>,
    ) -> Answer<pb::PbMemberPromoteResponse> {
        Err(not_here())
    }
}

fn not_here() -> Status {
    Status::unimplemented("the fake only lists members")
}
