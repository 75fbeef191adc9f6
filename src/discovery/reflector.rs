//! [`Reflector`]: applies the answers of etcd to the store, and reports to readers and the log.

use super::decoder::Decoder;
use super::lister::{Lister, Listing};
use super::report::Report;
use super::shared::Shared;
use super::store::{Check, Reading, Sample};
use crate::etcd::{
    EventKind, KeyMeta, KeyValue, RpcError, RpcErrorKind, Session, WatchResponse, with_timeout,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// See the [module](self).
pub(super) struct Reflector {
    shared: Arc<Shared>,
    decoder: Decoder,
    prefix: String,
    lister: Lister,
    listed_at: Option<Instant>,
    /// When the set is listed, because a sample of it was as expected.
    list_at: Option<Instant>,
    report: Report,
}

/// The shortest time between two lists for keys that were skipped for lack of room.
const RELIST: Duration = Duration::from_secs(10);

// === impl Reflector ===

impl Reflector {
    pub(super) fn new(
        shared: Arc<Shared>,
        decoder: Decoder,
        prefix: String,
        lister: Lister,
        report: Report,
    ) -> Self {
        Self {
            shared,
            decoder,
            prefix,
            lister,
            listed_at: None,
            list_at: None,
            report,
        }
    }

    /// An attempt to connect ended.
    pub(super) fn on_attempt<T>(
        &self,
        endpoint: &str,
        took: Duration,
        result: &Result<T, RpcError>,
    ) {
        self.shared.observers.connected(endpoint, took, result);
    }

    /// The revision of the store.
    pub(super) fn revision(&self) -> i64 {
        self.shared.store(|store| store.revision())
    }

    pub(super) fn keys(&self) -> usize {
        self.shared.store(|store| store.keys())
    }

    /// Whether the watch may continue at the revision of the store, because etcd's keys were those of the store then.
    /// `spread`: when to list within the time for it, from 0 to 1.
    pub(super) async fn history_continues(
        &mut self,
        session: &Session,
        limit: Duration,
        spread: f64,
    ) -> Result<bool, RpcError> {
        let known = self.shared.store(|store| (store.check(), store.revision()));
        let continues = match known {
            (Check::List, _) => return Ok(false),
            (Check::Whole(known), revision) => {
                let lister = &mut self.lister;
                lister.are(known, session, &self.decoder, revision).await
            }
            (Check::Sample(sample), revision) => {
                let due = Instant::now() + sample.list_within.mul_f64(spread);
                let looked = self.is_as(sample, session, revision);
                let looked = with_timeout(limit, session.endpoint(), looked).await;
                // Later cuts do not postpone it.
                let due = self.list_at.map_or(due, |at| at.min(due));
                self.list_at = Some(due);
                looked
            }
        };
        let continues = match continues.as_ref().map_err(RpcError::kind) {
            // The latter: a `--max-txn-ops` that is too small for a sample.
            Err(RpcErrorKind::Compacted | RpcErrorKind::TooManyOps) => false,
            _ => continues?,
        };
        self.on_answer();
        Ok(continues)
    }

    async fn is_as(
        &self,
        sample: Sample,
        session: &Session,
        revision: i64,
    ) -> Result<bool, RpcError> {
        let (keys, expected): (Vec<_>, Vec<_>) = sample.keys.into_iter().unzip();
        let session = session.clone();
        let (found, count) = session.sample(&self.prefix, &keys, revision).await?;
        let is_count = |expected| i64::try_from(expected) == Ok(count);
        Ok(found == expected && sample.count.is_none_or(is_count))
    }

    pub(super) fn on_response(
        &mut self,
        endpoint: &Arc<str>,
        response: WatchResponse,
    ) -> Result<(), RpcError> {
        // The revision of a cancellation is 0.
        if response.ended.is_none() {
            self.on_revision(endpoint, response.revision)?;
        }
        self.on_changes(response)
    }

    /// A response that may be older than the store: its watch was open before the list.
    pub(super) fn on_changes(&mut self, response: WatchResponse) -> Result<(), RpcError> {
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
                    self.lose_history();
                }
                Err(error)
            }
        }
    }

    fn apply(&mut self, events: Vec<Result<Reading, (String, i64)>>) {
        let now = Instant::now();
        let passed_over = self.shared.store(|store| {
            for event in events {
                match event {
                    Ok(reading) => store.put(reading, now),
                    Err((key, revision)) => store.delete(&key, revision, now),
                }
            }
            store.passed_over()
        });
        self.report.overflow(passed_over);
    }

    /// Makes the next connection list.
    pub(super) fn lose_history(&self) {
        self.shared.store(|store| store.lose_history());
    }

    /// A revision below that of the store shows that etcd lost its data.
    pub(super) fn on_revision(
        &mut self,
        endpoint: &Arc<str>,
        revision: i64,
    ) -> Result<(), RpcError> {
        let known = self.revision();
        if revision >= known {
            return Ok(());
        }
        self.lose_history();
        let what = format!("its revision went back from {known} to {revision}");
        Err(RpcError::broken(endpoint, what))
    }

    pub(super) fn on_answer(&self) {
        self.shared.on_answer();
    }

    /// Begins a list of all keys.
    pub(super) fn begin_list(&self) -> Listing {
        self.lister.begin()
    }

    pub(super) async fn next_page(
        &mut self,
        session: &Session,
        listing: &mut Listing,
    ) -> Result<(), RpcError> {
        let page = self.lister.next_page(session, &mut self.decoder, listing);
        page.await?;
        self.shared.on_answer();
        Ok(())
    }

    /// Applies a complete list, and reports the differences.
    pub(super) fn finish_list(&mut self, listing: Listing) {
        let unread = listing.unread();
        let Listing {
            readings, revision, ..
        } = listing;
        let now = Instant::now();
        self.list_at = None;
        if self.listed_at.replace(now).is_none() {
            self.report.listed(revision, readings.len() + unread);
        }
        let (passed_over, missing) = self.shared.store(|store| {
            store.list(readings, unread, revision, now);
            (store.passed_over(), store.missing())
        });
        self.report.overflow(passed_over);
        self.report.missing(missing);
    }

    /// Whether there may be room for keys that were skipped, or what a sample did not prove is due.
    pub(super) fn wants_list(&self) -> bool {
        if self.list_at.is_some_and(|at| at <= Instant::now()) {
            return true;
        }
        let may_list = self.listed_at.is_none_or(|at| at.elapsed() >= RELIST);
        may_list && self.shared.store(|store| store.has_room())
    }

    /// Waits until some missing instances have been kept for long enough.
    pub(super) async fn deadline(&self) {
        match self.shared.store(|store| store.next_deadline()) {
            Some(at) => sleep_until(at).await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn expire(&mut self) {
        let now = Instant::now();
        let given_up = self.shared.store(|store| store.expire(now));
        self.report.given_up(given_up);
    }

    /// The watch was created.
    pub(super) fn on_connected(&mut self) {
        if self.report.outage_ended() {
            self.shared.set_watch_error(None);
        }
    }

    /// A connection ended, which is no outage yet.
    pub(super) fn on_disconnect(&mut self, error: &RpcError) {
        self.report.disconnected(error);
    }

    /// etcd cannot be watched. `failures`: the error of every member that was tried.
    pub(super) fn on_outage(&mut self, error: &RpcError, failures: String) {
        self.report.outage(error);
        self.shared.set_watch_error(Some(failures.into()));
    }

    pub(super) fn on_panic(&mut self) {
        self.report.panicked();
        let error = "internal error: the task that watches etcd panicked";
        self.shared.set_watch_error(Some(error.into()));
    }
}
