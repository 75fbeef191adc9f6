//! The way of one call: an endpoint is picked, the request is sent, and sent to another one as
//! long as it is certain that no server has worked on it.

use super::body::Answer;
use super::dial;
use super::fate::{Fate, fate, status};
use super::node::Link;
use super::pool::Pool;
use super::replay::{Again, Replay};
use super::state::AnsweredBy;
use http::header::USER_AGENT;
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Method, Request, Response, Version};
use std::pin::pin;
use std::sync::{Arc, Weak};
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tonic::body::Body;

/// All that is needed to send a request once more.
struct Call {
    method: Method,
    path: PathAndQuery,
    headers: HeaderMap,
    body: Replay,
}

/// What one attempt came to.
enum Sent {
    Answered(Response<Body>),
    /// Certainly not worked on, for this reason.
    Unprocessed(String),
    Failed(Status),
}

/// So often a request is sent at most. Each further one takes a server that refuses or leaves just
/// then; a fleet in which the fifth does so too has a trouble that a sixth would add to.
const TRIES: usize = 5;

const AGENT: HeaderValue = HeaderValue::from_static(crate::etcd::USER_AGENT);

/// Makes the call; the caller bounds it in time.
pub(super) async fn call(pool: &Pool, request: Request<Body>) -> Result<Response<Body>, Status> {
    let call = Call::new(request);
    // Bounds the waits for endpoints, all of them together.
    let wait_until = Instant::now() + pool.ready_timeout;
    let mut tried: Vec<Weak<Link>> = Vec::new();
    let mut last = None;
    while tried.len() < TRIES {
        let Some(link) = available(pool, &tried, wait_until).await else {
            break;
        };
        tried.push(Arc::downgrade(&link));
        match call.send(link).await {
            Sent::Answered(response) => return Ok(response),
            Sent::Failed(status) => return Err(status),
            Sent::Unprocessed(why) => last = Some(why),
        }
        if call.body.again() == Again::Lost {
            break;
        }
    }
    Err(Status::unavailable(match last {
        None => pool.trouble(),
        Some(why) => format!(
            "refused unprocessed by {} endpoints, last {why}",
            tried.len()
        ),
    }))
}

/// A link to send on that was not tried, as soon as there is one.
async fn available(pool: &Pool, tried: &[Weak<Link>], until: Instant) -> Option<Arc<Link>> {
    let mut rng = fastrand::Rng::new();
    let mut pick = || {
        pool.roster.pick(&mut rng, |link| {
            link.is_usable()
                && !tried
                    .iter()
                    .any(|tried| tried.as_ptr() == Arc::as_ptr(link))
        })
    };
    if let Some(link) = pick() {
        return Some(link);
    }
    loop {
        let mut arrival = pin!(pool.roster.arrival());
        // Before the look, so that nothing arrives unseen in between.
        arrival.as_mut().enable();
        if let Some(link) = pick() {
            return Some(link);
        }
        timeout_at(until, arrival).await.ok()?;
    }
}

// === impl Call ===

impl Call {
    fn new(request: Request<Body>) -> Self {
        let (parts, body) = request.into_parts();
        let mut headers = parts.headers;
        headers.entry(USER_AGENT).or_insert(AGENT);
        let path = parts.uri.into_parts().path_and_query;
        Self {
            method: parts.method,
            path: path.unwrap_or_else(|| PathAndQuery::from_static("/")),
            headers,
            body: Replay::new(body),
        }
    }

    /// Not one call holds on to the link while it waits. A request that is queued in the very
    /// moment in which the connection ends may stay in the queue unseen (tokio empties it before
    /// the sender has put it in), until the last sender is gone; then it comes back unsent. With
    /// the link in its own hands it would wait for ever.
    async fn send(&self, link: Arc<Link>) -> Sent {
        let flight = link.node.start();
        let sending = link.sender.clone().try_send_request(self.request(&link));
        let link = Arc::downgrade(&{ link });
        let error = match sending.await {
            Ok(response) => {
                self.body.settle();
                let who = AnsweredBy(flight.shared_address().clone());
                let mut response = response.map(|body| Answer::new(body, flight).into());
                response.extensions_mut().insert(who);
                return Sent::Answered(response);
            }
            Err(error) => error,
        };
        let unsent = error.message().is_some();
        let error = error.into_error();
        let fate = match unsent {
            true => Fate::Unprocessed { spent: true },
            false => fate(&error, self.body.again()),
        };
        let Fate::Unprocessed { spent } = fate else {
            return Sent::Failed(status(flight.address(), error));
        };
        if let (true, Some(link)) = (spent, link.upgrade()) {
            link.spend();
        }
        let why = crate::etcd::chain(&error);
        Sent::Unprocessed(format!("{}: {why}", flight.address()))
    }

    fn request(&self, link: &Link) -> Request<super::replay::Attempt> {
        let mut request = Request::new(self.body.attempt());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = dial::uri(&link.node.authority, self.path.clone());
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = self.headers.clone();
        request
    }
}
