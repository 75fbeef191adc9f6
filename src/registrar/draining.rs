//! [`Draining`]: the entries that have ended, but whose servers still run.

use super::entry::Entry;
use crate::drain::Drain;
use std::sync::{Arc, Weak};

/// It does not keep the entries alive: a server keeps what it needs of its entry.
#[derive(Debug, Default)]
pub(super) struct Draining(Vec<Weak<Entry>>);

impl Draining {
    /// Adds an entry that has ended, if it has a server.
    pub(super) fn add(&mut self, entry: &Arc<Entry>) {
        if entry.lifecycle.server().is_some_and(Drain::has_server) {
            self.0
                .retain(|other| other.upgrade().is_some_and(|it| runs(&it)));
            self.0.push(Arc::downgrade(entry));
        }
    }

    pub(super) fn entries(&self) -> Vec<Arc<Entry>> {
        let entries = self.0.iter().filter_map(Weak::upgrade);
        entries.filter(|entry| runs(entry)).collect()
    }
}

/// Whether the server has neither returned nor aborted its connections.
fn runs(entry: &Entry) -> bool {
    let server = entry.lifecycle.server();
    server.is_some_and(|drain| !drain.is_aborted() && !drain.server_exited.is_cancelled())
}
