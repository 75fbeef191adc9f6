//! [`ResponseFuture`].

use super::{ResponseBody, shutting_down};
use crate::life::{Gate, Pass};
use http::Response;
use pin_project_lite::pin_project;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

pin_project! {
    /// The response of a [`RegistrationService`](super::RegistrationService): the inner one's, or
    /// `UNAVAILABLE` when the drain deadline passes first.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<F> {
        #[pin]
        inner: F,
        #[pin]
        pass: Pass,
    }
}

impl<F> ResponseFuture<F> {
    pub(super) fn new(inner: F, gate: Arc<Gate>) -> Self {
        Self {
            inner,
            pass: Pass::new(gate),
        }
    }
}

impl<F, B, E> Future for ResponseFuture<F>
where
    F: Future<Output = Result<Response<B>, E>>,
{
    type Output = Result<Response<ResponseBody<B>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        if let Poll::Ready(response) = this.inner.poll(cx) {
            let pass = this.pass.hand_on();
            return Poll::Ready(response.map(|r| r.map(|body| ResponseBody::new(body, pass))));
        }
        ready!(this.pass.as_mut().poll_shut(cx));
        let pass = this.pass.hand_on();
        let response = shutting_down().into_http::<()>();
        Poll::Ready(Ok(response.map(|()| ResponseBody::ended(pass))))
    }
}
