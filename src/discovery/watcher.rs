//! [`Watcher`]: the task that keeps the set as etcd has it.
//!
//! ```text
//! connect -> is it still the history that we know?  no:  list, and pass on the differences
//!                                                   yes: go on where we were
//!         -> watch, and ask for a sign of life when it is quiet
//!         -> why did that end?  wait a little; another member, or the same
//! ```
//!
//! That etcd still has *some* history at our revision proves nothing: one that lost its data counts
//! anew, accepts a watch from a revision it has yet to reach, and is silent; or it has passed that
//! revision already, and what happened before would be missed. So a key that we know is looked at
//! as it was at our revision: lease ids are random, and no other history has the same.

use super::shared::Shared;
use super::store::{Reading, Store};
use crate::backoff::{Backoff, Bucket, Rate};
use crate::etcd::{
    Endpoints, EventKind, KeyMeta, KeyValue, Rotation, RpcError, RpcErrorKind, Session,
    WatchReplies, WatchRequests, WatchResponse, with_timeout,
};
use crate::format::{Format, Unreadable};
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// See the [module](self).
pub(super) struct Watcher {
    shared: Arc<Shared>,
    members: Endpoints,
    service: Arc<str>,
    format: Arc<dyn Format>,
    prefix: String,
    limit: Duration,
    retention: Duration,
    max: usize,
    rng: fastrand::Rng,
    rotation: Rotation,
    /// When the connection of now first proved to work.
    works_since: Option<Instant>,
    /// Until when deletions are not believed, if too many come; then, until when what is missing
    /// is kept. Both begin when etcd can be watched again.
    belief: Option<Instant>,
    retention_ends: Option<Instant>,
    /// Most are back, and nobody else has come for a while then.
    settled: Option<Instant>,
    stragglers: Option<usize>,
    page: i64,
    warnings: Bucket,
    troubled: bool,
}

