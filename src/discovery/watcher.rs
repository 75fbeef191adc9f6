//! [`Watcher`]: the task that keeps the set as etcd has it.
//!
//! ```text
//! connect -> is it still the history that we know?  no:  list, and pass on the differences
//!                                                   yes: go on where we were
//!         -> watch, and send a probe when it is quiet
//!
//! why the watch ended                        next
//! Room: keys were passed over, and there     list on the same connection
//!       may be room for them now
//! Failed                                     wait; another member or the same (`Rotation`)
//! ```
//!
//! That etcd still has *some* history at our revision proves nothing: one that lost its data counts
//! anew, accepts a watch from a revision it has yet to reach, and is silent; or it has passed that
//! revision already, and what happened before would be missed. So a key that we know is looked at
//! as it was at our revision: lease ids are random, and no other history has the same.

use super::decoder::Decoder;
use super::lister::Lister;
use super::report::Report;
use super::shared::Shared;
use super::store::{Limits, Reading, SHORTEST_TTL, Store};
use crate::backoff::Backoff;
use crate::etcd::{
    Endpoints, EventKind, KeyMeta, KeyValue, Rotation, RpcError, RpcErrorKind, Session,
    WatchReplies, WatchRequests, WatchResponse, with_timeout,
};
use futures_util::FutureExt as _;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// See the [module](self).
pub(super) struct Watcher {
    shared: Arc<Shared>,
    endpoints: Endpoints,
    decoder: Decoder,
    prefix: String,
    /// For one attempt.
    limit: Duration,
    rng: fastrand::Rng,
    rotation: Rotation,
    /// When the watch of now was created.
    connected_since: Option<Instant>,
    lister: Lister,
    listed_at: Option<Instant>,
    report: Report,
}

/// Why a watch ended.
enum Ended {
    /// Keys were passed over, and there may be room for them now.
    Room,
    Failed(RpcError),
}

/// What an open watch waits for.
enum Next {
    Response(Result<WatchResponse, RpcError>),
    Deadline,
    Quiet,
}

/// An open watch.
struct Watch {
    replies: WatchReplies,
    /// The stream ends when this is dropped.
    _requests: WatchRequests,
    endpoint: Arc<str>,
    /// How many keys there were at the last probe, if nothing has happened since.
    count: Option<i64>,
}

