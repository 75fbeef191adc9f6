//! [`Source`]: calls etcd. The only module that uses `etcd-client`.
//!
//! It uses one member at a time, and every call has a timeout. `etcd-client` itself waits for ever. With several endpoints it
//! picks one at random for each call, also one that is down.

use crate::access::Access;
use crate::call_error::{CallError, ErrorKind, bounded, chain, failed};
use crate::entry::{Entry, foreign};
use crate::failure::{Failure, usage};
use crate::member::Member;
use etcd_client::{
    AlarmAction, AlarmMember, AlarmType, Channel, Client, ConnectOptions, EventType, GetOptions,
    GetResponse, WatchOptions, WatchStream,
};
use futures_util::StreamExt as _;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// The members of an etcd cluster, tried one after the other.
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

/// All keys at one revision. With several scans, at one revision for each.
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

/// A change of a key.
#[derive(Debug)]
pub(crate) enum Event {
    Put(Entry),
    Delete(Vec<u8>),
}

/// The remaining time of a lease.
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

/// The status of a member.
#[derive(Debug)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) is_leader: bool,
    pub(crate) has_leader: bool,
    pub(crate) is_learner: bool,
    pub(crate) alarms: Vec<String>,
}

/// Ten thousand instances can come in one message.
const MESSAGE_LIMIT: usize = 256 * 1024 * 1024;
/// How many leases are read at once.
const AT_ONCE: usize = 32;

// === impl Source ===

