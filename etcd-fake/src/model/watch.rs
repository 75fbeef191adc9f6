//! Watches: each has a range of keys and a position in the history; a stream has many of them. Pure.
//!
//! A watch keeps its next revision. When the stream is woken, each watch gets the commits from that revision
//! on. History comes in one message, new commits one revision at a time; both use the same code. A watch from a
//! revision in the future sends nothing until the store reaches it, also after a wipe, as in
//! etcd.

use super::store::{Commit, Span, Store};
use etcd_client::proto::{PbEvent, PbWatchRequestUnion, PbWatchResponse};
use std::collections::BTreeMap;

/// All watches of one stream.
#[derive(Default)]
pub(crate) struct Watches {
    watches: BTreeMap<i64, Watch>,
    /// The next id for clients that do not choose one.
    next_id: i64,
}

/// A request on a watch stream.
pub(crate) enum WatchRequest {
    Create(Wanted),
    Cancel(i64),
    Progress,
}

/// A watch that is to be created; the generated type has no public name.
pub(crate) struct Wanted {
    pub(crate) key: Vec<u8>,
    pub(crate) start_revision: i64,
    pub(crate) id: i64,
    watch: Watch,
}

/// The range of one watch, and its position.
struct Watch {
    span: Span,
    /// The first revision that was not delivered yet.
    next: i64,
    /// The requested revision; 0: from now on.
    start: i64,
    /// Its next message is history: all commits at once.
    is_behind: bool,
    without_puts: bool,
    without_deletes: bool,
}

impl WatchRequest {
    pub(crate) fn of(request: PbWatchRequestUnion) -> Self {
        let create = match request {
            PbWatchRequestUnion::CreateRequest(create) => create,
            PbWatchRequestUnion::CancelRequest(cancel) => return Self::Cancel(cancel.watch_id),
            PbWatchRequestUnion::ProgressRequest(_) => return Self::Progress,
        };
        let key = if create.key.is_empty() {
            vec![0]
        } else {
            create.key
        };
        Self::Create(Wanted {
            id: create.watch_id,
            start_revision: create.start_revision,
            watch: Watch {
                span: Span::new(&key, &create.range_end),
                next: create.start_revision,
                start: create.start_revision,
                is_behind: true,
                // FilterType: 0 is NOPUT, 1 is NODELETE.
                without_puts: create.filters.contains(&0),
                without_deletes: create.filters.contains(&1),
            },
            key,
        })
    }
}

impl Watches {
    /// Creates a watch; the answer says whether that was refused.
    pub(crate) fn create(&mut self, wanted: Wanted, store: &Store) -> PbWatchResponse {
        if wanted.watch.span.is_empty() {
            return refused("mvcc: watcher range is empty".to_owned());
        }
        if wanted.id != 0 && self.watches.contains_key(&wanted.id) {
            let reason = "mvcc: duplicate watch ID provided on the WatchStream";
            return refused(reason.to_owned());
        }
        let id = match wanted.id {
            0 => self.free_id(),
            chosen => chosen,
        };
        let mut watch = wanted.watch;
        if watch.next == 0 {
            watch.next = store.revision() + 1;
        }
        self.watches.insert(id, watch);
        PbWatchResponse {
            watch_id: id,
            created: true,
            ..PbWatchResponse::default()
        }
    }

    /// `None`: there is no such watch, and no answer.
    pub(crate) fn cancel(&mut self, id: i64) -> Option<PbWatchResponse> {
        self.watches.remove(&id).map(|_| canceled(id))
    }

    /// Ends all of them.
    pub(crate) fn cancel_all(&mut self, reason: &str) -> Vec<PbWatchResponse> {
        let ids = std::mem::take(&mut self.watches).into_keys();
        ids.map(|id| PbWatchResponse {
            cancel_reason: reason.to_owned(),
            ..canceled(id)
        })
        .collect()
    }

    /// As etcd 3.5 and later (`progressIfSync`); 3.4 always answers, `grpc-proxy` never.
    pub(crate) fn progress(&self, store: &Store) -> Option<PbWatchResponse> {
        let mut watches = self.watches.values();
        let is_synced = watches.all(|watch| watch.start <= store.revision());
        // -1 means: all watches of this stream are at least here.
        is_synced.then(|| PbWatchResponse {
            watch_id: -1,
            ..PbWatchResponse::default()
        })
    }

    /// The messages that these watches have not sent yet. A watch whose history is compacted ends.
    pub(crate) fn news(&mut self, store: &Store) -> Vec<PbWatchResponse> {
        let watches = self.watches.iter_mut();
        let news = watches.flat_map(|(id, watch)| watch.news(*id, store));
        let news: Vec<_> = news.collect();
        for ended in news.iter().filter(|response| response.canceled) {
            self.watches.remove(&ended.watch_id);
        }
        news
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }
}

impl Watch {
    fn news(&mut self, id: i64, store: &Store) -> Vec<PbWatchResponse> {
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
fn canceled(watch_id: i64) -> PbWatchResponse {
    PbWatchResponse {
        watch_id,
        canceled: true,
        ..PbWatchResponse::default()
    }
}

/// A watch that is not created: created and cancelled at once.
pub(crate) fn refused(reason: String) -> PbWatchResponse {
    PbWatchResponse {
        watch_id: -1,
        created: true,
        canceled: true,
        cancel_reason: reason,
        ..PbWatchResponse::default()
    }
}
