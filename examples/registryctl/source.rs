//! [`Source`]: the etcd to ask. The only room that calls `etcd-client`.
//!
//! One member at a time, and every call bounded: `etcd-client` itself waits for ever, and with several endpoints it picks
//! one at random for each call, also one that is down.

use crate::access::Access;
use crate::entry::Entry;
use crate::member::Member;
use crate::{Failure, Scope};
use etcd_client::{
    Channel, Client, ConnectOptions, EventType, GetOptions, WatchOptions, WatchStream,
};
use futures_util::StreamExt as _;
use std::collections::BTreeMap;
use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{sleep, timeout};

/// The members of an etcd cluster, asked one after the other.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    members: Vec<Member>,
    user: Option<(String, String)>,
    limit: Duration,
    scans: Vec<String>,
}

/// A connection to one member.
pub(crate) struct Connection {
    client: Client,
    limit: Duration,
    scans: Vec<String>,
    pub(crate) endpoint: Arc<str>,
}

/// Everything there was at one moment. With several scans, at one moment for each.
pub(crate) struct Listing {
    pub(crate) entries: Vec<Entry>,
    /// The revision of each scan.
    revisions: Vec<i64>,
}

/// A watch of all scans.
pub(crate) struct Watch {
    stream: WatchStream,
    /// The revision of the listing it follows.
    after: i64,
}

/// What happened to a key.
#[derive(Debug)]
pub(crate) enum Event {
    Put(Entry),
    Delete(Vec<u8>),
}

/// What etcd says about a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ttl {
    Left {
        seconds: i64,
        granted: i64,
    },
    /// There is no such lease (any more).
    Gone,
}

pub(crate) type Ttls = BTreeMap<i64, Ttl>;

/// Ten thousand instances can come in one message.
const MESSAGE_LIMIT: usize = 256 * 1024 * 1024;
/// How many leases to ask for at once.
const AT_ONCE: usize = 32;

// === impl Source ===

