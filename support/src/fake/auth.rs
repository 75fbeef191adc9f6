//! Users and simple tokens, and the `Auth/Authenticate` call.
//!
//! The service is written by hand: etcd-client exports the generated trait but not all of the types it takes to implement it.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};

use etcd_client::proto::{PbAuthenticateRequest, PbAuthenticateResponse};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, http};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;
use tower_service::Service;

use super::errors;
use super::record::Call;
use super::script::Rpc;
use super::serve::{Caller, Shared};

/// Users and tokens. Without a user there is no authentication.
#[derive(Debug, Default)]
pub(super) struct Auth {
    users: BTreeMap<String, String>,
    tokens: BTreeSet<String>,
    /// Tokens whose index the current history has not reached.
    ahead: BTreeSet<String>,
    issued: u64,
    /// Renewals and lease look-ups do not check tokens.
    lenient: bool,
}

/// `etcdserverpb.Auth`, as far as clients of this fake need it.
#[derive(Clone, Debug)]
pub(super) struct AuthService(pub(super) Arc<Shared>);

impl Auth {
    /// From now on every request needs a token. A new password voids the tokens that were given for the old one.
    pub(super) fn user(&mut self, name: &str, password: &str) {
        self.users.insert(name.to_owned(), password.to_owned());
        let theirs = format!("{name}.");
        self.tokens.retain(|token| !token.starts_with(&theirs));
    }

    /// All tokens are void, as after their lifetime, or after a restart of etcd.
    pub(super) fn forget_tokens(&mut self) {
        self.tokens.clear();
    }

    /// The history begins again, or from an older snapshot.
    pub(super) fn lose_history(&mut self) {
        self.ahead.append(&mut self.tokens);
    }

    /// A simple token contains an index of etcd's log, and etcd checks the token only once its log has reached that index: after a
    /// loss of data that takes hours, or for ever. Such a request is not answered meanwhile.
    pub(super) fn is_waited_for(&self, rpc: Rpc, token: Option<&str>) -> bool {
        let ahead = token.is_some_and(|token| self.ahead.contains(token));
        ahead && !self.users.is_empty() && rpc != Rpc::Authenticate
    }

    /// As etcd was before 3.4.42, 3.5.28 and 3.6.9.
    pub(super) fn be_lenient(&mut self) {
        self.lenient = true;
    }

    /// Whether a request with this token may proceed.
    pub(super) fn check(&self, rpc: Rpc, token: Option<&str>) -> Result<(), Status> {
        match token {
            _ if self.users.is_empty() || rpc == Rpc::Authenticate => Ok(()),
            Some(token) if self.tokens.contains(token) => Ok(()),
            Some(_) if self.lenient && is_left_out(rpc) => Ok(()),
            Some(_) => Err(errors::invalid_auth_token()),
            // Older versions check no token in lease calls; with lenient leases, not in renewals and
            // look-ups.
            None if is_about_leases(rpc) && (self.lenient || !changes_leases(rpc)) => Ok(()),
            None => Err(errors::user_is_empty()),
        }
    }

    fn authenticate(&mut self, name: &str, password: &str) -> Result<String, Status> {
        if self.users.is_empty() {
            return Err(errors::auth_not_enabled());
        }
        if self.users.get(name).map(String::as_str) != Some(password) {
            return Err(errors::auth_failed());
        }
        self.issued += 1;
        let token = format!("{name}.{}", self.issued);
        self.tokens.insert(token.clone());
        Ok(token)
    }
}

fn is_about_leases(rpc: Rpc) -> bool {
    matches!(
        rpc,
        Rpc::LeaseGrant
            | Rpc::LeaseRevoke
            | Rpc::LeaseKeepAlive
            | Rpc::LeaseTimeToLive
            | Rpc::LeaseLeases
    )
}

fn changes_leases(rpc: Rpc) -> bool {
    matches!(rpc, Rpc::LeaseGrant | Rpc::LeaseRevoke)
}

/// The calls that older versions do not protect.
fn is_left_out(rpc: Rpc) -> bool {
    matches!(rpc, Rpc::LeaseKeepAlive | Rpc::LeaseTimeToLive)
}

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
        let shared = self.0.clone();
        Box::pin(async move {
            let caller = Caller::of(&request);
            let call: Call = caller.call(Rpc::Authenticate);
            let PbAuthenticateRequest { name, password } = request.into_inner();
            shared
                .unary(caller, call, move |state| {
                    let token = state.auth.authenticate(&name, &password)?;
                    Ok(PbAuthenticateResponse {
                        header: None,
                        token,
                    })
                })
                .await
        })
    }
}
