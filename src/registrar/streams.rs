//! [`Streams`]: one session and all that is under way on it.
//!
//! At most one renewal, one other request and one watch request at a time, each of which is
//! answered by an event within the limit of an attempt. HTTP/2 pings could not bound them: etcd
//! refuses pings closer than 5 s, which is the TTL.

use super::ids::Key;
use super::reconciler::Event;
use crate::clock;
use crate::deadline;
use crate::etcd::{
    KeepAliveStream, Op, RpcError, Session, WatchReplies, WatchRequests, with_timeout,
};
use std::future::Future;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A call under way.
pub(super) type Call<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// See the [module](self).
pub(super) struct Streams {
    session: Session,
    limit: Duration,
    request: Option<Call<Event>>,
    keep_alive: KeepAlive,
    watch: Watch,
    authenticating: Option<Call<Result<(), RpcError>>>,
}

enum KeepAlive {
    Closed,
    Idle(Box<KeepAliveStream>),
    Renewing(Instant, Call<Result<Renewed, RpcError>>),
}

/// The TTL is `None` if it is the one that was granted.
type Renewed = (Box<KeepAliveStream>, Option<Duration>);

enum Watch {
    Closed,
    Opening(Call<Result<(WatchRequests, WatchReplies), RpcError>>),
    Open(Box<OpenWatch>),
}

struct OpenWatch {
    requests: WatchRequests,
    replies: WatchReplies,
    next: Option<WatchRequest>,
    unanswered: Unanswered,
}

enum WatchRequest {
    Add { key: Key, id: i64, from: i64 },
    Remove { id: i64 },
}

/// Watches that were asked for and not answered yet.
///
/// One whose request was lost on a stream that otherwise works would leave its key unwatched for
/// as long as the connection lives.
#[derive(Debug, Default)]
struct Unanswered {
    count: usize,
    /// When the last one was answered, or the first one asked for.
    since: Option<Instant>,
}

// === impl Streams ===

impl Streams {
    pub(super) fn new(session: Session, limit: Duration) -> Self {
        Self {
            session,
            limit,
            request: None,
            keep_alive: KeepAlive::Closed,
            watch: Watch::Closed,
            authenticating: None,
        }
    }

    /// Drops all that is under way, and keeps the session.
    pub(super) fn close(&mut self) {
        self.request = None;
        self.keep_alive = KeepAlive::Closed;
        self.watch = Watch::Closed;
        self.authenticating = None;
    }

    /// Has limits of its own, longer than those of a request.
    pub(super) fn authenticate(&mut self) {
        self.watch = Watch::Closed;
        self.authenticating = Some(Box::pin(self.session.clone().replace_token()));
    }

    pub(super) fn grant(&mut self, lease: i64, ttl: Duration) {
        let sent = clock::now();
        let call = self.bounded(self.session.clone().grant(lease, ttl));
        self.request(async move {
            let result = call.await;
            Event::Granted {
                lease,
                sent,
                result,
            }
        });
    }

    pub(super) fn revoke(&mut self, lease: i64) {
        let call = self.bounded(self.session.clone().revoke(lease));
        self.request(async move {
            let result = call.await;
            Event::Revoked { lease, result }
        });
    }

    pub(super) fn read(&mut self, keys: Vec<Key>) {
        let call = self.bounded(self.session.clone().look(keys.clone()));
        self.request(async move {
            let result = call.await;
            Event::Read { keys, result }
        });
    }

    pub(super) fn write(&mut self, lease: i64, ops: Vec<Op>) {
        let call = self.bounded(self.session.clone().apply(lease, ops.clone()));
        self.request(async move {
            let result = call.await;
            Event::Written { ops, result }
        });
    }

    /// Takes the place of a request that is under way.
    pub(super) fn request(&mut self, call: impl Future<Output = Event> + Send + 'static) {
        self.request = Some(Box::pin(call));
    }

    pub(super) fn renew(&mut self, lease: i64) {
        let sent = clock::now();
        let call = match std::mem::replace(&mut self.keep_alive, KeepAlive::Closed) {
            KeepAlive::Idle(mut stream) => self.bounded(async move {
                let ttl = stream.renew().await?;
                Ok((stream, Some(ttl)))
            }),
            KeepAlive::Closed | KeepAlive::Renewing(..) => {
                let session = self.session.clone();
                self.bounded(async move { Ok((Box::new(session.renewals(lease).await?), None)) })
            }
        };
        self.keep_alive = KeepAlive::Renewing(sent, call);
    }

