//! Opens watches, and reads their responses.

use super::reads::revision_of;
#[cfg(feature = "discovery")]
use super::reads::{MAX_PAGE, prefix_end};
use super::{Peer, Session};
use crate::etcd::rpc_error::{RpcError, RpcErrorKind};
use etcd_client as client;
use std::sync::Arc;

/// The request half of an open watch stream.
pub(crate) struct WatchRequests {
    requests: client::WatchRequestSender,
    peer: Peer,
}

/// The response half of an open watch stream.
pub(crate) struct WatchReplies {
    replies: client::WatchResponseStream,
    peer: Peer,
}

/// A response of a watch stream.
#[derive(Debug)]
pub(crate) struct WatchResponse {
    pub(crate) events: Vec<Event>,
    /// A requested watch was created.
    pub(crate) created: bool,
    /// The id of the watch. `etcd grpc-proxy` gives watches other ids than the requested
    /// ones.
    pub(crate) id: i64,
    /// The member that sent it; 0: not known.
    pub(crate) member: u64,
    /// The revision of the response.
    #[cfg_attr(not(feature = "discovery"), allow(dead_code))]
    pub(crate) revision: i64,
    /// The watch that etcd ended, or that we cancelled, and why.
    pub(crate) ended: Option<(i64, RpcError)>,
}

/// A change of a watched key.
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

// === impl WatchResponse ===

#[cfg(feature = "discovery")]
impl WatchResponse {
    /// An estimate of the memory to keep it, in bytes.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 128;
        let weight = |event: &Event| {
            let value = match &event.kind {
                EventKind::Put { value, .. } => value.len(),
                EventKind::Delete => 0,
            };
            OVERHEAD + event.key.len() + value
        };
        OVERHEAD + self.events.iter().map(weight).sum::<usize>()
    }
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
        mut self,
        prefix: &str,
        revision: i64,
    ) -> Result<(WatchRequests, WatchReplies), RpcError> {
        // With fragments, a response is never larger than a client accepts.
        let options = watch_options(1, revision)
            .with_range(prefix_end(prefix))
            .with_fragment();
        self.watch = self.watch.max_decoding_message_size(MAX_PAGE);
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
    /// Requests a watch on one more key. Cancel safe: a cancelled call has sent nothing.
    pub(crate) async fn add(&mut self, key: &str, id: i64, revision: i64) -> Result<(), RpcError> {
        let asked = self
            .requests
            .watch(key, Some(watch_options(id, revision)))
            .await;
        asked.map_err(|error| self.peer.error(&error))
    }

    /// Cancels the watch `id`. Cancel safe.
    pub(crate) async fn remove(&mut self, id: i64) -> Result<(), RpcError> {
        let asked = self.requests.cancel(id).await;
        asked.map_err(|error| self.peer.error(&error))
    }
}

// === impl WatchReplies ===

impl WatchReplies {
    /// The next response; one without events is an acknowledgement. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<WatchResponse, RpcError> {
        let (reply, ended) = self.next_as_it_is().await?;
        Ok(WatchResponse {
            events: reply.events().iter().filter_map(event).collect(),
            created: reply.created(),
            id: reply.watch_id(),
            member: reply.header().map_or(0, client::ResponseHeader::member_id),
            revision: revision_of(reply.header()),
            ended: ended.map(|error| (reply.watch_id(), error)),
        })
    }

    /// The same, with keys that are not UTF-8, as etcd sent it; and why the watch ended, if it has. Cancel safe.
    pub(in crate::etcd) async fn next_as_it_is(
        &mut self,
    ) -> Result<(client::WatchResponse, Option<RpcError>), RpcError> {
        let reply = self.replies.message().await;
        let reply = reply
            .map_err(|error| self.peer.error(&error))?
            .ok_or_else(|| RpcError::broken(&self.peer.endpoint, "the watch stream ended"))?;
        let ended = reply.canceled().then(|| {
            match reply.compact_revision() {
                0 => self.peer.cancelled(reply.cancel_reason()),
                // Only compaction cancels a watch without a reason.
                _ => RpcError::new(RpcErrorKind::Compacted, &self.peer.endpoint, "compacted"),
            }
        });
        Ok((reply, ended))
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
