//! One call: it picks an endpoint and sends the request. It sends it to another endpoint as long as it
//! is certain that no server has processed it.

use super::caller_span::CallerSpan;
use super::pool::Pool;
use super::replay_body::{AttemptBody, ReplayBody};
use super::retry::{RetrySafety, classify, status};
use super::subchannel::{CallGuard, Connection};
use crate::etcd::chain;
use bytes::Bytes;
use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use std::pin::{Pin, pin};
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, timeout, timeout_at};
use tonic::Status;
use tonic::body::Body;

/// The endpoint that answered a call, in the extensions of its response.
///
/// ```no_run
/// # use tonic_etcd::channel::AnsweredBy;
/// # fn f(response: tonic::Response<()>) {
/// let who = response.extensions().get::<AnsweredBy>().map(AnsweredBy::address);
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnsweredBy(Arc<str>);

/// All that is needed to send a request once more.
pub(super) struct Call {
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
    body: ReplayBody,
}

/// The result of one attempt.
enum Attempt {
    Answered(Response<Body>),
    /// Certainly not processed.
    Unprocessed {
        reason: String,
        /// The connection served other calls, and its server ends it.
        is_replaced: bool,
    },
    Failed(Status),
}

/// The body of a response: the call counts as in flight until its end, or until it is dropped.
#[derive(Debug)]
struct ResponseBody {
    body: Incoming,
    in_flight: Option<CallGuard>,
}

/// How often a request is sent at most. Another attempt is needed only when a server refuses the call or leaves
/// at that moment. When that happens five times in a row, a sixth attempt would not help.
///
/// Connections that served other calls do not count while the call may wait: of 500 calls at a server that ends each connection
/// after 100, some are on the fifth connection. Each of them was answered 100 times, so that every call has its turn.
const MAX_ATTEMPTS: usize = 5;

const AGENT: HeaderValue = HeaderValue::from_static(crate::etcd::USER_AGENT);

/// A connection that was not tried, as soon as one accepts a call; `None` if none does in time.
async fn available(
    pool: &Pool,
    tried: &[Weak<Connection>],
    until: Option<Instant>,
) -> Option<(Arc<Connection>, CallGuard)> {
    let waiting = pool.ended.run_until_cancelled(wait_for_one(pool, tried));
    match until {
        Some(until) => timeout_at(until, waiting).await.ok().flatten(),
        None => waiting.await,
    }
}

fn pick(pool: &Pool, tried: &[Weak<Connection>]) -> Option<(Arc<Connection>, CallGuard)> {
    let mut rng = fastrand::Rng::new();
    let was_tried = |it: &Arc<Connection>| tried.iter().any(|t| t.as_ptr() == Arc::as_ptr(it));
    loop {
        let usable = |it: &Arc<Connection>| it.is_usable() && !was_tried(it);
        let connection = pool.ready.pick(&mut rng, usable)?;
        // Another call may have taken its last stream since.
        if let Some(guard) = connection.start_call() {
            return Some((connection, guard));
        }
    }
}

async fn wait_for_one(pool: &Pool, tried: &[Weak<Connection>]) -> (Arc<Connection>, CallGuard) {
    let stream_freed = &pool.dialer.stream_freed;
    let mut listens = true;
    loop {
        // Both are created before the pick, so that no notification in between is missed.
        let mut inserted = pin!(pool.ready.insertion());
        inserted.as_mut().enable();
        let mut freed = pin!(stream_freed.notified());
        if listens {
            freed.as_mut().enable();
        }
        if let Some(picked) = pick(pool, tried) {
            return picked;
        }
        tokio::select! {
            () = inserted => continue,
            () = freed, if listens => {}
        }
        // One waiter is woken for one stream. If that stream is on a connection that was tried already, this call
        // wakes the next waiter, and waits for no stream any more: two such calls could wake each other forever.
        if let Some(picked) = pick(pool, tried) {
            picked.0.peer.wake_next();
            return picked;
        }
        if !tried.is_empty() {
            stream_freed.notify_one();
            listens = false;
        }
    }
}

/// How long the caller waits: the header of that name, up to 8 digits and a unit. A header that cannot
/// be parsed is ignored, as in tonic.
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let n: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(n * 60 * 60),
        "M" => Duration::from_secs(n * 60),
        "S" => Duration::from_secs(n),
        "m" => Duration::from_millis(n),
        "u" => Duration::from_micros(n),
        "n" => Duration::from_nanos(n),
        _ => return None,
    })
}

// === impl AnsweredBy ===

impl AnsweredBy {
    /// The address of the endpoint.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.0
    }
}

// === impl Call ===

impl Call {
    pub(super) fn new(request: Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        headers.entry(USER_AGENT).or_insert(AGENT);
        let path = parts.uri.into_parts().path_and_query;
        Self {
            method: parts.method,
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
            headers,
            body: ReplayBody::new(body),
        }
    }

