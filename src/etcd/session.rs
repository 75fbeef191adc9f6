//! [`Session`]: one connection to one member, and the few calls we make on it.
//!
//! No call here has a time limit of its own: the caller bounds each
//! of them, together with its shutdown and the expiry of its lease.

use super::auth::User;
use super::{Endpoints, Member, RpcError, RpcErrorKind, with_timeout};
use crate::connector::{Connecting, Connector, Io};
use etcd_client as client;
use http::Uri;
use hyper_util::rt::TokioIo;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};

/// One connection to one member. Cheap to clone; it closes when the last clone and the last
/// stream are dropped.
#[derive(Clone)]
pub(crate) struct Session {
    kv: client::KvClient,
    lease: client::LeaseClient,
    watch: client::WatchClient,
    peer: Peer,
    /// Reads the member list while the session is in use.
    _sync: Option<Arc<JoinSet<()>>>,
}

/// Whom a connection is to, and as whom.
#[derive(Clone)]
struct Peer {
    endpoint: Arc<str>,
    login: Option<Arc<Login>>,
}

/// The token that a connection was made with, and how to get another one.
struct Login {
    user: Arc<User>,
    token: u64,
    /// Sends no token.
    client: client::Client,
    endpoints: Endpoints,
    limit: Duration,
}

/// An open stream of renewals.
pub(crate) struct KeepAliveStream {
    requests: client::LeaseKeeper,
    replies: client::LeaseKeepAliveStream,
    peer: Peer,
}

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
    /// The revision that etcd had when it said so.
    #[cfg_attr(not(feature = "discovery"), allow(dead_code))]
    pub(crate) revision: i64,
    /// The watch that etcd ended, or that we let go, and why.
    pub(crate) ended: Option<(i64, RpcError)>,
}

/// One change to make, under our lease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Put the key, whoever holds it.
    Put { key: Arc<str>, value: Arc<str> },
    /// Put the key unless another lease holds it.
    PutIfFree { key: Arc<str>, value: Arc<str> },
    /// Delete the key if our lease holds it.
    Delete { key: Arc<str> },
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Applied {
    pub(crate) revision: i64,
    /// For each [`Op`], the foreign lease that kept a [`Op::PutIfFree`] from being done.
    pub(crate) refused_by: Vec<Option<i64>>,
}

/// A key as etcd has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyMeta {
    pub(crate) lease: i64,
    pub(crate) revision: i64,
}

/// Some of the keys below a prefix.
#[cfg(feature = "discovery")]
#[derive(Debug)]
pub(crate) struct Page {
    /// etcd's revision then.
    pub(crate) revision: i64,
    pub(crate) found: Vec<KeyValue>,
    /// How many keys there are from the beginning of this page on.
    pub(crate) count: i64,
    /// Where the next page begins, if there is one.
    pub(crate) next: Option<Vec<u8>>,
}

/// A key with its value. Keys that are no UTF-8 are passed over.
#[cfg(feature = "discovery")]
#[derive(Debug)]
pub(crate) struct KeyValue {
    pub(crate) key: String,
    pub(crate) value: Vec<u8>,
    pub(crate) seen: KeyMeta,
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

/// What one page may weigh. A page that is larger is asked for again with fewer keys.
#[cfg(feature = "discovery")]
const MAX_PAGE: usize = 16 * 1024 * 1024;

pub(crate) const USER_AGENT: &str = concat!("tonic-etcd/", env!("CARGO_PKG_VERSION"));

// === impl Session ===

impl Session {
    /// Connects within `limit`. If there is a user, it comes with its token; only if there is none
    /// it authenticates, and that has a longer limit of its own: see [`User::authenticate`].
    ///
    /// No HTTP/2 pings: etcd refuses those closer than 5 s, which is too rarely to guard a TTL of
    /// that size. Renewals with a deadline of their own are the heartbeat. Cancel safe.
    pub(crate) async fn connect(
        endpoints: &Endpoints,
        member: &Member,
        limit: Duration,
    ) -> Result<Self, RpcError> {
        let endpoint = member.shown();
        let channel = with_timeout(limit, endpoint, open(endpoints, member, limit)).await?;
        let client = client_on(client::Channel::Tonic(channel.clone()), endpoint).await?;
        let Some(user) = &endpoints.user else {
            return Ok(Self::new(&client, endpoint, None, endpoints, limit));
        };
        let token = match user.token() {
            Some(token) if token.is_known(&client, &channel, endpoint, limit).await? => token,
            unknown => {
                unknown.inspect(|token| user.refuse(token.number()));
                user.authenticate(&client, endpoint, endpoints, limit)
                    .await?
            }
        };
        let login = Login {
            user: user.clone(),
            token: token.number(),
            client,
            endpoints: endpoints.clone(),
            limit,
        };
        let client = client_on(token.channel(channel), endpoint).await?;
        Ok(Self::new(&client, endpoint, Some(login), endpoints, limit))
    }