/// How long a watch may be quiet before a probe is sent. An answer must come
/// before etcd counts as silent, on a slow link too.
const QUIET: Duration = Duration::from_millis(SHORTEST_TTL.as_millis() as u64 / 2);
/// Above so many keys a probe does not count them: that would be work for etcd.
const COUNTED: usize = 1000;
const FIRST_RETRY: Duration = Duration::from_millis(50);
/// The longest wait after a refused connection: an attempt is cheap, and etcd may be back soon.
const MAX_REFUSED_PAUSE: Duration = Duration::from_millis(500);
/// The longest wait after any other failure, whatever the limit of an attempt is.
const MAX_PAUSE: Duration = Duration::from_secs(5);
/// A connection that worked for so long resets the backoff.
const RESET_AFTER: Duration = Duration::from_secs(5);
/// After a panic.
const RESTART_PAUSE: Duration = Duration::from_secs(1);
/// Between two lists because there may be room again.
const RELIST: Duration = Duration::from_secs(10);

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(
        shared: Arc<Shared>,
        endpoints: Endpoints,
        (decoder, prefix): (Decoder, String),
        (limit, limits): (Duration, Limits),
    ) -> Self {
        let mut rng = fastrand::Rng::new();
        Self {
            shared,
            endpoints,
            decoder,
            limit,
            rotation: Rotation::new(Backoff::new(FIRST_RETRY, RESET_AFTER), &mut rng),
            rng,
            connected_since: None,
            listed_at: None,
            lister: Lister::new(prefix.clone(), limit, limits),
            report: Report::new(prefix.clone(), limits),
            prefix,
        }
    }

    /// Never ends, and is started again after a panic.
    pub(super) async fn run(mut self) {
        loop {
            if let Ok(never) = AssertUnwindSafe(self.run_sessions()).catch_unwind().await {
                match never {}
            }
            self.connected_since = None;
            self.report.panicked();
            let error = "internal error: the task that watches etcd panicked";
            self.shared.set_watch_error(Some(error.into()));
            sleep(RESTART_PAUSE).await;
        }
    }

    async fn run_sessions(&mut self) -> Infallible {
        loop {
            let error = match self.run_session().await {
                Ok(never) => match never {},
                Err(error) => error,
            };
            let pause = self.on_disconnect(&error);
            sleep(pause).await;
        }
    }

    /// One connection, for as long as it works.
    async fn run_session(&mut self) -> Result<Infallible, RpcError> {
        let member = self.rotation.member(&self.endpoints);
        let session = Session::connect(&self.endpoints, &member, self.limit).await?;
        if !self.history_continues(&session).await? {
            self.list(&session).await?;
        }
        loop {
            let mut watch = self.open_watch(&session).await?;
            match self.run_watch(&session, &mut watch).await {
                Ended::Failed(error) => return Err(error),
                Ended::Room => self.list(&session).await?,
            }
        }
    }

    /// Whether etcd has the history that we know, so that we can go on where we were.
    async fn history_continues(&mut self, session: &Session) -> Result<bool, RpcError> {
        let known = |store: &mut Store, _: &mut _| (store.history_probe(), store.revision());
        let (probe, revision) = self.shared.store(known);
        let Some((key, seen)) = probe.filter(|_| revision > 0) else {
            return Ok(false);
        };
        let look = session.clone().seen_at(&key, revision);
        let there = with_timeout(self.limit, session.endpoint(), look).await;
        match there {
            Err(error) if error.kind() != RpcErrorKind::Compacted => return Err(error),
            _ => self.on_answer(),
        }
        Ok(there.is_ok_and(|there| there == Some(seen)))
    }

    async fn open_watch(&mut self, session: &Session) -> Result<Watch, RpcError> {
        let endpoint = session.endpoint().clone();
        let from = self.shared.store(|store, _| store.revision()) + 1;
        let opening = async {
            let stream = session.clone().watch_prefix(&self.prefix, from);
            let (requests, mut replies) = stream.await?;
            Ok((requests, replies.next().await?, replies))
        };
        let (requests, created, replies) = with_timeout(self.limit, &endpoint, opening).await?;
        self.on_response(&endpoint, created)?;
        self.on_connected();
        Ok(Watch {
            replies,
            _requests: requests,
            endpoint,
            count: None,
        })
    }

    async fn run_watch(&mut self, session: &Session, watch: &mut Watch) -> Ended {
        let mut probe_at = Instant::now() + self.quiet();
        loop {
            let next = tokio::select! {
                biased;
                response = watch.replies.next() => Next::Response(response),
                () = self.deadline() => Next::Deadline,
                () = sleep_until(probe_at) => Next::Quiet,
            };
            let done = match next {
                Next::Deadline => {
                    self.expire();
                    continue;
                }
                Next::Response(response) => {
                    watch.count = None;
                    response.and_then(|response| self.on_response(&watch.endpoint, response))
                }
                Next::Quiet => self.probe(session, watch).await,
            };
            if let Err(error) = done {
                return Ended::Failed(error);
            }
            probe_at = Instant::now() + self.quiet();
            if self.wants_list() {
                return Ended::Room;
            }
        }
    }

    /// Probes etcd: how many keys are there? It is over when an event comes meanwhile.
    ///
    /// Not by a request for progress on the stream of watches: etcd 3.5 and later do not answer
    /// that as long as nobody writes anything, and `grpc-proxy` never does.
    async fn probe(&mut self, session: &Session, watch: &mut Watch) -> Result<(), RpcError> {
        let limit = self.limit;
        let each = self.shared.store(|store, _| store.keys()) <= COUNTED;
        let asked = session.clone().count(&self.prefix, each);
        let (revision, count) = tokio::select! {
            biased;
            response = watch.replies.next() => {
                watch.count = None;
                return self.on_response(&watch.endpoint, response?);
            }
            answer = with_timeout(limit, &watch.endpoint, asked) => answer?,
        };
        self.on_revision(&watch.endpoint, revision)?;
        self.on_answer();
        match watch.count.replace(count) {
            Some(before) if before != count => {
                // The answer may have come through another member than the events: through a proxy
                // that balances requests. Then the stream may be dead, and only this shows it.
                watch.count = None;
                let event = with_timeout(limit, &watch.endpoint, watch.replies.next());
                let event = event.await.map_err(|error| match error.kind() {
                    RpcErrorKind::Timeout => {
                        let what = "the watch missed a change of the number of keys";
                        RpcError::broken(&watch.endpoint, what)
                    }
                    _ => error,
                });
                self.on_response(&watch.endpoint, event?)
            }
            _ => Ok(()),
        }
    }

    /// Jittered, so that a fleet does not ask in step.
    fn quiet(&mut self) -> Duration {
        QUIET.mul_f64(0.9 + self.rng.f64() / 5.0)
    }

    fn on_response(
        &mut self,
        endpoint: &Arc<str>,
        response: WatchResponse,
    ) -> Result<(), RpcError> {
        // The revision of a cancellation is 0.
        if response.ended.is_none() {
            self.on_revision(endpoint, response.revision)?;
        }
        self.on_answer();
        let events: Vec<_> = response
            .events
            .into_iter()
            .map(|event| match event.kind {
                EventKind::Put { lease, value } => Ok(self.decoder.read(KeyValue {
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
            self.apply(events);
        }
        match response.ended {
            None => Ok(()),
            Some((_, error)) => {
                if error.kind() == RpcErrorKind::Compacted {
                    self.shared.store(|store, _| store.lose_history());
                }
                Err(error)
            }
        }
    }

    fn apply(&mut self, events: Vec<Result<Reading, (String, i64)>>) {
        let now = Instant::now();
        let passed_over = self.shared.store(|store, updates| {
            for event in events {
                match event {
                    Ok(reading) => store.put(reading, now, updates),
                    Err((key, revision)) => store.delete(&key, revision, now, updates),
                }
            }
            store.passed_over()
        });
        self.report.overflow(passed_over);
    }

    /// A revision from the past: etcd counts anew.
    fn on_revision(&mut self, endpoint: &Arc<str>, revision: i64) -> Result<(), RpcError> {
        let known = self.shared.store(|store, _| store.revision());
        if revision >= known {
            return Ok(());
        }
        self.shared.store(|store, _| store.lose_history());
        let what = format!("its revision went back from {known} to {revision}");
        Err(RpcError::broken(endpoint, what))
    }

    /// etcd answered something. Called before what it says is believed.
    fn on_answer(&self) {
        self.shared
            .store(|store, _| store.on_answer(Instant::now()));
    }

    /// Reads everything anew, and passes on the differences.
    async fn list(&mut self, session: &Session) -> Result<(), RpcError> {
        let shared = &self.shared;
        let on_page = || shared.store(|store, _| store.on_answer(Instant::now()));
        let listed = self
            .lister
            .list(session, &mut self.decoder, on_page)
            .await?;
        let now = Instant::now();
        self.listed_at = Some(now);
        let (passed_over, missing) = self.shared.store(|store, updates| {
            store.list(
                listed.readings,
                listed.unread,
                listed.revision,
                now,
                updates,
            );
            (store.passed_over(), store.missing())
        });
        self.report.overflow(passed_over);
        self.report.missing(missing);
        Ok(())
    }

    /// The watch stands.
    fn on_connected(&mut self) {
        self.connected_since = Some(Instant::now());
        if self.report.outage_ended() {
            self.shared.set_watch_error(None);
        }
    }

    /// The connection ended. Gives how long to wait before the next one.
    fn on_disconnect(&mut self, error: &RpcError) -> Duration {
        let worked = self.connected_since.take().map(|since| since.elapsed());
        let limits = (MAX_REFUSED_PAUSE, self.limit.min(MAX_PAUSE));
        let (lasted, rng) = (worked.unwrap_or_default(), &mut self.rng);
        let pause =
            self.rotation
                .failed(error, &self.endpoints, lasted, limits, Instant::now(), rng);
        // Balancers and members that restart end connections all the time. That is worth a report
        // only if the next attempt fails too.
        let is_routine = !matches!(error.kind(), RpcErrorKind::Timeout | RpcErrorKind::Denied);
        if is_routine && worked.is_some() {
            self.report.disconnected(error);
        } else {
            self.report.outage(error);
            let failures = self.rotation.failures();
            self.shared.set_watch_error(Some(failures.into()));
        }
        pause
    }

    fn wants_list(&self) -> bool {
        let may_list = self.listed_at.is_none_or(|at| at.elapsed() >= RELIST);
        may_list && self.shared.store(|store, _| store.has_room())
    }

    /// Waits until some missing instances have been kept for long enough.
    async fn deadline(&self) {
        match self.shared.store(|store, _| store.next_deadline()) {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    fn expire(&mut self) {
        let now = Instant::now();
        let given_up = self
            .shared
            .store(|store, updates| store.expire(now, updates));
        self.report.given_up(given_up);
    }
}
