//! `etcdserverpb.KV` on the wire.

use std::sync::Arc;

use etcd_client::proto::{
    PbCompactionRequest, PbCompactionResponse, PbDeleteRequest, PbDeleteResponse, PbKvService,
    PbPutRequest, PbPutResponse, PbRangeRequest, PbRangeResponse, PbRangeStreamResponse,
    PbTxnRequest, PbTxnResponse,
};
use prost::Message;
use tonic::{Request, Response, Status};

use super::errors;
use super::model::txn;
use super::record::{Call, text};
use super::script::Rpc;
use super::serve::{Caller, Replies, Shared};
use super::state::State;

/// Reads and writes.
#[derive(Debug)]
pub(super) struct Kv(pub(super) Arc<Shared>);

#[tonic::async_trait]
impl PbKvService for Kv {
    async fn range(
        &self,
        request: Request<PbRangeRequest>,
    ) -> Result<Response<PbRangeResponse>, Status> {
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
        let apply = move |state: &mut State| {
            state.check_role(true)?;
            state.keyspace.range(&request)
        };
        self.0.unary(caller, call, apply).await
    }

    async fn put(&self, request: Request<PbPutRequest>) -> Result<Response<PbPutResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let call = Call {
            lease: request.lease,
            puts: vec![text(&request.key)],
            ..caller.call(Rpc::Put)
        };
        let apply = move |state: &mut State| {
            state.check_size(&request)?;
            state.keyspace.put(&request)
        };
        self.0.unary(caller, call, apply).await
    }

    async fn delete_range(
        &self,
        request: Request<PbDeleteRequest>,
    ) -> Result<Response<PbDeleteResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let call = Call {
            deletes: vec![text(&request.key)],
            ..caller.call(Rpc::Delete)
        };
        let apply = move |state: &mut State| {
            state.check_size(&request)?;
            state.keyspace.delete(&request)
        };
        self.0.unary(caller, call, apply).await
    }

    async fn txn(&self, request: Request<PbTxnRequest>) -> Result<Response<PbTxnResponse>, Status> {
        let caller = Caller::of(&request);
        let request = request.into_inner();
        let call = summary(&request, caller.call(Rpc::Txn));
        let apply = move |state: &mut State| {
            state.check_size(&request)?;
            state.check_role(txn::reads(&request))?;
            state.keyspace.txn(&request)
        };
        self.0.unary(caller, call, apply).await
    }

    async fn compact(
        &self,
        request: Request<PbCompactionRequest>,
    ) -> Result<Response<PbCompactionResponse>, Status> {
        let caller = Caller::of(&request);
        let revision = request.into_inner().revision;
        let call = Call {
            revision,
            ..caller.call(Rpc::Compact)
        };
        let apply = move |state: &mut State| {
            state.keyspace.store.compact(revision)?;
            Ok(PbCompactionResponse::default())
        };
        self.0.unary(caller, call, apply).await
    }

    type RangeStreamStream = Replies<PbRangeStreamResponse>;

    /// Newer than any etcd that we run against.
    async fn range_stream(
        &self,
        _: Request<PbRangeRequest>,
    ) -> Result<Response<Self::RangeStreamStream>, Status> {
        Err(Status::unimplemented(
            "unknown method RangeStream for service etcdserverpb.KV",
        ))
    }
}

impl State {
    fn check_size(&self, request: &impl Message) -> Result<(), Status> {
        match request.encoded_len() > self.max_request_bytes {
            true => Err(errors::request_too_large()),
            false => Ok(()),
        }
    }

    fn check_role(&self, reads: bool) -> Result<(), Status> {
        match reads && self.denies_reads {
            true => Err(errors::permission_denied()),
            false => Ok(()),
        }
    }
}

/// What the record says about a transaction.
fn summary(request: &PbTxnRequest, call: Call) -> Call {
    let (then_puts, then_deletes) = txn::written(&request.success);
    let (else_puts, else_deletes) = txn::written(&request.failure);
    let texts = |keys: Vec<Vec<u8>>| keys.into_iter().map(|key| text(&key));
    Call {
        lease: txn::lease(&request.success),
        puts: texts(then_puts).chain(texts(else_puts)).collect(),
        deletes: texts(then_deletes).chain(texts(else_deletes)).collect(),
        reads: request.compare.iter().map(|c| text(&c.key)).collect(),
        ..call
    }
}
