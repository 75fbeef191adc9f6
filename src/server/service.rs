//! [`RegistrationService`].

use super::{ResponseBody, ResponseFuture};
use crate::drain::Drain;
use crate::registrar::registration::Registration;
use http::{Request, Response};
use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};
use tower_service::Service;

/// A service whose requests are counted, and end at the drain deadline. A [`RegistrationLayer`](crate::RegistrationLayer)
/// makes it. It keeps the registration alive.
#[derive(Clone)]
pub struct RegistrationService<S> {
    inner: S,
    drain: Arc<Drain>,
    _registration: Registration,
}

impl<S> RegistrationService<S> {
    pub(super) fn new(inner: S, registration: Registration) -> Self {
        let drain = registration.lifecycle().drain().clone();
        drain.set_counted();
        Self {
            inner,
            drain,
            _registration: registration,
        }
    }
}

impl<S, ReqBody, ResBody> Service<Request<ReqBody>> for RegistrationService<S>
where
    S: Service<Request<ReqBody>, Response = Response<ResBody>>,
    ResBody: http_body::Body,
    ResBody::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Response = Response<ResponseBody<ResBody>>;
    type Error = S::Error;
    type Future = ResponseFuture<S::Future>;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, request: Request<ReqBody>) -> Self::Future {
        let is_grpc = super::is_grpc(request.headers());
        let in_flight = self.drain.in_flight.clone();
        ResponseFuture::new(self.inner.call(request), in_flight, is_grpc)
    }
}

impl<S: fmt::Debug> fmt::Debug for RegistrationService<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationService")
            .field("inner", &self.inner)
            .finish_non_exhaustive()
    }
}
