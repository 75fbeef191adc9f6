//! One lease on one connection: the loop that renews, writes, looks and watches.
//!
//! At most one renewal and one piece of work are under way at a time, each with a deadline of its
//! own; watches tell what others do to our keys. The loop ends with a reason, and whatever was
//! under way is dropped with the connection: what became of it is looked up on the next one.

use super::keeper::{Keeper, Why};
use super::table::Key;
use crate::clock;
use crate::deadline;
use crate::etcd::{
    Applied, KeepAliveStream, KeyMeta, Op, RpcError, RpcErrorKind, SLOW, Session, WatchReplies,
    WatchRequests, WatchResponse, local_addr, with_timeout,
};
use crate::lease::Lease;
use std::collections::BTreeSet;
use std::future::Future;
use std::net::IpAddr;
use std::pin::{Pin, pin};
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

type Call<T> = Pin<Box<dyn Future<Output = Result<T, RpcError>> + Send>>;

/// A connection and everything under way on it.
struct Link {
    session: Session,
    limit: Duration,
    /// The lease is known to live on this connection.
    confirmed: bool,
    renewal: Renewal,
    work: Option<(Work, Call<Done>)>,
    /// Work was turned down; not before then again.
    not_before: Option<Instant>,
    opening: Option<Call<(WatchRequests, WatchReplies)>>,
    requests: Option<WatchRequests>,
    replies: Option<WatchReplies>,
    /// Watches that we let go, and whose end is no news.
    unwatched: BTreeSet<i64>,
    unanswered: Unanswered,
    /// The token was refused, in these words. Another one is under way, while the renewals go on.
    authenticating: Option<(RpcError, Call<()>)>,
}

/// Watches that were asked for and not answered yet.
///
/// One whose request was lost on a stream that otherwise works would leave its key unwatched for
/// as long as the connection lives.
#[derive(Debug, Default)]
struct Unanswered {
    count: usize,
    /// When the last one was answered, or the first one asked for.
    since: Option<Instant>,
}

enum Renewal {
    Unopened,
    Idle(Box<KeepAliveStream>),
    /// Sent at that instant. Gives the TTL, unless it is the one that was granted.
    Sent(Instant, Call<(Box<KeepAliveStream>, Option<Duration>)>),
}

#[derive(Clone)]
enum Work {
    Look(Vec<Key>),
    Write(Vec<Op>),
    Route,
}

enum Done {
    Looked(i64, Vec<Option<KeyMeta>>),
    Applied(Applied),
    Route(Vec<IpAddr>),
}

/// What happened next.
enum Step {
    /// Something is due; planning finds out what.
    Due,
    Renewed(Result<(Box<KeepAliveStream>, Option<Duration>), RpcError>),
    Worked(Result<Done, RpcError>),
    Opened(Result<(WatchRequests, WatchReplies), RpcError>),
    News(Result<WatchResponse, RpcError>),
    Asked(Result<(), RpcError>),
    Unasked(Result<(), RpcError>),
    Authenticated(Result<(), RpcError>),
}

// === impl Keeper ===

impl Keeper {
    /// Holds the lease on one connection until there is a reason not to.
    ///
    /// A lease that is not `fresh` is renewed before anything else: only if etcd does not know it
    /// any more is there anything to write.
    pub(super) async fn hold(&mut self, fresh: bool) -> Why {
        let session = match self.session().await {
            Ok(session) => session,
            Err(why) => return why,
        };
        let mut link = Link::new(session, self.shared.config.attempt, fresh);
        loop {
            self.plan(&mut link);
            self.publish();
            let due = self.next_due(&link);
            let step = link.step(due, self.table.next_watch(), self.table.next_unwatch());
            let step = match self.attend_once(pin!(step)).await {
                Ok(Some(step)) => step,
                Ok(None) => continue,
                Err(why) => return why,
            };
            if let Err(why) = self.take(&mut link, step) {
                return why;
            }
        }
    }