    pub(super) fn watch(&mut self, key: Key, id: i64, from: i64) {
        match &mut self.watch {
            Watch::Open(open) => open.next = Some(WatchRequest::Add { key, id, from }),
            Watch::Closed | Watch::Opening(_) => {
                let call = self.bounded(self.session.clone().watch(key, id, from));
                self.watch = Watch::Opening(call);
            }
        }
    }

    pub(super) fn unwatch(&mut self, id: i64) {
        if let Watch::Open(open) = &mut self.watch {
            open.next = Some(WatchRequest::Remove { id });
        }
    }

    fn bounded<T: 'static>(
        &self,
        call: impl Future<Output = Result<T, RpcError>> + Send + 'static,
    ) -> Call<Result<T, RpcError>> {
        let (limit, endpoint) = (self.limit, self.session.endpoint().clone());
        Box::pin(async move { with_timeout(limit, &endpoint, call).await })
    }

    /// What happens first. Cancel safe.
    ///
    /// Renewals come first: nothing else may delay one.
    pub(super) async fn next(&mut self) -> Event {
        let Self {
            session,
            limit,
            request,
            keep_alive,
            watch,
            authenticating,
        } = self;
        tokio::select! {
            biased;
            event = keep_alive.next() => event,
            event = some(request.as_mut()) => {
                *request = None;
                event
            }
            event = watch.next(session, *limit) => event,
            result = some(authenticating.as_mut()) => {
                *authenticating = None;
                Event::Authenticated(result)
            }
        }
    }
}

// === impl KeepAlive ===

impl KeepAlive {
    async fn next(&mut self) -> Event {
        let Self::Renewing(sent, call) = self else {
            return std::future::pending().await;
        };
        let (result, sent) = (call.await, *sent);
        *self = Self::Closed;
        let result = result.map(|(stream, ttl)| {
            *self = Self::Idle(stream);
            ttl
        });
        Event::Renewed { sent, result }
    }
}

// === impl Watch ===

impl Watch {
    async fn next(&mut self, session: &Session, limit: Duration) -> Event {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Opening(call) => {
                let result = call.await;
                *self = Self::Closed;
                Event::WatchRequested(result.map(|(requests, replies)| {
                    let mut unanswered = Unanswered::default();
                    unanswered.asked(Instant::now());
                    let next = None;
                    *self = Self::Open(Box::new(OpenWatch {
                        requests,
                        replies,
                        next,
                        unanswered,
                    }));
                }))
            }
            Self::Open(open) => open.next(session, limit).await,
        }
    }
}

// === impl OpenWatch ===

impl OpenWatch {
    async fn next(&mut self, session: &Session, limit: Duration) -> Event {
        let overdue = self
            .unanswered
            .since
            .map(|since| deadline::after(since, limit));
        let overdue = async {
            match overdue {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let (requests, next) = (&mut self.requests, &self.next);
        let asked = async {
            match next {
                None => std::future::pending().await,
                Some(WatchRequest::Add { key, id, from }) => requests.add(key, *id, *from).await,
                Some(WatchRequest::Remove { id }) => requests.remove(*id).await,
            }
        };
        tokio::select! {
            biased;
            reply = self.replies.next() => {
                if matches!(&reply, Ok(reply) if reply.created) {
                    self.unanswered.answered(Instant::now());
                }
                Event::Watched(reply)
            }
            result = pin!(asked) => {
                if let Some(WatchRequest::Add { .. }) = self.next.take() {
                    self.unanswered.asked(Instant::now());
                }
                Event::WatchRequested(result)
            }
            () = overdue => {
                self.unanswered = Unanswered::default();
                Event::Watched(Err(RpcError::timeout(session.endpoint(), limit)))
            }
        }
    }
}

// === impl Unanswered ===

impl Unanswered {
    fn asked(&mut self, now: Instant) {
        self.count += 1;
        self.since.get_or_insert(now);
    }

    fn answered(&mut self, now: Instant) {
        self.count = self.count.saturating_sub(1);
        self.since = Some(now).filter(|_| self.count > 0);
    }
}

async fn some<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
