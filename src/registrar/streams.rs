//! [`Streams`]: one session, and the requests and streams on it.
//!
//! At most one renewal, one other request and one watch request are under way. None has a time limit here: the reconciler
//! knows when each was sent, and decides when another connection is tried. HTTP/2 pings cannot show that a
//! member is dead: etcd refuses pings closer than 5 s, which is the TTL.

use super::ask::{Call, some};
use super::ids::Key;
use super::keep_alive::KeepAlive;
use super::reconciler::{Event, Granted, Request};
use crate::etcd::{KeepAliveStream, RpcError, Session, WatchReplies, WatchRequests, WatchResponse};
use crate::runtime::clock;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;

/// See the [module](self).
pub(super) struct Streams {
    session: Session,
    request: Option<Call<Event>>,
    keep_alive: KeepAlive,
    watch: Watch,
    authenticating: Option<Call<Result<(), RpcError>>>,
}

enum Watch {
    Closed,
    Opening(i64, Call<Result<(WatchRequests, WatchReplies), RpcError>>),
    Open(Box<OpenWatch>),
}

struct OpenWatch {
    requests: WatchRequests,
    replies: WatchReplies,
    next: Option<WatchRequest>,
    /// Requests for a watch that etcd has not acknowledged.
    unanswered: usize,
    ids: WatchIds,
}

enum WatchRequest {
    Add { key: Key, id: i64, from: i64 },
    Remove { id: i64 },
}

/// The ids of the watches on a stream. etcd uses the requested ids. `etcd grpc-proxy` ignores them and counts
/// from 0 on each stream, so that cancelling by the requested id would end the watch on another key.
#[derive(Debug)]
enum WatchIds {
    /// This id was requested first, and is not answered yet.
    Unknown(i64),
    Ours,
    /// The proxy's id for each of ours. Watches are requested one at a time, because only the order of the answers
    /// says which is which.
    Theirs {
        last_asked: i64,
        ids: BTreeMap<i64, i64>,
    },
}

// === impl Streams ===

impl Streams {
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            request: None,
            keep_alive: KeepAlive::Closed,
            watch: Watch::Closed,
            authenticating: None,
        }
    }

    pub(super) fn endpoint(&self) -> &Arc<str> {
        self.session.endpoint()
    }

    /// The session, and on it a stream of renewals.
    pub(super) fn with_keep_alive(session: Session, keep_alive: KeepAliveStream) -> Self {
        Self {
            keep_alive: KeepAlive::idle(keep_alive),
            ..Self::new(session)
        }
    }

    /// Drops all requests and streams, and keeps the session.
    pub(super) fn close(&mut self) {
        self.request = None;
        self.keep_alive = KeepAlive::Closed;
        self.watch = Watch::Closed;
        self.authenticating = None;
    }

    pub(super) fn send(&mut self, request: Request) {
        let session = self.session.clone();
        match request {
            Request::Grant { lease, ttl } => {
                let sent = clock::now();
                self.ask(session.grant(lease, ttl), move |result| {
                    Event::Granted(Granted {
                        lease,
                        sent,
                        result,
                    })
                });
            }
            Request::Revoke { lease } => {
                let call = session.revoke(lease);
                self.ask(call, move |result| Event::Revoked { lease, result });
            }
            Request::Read { keys } => {
                let call = session.look(keys.clone());
                self.ask(call, move |result| Event::Read { keys, result });
            }
            Request::Write {
                lease,
                ops,
                asks_replaced,
            } => {
                let call = session.apply(lease, ops.clone(), asks_replaced);
                self.ask(call, move |result| Event::Written { ops, result });
            }
            Request::Renew { lease, late, again } => {
                self.keep_alive.renew(&session, lease, late, again);
            }
            Request::Watch { key, id, from } => self.watch(key, id, from),
            Request::Unwatch { id } => self.unwatch(id),
            Request::Authenticate => {
                self.watch = Watch::Closed;
                self.authenticating = Some(Box::pin(session.replace_token()));
            }
        }
    }

    /// Sends a request; `event` turns its result into an event.
    fn ask<T: 'static>(
        &mut self,
        call: impl Future<Output = Result<T, RpcError>> + Send + 'static,
        event: impl FnOnce(Result<T, RpcError>) -> Event + Send + 'static,
    ) {
        self.request(async move { event(call.await) });
    }

    /// Sends a request. It replaces one that is under way.
    pub(super) fn request(&mut self, call: impl Future<Output = Event> + Send + 'static) {
        self.request = Some(Box::pin(call));
    }

    fn watch(&mut self, key: Key, id: i64, from: i64) {
        match &mut self.watch {
            Watch::Open(open) => open.next = Some(WatchRequest::Add { key, id, from }),
            Watch::Closed | Watch::Opening(..) => {
                let call = self.session.clone().watch(key, id, from);
                self.watch = Watch::Opening(id, Box::pin(call));
            }
        }
    }

    fn unwatch(&mut self, id: i64) {
        if let Watch::Open(open) = &mut self.watch {
            open.next = Some(WatchRequest::Remove { id });
        }
    }

    /// The next event. Cancel safe.
    ///
    /// Renewals are polled first, so that nothing delays them.
    pub(super) async fn next(&mut self) -> Event {
        let Self {
            session: _,
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
            event = watch.next() => event,
            result = some(authenticating.as_mut()) => {
                *authenticating = None;
                Event::Authenticated(result)
            }
        }
    }
}

