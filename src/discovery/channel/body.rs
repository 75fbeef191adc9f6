//! [`Answer`]: the body of a response, which counts as in flight until it is dropped.

use super::fate::status;
use super::node::Flight;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::Status;
use tonic::body::Body;

/// The body of a response.
#[derive(Debug)]
pub(super) struct Answer {
    body: Incoming,
    flight: Flight,
}

// === impl Answer ===

impl Answer {
    pub(super) fn new(body: Incoming, flight: Flight) -> Self {
        Self { body, flight }
    }
}

impl From<Answer> for Body {
    fn from(answer: Answer) -> Self {
        Self::new(answer)
    }
}

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        polled.map_err(|error| status(this.flight.address(), error))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