    fn new(
        client: &client::Client,
        endpoint: &Arc<str>,
        login: Option<Login>,
        endpoints: &Endpoints,
        limit: Duration,
    ) -> Self {
        let sync = endpoints.synced.as_ref();
        let sync =
            sync.map(|list| list.follow(client.cluster_client(), endpoint, endpoints, limit));
        Self {
            _sync: sync.map(Arc::new),
            kv: client.kv_client(),
            lease: client.lease_client(),
            watch: client.watch_client(),
            peer: Peer {
                endpoint: endpoint.clone(),
                login: login.map(Arc::new),
            },
        }
    }

    /// After the token was refused: until there is another one, for another connection. Ends early
    /// only when that is refused on purpose. Cancel safe.
    pub(crate) async fn replace_token(self) -> Result<(), RpcError> {
        let endpoint = &self.peer.endpoint;
        let Some(login) = &self.peer.login else {
            return Ok(());
        };
        let Login {
            user,
            client,
            endpoints,
            limit,
            ..
        } = &**login;
        loop {
            match user.authenticate(client, endpoint, endpoints, *limit).await {
                Err(error) if error.kind() != RpcErrorKind::Denied => {
                    crate::logging::debug!(%error, "no other token yet");
                    tokio::time::sleep(*limit).await;
                }
                done => return done.map(drop),
            }
        }
    }

    pub(crate) fn endpoint(&self) -> &Arc<str> {
        &self.peer.endpoint
    }

    /// Grants the lease `id`. Gives the TTL etcd chose, which may differ from the one asked for.
    pub(crate) async fn grant(mut self, id: i64, ttl: Duration) -> Result<Duration, RpcError> {
        let seconds = i64::try_from(ttl.as_secs()).unwrap_or(i64::MAX);
        let options = client::LeaseGrantOptions::new().with_id(id);
        let granted = self.lease.grant(seconds, Some(options)).await;
        let granted = granted.map_err(|error| self.error(&error))?;
        if granted.id() != id {
            return Err(self.broken(format!(
                "asked for lease {id:016x}, got {:016x}",
                granted.id()
            )));
        }
        self.seconds(granted.ttl())
    }

    /// Revokes the lease `id`; one that does not exist is as good as revoked.
    pub(crate) async fn revoke(mut self, id: i64) -> Result<(), RpcError> {
        match self
            .lease
            .revoke(id)
            .await
            .map_err(|error| self.error(&error))
        {
            Err(error) if error.kind() == RpcErrorKind::LeaseGone => Ok(()),
            other => other.map(drop),
        }
    }

    /// Renews the lease `id` for the first time on this session, and opens the stream for more.
    ///
    /// `etcd-client` swallows the TTL of this first answer; it is the granted one.
    pub(crate) async fn renewals(mut self, id: i64) -> Result<KeepAliveStream, RpcError> {
        let opened = self.lease.keep_alive(id).await;
        let (requests, replies) = opened.map_err(|error| self.error(&error))?;
        // etcd-client goes on with whatever lease the first answer names.
        if requests.id() != id {
            return Err(self.broken("answered the renewal of another lease"));
        }
        Ok(KeepAliveStream {
            requests,
            replies,
            peer: self.peer,
        })
    }

