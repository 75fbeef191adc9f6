//! One watch: a range of keys, and its place in the history. Pure.

use etcd_client::proto::{PbEvent, PbWatchResponse};

use super::state::State;
use super::store::{Commit, Span};

/// What one watch wants, and what it has been told.
pub(super) struct Watch {
    pub(super) span: Span,
    /// The revision from which on nothing has been delivered yet.
    pub(super) next: i64,
    /// The revision that was asked for; 0: from now on.
    pub(super) start: i64,
    /// What it gets next is history: all at once.
    pub(super) is_behind: bool,
    pub(super) without_puts: bool,
    pub(super) without_deletes: bool,
}

impl Watch {
    /// What this watch has not been told yet.
    pub(super) fn news(&mut self, id: i64, state: &State) -> Vec<PbWatchResponse> {
        let store = &state.keyspace.store;
        if self.next < store.compacted() {
            return vec![PbWatchResponse {
                compact_revision: store.compacted(),
                ..canceled(id)
            }];
        }
        let commits = store.since(self.next);
        let at_once = if self.is_behind { commits.len() } else { 1 };
        let told = commits
            .chunks(at_once.max(1))
            .map(|commits| PbWatchResponse {
                watch_id: id,
                events: self.pick(commits).cloned().collect(),
                ..PbWatchResponse::default()
            });
        let told = told
            .filter(|response| !response.events.is_empty())
            .collect();
        self.next = self.next.max(store.revision() + 1);
        self.is_behind = false;
        told
    }

    fn pick<'c>(&self, commits: &'c [Commit]) -> impl Iterator<Item = &'c PbEvent> {
        let events = commits.iter().flat_map(|commit| &commit.events);
        events.filter(|event| {
            let filtered = match event.r#type {
                0 => self.without_puts,
                _ => self.without_deletes,
            };
            let inside = event
                .kv
                .as_ref()
                .is_some_and(|kv| self.span.contains(&kv.key));
            inside && !filtered
        })
    }
}

/// The last answer of a watch.
pub(super) fn canceled(watch_id: i64) -> PbWatchResponse {
    PbWatchResponse {
        watch_id,
        canceled: true,
        ..PbWatchResponse::default()
    }
}