    /// Makes the call, within its `grpc-timeout`. Dropping the future cancels the call.
    pub(super) async fn run(
        &self,
        pool: &Pool,
        span: CallerSpan,
    ) -> Result<Response<Body>, Status> {
        // Pinned, so that the future has room for one copy only.
        let attempts = pin!(self.attempts(pool, span));
        let Some(limit) = grpc_timeout(&self.headers) else {
            return attempts.await;
        };
        let exceeded = || format!("no response within the {limit:?} of this call");
        // On the heap, because most calls have no limit.
        let answer = Box::pin(timeout(limit, attempts)).await;
        answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(exceeded())))
    }

    async fn attempts(&self, pool: &Pool, mut span: CallerSpan) -> Result<Response<Body>, Status> {
        // Bounds the waits for endpoints, all of them together; `None`: later than the clock can represent.
        let wait_until = Instant::now().checked_add(pool.ready_timeout);
        let mut tried: Vec<Weak<Connection>> = Vec::new();
        let mut last: Option<String> = None;
        let (mut sent, mut futile) = (0, 0);
        while futile < MAX_ATTEMPTS && self.body.is_kept() {
            let picked = match pick(pool, &tried) {
                Some(picked) => Some(picked),
                // On the heap, because most calls do not wait.
                None => Box::pin(available(pool, &tried, wait_until)).await,
            };
            let Some((connection, guard)) = picked else {
                break;
            };
            if let Some(reason) = &last {
                pool.on_resend(sent, reason);
            }
            span.picked(&connection.subchannel);
            let this_one = Arc::downgrade(&connection);
            sent += 1;
            match self.send(connection, guard).await {
                Attempt::Answered(response) => return Ok(response),
                Attempt::Failed(status) => return Err(status),
                Attempt::Unprocessed {
                    reason,
                    is_replaced,
                } => {
                    tried.retain(|it| it.strong_count() > 0);
                    tried.push(this_one);
                    last = Some(reason);
                    let may_wait = wait_until.is_none_or(|until| Instant::now() < until);
                    futile += usize::from(!(is_replaced && may_wait));
                }
            }
        }
        Err(Status::unavailable(match last {
            None => pool.why_none(),
            Some(reason) => format!("refused unprocessed by {sent} endpoints, last {reason}"),
        }))
    }

    /// Does not hold the connection while it waits. A request that is queued at the moment the
    /// connection ends may stay in the queue, because tokio empties the queue before the sender
    /// has put it in. It comes back unsent when the last sender is dropped. A call that held the
    /// connection, and with it a sender, would wait forever.
    async fn send(&self, connection: Arc<Connection>, guard: CallGuard) -> Attempt {
        let sending = connection
            .sender
            .clone()
            .try_send_request(self.request(&connection));
        drop(connection);
        let error = match sending.await {
            Ok(response) => {
                self.body.stop_keeping();
                guard.set_answered();
                let who = AnsweredBy(guard.address().clone());
                let mut response = response.map(|body| Body::new(ResponseBody::new(body, guard)));
                response.extensions_mut().insert(who);
                return Attempt::Answered(response);
            }
            Err(error) => error,
        };
        let unsent = error.message().is_some();
        let error = error.into_error();
        let safety = match unsent {
            true => RetrySafety::ConnectionDraining,
            false => classify(&error),
        };
        let address = guard.address();
        match safety {
            RetrySafety::MaybeProcessed => {
                let complaint = guard.peer().complaint();
                return Attempt::Failed(status(address, error, complaint.as_ref()));
            }
            RetrySafety::StreamRefused => {}
            RetrySafety::ConnectionDraining => guard.peer().set_draining(),
        }
        Attempt::Unprocessed {
            reason: format!("{address}: {}", chain(&error)),
            is_replaced: safety == RetrySafety::ConnectionDraining && guard.peer().was_useful(),
        }
    }

    fn request(&self, connection: &Connection) -> Request<AttemptBody> {
        let mut request = Request::new(self.body.attempt());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = connection.subchannel.uri(self.path.clone());
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        request
    }
}

// === impl ResponseBody ===

impl ResponseBody {
    fn new(body: Incoming, guard: CallGuard) -> Self {
        Self {
            in_flight: (!body.is_end_stream()).then_some(guard),
            body,
        }
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx).map_err(|error| {
            let guard = this.in_flight.as_ref();
            let complaint = guard.and_then(|it| it.peer().complaint());
            let address = guard.map_or("", |it| &**it.address());
            status(address, error, complaint.as_ref())
        });
        let goes_on = match &polled {
            Poll::Pending => true,
            Poll::Ready(frame) => matches!(frame, Some(Ok(_))) && !this.body.is_end_stream(),
        };
        if !goes_on {
            this.in_flight = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_unit_of_grpc_timeout_is_read_and_nothing_else() {
        for (text, nanos) in [
            ("1H", Some(3_600_000_000_000)),
            ("2M", Some(120_000_000_000)),
            ("3S", Some(3_000_000_000)),
            ("4m", Some(4_000_000)),
            ("5u", Some(5_000)),
            ("6n", Some(6)),
            ("0n", Some(0)),
            ("99999999H", Some(99_999_999 * 3_600_000_000_000)),
            ("123456789m", None),
            ("", None),
            ("S", None),
            ("1", None),
            ("1s", None),
            ("-1S", None),
            ("+1S", None),
            ("1 S", None),
            ("1é", None),
        ] {
            let expected = nanos.map(|nanos: u128| {
                let secs = u64::try_from(nanos / 1_000_000_000).unwrap();
                Duration::new(secs, (nanos % 1_000_000_000) as u32)
            });
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            let headers = HeaderMap::from_iter([("grpc-timeout".parse().unwrap(), value)]);
            assert_eq!(grpc_timeout(&headers), expected, "{text:?}");
        }
    }
}