    /// Applies all changes in one transaction under the lease `id`.
    pub(crate) async fn apply(mut self, id: i64, ops: Vec<Op>) -> Result<Applied, RpcError> {
        let txn =
            client::Txn::new().and_then(ops.iter().map(|op| op.request(id)).collect::<Vec<_>>());
        let reply = self.kv.txn(txn).await.map_err(|error| self.error(&error))?;
        let revision = revision_of(reply.header());
        let refused_by = reply.op_responses().iter().map(refused_by).collect();
        Ok(Applied {
            revision,
            refused_by,
        })
    }

    /// Reads what etcd has of each of `keys`, at one revision, without the values.
    pub(crate) async fn look(
        mut self,
        keys: Vec<Arc<str>>,
    ) -> Result<(i64, Vec<Option<KeyMeta>>), RpcError> {
        let get = |key: &Arc<str>| client::TxnOp::get(&**key, Some(without_value()));
        let txn = client::Txn::new().and_then(keys.iter().map(get).collect::<Vec<_>>());
        let reply = self.kv.txn(txn).await.map_err(|error| self.error(&error))?;
        let revision = revision_of(reply.header());
        let seen: Vec<_> = reply.op_responses().iter().map(seen).collect();
        if seen.len() != keys.len() {
            return Err(self.broken("answered a transaction with fewer results than operations"));
        }
        Ok((revision, seen))
    }

    /// Opens a stream of watches with a first one on `key`, from `revision` on.
    pub(crate) async fn watch(
        self,
        key: Arc<str>,
        id: i64,
        revision: i64,
    ) -> Result<(WatchRequests, WatchReplies), RpcError> {
        self.open_watch(&key, watch_options(id, revision)).await
    }

    /// Reads at most `limit` keys below `prefix`, from `from` on, in order, as they were at
    /// `revision`; 0: as they are now.
    #[cfg(feature = "discovery")]
    pub(crate) async fn page(
        self,
        prefix: &str,
        from: Vec<u8>,
        revision: i64,
        limit: i64,
    ) -> Result<Page, RpcError> {
        let options = client::GetOptions::new()
            .with_range(prefix_end(prefix))
            .with_revision(revision)
            .with_limit(limit);
        let mut kv = self.kv.clone().max_decoding_message_size(MAX_PAGE);
        let reply = kv.get(from, Some(options)).await;
        let mut reply = reply.map_err(|error| self.error(&error))?;
        let revision = revision_of(reply.header());
        let (more, count, kvs) = (reply.more(), reply.count(), reply.take_kvs());
        let next = kvs.last().filter(|_| more).map(|last| {
            let mut next = last.key().to_vec();
            next.push(0);
            next
        });
        let found = kvs.into_iter().filter_map(|kv| {
            let seen = KeyMeta::of(&kv);
            let (key, value) = kv.into_key_value();
            let key = String::from_utf8(key).ok()?;
            Some(KeyValue { key, value, seen })
        });
        Ok(Page {
            revision,
            found: found.collect(),
            count,
            next,
        })
    }

    /// The revision of etcd now, and how many keys there are below `prefix`; with `each` unset,
    /// how many have exactly that name, which costs etcd nothing.
    ///
    /// Not serializable: a member without a quorum, and the cache of `grpc-proxy`, would answer.
    #[cfg(feature = "discovery")]
    pub(crate) async fn count(mut self, prefix: &str, each: bool) -> Result<(i64, i64), RpcError> {
        let options = client::GetOptions::new().with_count_only();
        let options = match each {
            true => options.with_range(prefix_end(prefix)),
            false => options,
        };
        let reply = self.kv.get(prefix, Some(options)).await;
        let reply = reply.map_err(|error| self.error(&error))?;
        Ok((revision_of(reply.header()), reply.count()))
    }

