//! [`Watcher`]: the task that keeps the set up to date with etcd.
//!
//! ```text
//! connect -> are etcd's keys those of the store?  no:  list, and report the differences
//!                                                 yes: continue at the store's revision
//!         -> watch, and send a probe when there are no events
//!
//! why the watch ended                        next
//! keys were skipped, and there may be room    list on the same connection
//! for them now; or the answer was a guess
//! it failed                                  wait; another member or the same (`Rotation`)
//! ```
//!
//! etcd may have *another* history at our revision. An etcd that lost its data counts revisions from 1. It accepts a
//! watch from a revision it has not reached, and sends nothing; or it has passed that
//! revision already, and the changes before it would be missed. `store/history.rs` says what is compared, and why that is
//! enough.

use super::reflector::Reflector;
use super::store::SHORTEST_TTL;
use crate::etcd::{
    Cluster, Rotation, RpcError, RpcErrorKind, Session, WatchReplies, WatchRequests, WatchResponse,
    with_timeout,
};
use crate::runtime::backoff::Backoff;
use futures_util::FutureExt as _;
use std::convert::Infallible;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until};

/// See the [module](self).
pub(super) struct Watcher {
    reflector: Reflector,
    cluster: Cluster,
    prefix: String,
    rng: fastrand::Rng,
    rotation: Rotation,
    /// When the current watch was created.
    connected_since: Option<Instant>,
    /// A watch from the store's revision was requested, and has not answered yet.
    is_resuming: bool,
    /// etcd compacted the revision of the last list before it was watched.
    was_compacted: bool,
}

/// An open watch.
struct Watch {
    replies: WatchReplies,
    /// The stream ends when this is dropped.
    _requests: WatchRequests,
    endpoint: Arc<str>,
    /// The number of keys at the last probe, if there was no event since.
    count: Option<i64>,
}

/// A watch that is open while the set is listed.
struct EarlyWatch {
    watch: Watch,
    /// To be applied after the list.
    responses: Vec<WatchResponse>,
    bytes: usize,
}