impl Source {
    /// Checks everything, and touches no network.
    pub(crate) fn new(access: &Access, limit: Duration, scope: &Scope) -> Result<Self, Failure> {
        if limit.is_zero() {
            let why = "--timeout is 0: give the time that an answer may take, such as 2s";
            return Err(Failure::Usage(why.to_owned()));
        }
        let members = Member::all(access, limit)?;
        let user = access.credentials().map_err(Failure::Usage)?;
        let user = user.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Ok(Self {
            members,
            user,
            limit,
            scans: scope.scans.clone(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    /// Connects to a member, counted round and round.
    pub(crate) async fn connect(&self, index: usize) -> Result<Connection, String> {
        let member = &self.members[index % self.members.len()];
        let connect = async {
            let channel = member
                .endpoint
                .connect()
                .await
                .map_err(|error| chain(&error))?;
            let mut options = ConnectOptions::new().with_require_leader(true);
            options = options.with_auto_token_refresh(true);
            if let Some((user, password)) = &self.user {
                options = options.with_user(user, password);
            }
            Client::from_channel(Channel::Tonic(channel), Some(options))
                .await
                .map_err(said)
        };
        let client = bounded(self.limit, &member.shown, connect).await?;
        let (limit, scans) = (self.limit, self.scans.clone());
        Ok(Connection {
            client,
            limit,
            scans,
            endpoint: member.shown.clone(),
        })
    }
}

// === impl Connection ===

impl Connection {
    /// Everything there is.
    pub(crate) async fn list(&self) -> Result<Listing, String> {
        let mut listing = Listing {
            entries: vec![],
            revisions: vec![],
        };
        for scan in &self.scans {
            let mut kv = self
                .client
                .kv_client()
                .max_decoding_message_size(MESSAGE_LIMIT);
            let options = GetOptions::new().with_prefix();
            let get = async { kv.get(scan.as_str(), Some(options)).await.map_err(said) };
            let found = bounded(self.limit, &self.endpoint, get).await?;
            listing.entries.extend(found.kvs().iter().map(Entry::from));
            listing
                .revisions
                .push(found.header().map_or(0, |header| header.revision()));
        }
        Ok(listing)
    }

    /// Watches all that happens after a listing.
    pub(crate) async fn watch(&self, after: &Listing) -> Result<Watch, String> {
        let open = async {
            let mut watches = self
                .scans
                .iter()
                .zip(&after.revisions)
                .map(|(scan, revision)| {
                    let options = WatchOptions::new().with_prefix();
                    (
                        scan.as_str(),
                        Some(options.with_start_revision(revision + 1)),
                    )
                });
            let mut client = self
                .client
                .watch_client()
                .max_decoding_message_size(MESSAGE_LIMIT);
            let (scan, options) = watches.next().ok_or("nothing to watch")?;
            let mut stream = client.watch(scan, options).await.map_err(said)?;
            for (scan, options) in watches {
                stream.watch(scan, options).await.map_err(said)?;
            }
            let after = after.revisions.iter().copied().min().unwrap_or_default();
            Ok(Watch { stream, after })
        };
        bounded(self.limit, &self.endpoint, open).await
    }

    /// Whether this member answers, and with it a quorum. A watch on one that hangs would stay silent for ever.
    pub(crate) async fn alive(&self) -> Result<(), String> {
        let mut kv = self.client.kv_client();
        for scan in self.scans.iter().take(1) {
            let options = GetOptions::new().with_prefix().with_count_only();
            let get = async { kv.get(scan.as_str(), Some(options)).await.map_err(said) };
            bounded(self.limit, &self.endpoint, get).await?;
        }
        Ok(())
    }

    /// What is left of these leases, as far as etcd says so in time.
    pub(crate) async fn ttls(&self, leases: impl IntoIterator<Item = i64>) -> Ttls {
        let asked = leases.into_iter().map(|id| {
            let mut client = self.client.lease_client();
            async move { (id, client.time_to_live(id, None).await) }
        });
        let answers = futures_util::stream::iter(asked).buffer_unordered(AT_ONCE);
        let in_time = answers.take_until(sleep(self.limit));
        let told = in_time.filter_map(async |(id, answer)| match answer.ok()? {
            left if left.ttl() < 0 => Some((id, Ttl::Gone)),
            left => Some((
                id,
                Ttl::Left {
                    seconds: left.ttl(),
                    granted: left.granted_ttl(),
                },
            )),
        });
        told.collect().await
    }
}

// === impl Watch ===

impl Watch {
    /// What happened next. Cancel safe; not bounded, for nothing may happen for long.
    pub(crate) async fn next(&mut self) -> Result<Vec<Event>, String> {
        let news = self
            .stream
            .message()
            .await
            .map_err(said)?
            .ok_or("the watch ended")?;
        // Lost between the listing and the watch, it would accept a watch of the future, and keep silent.
        if news
            .header()
            .is_some_and(|header| header.revision() < self.after)
        {
            return Err("etcd has lost its data".to_owned());
        }
        if news.canceled() {
            return Err(match news.compact_revision() {
                0 => format!("the watch was cancelled: {}", news.cancel_reason()),
                revision => format!("history up to revision {revision} was compacted"),
            });
        }
        let events = news.events().iter().filter_map(|event| {
            let kv = event.kv()?;
            Some(match event.event_type() {
                EventType::Put => Event::Put(kv.into()),
                EventType::Delete => Event::Delete(kv.key().to_vec()),
            })
        });
        Ok(events.collect())
    }
}

/// One call, bounded; its error names the member.
async fn bounded<T>(
    limit: Duration,
    endpoint: &str,
    call: impl Future<Output = Result<T, String>>,
) -> Result<T, String> {
    match timeout(limit, call).await {
        Ok(done) => done.map_err(|why| format!("{endpoint}: {why}")),
        Err(_) => Err(format!(
            "{endpoint}: no answer within {}",
            humantime::format_duration(limit)
        )),
    }
}

/// An error of etcd-client in few words; it has no sources.
fn said(error: etcd_client::Error) -> String {
    match &error {
        etcd_client::Error::GRpcStatus(status) => match status.source() {
            Some(source) => chain(source),
            None => status.message().to_owned(),
        },
        etcd_client::Error::TransportError(error) => chain(error),
        other => other.to_string(),
    }
}

/// An error and its causes, without repetitions.
pub(crate) fn chain(error: &(dyn StdError + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}