    /// What etcd had of `key` at `revision`.
    #[cfg(feature = "discovery")]
    pub(crate) async fn seen_at(
        mut self,
        key: &str,
        revision: i64,
    ) -> Result<Option<KeyMeta>, RpcError> {
        let options = without_value().with_revision(revision);
        let reply = self.kv.get(key, Some(options)).await;
        let reply = reply.map_err(|error| self.error(&error))?;
        Ok(reply.kvs().first().map(KeyMeta::of))
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

    fn error(&self, error: &client::Error) -> RpcError {
        self.peer.error(error)
    }

    fn broken(&self, what: impl Into<String>) -> RpcError {
        RpcError::broken(&self.peer.endpoint, what)
    }

    fn seconds(&self, ttl: i64) -> Result<Duration, RpcError> {
        match u64::try_from(ttl) {
            Ok(ttl @ 1..) => Ok(Duration::from_secs(ttl)),
            _ => Err(RpcError::new(
                RpcErrorKind::LeaseGone,
                &self.peer.endpoint,
                "lease not found",
            )),
        }
    }
}

/// Opens the connection. The caller's limit comes first.
async fn open(
    endpoints: &Endpoints,
    member: &Member,
    limit: Duration,
) -> Result<Channel, RpcError> {
    let endpoint = member.shown();
    let broken = |error: tonic::transport::Error| {
        RpcError::broken(endpoint, super::rpc_error::chain(&error))
    };
    let channel = Endpoint::from(member.uri.clone())
        // It ends what tonic may try by itself later.
        .connect_timeout(limit.saturating_mul(2))
        .user_agent(USER_AGENT)
        .map_err(broken)?;
    #[cfg(feature = "_tls")]
    let channel = match member.uri.scheme_str() {
        Some("https") => endpoints
            .secure(channel)
            .map_err(|what| RpcError::broken(endpoint, what))?,
        _ => channel,
    };
    let connector = endpoints.connector(member, limit);
    let channel = channel.connect_with_connector(connector).await;
    channel.map_err(|error| {
        RpcError::new(
            RpcErrorKind::Unreachable,
            endpoint,
            super::rpc_error::chain(&error),
        )
    })
}

/// A client without a user: with one, it would authenticate here, for this connection alone.
pub(super) async fn client_on(
    channel: client::Channel,
    endpoint: &Arc<str>,
) -> Result<client::Client, RpcError> {
    // `require_leader`: a member that is cut off ends our streams instead of going quiet.
    let options = client::ConnectOptions::new().with_require_leader(true);
    client::Client::from_channel(channel, Some(options))
        .await
        .map_err(|error| RpcError::from_client(endpoint, &error))
}

// === impl Peer ===

impl Peer {
    fn error(&self, error: &client::Error) -> RpcError {
        self.noted(RpcError::from_client(&self.endpoint, error))
    }

    fn cancelled(&self, reason: &str) -> RpcError {
        self.noted(RpcError::from_cancel(&self.endpoint, reason))
    }

    /// A token that was refused is used for no other connection.
    fn noted(&self, error: RpcError) -> RpcError {
        match &self.login {
            None => error.without_a_user(),
            Some(login) => {
                if error.kind() == RpcErrorKind::Unauthenticated {
                    login.user.refuse(login.token);
                }
                error
            }
        }
    }
}

// === impl KeepAliveStream ===

impl KeepAliveStream {
    /// Sends one renewal and awaits its answer. Not cancel safe: after a cancelled one the next
    /// answer may belong to it, so the stream is to be dropped.
    pub(crate) async fn renew(&mut self) -> Result<Duration, RpcError> {
        let (peer, endpoint) = (&self.peer, &self.peer.endpoint);
        let error = |error: client::Error| peer.error(&error);
        self.requests.keep_alive().await.map_err(error)?;
        let reply = self.replies.message().await.map_err(error)?;
        let reply = reply.ok_or_else(|| RpcError::broken(endpoint, "the renewal stream ended"))?;
        match u64::try_from(reply.ttl()) {
            _ if reply.id() != self.requests.id() => Err(RpcError::broken(
                endpoint,
                "answered the renewal of another lease",
            )),
            Ok(ttl @ 1..) => Ok(Duration::from_secs(ttl)),
            _ => Err(RpcError::new(
                RpcErrorKind::LeaseGone,
                endpoint,
                "lease not found",
            )),
        }
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
            revision: revision_of(reply.header()),
            ended,
        })
    }
}

