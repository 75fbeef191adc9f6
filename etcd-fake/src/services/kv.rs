//! `etcdserverpb.KV`: reads and writes.

use super::{Answer, Services};
use crate::model::txn::{self, Keys};
use crate::record::{Call, Rpc, text};
use crate::shared::{Caller, Replies};
use crate::state::State;
use etcd_client::proto as pb;
use prost::Message;
use tonic::{Request, Status};

#[tonic::async_trait]
impl pb::PbKvService for Services {
    async fn range(&self, request: Request<pb::PbRangeRequest>) -> Answer<pb::PbRangeResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let call = Call {
            reads: vec![text(&request.key)],
            revision: request.revision,
            ..caller.call(match request.count_only {
                true => Rpc::Count,
                false => Rpc::Range,
            })
        };
        let apply = move |state: &mut State| state.keyspace.range(&request);
        self.0.unary(caller, call, apply).await
    }

    async fn put(&self, request: Request<pb::PbPutRequest>) -> Answer<pb::PbPutResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let call = Call {
            lease: request.lease,
            puts: vec![text(&request.key)],
            ..caller.call(Rpc::Put)
        };
        let apply = move |state: &mut State| {
            state.check_size(request.encoded_len())?;
            state.keyspace.put(&request)
        };
        self.0.unary(caller, call, apply).await
    }

    async fn delete_range(
        &self,
        request: Request<pb::PbDeleteRequest>,
    ) -> Answer<pb::PbDeleteResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let call = Call {
            deletes: vec![text(&request.key)],
            ..caller.call(Rpc::Delete)
        };
        let apply = move |state: &mut State| {
            state.check_size(request.encoded_len())?;
            state.keyspace.delete(&request)
        };
        self.0.unary(caller, call, apply).await
    }

    async fn txn(&self, request: Request<pb::PbTxnRequest>) -> Answer<pb::PbTxnResponse> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let keys = Keys::of(&request);
        let texts = |keys: Vec<Vec<u8>>| keys.iter().map(|key| text(key)).collect();
        let call = Call {
            lease: txn::lease(&request.success),
            puts: texts(keys.puts),
            deletes: texts(keys.deletes),
            reads: texts(keys.reads),
            ..caller.call(Rpc::Txn)
        };
        let apply = move |state: &mut State| {
            state.check_size(request.encoded_len())?;
            state.keyspace.txn(&request)
        };
        self.0.unary(caller, call, apply).await
    }

    async fn compact(
        &self,
        request: Request<pb::PbCompactionRequest>,
    ) -> Answer<pb::PbCompactionResponse> {
        let caller = Caller::of(&request);
        let revision = request.into_inner().revision;
        let call = Call {
            revision,
            ..caller.call(Rpc::Compact)
        };
        let apply = move |state: &mut State| {
            state.keyspace.store.compact(revision)?;
            Ok(pb::PbCompactionResponse::default())
        };
        self.0.unary(caller, call, apply).await
    }

    type RangeStreamStream = Replies<pb::PbRangeStreamResponse>;

    /// Newer than any etcd that this was compared with.
    async fn range_stream(
        &self,
        _: Request<pb::PbRangeRequest>,
    ) -> Answer<Self::RangeStreamStream> {
        let unknown = "unknown method RangeStream for service etcdserverpb.KV";
        Err(Status::unimplemented(unknown))
    }
}