/// The revision that a watch from now on follows: etcd takes a start revision of 0 for that.
const NOW: i64 = -1;
/// The most bytes of changes to keep while the set is listed. With more, the watch is opened again after the list.
const MAX_EARLY: usize = 16 * 1024 * 1024;
/// How long a watch may be quiet before a probe is sent. An answer must come
/// before etcd counts as silent, on a slow link too.
const QUIET: Duration = Duration::from_millis(SHORTEST_TTL.as_millis() as u64 / 2);
/// Above so many keys a probe does not count them, to spare etcd the work.
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

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(reflector: Reflector, cluster: Cluster, prefix: String) -> Self {
        let mut rng = fastrand::Rng::new();
        Self {
            reflector,
            cluster,
            prefix,
            rotation: Rotation::new(Backoff::new(FIRST_RETRY, RESET_AFTER), &mut rng),
            rng,
            connected_since: None,
            is_resuming: false,
            was_compacted: false,
        }
    }

    /// Never ends; after a panic it starts again.
    pub(super) async fn run(mut self) {
        loop {
            let Err(_panic) = AssertUnwindSafe(self.run_sessions()).catch_unwind().await;
            (self.connected_since, self.is_resuming) = (None, false);
            self.reflector.on_panic();
            sleep(RESTART_PAUSE).await;
        }
    }

    async fn run_sessions(&mut self) -> Infallible {
        loop {
            let Err(error) = self.run_session().await;
            let pause = self.on_disconnect(&error);
            sleep(pause).await;
        }
    }

    /// One connection, for as long as it works.
    async fn run_session(&mut self) -> Result<Infallible, RpcError> {
        let member = self.rotation.member(&self.cluster.members);
        let started = Instant::now();
        let session = Session::connect(&self.cluster, &member, self.cluster.attempt_timeout).await;
        self.reflector
            .on_attempt(member.shown(), started.elapsed(), &session);
        let session = session?;
        let (limit, spread) = (self.cluster.attempt_timeout, self.rng.f64());
        let continues = self.reflector.history_continues(&session, limit, spread);
        self.is_resuming = continues.await?;
        let mut watch = match self.is_resuming {
            true => self.resume(&session).await?,
            false => self.list(&session).await?,
        };
        loop {
            self.run_watch(&session, &mut watch).await?;
            watch = self.list(&session).await?;
        }
    }

    /// Watches from the revision of the store on.
    async fn resume(&mut self, session: &Session) -> Result<Watch, RpcError> {
        let revision = self.reflector.revision();
        let (watch, created) = self.open_watch(session, revision).await?;
        self.reflector.on_response(&watch.endpoint, created)?;
        self.on_watching();
        Ok(watch)
    }

    /// Lists all keys, and watches from the revision of the list on.
    ///
    /// A list of several pages takes longer, and etcd may compact the revision of the first one meanwhile. So the
    /// watch is opened after the first page: a watch that is open loses nothing by that. If even that was too late,
    /// the next one is opened before the list.
    async fn list(&mut self, session: &Session) -> Result<Watch, RpcError> {
        let mut listing = self.reflector.begin_list();
        let mut early = match self.was_compacted {
            true => Some(self.open_watch(session, NOW).await?.into()),
            false => None,
        };
        while !listing.is_complete() {
            let is_first = listing.revision == 0;
            {
                let mut page = pin!(self.reflector.next_page(session, &mut listing));
                loop {
                    tokio::select! {
                        biased;
                        response = EarlyWatch::next(&mut early) => EarlyWatch::add(&mut early, response?)?,
                        page = &mut page => break page?,
                    }
                }
            }
            if is_first && early.is_none() && !listing.is_complete() {
                early = Some(self.open_watch(session, listing.revision).await?.into());
            }
        }
        self.reflector.finish_list(listing);
        let Some(EarlyWatch {
            watch, responses, ..
        }) = early
        else {
            return self.resume(session).await;
        };
        for response in responses {
            self.reflector.on_changes(response)?;
        }
        self.on_watching();
        Ok(watch)
    }

    /// Opens a watch on all changes after `revision`. Returns it with its first answer.
    async fn open_watch(
        &self,
        session: &Session,
        revision: i64,
    ) -> Result<(Watch, WatchResponse), RpcError> {
        let endpoint = session.endpoint().clone();
        let opening = async {
            let stream = session.clone().watch_prefix(&self.prefix, revision + 1);
            let (requests, mut replies) = stream.await?;
            Ok((requests, replies.next().await?, replies))
        };
        let (requests, created, replies) =
            with_timeout(self.cluster.attempt_timeout, &endpoint, opening).await?;
        let watch = Watch {
            replies,
            _requests: requests,
            endpoint,
            count: None,
        };
        Ok((watch, created))
    }

    fn on_watching(&mut self) {
        self.connected_since = Some(Instant::now());
        self.reflector.on_connected();
    }

    /// Runs until there may be room for keys that were skipped.
    async fn run_watch(&mut self, session: &Session, watch: &mut Watch) -> Result<(), RpcError> {
        let mut probe_at = Instant::now() + self.quiet();
        loop {
            tokio::select! {
                biased;
                response = watch.replies.next() => {
                    watch.count = None;
                    self.reflector.on_response(&watch.endpoint, response?)?;
                }
                () = self.reflector.deadline() => {
                    self.reflector.expire();
                    continue;
                }
                () = sleep_until(probe_at) => self.probe(session, watch).await?,
            }
            (self.is_resuming, self.was_compacted) = (false, false);
            probe_at = Instant::now() + self.quiet();
            if self.reflector.wants_list() {
                return Ok(());
            }
        }
    }

    /// Probes etcd by counting the keys. An event meanwhile ends the probe.
    ///
    /// It does not use a progress request on the watch stream: etcd 3.5 and later do not answer
    /// one while nobody writes, and `grpc-proxy` never does.
    async fn probe(&mut self, session: &Session, watch: &mut Watch) -> Result<(), RpcError> {
        let limit = self.cluster.attempt_timeout;
        let each = self.reflector.keys() <= COUNTED;
        let asked = session.clone().count(&self.prefix, each);
        let (revision, count) = tokio::select! {
            biased;
            response = watch.replies.next() => {
                watch.count = None;
                return self.reflector.on_response(&watch.endpoint, response?);
            }
            answer = with_timeout(limit, &watch.endpoint, asked) => answer?,
        };
        self.reflector.on_revision(&watch.endpoint, revision)?;
        self.reflector.on_answer();
        match watch.count.replace(count) {
            Some(before) if before != count => {
                // Behind a proxy that balances requests, the answer may come from another member than the events.
                // Then the stream may be broken, and only the changed count shows it.
                watch.count = None;
                let event = with_timeout(limit, &watch.endpoint, watch.replies.next());
                let event = event.await.map_err(|error| match error.kind() {
                    RpcErrorKind::Timeout => {
                        let what = "the watch missed a change of the number of keys";
                        RpcError::broken(&watch.endpoint, what)
                    }
                    _ => error,
                });
                self.reflector.on_response(&watch.endpoint, event?)
            }
            _ => Ok(()),
        }
    }

    /// With jitter, so that the probes of a fleet are not synchronized.
    fn quiet(&mut self) -> Duration {
        QUIET.mul_f64(0.9 + self.rng.f64() / 5.0)
    }

    /// The connection ended. Returns how long to wait before the next one.
    fn on_disconnect(&mut self, error: &RpcError) -> Duration {
        let is_late = error.kind() == RpcErrorKind::Timeout;
        let is_resuming = std::mem::take(&mut self.is_resuming);
        self.was_compacted |= !is_resuming && error.kind() == RpcErrorKind::Compacted;
        if is_resuming && is_late || error.kind() == RpcErrorKind::TooLarge {
            // etcd sends all missed events in one answer, which may be too large for this link, or for us, each
            // time. A list has pages.
            self.reflector.lose_history();
        }
        let worked = self.connected_since.take().map(|since| since.elapsed());
        let limits = (
            MAX_REFUSED_PAUSE,
            self.cluster.attempt_timeout.min(MAX_PAUSE),
        );
        let (lasted, rng) = (worked.unwrap_or_default(), &mut self.rng);
        let pause = self.rotation.failed(
            error,
            &self.cluster.members,
            lasted,
            limits,
            Instant::now(),
            rng,
        );
        // Balancers and members that restart end connections all the time. So it is reported
        // only if the next attempt fails too.
        let is_routine = !is_late && error.kind() != RpcErrorKind::Denied;
        if is_routine && worked.is_some() {
            self.reflector.on_disconnect(error);
        } else {
            self.reflector.on_outage(error, self.rotation.failures());
        }
        pause
    }
}

// === impl EarlyWatch ===

impl From<(Watch, WatchResponse)> for EarlyWatch {
    fn from((watch, created): (Watch, WatchResponse)) -> Self {
        Self {
            watch,
            responses: vec![created],
            bytes: 0,
        }
    }
}

impl EarlyWatch {
    /// Cancel safe.
    async fn next(early: &mut Option<Self>) -> Result<WatchResponse, RpcError> {
        match early {
            Some(early) => early.watch.replies.next().await,
            None => std::future::pending().await,
        }
    }

    /// Keeps a response for later, if there is room.
    fn add(early: &mut Option<Self>, response: WatchResponse) -> Result<(), RpcError> {
        let Some(it) = early else {
            return Ok(());
        };
        if let Some((_, error)) = response.ended {
            return Err(error);
        }
        it.bytes += response.weight();
        it.responses.push(response);
        if it.bytes > MAX_EARLY {
            *early = None;
        }
        Ok(())
    }
}
