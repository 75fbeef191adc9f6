//! [`ReplayBody`]: a request body that can be sent again.
//!
//! It keeps the frames that were read, up to [`LIMIT`] bytes, until the response begins. Each attempt
//! reads through an [`AttemptBody`] of its own. Only the body of the last attempt gets frames, because hyper's task
//! that reads the body of a failed attempt ends a little later than its call.
//!
//! One allocation for a call, and no copy: the frames are [`Bytes`].

use crate::runtime::lock::Lock;
use bytes::Bytes;
use http::HeaderMap;
use http_body::{Frame, SizeHint};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tonic::Status;
use tonic::body::Body;

/// The body of one call, from which the bodies of its attempts are made.
#[derive(Debug)]
pub(super) struct ReplayBody(Arc<Lock<Source>>);

/// The body of one attempt.
#[derive(Debug)]
pub(super) struct AttemptBody {
    source: Arc<Lock<Source>>,
    number: u32,
    /// How many of the kept frames were read.
    at: usize,
}

#[derive(Debug)]
struct Source {
    body: Body,
    kept: Vec<Frame<Bytes>>,
    size: usize,
    /// The attempt that may read.
    current: u32,
    /// More was read than is kept, or reading failed: no other attempt is possible.
    is_capped: bool,
    ended: bool,
}

/// How many bytes of a body are kept. A unary request is usually smaller. For a longer stream the server
/// is probably processing it already.
const LIMIT: usize = 64 * 1024;

// === impl ReplayBody ===

impl ReplayBody {
    pub(super) fn new(body: Body) -> Self {
        Self(Arc::new(Lock::new(Source {
            body,
            kept: Vec::new(),
            size: 0,
            current: 0,
            is_capped: false,
            ended: false,
        })))
    }

    /// The body for the next attempt. Earlier bodies get no frames any more.
    pub(super) fn attempt(&self) -> AttemptBody {
        let mut source = self.0.lock();
        source.current += 1;
        AttemptBody {
            source: self.0.clone(),
            number: source.current,
            at: 0,
        }
    }

    /// Whether another attempt could send all of it.
    pub(super) fn is_kept(&self) -> bool {
        !self.0.lock().is_capped
    }

    /// There is no other attempt: keep no frames from here on.
    pub(super) fn stop_keeping(&self) {
        self.0.lock().cap();
    }
}

// === impl AttemptBody ===

impl http_body::Body for AttemptBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let mut source = this.source.lock();
        if source.current != this.number {
            let text = "this attempt was given up for another one";
            return Poll::Ready(Some(Err(Status::cancelled(text))));
        }
        if let Some(frame) = source.kept.get(this.at).and_then(copy) {
            this.at += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        if source.ended {
            return Poll::Ready(None);
        }
        let frame = ready!(Pin::new(&mut source.body).poll_frame(cx));
        match &frame {
            None => source.ended = true,
            Some(Err(_)) => source.cap(),
            Some(Ok(frame)) => {
                source.keep(frame);
                this.at = source.kept.len();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let source = self.source.lock();
        self.at >= source.kept.len() && (source.ended || source.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let source = self.source.lock();
        if source.kept.is_empty() && !source.is_capped {
            source.body.size_hint()
        } else {
            SizeHint::default()
        }
    }
}

// === impl Source ===

impl Source {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.is_capped {
            return;
        }
        self.size += frame.data_ref().map_or(0, Bytes::len);
        match copy(frame) {
            Some(frame) if self.size <= LIMIT => {
                // Most requests are one frame.
                if self.kept.is_empty() {
                    self.kept.reserve_exact(1);
                }
                self.kept.push(frame);
            }
            _ => self.cap(),
        }
    }

    fn cap(&mut self) {
        self.is_capped = true;
        self.kept = Vec::new();
    }
}

fn copy(frame: &Frame<Bytes>) -> Option<Frame<Bytes>> {
    let data = frame.data_ref().cloned().map(Frame::data);
    data.or_else(|| {
        let trailers: Option<HeaderMap> = frame.trailers_ref().cloned();
        trailers.map(Frame::trailers)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::{BodyExt, StreamBody};
    use tokio_stream::iter;

    fn body(sizes: &[usize]) -> ReplayBody {
        let frames: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(n, size)| {
                let byte = u8::try_from(n).unwrap();
                Ok::<_, Status>(Frame::data(Bytes::from(vec![byte; *size])))
            })
            .collect();
        ReplayBody::new(Body::new(StreamBody::new(iter(frames))))
    }

    async fn all(attempt: AttemptBody) -> Vec<(u8, usize)> {
        let mut attempt = attempt;
        let mut read = vec![];
        while let Some(frame) = attempt.frame().await {
            let data = frame.unwrap().into_data().unwrap();
            read.push((data[0], data.len()));
        }
        read
    }

    #[tokio::test]
    async fn a_body_that_was_read_is_read_again_from_its_start() {
        let replay = body(&[5, 6, 7]);
        let mut first = replay.attempt();
        first.frame().await.unwrap().unwrap();
        first.frame().await.unwrap().unwrap();
        assert!(replay.is_kept());
        let expected = vec![(0, 5), (1, 6), (2, 7)];
        assert_eq!(all(replay.attempt()).await, expected);
        assert_eq!(all(replay.attempt()).await, expected, "after its end too");
    }

    #[tokio::test]
    async fn an_earlier_attempt_gets_no_frames_of_the_next_one() {
        let replay = body(&[5, 6]);
        let mut first = replay.attempt();
        first.frame().await.unwrap().unwrap();
        let second = replay.attempt();
        assert!(first.frame().await.unwrap().is_err());
        assert_eq!(all(second).await, vec![(0, 5), (1, 6)]);
    }

    #[tokio::test]
    async fn beyond_the_limit_frames_pass_but_are_not_kept() {
        let replay = body(&[LIMIT, 1, 9]);
        let mut first = replay.attempt();
        first.frame().await.unwrap().unwrap();
        assert!(replay.is_kept());
        first.frame().await.unwrap().unwrap();
        assert!(!replay.is_kept());
        assert_eq!(all(first).await, vec![(2, 9)]);
    }

    #[tokio::test]
    async fn after_the_answer_nothing_is_kept_and_reading_goes_on() {
        let replay = body(&[5, 6, 7]);
        let mut first = replay.attempt();
        first.frame().await.unwrap().unwrap();
        replay.stop_keeping();
        assert!(!replay.is_kept());
        assert_eq!(all(first).await, vec![(1, 6), (2, 7)]);
    }

    #[tokio::test]
    async fn a_body_that_fails_is_not_sent_again() {
        let frames = [Err::<Frame<Bytes>, _>(Status::internal("cannot encode"))];
        let replay = ReplayBody::new(Body::new(StreamBody::new(iter(frames))));
        assert!(replay.attempt().frame().await.unwrap().is_err());
        assert!(!replay.is_kept());
    }
}