/// An etcd that stood still deletes the keys of whole fleets when it goes on, within a second or
/// two, before the servers have heard of it. After that a deletion is the truth.
const STALLED: Duration = Duration::from_secs(5);
/// Servers that look for etcd are back within a second of each other.
const STRAGGLING: Duration = Duration::from_secs(1);
/// How long a stream may be quiet before it is asked for a sign of life.
const QUIET: Duration = Duration::from_secs(2);
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// After refused connections: cheap, and etcd may be back any moment.
const BRISK: Duration = Duration::from_millis(500);
/// A connection that worked for so long starts the backoff over.
const CALM: Duration = Duration::from_secs(5);
/// Keys in one page: some hundred kilobytes, as values commonly are.
const PAGE: i64 = 1000;
/// A value above this is passed over unread.
const MAX_VALUE: usize = 64 * 1024;
/// Warnings about values that do not read; the count is in the snapshot.
const WARNINGS: Rate = Rate {
    burst: 5,
    refill: Duration::from_secs(60),
};

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(
        shared: Arc<Shared>,
        members: Endpoints,
        (service, format, prefix): (Arc<str>, Arc<dyn Format>, String),
        (limit, retention, max): (Duration, Duration, usize),
    ) -> Self {
        let mut rng = fastrand::Rng::new();
        Self {
            shared,
            members,
            service,
            format,
            prefix,
            limit,
            retention,
            max,
            rotation: Rotation::new(Backoff::new(FIRST_RETRY, CALM), &mut rng),
            rng,
            works_since: None,
            belief: None,
            retention_ends: None,
            settled: None,
            stragglers: None,
            page: PAGE,
            warnings: Bucket::default(),
            troubled: false,
        }
    }

    /// Never ends.
    pub(super) async fn run(mut self) {
        loop {
            let error = match self.keep().await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            let pause = self.broke(&error);
            self.believing(sleep(pause)).await;
        }
    }

    /// One connection, for as long as it goes well.
    async fn keep(&mut self) -> Result<std::convert::Infallible, RpcError> {
        let member = self.rotation.member(&self.members);
        let endpoint = member.shown().clone();
        let session = Session::connect(&self.members, &member, self.limit).await?;
        if !self.knows_our_history(&session).await? {
            self.list(&session).await?;
        }
        let from = self.shared.store(|store, _| store.revision()) + 1;
        let stream = session.clone().watch_prefix(&self.prefix, from);
        let (mut requests, mut replies) = with_timeout(self.limit, &endpoint, stream).await?;
        self.works();
        loop {
            self.hear(&endpoint, &mut requests, &mut replies).await?;
        }
    }

    /// Waits for the next news, and for a sign of life if there are none.
    async fn hear(
        &mut self,
        endpoint: &Arc<str>,
        requests: &mut WatchRequests,
        replies: &mut WatchReplies,
    ) -> Result<(), RpcError> {
        let (limit, quiet) = (self.limit, self.quiet());
        let next = async {
            if let Ok(news) = timeout(quiet, replies.next()).await {
                return news;
            }
            let answered = async {
                requests.ask_progress().await?;
                replies.next().await
            };
            with_timeout(limit, endpoint, answered).await
        };
        let news = self.believing(next).await?;
        self.take(endpoint, news)
    }

    /// Jittered, so that a fleet does not ask in step.
    fn quiet(&mut self) -> Duration {
        QUIET.mul_f64(0.75 + self.rng.f64() / 2.0)
    }

    fn take(&mut self, endpoint: &Arc<str>, news: WatchResponse) -> Result<(), RpcError> {
        // A stream from the future: etcd counts anew. The revision of a cancellation is 0.
        let known = self.shared.store(|store, _| store.revision());
        if news.ended.is_none() && news.revision < known {
            let what = format!("its revision went back from {known} to {}", news.revision);
            self.shared.store(|store, _| store.forget_history());
            return Err(RpcError::broken(endpoint, what));
        }
        let events: Vec<_> = news
            .events
            .into_iter()
            .map(|event| match event.kind {
                EventKind::Put { lease, value } => Ok(self.read(KeyValue {
                    key: event.key,
                    value,
                    seen: KeyMeta {
                        lease,
                        revision: event.revision,
                    },
                })),
                EventKind::Delete => Err((event.key, event.revision)),
            })
            .collect();
        if !events.is_empty() {
            self.shared.store(|store, updates| {
                for event in events {
                    match event {
                        Ok(reading) => store.put(reading, updates),
                        Err((key, revision)) => store.deleted(&key, revision, updates),
                    }
                }
            });
        }
        match news.ended {
            None => Ok(()),
            Some((_, error)) => {
                if error.kind() == RpcErrorKind::Compacted {
                    self.shared.store(|store, _| store.forget_history());
                }
                Err(error)
            }
        }
    }

    /// Whether we can go on where we were.
    async fn knows_our_history(&mut self, session: &Session) -> Result<bool, RpcError> {
        let (witness, revision) = self
            .shared
            .store(|store, _| (store.witness(), store.revision()));
        let Some((key, seen)) = witness.filter(|_| revision > 0) else {
            return Ok(false);
        };
        let look = session.clone().seen_at(&key, revision);
        match with_timeout(self.limit, session.endpoint(), look).await {
            Ok(there) => Ok(there == Some(seen)),
            Err(error) if error.kind() == RpcErrorKind::Compacted => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads everything anew, and passes on the differences.
    async fn list(&mut self, session: &Session) -> Result<(), RpcError> {
        let (mut from, mut revision) = (self.prefix.clone().into_bytes(), 0);
        let (mut readings, mut total) = (vec![], 0);
        loop {
            let page = session
                .clone()
                .page(&self.prefix, from.clone(), revision, self.page);
            let page = match with_timeout(self.limit, session.endpoint(), page).await {
                Err(error) if error.kind() == RpcErrorKind::TooLarge && self.page > 1 => {
                    self.page = (self.page / 10).max(1);
                    continue;
                }
                other => other?,
            };
            if revision == 0 {
                (revision, total) = (page.revision, usize::try_from(page.count).unwrap_or(0));
            }
            for found in page.found {
                if readings.len() < self.max {
                    let reading = self.read(found);
                    readings.push(reading);
                }
            }
            match page.next.filter(|_| readings.len() < self.max) {
                Some(next) => from = next,
                None => break,
            }
        }
        let crowded = total.saturating_sub(readings.len());
        if crowded > 0 {
            tracing::warn!(prefix = %self.prefix, max = self.max, crowded, "too many keys, passing over the rest");
        }
        let missing = self.shared.store(|store, updates| {
            store.list(readings, crowded, revision, updates);
            store.missing()
        });
        if missing > 0 {
            tracing::warn!(
                prefix = %self.prefix, missing, retention = ?self.retention,
                "more than half of the instances are gone from etcd, keeping them for the time being",
            );
        }
        Ok(())
    }

    fn read(&mut self, found: KeyValue) -> Reading {
        let KeyValue { key, value, seen } = found;
        let read = match value.len() {
            // A format may be somebody else's. Its bug costs one value, and not the whole set.
            ..=MAX_VALUE => std::panic::catch_unwind(AssertUnwindSafe(|| {
                self.format.read(&self.service, &key, &value)
            }))
            .unwrap_or_else(|_| Err(Unreadable::new("made its format panic"))),
            len => Err(Unreadable::new(format!(
                "is {len} bytes long, {MAX_VALUE} at most are read"
            ))),
        };
        if let Err(why) = &read {
            match self.warnings.take(WARNINGS, Instant::now()) {
                Ok(()) => tracing::warn!(%key, %why, "passing over a value that does not read"),
                Err(_) => tracing::debug!(%key, %why, "passing over a value that does not read"),
            }
        }
        Reading {
            key,
            seen,
            instance: read.ok(),
        }
    }

    /// The watch stands.
    fn works(&mut self) {
        self.works_since = Some(Instant::now());
        if std::mem::take(&mut self.troubled) {
            tracing::info!(prefix = %self.prefix, "watching etcd again");
        }
        self.shared.set_watch_error(None);
        self.stragglers = None;
        self.belief = Some(Instant::now() + self.retention.min(STALLED));
        self.retention_ends = Some(Instant::now() + self.retention);
    }

    /// The connection broke. Gives how long to wait before the next one.
    fn broke(&mut self, error: &RpcError) -> Duration {
        (self.belief, self.retention_ends, self.settled) = (None, None, None);
        let worked = self.works_since.take();
        let worked = worked.map_or(Duration::ZERO, |since| since.elapsed());
        if !self.retention.is_zero() {
            self.shared.store(|store, _| store.distrust());
        }
        if !std::mem::replace(&mut self.troubled, true) {
            tracing::warn!(prefix = %self.prefix, why = %error, "etcd cannot be watched, keeping what is known");
        }
        self.shared.set_watch_error(Some(error.to_string().into()));
        let (limits, rng) = ((BRISK, self.limit), &mut self.rng);
        self.rotation
            .failed(error, &self.members, worked, limits, rng)
    }

    /// Who is not back a while after the last one who was, and after most, is gone.
    fn look_for_stragglers(&mut self) {
        let stragglers = self.shared.store(|store, _| store.stragglers());
        if stragglers != self.stragglers {
            self.stragglers = stragglers;
            let since = self.works_since.filter(|_| stragglers.is_some());
            self.settled = since.map(|_| Instant::now() + STRAGGLING);
        }
    }

    /// Waits for `future`, and believes etcd again when the retention is over meanwhile.
    async fn believing<T>(&mut self, future: impl Future<Output = T>) -> T {
        let mut future = std::pin::pin!(future);
        loop {
            self.look_for_stragglers();
            let timers = [self.belief, self.settled, self.retention_ends];
            let Some(at) = timers.into_iter().flatten().min() else {
                return future.await;
            };
            tokio::select! {
                biased;
                out = &mut future => return out,
                () = sleep_until(at) => {}
            }
            if self.belief == Some(at) {
                self.belief = None;
                self.shared.store(|store, _| store.believe());
                continue;
            }
            (self.settled, self.retention_ends) = (None, None);
            let given_up = self.shared.store(|store: &mut Store, updates| {
                let missing = store.missing();
                store.trust(updates);
                missing
            });
            if given_up > 0 {
                tracing::warn!(prefix = %self.prefix, given_up, "instances did not come back in time");
            }
        }
    }
}
