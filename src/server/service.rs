//! [`RegistrationService`].

use super::{ResponseBody, ResponseFuture};
use crate::life::Serving;
use http::{Request, Response};
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;

/// A service whose requests are counted and end at the drain deadline. Made by
/// [`RegistrationLayer`](super::RegistrationLayer).
#[derive(Clone)]
pub struct RegistrationService<S> {
    inner: S,
    serving: Arc<Serving>,
}

impl<S> RegistrationService<S> {
    pub(super) fn new(inner: S, serving: Arc<Serving>) -> Self {
        Self { inner, serving }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RegistrationService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        ResponseFuture::new(self.inner.call(request), self.serving.gate.clone())
    }
}

impl<S: fmt::Debug> fmt::Debug for RegistrationService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
