//! [`Reflector`]: applies the answers of etcd to the store, and reports to readers and the log.

use super::decoder::Decoder;
use super::lister::{Listed, Lister};
use super::report::Report;
use super::shared::Shared;
use super::store::{Reading, Store};
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
    lister: Lister,
    listed_at: Option<Instant>,
    report: Report,
}

/// The shortest time between two lists for keys that were skipped for lack of room.
const RELIST: Duration = Duration::from_secs(10);

// === impl Reflector ===

impl Reflector {
    pub(super) fn new(
        shared: Arc<Shared>,
        decoder: Decoder,
        lister: Lister,
        report: Report,
    ) -> Self {
        Self {
            shared,
            decoder,
            lister,
            listed_at: None,
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

    /// Whether etcd still has the history of the store, so that the watch can continue at its revision.
    pub(super) async fn history_continues(
        &self,
        session: &Session,
        limit: Duration,
    ) -> Result<bool, RpcError> {
        let known = |store: &mut Store| (store.history_probe(), store.revision());
        let (probe, revision) = self.shared.store(known);
        let Some((key, seen)) = probe.filter(|_| revision > 0) else {
            return Ok(false);
        };
        let look = session.clone().seen_at(&key, revision);
        let there = with_timeout(limit, session.endpoint(), look).await;
        match there {
            Err(error) if error.kind() != RpcErrorKind::Compacted => return Err(error),
            _ => self.on_answer(),
        }
        Ok(there.is_ok_and(|there| there == Some(seen)))
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

    /// Lists all keys, and reports the differences.
    pub(super) async fn list(&mut self, session: &Session) -> Result<(), RpcError> {
        let on_page = || self.shared.on_answer();
        let listing = self.lister.list(session, &mut self.decoder, on_page);
        let Listed {
            readings,
            unread,
            revision,
        } = listing.await?;
        let now = Instant::now();
        if self.listed_at.replace(now).is_none() {
            self.report.listed(revision, readings.len() + unread);
        }
        let (passed_over, missing) = self.shared.store(|store| {
            store.list(readings, unread, revision, now);
            (store.passed_over(), store.missing())
        });
        self.report.overflow(passed_over);
        self.report.missing(missing);
        Ok(())
    }

    /// Whether there may be room for keys that were skipped.
    pub(super) fn wants_list(&self) -> bool {
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
