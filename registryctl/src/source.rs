//! [`Source`]: the members of etcd, and what operators ask them.

use crate::access::Access;
use crate::entry::{Entry, foreign};
use crate::failure::{Failure, usage};
use etcd_client::{AlarmAction, AlarmMember, AlarmType, EventType, GetOptions, KeyValue};
use futures_util::StreamExt as _;
use futures_util::future::select_all;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::time::sleep;
use tonic_etcd::internal::{self, CallError, Target};

/// The members of an etcd cluster, tried one after the other.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) members: Vec<Target>,
    pub(crate) limit: Duration,
    scans: Vec<String>,
}

/// A connection to one member.
pub(crate) struct Connection {
    pub(crate) etcd: internal::Connection,
    limit: Duration,
    scans: Vec<String>,
}

/// All keys at one revision. With several scans, at one revision for each.
pub(crate) struct Listing {
    pub(crate) entries: Vec<Entry>,
    /// The revision of each scan.
    revisions: Vec<i64>,
}

/// A watch of each scan.
pub(crate) struct Watches(Vec<internal::Watch>);

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

/// How many leases are read at once.
const AT_ONCE: usize = 32;

// === impl Source ===

impl Source {
    /// Checks everything, and sends nothing.
    pub(crate) fn new(access: &Access, limit: Duration, scans: &[String]) -> Result<Self, Failure> {
        if limit.is_zero() {
            return usage("--timeout is 0: give the time that an answer may take, such as 2s");
        }
        Ok(Self {
            members: access.members()?,
            limit,
            scans: scans.to_vec(),
        })
    }

    pub(crate) async fn connect(&self, member: &Target) -> Result<Connection, CallError> {
        Ok(Connection {
            etcd: member.connect(self.limit).await?,
            limit: self.limit,
            scans: self.scans.clone(),
        })
    }

    /// Lists from the first member that answers.
    pub(crate) async fn first_answer(&self) -> Result<(Connection, Listing), Failure> {
        let mut said = String::new();
        for member in &self.members {
            let asked = async {
                let connection = self.connect(member).await?;
                let listing = connection.list().await?;
                Ok::<_, CallError>((connection, listing))
            };
            match asked.await {
                Ok(answer) => return Ok(answer),
                Err(error) => said += &format!("\n  {error}"),
            }
        }
        Err(Failure::Other(format!(
            "cannot list what is registered:{said}"
        )))
    }
}

// === impl Connection ===

impl Connection {
    /// Lists all keys.
    pub(crate) async fn list(&self) -> Result<Listing, CallError> {
        let (mut entries, mut revisions) = (vec![], vec![]);
        for scan in &self.scans {
            let (found, revision) = self.etcd.list(scan).await?;
            entries.extend(found.iter().map(Entry::from));
            revisions.push(revision);
        }
        Ok(Listing { entries, revisions })
    }

    /// Watches all changes after a listing.
    pub(crate) async fn watch(&self, after: &Listing) -> Result<Watches, CallError> {
        let mut watches = vec![];
        for (scan, revision) in self.scans.iter().zip(&after.revisions) {
            watches.push(self.etcd.watch(scan, *revision).await?);
        }
        Ok(Watches(watches))
    }

    /// Whether this member answers with a quorum. A watch on a member that hangs would send nothing forever.
    pub(crate) async fn alive(&self) -> Result<(), CallError> {
        self.etcd.count(&self.scans[0], false).await.map(drop)
    }

    /// The status of this member.
    pub(crate) async fn status(&self) -> Result<Status, CallError> {
        let mut maintenance = self.etcd.client().maintenance_client();
        let status = self.etcd.call(maintenance.status()).await?;
        let member = status.header().map_or(0, |header| header.member_id());
        let alarms = maintenance.alarm(AlarmAction::Get, AlarmType::None, None);
        let alarms = match self.etcd.call(alarms).await {
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

    /// At most `limit` keys with this prefix.
    pub(crate) async fn keys(&self, prefix: &str, limit: i64) -> Result<Vec<String>, CallError> {
        let options = GetOptions::new().with_prefix().with_keys_only();
        let found = self.get(prefix, options.with_limit(limit)).await?;
        Ok(found.iter().map(|kv| Entry::from(kv).key()).collect())
    }

    /// The lease that a key had before its last write; `None` if etcd does not know any more.
    pub(crate) async fn former_lease(&self, entry: &Entry) -> Option<i64> {
        let options = GetOptions::new().with_revision(entry.written - 1);
        let found = self.get(&entry.key(), options).await.ok()?;
        Some(found.first()?.lease())
    }

    /// One key.
    pub(crate) async fn entry(&self, key: &str) -> Result<Option<Entry>, CallError> {
        let found = self.get(key, GetOptions::new()).await?;
        Ok(found.first().map(Entry::from))
    }

    async fn get(&self, key: &str, options: GetOptions) -> Result<Vec<KeyValue>, CallError> {
        let mut kv = self.etcd.client().kv_client();
        let found = self.etcd.call(kv.get(key, Some(options))).await;
        found.map(|mut found| found.take_kvs())
    }

    /// The remaining time of these leases, as far as etcd answers in time.
    pub(crate) async fn ttls(&self, leases: impl IntoIterator<Item = i64>) -> Ttls {
        let leases: BTreeSet<_> = leases.into_iter().filter(|id| *id != 0).collect();
        let asked = leases.into_iter().map(|id| {
            let mut client = self.etcd.client().lease_client();
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

// === impl Watches ===

impl Watches {
    /// The next changes of any scan. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Vec<Event>, CallError> {
        let watches = self.0.iter_mut().map(|watch| Box::pin(watch.next()));
        let (events, ..) = select_all(watches).await;
        let events = events?.into_iter();
        let changes = events.filter_map(|event| {
            let kv = event.kv()?;
            Some(match event.event_type() {
                EventType::Put => Event::Put(kv.into()),
                EventType::Delete => Event::Delete(kv.key().to_vec()),
            })
        });
        Ok(changes.collect())
    }
}