/// The revision an answer was given at. Only the end of a watch by compaction names none.
fn revision_of(header: Option<&client::ResponseHeader>) -> i64 {
    header.map_or(0, client::ResponseHeader::revision)
}

/// The first key that does not begin with `prefix`, which ends with a slash.
#[cfg(feature = "discovery")]
fn prefix_end(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

/// Reads the lease and the revision of one key, without its value.
///
/// From 3.7 on etcd answers `keys_only` from an index in memory that has no leases, unless the range
/// is sorted by value. A lease of 0 looked as if the key had been overwritten.
fn without_value() -> client::GetOptions {
    client::GetOptions::new()
        .with_keys_only()
        .with_sort(client::SortTarget::Value, client::SortOrder::Ascend)
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

// === impl KeyMeta ===

impl KeyMeta {
    fn of(kv: &client::KeyValue) -> Self {
        Self {
            lease: kv.lease(),
            revision: kv.mod_revision(),
        }
    }
}

// === impl Op ===

impl Op {
    /// The key it is about.
    pub(crate) fn key(&self) -> &Arc<str> {
        match self {
            Self::Put { key, .. } | Self::PutIfFree { key, .. } | Self::Delete { key } => key,
        }
    }

    /// Roughly its share of the request, in bytes.
    pub(crate) fn weight(&self) -> usize {
        const OVERHEAD: usize = 32;
        OVERHEAD
            + match self {
                Self::Put { key, value } => key.len() + value.len(),
                Self::PutIfFree { key, value } => 4 * key.len() + 2 * value.len(),
                Self::Delete { key } => 2 * key.len(),
            }
    }

    fn request(&self, id: i64) -> client::TxnOp {
        let ours = |key: &str| [client::Compare::lease(key, client::CompareOp::Equal, id)];
        let put = |key: &str, value: &str| {
            client::TxnOp::put(key, value, Some(client::PutOptions::new().with_lease(id)))
        };
        match self {
            Self::Put { key, value } => put(key, value),
            Self::PutIfFree { key, value } => {
                let absent = client::Compare::version(&**key, client::CompareOp::Equal, 0);
                let retake = client::Txn::new()
                    .when(ours(key))
                    .and_then([put(key, value)])
                    .or_else([client::TxnOp::get(&**key, Some(without_value()))]);
                client::TxnOp::txn(
                    client::Txn::new()
                        .when([absent])
                        .and_then([put(key, value)])
                        .or_else([client::TxnOp::txn(retake)]),
                )
            }
            Self::Delete { key } => {
                let delete = client::TxnOp::delete(&**key, None);
                client::TxnOp::txn(client::Txn::new().when(ours(key)).and_then([delete]))
            }
        }
    }
}

/// The foreign lease a [`Op::PutIfFree`] met: what the innermost branch read.
fn refused_by(reply: &client::TxnOpResponse) -> Option<i64> {
    match reply {
        client::TxnOpResponse::Get(get) => get.kvs().first().map(client::KeyValue::lease),
        client::TxnOpResponse::Txn(txn) => txn.op_responses().first().and_then(refused_by),
        _ => None,
    }
}

fn seen(reply: &client::TxnOpResponse) -> Option<KeyMeta> {
    match reply {
        client::TxnOpResponse::Get(get) => get.kvs().first().map(KeyMeta::of),
        _ => None,
    }
}

// === impl Connector ===

impl tower_service::Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = futures_util::future::MapOk<Connecting, fn(Box<dyn Io>) -> Self::Response>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        futures_util::TryFutureExt::map_ok(self.connect(uri), TokioIo::new)
    }
}