// === impl Watch ===

impl Watch {
    async fn next(&mut self) -> Event {
        match self {
            Self::Closed => std::future::pending().await,
            Self::Opening(id, call) => {
                let (result, ids) = (call.await, WatchIds::Unknown(*id));
                *self = Self::Closed;
                Event::WatchRequested(result.map(|(requests, replies)| {
                    let (next, unanswered) = (None, 1);
                    *self = Self::Open(Box::new(OpenWatch {
                        requests,
                        replies,
                        next,
                        unanswered,
                        ids,
                    }));
                }))
            }
            Self::Open(open) => open.next().await,
        }
    }
}

// === impl OpenWatch ===

impl OpenWatch {
    async fn next(&mut self) -> Event {
        let (requests, ids) = (&mut self.requests, &self.ids);
        let may_ask = self.unanswered == 0 || matches!(ids, WatchIds::Ours);
        let next = self.next.as_ref().filter(|_| may_ask);
        let asked = async {
            match next {
                None => std::future::pending().await,
                Some(WatchRequest::Add { key, id, from }) => requests.add(key, *id, *from).await,
                Some(WatchRequest::Remove { id }) => requests.remove(ids.theirs(*id)).await,
            }
        };
        tokio::select! {
            biased;
            reply = self.replies.next() => Event::Watched(reply.map(|reply| self.noted(reply))),
            result = pin!(asked) => {
                if let Some(WatchRequest::Add { id, .. }) = self.next.take() {
                    self.unanswered += 1;
                    self.ids.asked(id);
                }
                Event::WatchRequested(result)
            }
        }
    }

    /// Notes an answer. Returns it with our ids.
    fn noted(&mut self, mut reply: WatchResponse) -> WatchResponse {
        if reply.created {
            self.unanswered = self.unanswered.saturating_sub(1);
            if reply.ended.is_none() {
                self.ids.created(reply.id);
            }
        }
        if let Some((id, _)) = &mut reply.ended {
            *id = self.ids.ours(*id);
        }
        reply
    }
}

// === impl WatchIds ===

impl WatchIds {
    fn asked(&mut self, id: i64) {
        match self {
            Self::Unknown(last_asked) | Self::Theirs { last_asked, .. } => *last_asked = id,
            Self::Ours => {}
        }
    }

    /// The watch that was requested last is created, with this id.
    fn created(&mut self, id: i64) {
        match self {
            Self::Unknown(asked) if *asked == id => *self = Self::Ours,
            Self::Unknown(asked) => {
                let (last_asked, ids) = (*asked, BTreeMap::from([(*asked, id)]));
                *self = Self::Theirs { last_asked, ids };
            }
            Self::Theirs { last_asked, ids } => drop(ids.insert(*last_asked, id)),
            Self::Ours => {}
        }
    }

    fn theirs(&self, id: i64) -> i64 {
        match self {
            Self::Theirs { ids, .. } => ids.get(&id).copied().unwrap_or(id),
            Self::Unknown(_) | Self::Ours => id,
        }
    }

    /// A watch ended. Returns our id for the server's `id`.
    fn ours(&mut self, id: i64) -> i64 {
        let Self::Theirs { ids, .. } = self else {
            return id;
        };
        let ours = ids.iter().find(|(_, theirs)| **theirs == id);
        let ours = ours.map_or(id, |(ours, _)| *ours);
        ids.remove(&ours);
        ours
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_etcd_took_are_used_as_they_are() {
        let mut ids = WatchIds::Unknown(7);
        ids.created(7);
        ids.asked(8);
        ids.created(8);
        assert_eq!((ids.theirs(7), ids.theirs(8)), (7, 8));
        assert_eq!((ids.ours(7), ids.ours(-1)), (7, -1));
    }

    #[test]
    fn ids_that_a_proxy_gave_instead_are_translated_both_ways() {
        let mut ids = WatchIds::Unknown(1);
        ids.created(0);
        for (ours, theirs) in [(2, 1), (3, 2)] {
            ids.asked(ours);
            ids.created(theirs);
        }
        assert_eq!((ids.theirs(1), ids.theirs(2), ids.theirs(3)), (0, 1, 2));
        assert_eq!((ids.ours(1), ids.ours(-1)), (2, -1));
        assert_eq!(ids.ours(2), 3);
    }
}
