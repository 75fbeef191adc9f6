//! [`Keeper`]: the task that makes etcd agree with what is desired, until told to stop.
//!
//! ```text
//! wait for an entry -> obtain a lease -> hold it -> why did that end?
//!    Broken     another connection, the same lease
//!    LeaseGone  another lease
//!    Empty      revoke; wait for an entry
//!    Stop       revoke; the end
//! ```
//!
//! Every await here is bounded, and none of them outlasts a stop, the expiry of the lease or the
//! deadline of an entry on its way out: they all go through [`Keeper::attend_once`].

use super::desired::{Entry, Shared, Wish};
use super::exit::Leaving;
use super::report::Trouble;
use super::table::{EntryId, Table};
use crate::backoff::{Backoff, Bucket, Rate};
use crate::clock;
use crate::error::Error;
use crate::etcd::{Rotation, RpcError, RpcErrorKind, Session, with_timeout};
use crate::lease::{self, Lease};
use crate::lifecycle::health_acknowledged;
use crate::status::Status;
use futures_util::FutureExt as _;
use std::collections::BTreeMap;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::Instrument as _;

/// See the [module](self).
pub(super) struct Keeper {
    pub(super) shared: Arc<Shared>,
    pub(super) rng: fastrand::Rng,
    pub(super) lease: Option<Lease>,
    pub(super) table: Table,
    /// An entry that is bound to no particular address waits for its own to be found out.
    pub(super) unrouted: bool,
    /// When the connection of now first proved to work.
    pub(super) works_since: Option<Instant>,
    /// Which member is used, and how long to wait before the next connection.
    pub(super) rotation: Rotation,
    /// A lease that may exist in etcd and is to be revoked in the end.
    pub(super) asked: Option<i64>,
    /// A lease that could not be revoked when everything left. Whoever registers next may want a
    /// key that is under it.
    pub(super) owed: Option<i64>,
    /// When the way out that has begun is to be over.
    pub(super) stop_by: Option<Instant>,
    pub(super) session: Option<Session>,
    pub(super) leases: Bucket,
    pub(super) leaving: BTreeMap<EntryId, Leaving>,
    /// etcd is out of reach, though the lease may live.
    pub(super) trouble: Option<Trouble>,
    /// The lease is not known to live any more.
    pub(super) lost: Option<Trouble>,
    /// Why the last write was turned down, said once.
    pub(super) refusal: Option<Arc<str>>,
}

/// Why holding a lease, or waiting for something, ended.
#[derive(Debug)]
pub(super) enum Why {
    Stop,
    Empty,
    LeaseGone(RpcError),
    Broken(RpcError),
}

/// The cap of the wait after a refused connection. It costs next to nothing, and etcd may be back
/// any moment: half of this is what the median recovery takes.
pub(super) const BRISK: Duration = Duration::from_millis(250);
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// Fresh leases: enough at once for any mishap, few enough a minute if somebody revokes them all.
const LEASES: Rate = Rate {
    burst: 24,
    refill: Duration::from_secs(5),
};
/// After a panic of our own.
const REST: Duration = Duration::from_secs(1);