impl Source {
    /// Checks everything, and sends nothing.
    pub(crate) fn new(access: &Access, limit: Duration, scans: &[String]) -> Result<Self, Failure> {
        if limit.is_zero() {
            return usage("--timeout is 0: give the time that an answer may take, such as 2s");
        }
        let members = Member::all(access, limit)?;
        let user = access.credentials().map_err(Failure::Usage)?;
        let user = user.map(|(user, password)| (user.to_owned(), password.to_owned()));
        Ok(Self {
            members,
            user,
            limit,
            scans: scans.to_vec(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }

    /// Where a member is dialled.
    pub(crate) fn member(&self, index: usize) -> &Member {
        &self.members[index % self.members.len()]
    }

    /// Asks as nobody from now on. Whether there was a user.
    pub(crate) fn drop_user(&mut self) -> bool {
        self.user.take().is_some()
    }

    /// Connects to the member `index`, modulo their number.
    pub(crate) async fn connect(&self, index: usize) -> Result<Connection, CallError> {
        let member = self.member(index);
        let connect = async {
            let channel = member.endpoint.connect().await;
            let channel = channel.map_err(|error| (ErrorKind::Transport, chain(&error)))?;
            let mut options = ConnectOptions::new().with_require_leader(true);
            options = options.with_auto_token_refresh(true);
            if let Some((user, password)) = &self.user {
                options = options.with_user(user, password);
            }
            Client::from_channel(Channel::Tonic(channel), Some(options))
                .await
                .map_err(failed)
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
    /// Lists all keys.
    pub(crate) async fn list(&self) -> Result<Listing, CallError> {
        let mut listing = Listing {
            entries: vec![],
            revisions: vec![],
        };
        for scan in &self.scans {
            let found = self.get(scan, GetOptions::new().with_prefix()).await?;
            listing.entries.extend(found.kvs().iter().map(Entry::from));
            listing
                .revisions
                .push(found.header().map_or(0, |header| header.revision()));
        }
        Ok(listing)
    }

    /// Watches all changes after a listing.
    pub(crate) async fn watch(&self, after: &Listing) -> Result<Watch, CallError> {
        let watches = self.scans.iter().zip(&after.revisions);
        let mut watches = watches.map(|(scan, revision)| {
            let options = WatchOptions::new().with_prefix();
            let options = options.with_start_revision(revision + 1);
            (scan.as_str(), Some(options))
        });
        let client = self.client.watch_client();
        let mut client = client.max_decoding_message_size(MESSAGE_LIMIT);
        let open = async {
            let (scan, options) = watches.next().unwrap_or_default();
            let mut stream = client.watch(scan, options).await?;
            for (scan, options) in watches {
                stream.watch(scan, options).await?;
            }
            Ok(stream)
        };
        let stream = self.ask(open).await?;
        let after = after.revisions.iter().copied().min().unwrap_or_default();
        Ok(Watch { stream, after })
    }

    /// Whether this member answers with a quorum. A watch on a member that hangs would send nothing for ever.
    pub(crate) async fn alive(&self) -> Result<(), CallError> {
        let first = self.scans.first().map_or("", String::as_str);
        self.count(first).await.map(drop)
    }

    /// The status of this member.
    pub(crate) async fn status(&self) -> Result<Status, CallError> {
        let mut maintenance = self.client.maintenance_client();
        let status = self.ask(maintenance.status()).await?;
        let member = status.header().map_or(0, |header| header.member_id());
        let alarms = maintenance.alarm(AlarmAction::Get, AlarmType::None, None);
        let alarms = match self.ask(alarms).await {
            Ok(found) => found.alarms().iter().map(shown_alarm).collect(),
            // Some users may not list alarms; the status has them, too.
            Err(_) => status.errors().iter().take(AT_ONCE).map(foreign).collect(),
        };
        Ok(Status {
            version: foreign(status.version()),
            is_leader: status.leader() != 0 && status.leader() == member,
            has_leader: status.leader() != 0,
            is_learner: status.is_learner(),
            alarms,
        })
    }

    /// The number of keys with this prefix.
    pub(crate) async fn count(&self, prefix: &str) -> Result<i64, CallError> {
        let options = GetOptions::new().with_prefix().with_count_only();
        Ok(self.get(prefix, options).await?.count())
    }

    /// At most `limit` keys with this prefix.
    pub(crate) async fn keys(&self, prefix: &str, limit: i64) -> Result<Vec<String>, CallError> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let found = self.get(prefix, options.with_limit(limit)).await?;
        Ok(found.kvs().iter().map(|kv| Entry::from(kv).key()).collect())
    }

    /// The lease that a key had before its last write; `None` if etcd does not know any more.
    pub(crate) async fn former_lease(&self, entry: &Entry) -> Option<i64> {
        let options = GetOptions::new().with_revision(entry.written - 1);
        let found = self.get(&entry.key(), options).await.ok()?;
        Some(found.kvs().first()?.lease())
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<GetResponse, CallError> {
        let kv = self.client.kv_client();
        let mut kv = kv.max_decoding_message_size(MESSAGE_LIMIT);
        self.ask(kv.get(key, Some(options))).await
    }

    async fn ask<T>(
        &self,
        call: impl Future<Output = Result<T, etcd_client::Error>>,
    ) -> Result<T, CallError> {
        let call = async { call.await.map_err(failed) };
        bounded(self.limit, &self.endpoint, call).await
    }

    /// The remaining time of these leases, as far as etcd answers in time.
    pub(crate) async fn ttls(&self, leases: impl IntoIterator<Item = i64>) -> Ttls {
        let leases: BTreeSet<_> = leases.into_iter().filter(|id| *id != 0).collect();
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

fn shown_alarm(alarm: &AlarmMember) -> String {
    match alarm.alarm() {
        AlarmType::Nospace => "NOSPACE".to_owned(),
        AlarmType::Corrupt => "CORRUPT".to_owned(),
        AlarmType::None => "of an unknown kind".to_owned(),
    }
}

// === impl Watch ===

impl Watch {
    /// The next changes. Cancel safe; without a timeout, because there may be no change for long.
    pub(crate) async fn next(&mut self) -> Result<Vec<Event>, String> {
        let news = self
            .stream
            .message()
            .await
            .map_err(|error| failed(error).1)?
            .ok_or("the watch ended")?;
        // If etcd lost its data between the listing and the watch, it would accept a watch from a future revision, and send nothing.
        if news
            .header()
            .is_some_and(|header| header.revision() < self.after)
        {
            return Err("etcd has lost its data".to_owned());
        }
        if news.canceled() {
            return Err(match news.compact_revision() {
                0 => format!("the watch was cancelled: {}", foreign(news.cancel_reason())),
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