    /// When something becomes due that waits for nothing but time.
    fn next_due(&self, link: &Link) -> Option<Instant> {
        let renewal = match link.renewal {
            Renewal::Sent(..) => None,
            _ => self.lease.as_ref().map(Lease::due),
        };
        let write = match link.work {
            Some(_) => None,
            // Nothing is written before the lease is confirmed, so nothing becomes due either.
            None if !link.confirmed => None,
            None => link.not_before.or_else(|| self.table.next_unblocked()),
        };
        let answer = link.unanswered.until(link.limit);
        renewal.into_iter().chain(write).chain(answer).min()
    }

    /// Starts what is due and not under way yet.
    fn plan(&mut self, link: &mut Link) {
        let now = Instant::now();
        let Some(lease) = &self.lease else { return };
        if !link.confirmed || lease.due() <= now {
            link.renew(lease.id(), now);
        }
        if !link.confirmed || link.work.is_some() || link.authenticating.is_some() {
            return;
        }
        let looks = self.table.next_looks();
        // A lease that ran out on this very connection (the process was frozen) needs a renewal
        // that says it lives before anybody may be calm.
        if looks.is_empty() && self.is_worried() && lease.expiry() > now {
            self.calm();
        }
        let Some(lease) = &self.lease else { return };
        if self.unrouted {
            let (shared, limit) = (self.shared.clone(), link.limit);
            let route = async move {
                let (config, members) = (&shared.config, &shared.config.members);
                let ips = local_addr::local_ips(members, config.advertised.as_ref(), limit);
                Ok(Done::Route(ips.await))
            };
            link.work = Some((Work::Route, Box::pin(route)));
        } else if link.not_before.is_none_or(|at| at <= now) {
            link.not_before = None;
            if !looks.is_empty() {
                link.look(looks);
            } else {
                let ops = self.table.next_writes(now);
                if !ops.is_empty() {
                    link.write(lease.id(), ops);
                }
            }
        }
        if link.requests.is_none()
            && link.opening.is_none()
            && let Some((key, id, from)) = self.table.next_watch()
        {
            self.table.watch_asked(&key);
            link.open_watch(key, id, from);
        }
    }

    /// Takes in what happened.
    fn take(&mut self, link: &mut Link, step: Step) -> Result<(), Why> {
        match step {
            Step::Due => link.check_answers()?,
            Step::Renewed(done) => {
                let (renewals, ttl) = done.map_err(sort)?;
                let sent = match std::mem::replace(&mut link.renewal, Renewal::Idle(renewals)) {
                    Renewal::Sent(sent, _) => sent,
                    _ => return Ok(()),
                };
                if let Some(lease) = &mut self.lease {
                    lease.renewed(ttl.unwrap_or(lease.ttl()), sent, &mut self.rng);
                    let expiry = lease.expiry() + clock::suspended();
                    self.shared.lease_expiry.set(expiry);
                }
                self.works_since.get_or_insert(sent);
                link.confirmed = true;
            }
            Step::Worked(done) => {
                let Some((work, _)) = link.work.take() else {
                    return Ok(());
                };
                self.worked(link, work, done)?;
            }
            Step::Opened(done) => {
                link.opening = None;
                let (requests, replies) = match done {
                    Ok(opened) => opened,
                    Err(error) => return self.failed(link, error),
                };
                (link.requests, link.replies) = (Some(requests), Some(replies));
                link.unanswered.asked(Instant::now());
            }
            Step::News(news) => {
                let WatchResponse {
                    events,
                    created,
                    ended,
                    ..
                } = match news {
                    Ok(news) => news,
                    Err(error) => return self.failed(link, error),
                };
                let now = Instant::now();
                if created {
                    link.unanswered.answered(now);
                }
                for event in events {
                    self.table.happened(event, now);
                }
                // A watch refused for its token ends with the id -1, so that only the ends that
                // we asked for can be passed over.
                match ended.filter(|(id, _)| !link.unwatched.remove(id)) {
                    Some((_, error)) if error.kind() == RpcErrorKind::Denied => {
                        tracing::warn!(%error, "what others do to the key will not be noticed");
                    }
                    Some((_, error)) => return self.failed(link, error),
                    None => {}
                }
            }
            Step::Asked(asked) => {
                asked.map_err(sort)?;
                link.unanswered.asked(Instant::now());
                if let Some((key, ..)) = self.table.next_watch() {
                    self.table.watch_asked(&key);
                }
            }
            Step::Unasked(asked) => {
                asked.map_err(sort)?;
                link.unwatched.extend(self.table.unwatched());
            }
            // What was refused is looked at and asked for anew, on a connection with that token.
            Step::Authenticated(done) => {
                let refused = link.authenticating.take().map(|(error, _)| error);
                if let Some(error) = done.err().or(refused) {
                    return Err(Why::Broken(error));
                }
            }
        }
        Ok(())
    }

