//! [`ResponseFuture`].

use super::{ResponseBody, shutting_down};
use crate::drain::in_flight::{InFlight, InFlightGuard};
use http::{Response, StatusCode};
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pin_project! {
    /// The response of a [`RegistrationService`](super::RegistrationService): the inner service's, or `UNAVAILABLE` (gRPC)
    /// or status 503 (others) if the drain deadline passes first.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        #[pin]
        guard: InFlightGuard,
        is_grpc: bool,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: F, in_flight: Arc<InFlight>, is_grpc: bool) -> Self {
        Self {
            inner,
            guard: InFlightGuard::new(in_flight),
            is_grpc,
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let is_grpc = *this.is_grpc;
        if let Poll::Ready(response) = this.inner.poll(cx) {
            let guard = this.guard.take();
            let body = |body| ResponseBody::new(body, guard, is_grpc);
            return Poll::Ready(response.map(|response| response.map(body)));
        }
        ready!(this.guard.as_mut().poll_ended(cx));
        let body = ResponseBody::ended(this.guard.take());
        let mut response = match is_grpc {
            true => shutting_down().into_http::<()>(),
            false => Response::new(()),
        };
        if !is_grpc {
            *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
        }
        Poll::Ready(Ok(response.map(|()| body)))
    }
}
