//! [`ResponseBody`].

use super::shutting_down;
use crate::life::Pass;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

pin_project! {
    /// The body of a response, in flight until it is dropped: streams outlive the future that
    /// started them. At the drain deadline it ends with `UNAVAILABLE` in its trailers.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        inner: Option<B>,
        #[pin]
        pass: Pass,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: B, pass: Pass) -> Self {
        Self {
            inner: Some(inner),
            pass,
        }
    }

    pub(super) fn ended(pass: Pass) -> Self {
        Self { inner: None, pass }
    }
}

impl<B: Body> Body for ResponseBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        // A body that always has more to say must end too, so the gate is asked first. Asking is
        // one load; waiting for it is arranged only when there is nothing to say.
        if !this.pass.is_shut() {
            if let Poll::Ready(frame) = inner.poll_frame(cx) {
                return Poll::Ready(frame);
            }
            ready!(this.pass.as_mut().poll_shut(cx));
        }
        this.inner.set(None);
        let mut trailers = HeaderMap::new();
        // Only a message that is no header value could fail here, and ours is one.
        let _ = shutting_down().add_header(&mut trailers);
        Poll::Ready(Some(Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.inner
            .as_ref()
            .map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