    fn worked(
        &mut self,
        link: &mut Link,
        work: Work,
        done: Result<Done, RpcError>,
    ) -> Result<(), Why> {
        let now = Instant::now();
        match (work, done) {
            (Work::Look(keys), Ok(Done::Looked(revision, seen))) => {
                self.table.looked(&keys, revision, &seen);
            }
            (Work::Write(ops), Ok(Done::Applied(applied))) => {
                self.refusal = None;
                self.table
                    .written(&ops, applied.revision, &applied.refused_by, now);
            }
            (Work::Route, Ok(Done::Route(ips))) => self.route(&ips),
            // Turned down but not lost: the lease is renewed on, and the write is repeated.
            (work @ (Work::Write(_) | Work::Look(_)), Err(error))
                if error.kind() == RpcErrorKind::ResourceExhausted =>
            {
                let rng = &mut self.rng;
                let retry = &mut self.rotation.retry;
                let pause = retry.failed_after(Duration::ZERO, link.limit, rng);
                link.not_before = Some(now + pause);
                if let Work::Write(ops) = work {
                    self.table.refused(&ops, now);
                    self.turned_down(&ops, &error);
                }
            }
            // The next member may allow it. Only while nothing is held does it cost nothing to see.
            (Work::Write(_), Err(error))
                if error.kind() == RpcErrorKind::Denied
                    && !self.holds_any()
                    && self.rotation.has_other(&self.shared.config.members) =>
            {
                return Err(Why::Broken(error));
            }
            (Work::Write(ops), Err(error)) if error.kind() == RpcErrorKind::Denied => {
                self.table.denied(&ops, now, now + SLOW);
                if ops.len() == 1 {
                    self.turned_down(&ops, &error);
                }
            }
            (Work::Look(keys), Err(error)) if error.kind() == RpcErrorKind::Denied => {
                self.table.unseen(&keys);
            }
            (_, Err(error)) => return self.failed(link, error),
            (_, Ok(_)) => {}
        }
        Ok(())
    }

    fn holds_any(&self) -> bool {
        let entries = self.shared.entries();
        entries.iter().any(|entry| self.table.view(entry.id).held)
    }

    /// What an error of anything but a renewal means. A refused token is replaced while the
    /// renewals go on, if they do: to authenticate may take longer than the lease lives.
    fn failed(&self, link: &mut Link, error: RpcError) -> Result<(), Why> {
        if error.kind() != RpcErrorKind::Unauthenticated || !link.confirmed {
            return Err(sort(error));
        }
        tracing::debug!(%error, "getting another token");
        (link.requests, link.replies, link.opening) = (None, None, None);
        link.unanswered = Unanswered::default();
        let session = link.session.clone();
        link.authenticating
            .get_or_insert_with(|| (error, Box::pin(session.replace_token())));
        Ok(())
    }

    /// Settles which address is ours, for the entries that wait for it.
    fn route(&mut self, ips: &[IpAddr]) {
        self.unrouted = false;
        for entry in self.shared.entries() {
            if entry.needs_route() {
                entry.resolve(ips);
                self.shared.touch(entry.id);
            }
        }
    }
}

fn sort(error: RpcError) -> Why {
    match error.kind() {
        RpcErrorKind::LeaseGone => Why::LeaseGone(error),
        _ => Why::Broken(error),
    }
}

// === impl Link ===

impl Link {
    fn new(session: Session, limit: Duration, fresh: bool) -> Self {
        Self {
            session,
            limit,
            confirmed: fresh,
            renewal: Renewal::Unopened,
            work: None,
            not_before: None,
            opening: None,
            requests: None,
            replies: None,
            unwatched: BTreeSet::new(),
            unanswered: Unanswered::default(),
            authenticating: None,
        }
    }

