//! Opens watches, and reads what they say.

#[cfg(feature = "discovery")]
use super::reads::prefix_end;
use super::reads::revision_of;
use super::{Peer, Session};
use crate::etcd::rpc_error::{RpcError, RpcErrorKind};
use etcd_client as client;
use std::sync::Arc;

/// The asking half of an open stream of watches.
pub(crate) struct WatchRequests {
    requests: client::WatchRequestSender,
    peer: Peer,
}

/// The answering half of an open stream of watches.
pub(crate) struct WatchReplies {
    replies: client::WatchResponseStream,
    peer: Peer,
}

/// What a stream of watches said.
#[derive(Debug)]
pub(crate) struct WatchResponse {
    pub(crate) events: Vec<Event>,
    /// One watch that was asked for stands.
    pub(crate) created: bool,
    /// Which watch it is about. `etcd grpc-proxy` gives watches other ids than they were asked for
    /// with.
    pub(crate) id: i64,
    /// The revision that etcd had when it said so.
    #[cfg_attr(not(feature = "discovery"), allow(dead_code))]
    pub(crate) revision: i64,
    /// The watch that etcd ended, or that we let go, and why.
    pub(crate) ended: Option<(i64, RpcError)>,
}

/// Something happened to a watched key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) key: String,
    pub(crate) revision: i64,
    pub(crate) kind: EventKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EventKind {
    Put { lease: i64, value: Vec<u8> },
    Delete,
}

// === impl Session ===

impl Session {
    /// Opens a stream of watches with a first one on `key`, from `revision` on.
    pub(crate) async fn watch(
        self,
        key: Arc<str>,
        id: i64,
        revision: i64,
    ) -> Result<(WatchRequests, WatchReplies), RpcError> {
        self.open_watch(&key, watch_options(id, revision)).await
    }

    /// Opens a stream with one watch on everything below `prefix`, from `revision` on.
    #[cfg(feature = "discovery")]
    pub(crate) async fn watch_prefix(
        self,
        prefix: &str,
        revision: i64,
    ) -> Result<(WatchRequests, WatchReplies), RpcError> {
        // In fragments, an answer is never larger than a client takes.
        let options = watch_options(1, revision)
            .with_range(prefix_end(prefix))
            .with_fragment();
        self.open_watch(prefix, options).await
    }

    async fn open_watch(
        mut self,
        key: &str,
        options: client::WatchOptions,
    ) -> Result<(WatchRequests, WatchReplies), RpcError> {
        let stream = self.watch.watch(key, Some(options)).await;
        let (requests, replies) = stream.map_err(|error| self.error(&error))?.split();
        let peer = self.peer.clone();
        Ok((
            WatchRequests { requests, peer },
            WatchReplies {
                replies,
                peer: self.peer,
            },
        ))
    }
}

// === impl WatchRequests ===

impl WatchRequests {
    /// Asks for one more key to be watched. Cancel safe: cancelled, it has not asked.
    pub(crate) async fn add(&mut self, key: &str, id: i64, revision: i64) -> Result<(), RpcError> {
        let asked = self
            .requests
            .watch(key, Some(watch_options(id, revision)))
            .await;
        asked.map_err(|error| self.peer.error(&error))
    }

    /// Lets go of the watch `id`. Cancel safe.
    pub(crate) async fn remove(&mut self, id: i64) -> Result<(), RpcError> {
        let asked = self.requests.cancel(id).await;
        asked.map_err(|error| self.peer.error(&error))
    }
}

// === impl WatchReplies ===

impl WatchReplies {
    /// What etcd says next; without events, an acknowledgement. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<WatchResponse, RpcError> {
        let reply = self.replies.message().await;
        let reply = reply
            .map_err(|error| self.peer.error(&error))?
            .ok_or_else(|| RpcError::broken(&self.peer.endpoint, "the watch stream ended"))?;
        let ended = reply.canceled().then(|| {
            let error = match reply.compact_revision() {
                0 => self.peer.cancelled(reply.cancel_reason()),
                // The one cancellation without a reason.
                _ => RpcError::new(RpcErrorKind::Compacted, &self.peer.endpoint, "compacted"),
            };
            (reply.watch_id(), error)
        });
        Ok(WatchResponse {
            events: reply.events().iter().filter_map(event).collect(),
            created: reply.created(),
            id: reply.watch_id(),
            revision: revision_of(reply.header()),
            ended,
        })
    }
}

fn watch_options(id: i64, revision: i64) -> client::WatchOptions {
    client::WatchOptions::new()
        .with_watch_id(id)
        .with_start_revision(revision)
}

fn event(event: &client::Event) -> Option<Event> {
    let kv = event.kv()?;
    let kind = match event.event_type() {
        client::EventType::Put => EventKind::Put {
            lease: kv.lease(),
            value: kv.value().to_vec(),
        },
        client::EventType::Delete => EventKind::Delete,
    };
    let key = kv.key_str().ok()?.to_owned();
    Some(Event {
        key,
        revision: kv.mod_revision(),
        kind,
    })
}