/// Starts the task that keeps `shared`.
pub(super) fn start(shared: Arc<Shared>) -> Result<(), Error> {
    let dedicated = shared.config.dedicated_thread;
    let orphaned = Orphaned(shared.clone());
    let task = async move {
        loop {
            let keeper = Keeper::new(shared.clone()).run();
            if AssertUnwindSafe(keeper).catch_unwind().await.is_ok() {
                break;
            }
            // A bug of ours. The keys go with their lease; a new keeper brings them back.
            tracing::error!("the registrar's task panicked, starting it again");
            let why: Arc<str> = "internal error: the registrar's task panicked".into();
            for entry in shared.entries() {
                entry.lifecycle.publish(Status::Lost {
                    since: Instant::now(),
                    reason: why.clone(),
                });
                shared.touch(entry.id);
            }
            sleep(REST).await;
        }
        drop(orphaned);
    };
    let task = task.in_current_span();
    if !dedicated {
        tokio::spawn(task);
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(Error::Thread)?;
    let thread = std::thread::Builder::new().name("tonic-etcd".to_owned());
    thread
        .spawn(move || runtime.block_on(task))
        .map(drop)
        .map_err(Error::Thread)
}

/// The runtime went away under the keeper: whoever waits for an end gets one.
struct Orphaned(Arc<Shared>);

impl Drop for Orphaned {
    fn drop(&mut self) {
        for entry in self.0.close() {
            entry.lifecycle.runtime_ended(match entry.is_armed() {
                false => Status::Deregistered,
                true => Status::LeftToExpire {
                    ttl: self.0.config.ttl,
                    reason: "the runtime ended".into(),
                },
            });
        }
    }
}

// === impl Keeper ===

impl Keeper {
    fn new(shared: Arc<Shared>) -> Self {
        let mut rng = fastrand::Rng::new();
        let calm = shared.config.ttl;
        Self {
            rotation: Rotation::new(Backoff::new(FIRST_RETRY, calm), &mut rng),
            rng,
            lease: None,
            table: Table::new(0, shared.config.on_conflict),
            unrouted: false,
            works_since: None,
            asked: None,
            owed: None,
            stop_by: None,
            session: None,
            leases: Bucket::default(),
            leaving: BTreeMap::new(),
            trouble: None,
            lost: None,
            refusal: None,
            shared,
        }
    }

    async fn run(mut self) {
        while self.wait_for_entries().await {
            match self.reign().await {
                Why::Stop => break,
                Why::Empty => self.step_down().await,
                Why::LeaseGone(error) | Why::Broken(error) => self.lose(&error.to_string()).await,
            }
        }
        self.step_down().await;
    }

    /// Waits until there is something to register. `false`: there never will be.
    async fn wait_for_entries(&mut self) -> bool {
        let shared = self.shared.clone();
        loop {
            if shared.is_stopping() {
                return false;
            }
            if shared.len() > 0 {
                return true;
            }
            tokio::select! {
                biased;
                () = shared.stopping() => return false,
                () = shared.changed() => {}
                () = shared.abandoned.cancelled() => return shared.len() > 0,
            }
        }
    }

    /// One lease, over as many connections as it takes.
    async fn reign(&mut self) -> Why {
        while let Err(until) = self.leases.take(LEASES, Instant::now()) {
            if let Err(why) = self.attend(sleep_until(until)).await {
                return why;
            }
        }
        if let Err(why) = self.obtain().await {
            return why;
        }
        for entry in self.shared.entries() {
            self.follow(&entry);
        }
        let mut fresh = true;
        loop {
            match self.hold(fresh).await {
                Why::Broken(error) => {
                    if let Err(why) = self.recover(error).await {
                        return why;
                    }
                    fresh = false;
                }
                why => return why,
            }
        }
    }

    /// Gets a lease, however long it takes.
    ///
    /// We choose its id, so that asking again after a lost reply cannot make a second one, and so
    /// that it can be revoked without ever having seen a reply.
    async fn obtain(&mut self) -> Result<(), Why> {
        let id = lease::fresh_id(&mut self.rng);
        let mut first_sent = None;
        loop {
            match self.grant(id, &mut first_sent).await {
                Err(Why::Broken(error)) => self.recover(error).await?,
                other => return other,
            }
        }
    }

    async fn grant(&mut self, id: i64, first_sent: &mut Option<Instant>) -> Result<(), Why> {
        let session = self.session().await?;
        let (limit, wanted) = (self.shared.config.attempt, self.shared.config.ttl);
        if let Some(owed) = self.owed {
            let revoke = with_timeout(limit, session.endpoint(), session.clone().revoke(owed));
            self.attend(revoke).await?.map_err(Why::Broken)?;
            self.owed = None;
        }
        self.asked = Some(id);
        let mut sent = Instant::now();
        let first_sent = *first_sent.get_or_insert(sent);
        let grant = session.clone().grant(id, wanted);
        let mut grant = pin!(with_timeout(limit, session.endpoint(), grant));
        let granted = match self.attend(grant.as_mut()).await {
            Ok(granted) => granted,
            Err(why) => {
                // Let it land first: a revoke that overtakes it would leave a lease behind. That
                // takes its time out of the same purse.
                self.stop_by.get_or_insert(self.revoke_deadline());
                let _ = timeout(self.shared.config.revoke_timeout / 2, grant).await;
                return Err(why);
            }
        };
        let ttl = match granted {
            Ok(ttl) => ttl,
            Err(error) if error.kind() == RpcErrorKind::LeaseExists => {
                // It was granted by one of the requests before, and counts from then on.
                sent = first_sent;
                wanted
            }
            Err(error) => return Err(Why::Broken(error)),
        };
        if ttl != wanted {
            tracing::warn!(?wanted, granted = ?ttl, "etcd granted another TTL, following it");
        }
        self.works_since.get_or_insert(sent);
        let lease = Lease::granted(id, ttl, sent, &mut self.rng);
        self.shared
            .lease_expiry
            .set(lease.expiry() + clock::suspended());
        self.lease = Some(lease);
        self.table = Table::new(id, self.shared.config.on_conflict);
        self.lost = None;
        self.calm();
        tracing::debug!(lease = format_args!("{id:x}"), ?ttl, "lease granted");
        Ok(())
    }

    /// The connection of now, or a new one to the member whose turn it is.
    pub(super) async fn session(&mut self) -> Result<Session, Why> {
        if let Some(session) = &self.session {
            return Ok(session.clone());
        }
        let shared = self.shared.clone();
        let members = &shared.config.members;
        let member = self.rotation.member(members);
        tracing::debug!(endpoint = %member.shown(), "connecting to etcd");
        let connect = Session::connect(members, &member, shared.config.attempt);
        let session = self.attend(connect).await?.map_err(Why::Broken)?;
        self.session = Some(session.clone());
        Ok(session)
    }

    /// After a broken connection: what to try next, and when.
    async fn recover(&mut self, error: RpcError) -> Result<(), Why> {
        let error = match (&self.lease, self.works_since) {
            (None, None) => error.at_first(),
            _ => error,
        };
        tracing::debug!(%error, "attempt failed");
        self.session = None;
        self.table.doubt();
        let worked = self
            .works_since
            .take()
            .map_or(Duration::ZERO, |since| since.elapsed());
        let config = &self.shared.config;
        let (members, limits) = (&config.members, (BRISK, config.attempt));
        let rng = &mut self.rng;
        let pause = self.rotation.failed(&error, members, worked, limits, rng);
        let failures = self.rotation.failures();
        self.worry(&failures);
        self.attend(sleep(pause)).await
    }

    /// Waits for `future`, while everything else that may not wait is done.
    pub(super) async fn attend<T>(&mut self, future: impl Future<Output = T>) -> Result<T, Why> {
        let mut future = pin!(future);
        loop {
            if let Some(out) = self.attend_once(future.as_mut()).await? {
                return Ok(out);
            }
        }
    }

    /// As [`attend`](Self::attend), but gives `None` after anything else was done.
    ///
    /// The order matters. A stop comes first. Expiry comes before the answer that may be waiting:
    /// after the process was frozen, both are there at once, and the world must learn that the
    /// lease ran out before it learns that all is well again.
    pub(super) async fn attend_once<T>(
        &mut self,
        future: Pin<&mut impl Future<Output = T>>,
    ) -> Result<Option<T>, Why> {
        if self.pull().await? {
            // Whoever waits has planned without knowing this.
            return Ok(None);
        }
        let shared = self.shared.clone();
        let wake = self.next_deadline();
        tokio::select! {
            biased;
            () = shared.stopping() => Err(Why::Stop),
            () = sleep_until_some(wake) => {
                self.pass_deadlines().await;
                Ok(None)
            }
            out = future => Ok(Some(out)),
            () = shared.changed() => Ok(None),
        }
    }

    /// Takes in what handles changed, and tells whether anything did.
    async fn pull(&mut self) -> Result<bool, Why> {
        let changed = self.shared.take_changed();
        // Those that leave tell their health services together, within one limit.
        let leaving = changed.iter().filter(|entry| entry.is_leaving());
        let leaving = leaving.map(|entry| {
            entry.begin_leaving();
            entry.lifecycle.clone()
        });
        health_acknowledged(leaving.collect()).await;
        for entry in &changed {
            self.follow(entry);
        }
        let waiting = self
            .leaving
            .values()
            .filter(|leaving| leaving.deadline.is_some())
            .count();
        if self.shared.len() == waiting {
            Err(Why::Empty)
        } else {
            Ok(!changed.is_empty())
        }
    }

    /// Makes the table want what `entry` wants.
    pub(super) fn follow(&mut self, entry: &Arc<Entry>) {
        let id = self.lease.as_ref().map_or(0, Lease::id);
        match entry.wish(&self.shared.config.formats, id) {
            Wish::Leave => self.lead_out(entry),
            Wish::Wait => self.unrouted |= entry.needs_route(),
            Wish::Keys(_) if self.lease.is_none() => {}
            Wish::Keys(records) => {
                if let Err(key) = self.table.want(entry.id, records) {
                    // Checked when it was registered; only an address that was found out later
                    // can still collide.
                    let why = format!("another registration here has the key {key:?}");
                    tracing::error!("{why}");
                    entry.lifecycle.publish(Status::Registering {
                        reason: Some(why.into()),
                    });
                }
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let expiry = self
            .lease
            .as_ref()
            .filter(|_| self.lost.is_none())
            .map(Lease::expiry);
        let leaving = self.leaving.values().filter_map(|leaving| leaving.deadline);
        expiry.into_iter().chain(leaving).min()
    }
}

pub(super) async fn sleep_until_some(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
