//! [`Watcher`]: the changes since the last message.
//!
//! It keeps a few numbers of the last message of each registration, and compares them. For a client that does not
//! read, only these numbers are kept: the client gets the latest state when it reads again.

use super::batch::{Batch, MAX_REGISTRATIONS};
use super::pb;
use super::process::{process, steady};
use super::snapshot;
use super::sources::{Position, Sources};
use crate::drain::Drain;
use crate::registrar::Entry;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// See the [module](self).
pub(super) struct Watcher {
    sources: Arc<Sources>,
    service: String,
    sent: HashMap<Position, Digest>,
    process: Option<pb::Process>,
    /// There was no message yet, or the last one had no room for all registrations.
    is_behind: bool,
    /// A server has begun to drain.
    has_ended: bool,
}

/// A registration is sent again if this differs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Digest {
    status: u64,
    is_registered: bool,
    phase: pb::ShutdownPhase,
}

/// How often it compares. Comparing 10,000 registrations takes about 1 ms.
const INTERVAL: Duration = Duration::from_millis(250);

// === impl Watcher ===

impl Watcher {
    pub(super) fn new(sources: Arc<Sources>, service: String) -> Self {
        Self {
            sources,
            service,
            sent: HashMap::new(),
            process: None,
            is_behind: true,
            has_ended: false,
        }
    }

    /// Waits for a change, and returns all changes so far. `None` once a server drains, because the drain would
    /// wait for this stream.
    pub(super) async fn next(&mut self) -> Option<pb::WatchResponse> {
        while !self.has_ended {
            if !self.is_behind {
                sleep(INTERVAL).await;
            }
            if let Some(message) = self.look() {
                return Some(message);
            }
        }
        None
    }

    fn look(&mut self) -> Option<pb::WatchResponse> {
        let sources = self.sources.clone();
        let (batch, seen) = self.changed(&sources);
        let removed = seen.map_or_else(Vec::new, |seen| self.remove_others(seen));
        let process = process(&sources);
        let steady = steady(process.clone());
        let is_changed = self.process.as_ref() != Some(&steady);
        self.process = Some(steady);
        let was_behind = self.is_behind;
        self.is_behind = !batch.has_room();
        let registrations = batch.into_registrations();
        if registrations.is_empty() && removed.is_empty() && !is_changed && !was_behind {
            return None;
        }
        Some(pb::WatchResponse {
            registrations,
            removed,
            process: is_changed.then_some(process),
            is_complete: !self.is_behind,
        })
    }

    /// The registrations that differ from the last message, and the number of all: `None` if the message had no
    /// room for all of them.
    fn changed(&mut self, sources: &Sources) -> (Batch, Option<usize>) {
        let mut batch = Batch::of(MAX_REGISTRATIONS);
        let mut seen = 0;
        for (position, registry, entry) in sources.after(Position::default(), &self.service) {
            if !batch.has_room() {
                return (batch, None);
            }
            seen += 1;
            let digest = Digest::of(&entry);
            let before = self.sent.insert(position, digest);
            if before == Some(digest) {
                continue;
            }
            let begins_to_drain = digest.phase == pb::ShutdownPhase::Draining
                && before.is_some_and(|before| before.phase != digest.phase)
                && entry.lifecycle.server().is_some_and(Drain::has_server);
            self.has_ended |= begins_to_drain;
            batch.push(snapshot::registration(position, registry, &entry));
        }
        (batch, Some(seen))
    }

    /// Forgets the registrations that are gone, and returns their ids.
    fn remove_others(&mut self, seen: usize) -> Vec<String> {
        if seen == self.sent.len() {
            return vec![];
        }
        let sources = self.sources.clone();
        let there = sources.after(Position::default(), &self.service);
        let there: std::collections::HashSet<_> = there.map(|(position, ..)| position).collect();
        let mut removed = vec![];
        self.sent.retain(|position, _| {
            let is_there = there.contains(position);
            if !is_there {
                removed.push(position.to_string());
            }
            is_there
        });
        removed
    }
}

// === impl Digest ===

impl Digest {
    fn of(entry: &Entry) -> Self {
        let lifecycle = &entry.lifecycle;
        let status = lifecycle.status.get();
        Self {
            status: lifecycle.status.published().0,
            is_registered: status.is_registered(),
            phase: snapshot::phase(&status, lifecycle.server()),
        }
    }
}
