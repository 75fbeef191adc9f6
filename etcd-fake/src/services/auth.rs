//! `etcdserverpb.Auth`: the call `Authenticate`.
//!
//! The service is written by hand: etcd-client exports the generated trait but not all of the types it takes to implement it.

use super::Services;
use crate::record::Rpc;
use crate::shared::Caller;
use crate::state::State;
use etcd_client::proto::{PbAuthenticateRequest, PbAuthenticateResponse};
use std::convert::Infallible;
use std::task::{Context, Poll};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// The service of this one call.
#[derive(Clone, Debug)]
pub(crate) struct AuthService(pub(crate) Services);

impl NamedService for AuthService {
    const NAME: &'static str = "etcdserverpb.Auth";
}

impl Service<http::Request<Body>> for AuthService {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != "/etcdserverpb.Auth/Authenticate" {
                let status = Status::unimplemented("the fake only knows Authenticate");
                return Ok(status.into_http());
            }
            let codec = ProstCodec::<PbAuthenticateResponse, PbAuthenticateRequest>::default();
            Ok(Grpc::new(codec).unary(service, request).await)
        })
    }
}

impl UnaryService<PbAuthenticateRequest> for AuthService {
    type Response = PbAuthenticateResponse;
    type Future = BoxFuture<Response<Self::Response>, Status>;

    fn call(&mut self, request: Request<PbAuthenticateRequest>) -> Self::Future {
        let Services(shared) = self.0.clone();
        Box::pin(async move {
            let caller = Caller::of(&request);
            let call = caller.call(Rpc::Authenticate);
            let PbAuthenticateRequest { name, password } = request.into_inner();
            let apply = move |state: &mut State| {
                Ok(PbAuthenticateResponse {
                    token: state.auth.authenticate(&name, &password)?,
                    header: None,
                })
            };
            shared.unary(caller, call, apply).await
        })
    }
}