    fn check_answers(&self) -> Result<(), Why> {
        let overdue = self.unanswered.until(self.limit);
        match overdue.filter(|until| *until <= Instant::now()) {
            Some(_) => Err(Why::Broken(RpcError::timeout(
                self.session.endpoint(),
                self.limit,
            ))),
            None => Ok(()),
        }
    }

    /// Sends a renewal, unless one is under way.
    fn renew(&mut self, id: i64, now: Instant) {
        let call = match std::mem::replace(&mut self.renewal, Renewal::Unopened) {
            sent @ Renewal::Sent(..) => {
                self.renewal = sent;
                return;
            }
            Renewal::Unopened => {
                let session = self.session.clone();
                self.bounded(async move { Ok((Box::new(session.renewals(id).await?), None)) })
            }
            Renewal::Idle(mut renewals) => self.bounded(async move {
                let ttl = renewals.renew().await?;
                Ok((renewals, Some(ttl)))
            }),
        };
        self.renewal = Renewal::Sent(now, call);
    }

    fn look(&mut self, keys: Vec<Key>) {
        let look = self.session.clone().look(keys.clone());
        let look = async move {
            look.await
                .map(|(revision, seen)| Done::Looked(revision, seen))
        };
        self.work = Some((Work::Look(keys), self.bounded(look)));
    }

    fn write(&mut self, id: i64, ops: Vec<Op>) {
        let write = self.session.clone().apply(id, ops.clone());
        let write = async move { write.await.map(Done::Applied) };
        self.work = Some((Work::Write(ops), self.bounded(write)));
    }

    fn open_watch(&mut self, key: Key, id: i64, from: i64) {
        self.opening = Some(self.bounded(self.session.clone().watch(key, id, from)));
    }

    fn bounded<T: 'static>(
        &self,
        call: impl Future<Output = Result<T, RpcError>> + Send + 'static,
    ) -> Call<T> {
        let (limit, endpoint) = (self.limit, self.session.endpoint().clone());
        Box::pin(async move { with_timeout(limit, &endpoint, call).await })
    }

    /// Waits for whatever happens first. Cancel safe.
    ///
    /// KeepAliveStream come first: nothing else may make one late.
    async fn step(
        &mut self,
        due: Option<Instant>,
        watch: Option<(Key, i64, i64)>,
        unwatch: Option<i64>,
    ) -> Step {
        let Self {
            renewal,
            work,
            opening,
            requests,
            replies,
            authenticating,
            ..
        } = self;
        let renewed = async {
            match renewal {
                Renewal::Sent(_, call) => call.await,
                _ => std::future::pending().await,
            }
        };
        let due = async {
            match due {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let asked = async {
            match (requests, unwatch, watch) {
                (Some(requests), Some(id), _) => Step::Unasked(requests.remove(id).await),
                (Some(requests), None, Some((key, id, from))) => {
                    Step::Asked(requests.add(&key, id, from).await)
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            done = renewed => Step::Renewed(done),
            done = some(work.as_mut().map(|(_, call)| call)) => Step::Worked(done),
            done = some(opening.as_mut()) => Step::Opened(done),
            news = some(replies.as_mut().map(|replies| Box::pin(replies.next()))) => Step::News(news),
            step = asked => step,
            done = some(authenticating.as_mut().map(|(_, call)| call)) => Step::Authenticated(done),
            () = due => Step::Due,
        }
    }
}

// === impl Unanswered ===

impl Unanswered {
    fn asked(&mut self, now: Instant) {
        self.count += 1;
        self.since.get_or_insert(now);
    }

    fn answered(&mut self, now: Instant) {
        self.count = self.count.saturating_sub(1);
        self.since = Some(now).filter(|_| self.count > 0);
    }

    /// Until when the next answer is to come, within `limit`.
    fn until(&self, limit: Duration) -> Option<Instant> {
        self.since.map(|since| deadline::after(since, limit))
    }
}

async fn some<F: Future + Unpin>(future: Option<F>) -> F::Output {
    match future {
        Some(future) => future.await,
        None => std::future::pending().await,
    }
}
