//! [`ResponseBody`].

use super::shutting_down;
use crate::drain::in_flight::InFlightGuard;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

pin_project! {
    /// The body of a response. The request counts as in flight until the body is dropped, because a stream lasts longer
    /// than the future that started it. At the drain deadline a gRPC body ends with `UNAVAILABLE` in its trailers. Another
    /// body ends with an error, so that the client sees that it is incomplete.
    ///
    /// The default is an empty body, for layers that respond themselves.
    #[derive(Debug)]
    pub struct ResponseBody<B> {
        #[pin]
        inner: Option<B>,
        #[pin]
        guard: InFlightGuard,
        is_grpc: bool,
    }
}

impl<B> ResponseBody<B> {
    pub(super) fn new(inner: B, guard: InFlightGuard, is_grpc: bool) -> Self {
        Self {
            inner: Some(inner),
            guard,
            is_grpc,
        }
    }

    pub(super) fn ended(guard: InFlightGuard) -> Self {
        Self {
            inner: None,
            guard,
            is_grpc: false,
        }
    }
}

impl<B> Default for ResponseBody<B> {
    fn default() -> Self {
        Self::ended(InFlightGuard::uncounted())
    }
}

impl<B> Body for ResponseBody<B>
where
    B: Body,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    type Data = B::Data;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        // Checked first, because a body that always has another frame must end too. The check is one load. The task
        // waits for the end only when there is no frame.
        if !this.guard.is_ended() {
            if let Poll::Ready(frame) = inner.poll_frame(cx) {
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
            ready!(this.guard.as_mut().poll_ended(cx));
        }
        this.inner.set(None);
        if !*this.is_grpc {
            let status = shutting_down();
            let error = io::Error::new(io::ErrorKind::ConnectionAborted, status.message());
            return Poll::Ready(Some(Err(error.into())));
        }
        let mut trailers = HeaderMap::new();
        // Cannot fail: our message is a valid header value.
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
