//! [`Check`]: how to find out whether the watch may continue at the revision of the store. Pure.
//!
//! An etcd that lost its data, or was restored from an older copy, has *another* history. It may have passed the revision R
//! of the store since, and its keys then differ from those of the store, without an event that says so.
//!
//! The watch may continue if the keys at R were those of the store: the events from R + 1 on are then all that is missing,
//! whatever happened before R. It need not be the same history.
//!
//! | the store | what is read | what is proved |
//! |---|---|---|
//! | up to [`WHOLE`] keys | all keys, as they were at R | exact: keys, leases, revisions and values are equal, or it is listed |
//! | more keys | a sample at R: the newest key, the key that was deleted last, the number of keys | a difference proves another history; equality proves nothing |
//! | nothing yet, or the history is known to be lost | nothing | it is listed |
//!
//! Nothing in etcd identifies a history. Both histories have the keys, leases and revisions of the copy, and the same
//! cluster id. After the copy, the same registrar may have written the same key under the same lease at the same revision in both,
//! while another key was deleted in one of them and not in the other. A lease that expires is deleted in both.
//! Without a lease any client may write the same twice. A sample cannot tell such histories apart.
//! So after an equal sample the watch continues, and the set is listed once, soon ([`PER_KEY`]): it is right
//! by then. Before, only the first key was read, which nearly all copies share.
//!
//! etcd answers that R is compacted, or in the future: it is listed.

use super::Store;
use crate::etcd::KeyMeta;
use std::sync::Arc;
use std::time::Duration;

/// See the [module](self).
#[derive(Debug)]
pub(in crate::discovery) enum Check {
    List,
    Whole(Vec<Known>),
    Sample(Sample),
}

/// A key that etcd should have.
#[derive(Debug)]
pub(in crate::discovery) struct Known {
    pub(in crate::discovery) key: Arc<str>,
    pub(in crate::discovery) seen: KeyMeta,
    pub(in crate::discovery) digest: u64,
}

/// Keys with what they should be, and their number if it is known.
#[derive(Debug)]
pub(in crate::discovery) struct Sample {
    pub(in crate::discovery) keys: Vec<(Arc<str>, Option<KeyMeta>)>,
    pub(in crate::discovery) count: Option<usize>,
    /// The set is listed within this time.
    pub(in crate::discovery) list_within: Duration,
}

/// So many keys are compared as a whole. To read them costs etcd about as much as a sample does (DESIGN.md has the
/// numbers), so that the readers of a fleet may do it at once.
const WHOLE: usize = 100;
/// Of a larger set, a list after a lost connection comes within this time for each key: a reader then costs etcd no more than
/// 40 keys a second on average, however often connections are cut.
const PER_KEY: Duration = Duration::from_millis(50);

// === impl Store ===

impl Store {
    /// How to find out whether etcd still has what the store has.
    pub(in crate::discovery) fn check(&self) -> Check {
        if self.history_lost || self.revision == 0 {
            return Check::List;
        }
        let entries = self.entries.iter();
        let present = entries.filter(|(key, _)| !self.missing.contains(key));
        if self.keys() <= WHOLE && self.passed_over == 0 {
            let known = present.map(|(key, entry)| Known {
                key: key.clone(),
                seen: entry.seen,
                digest: entry.digest,
            });
            return Check::Whole(known.collect());
        }
        let newest = present.max_by_key(|(_, entry)| entry.seen.revision);
        let newest = newest.map(|(key, entry)| (key.clone(), Some(entry.seen)));
        let deleted = self.last_deleted.clone().map(|key| (key, None));
        Check::Sample(Sample {
            keys: newest.into_iter().chain(deleted).collect(),
            count: (self.passed_over == 0).then(|| self.keys()),
            list_within: PER_KEY.saturating_mul(u32::try_from(self.keys()).unwrap_or(u32::MAX)),
        })
    }

    /// The next check is a list.
    pub(in crate::discovery) fn lose_history(&mut self) {
        self.history_lost = true;
    }

    /// A change at `revision` is older than what a list that went on at newer revisions has found.
    pub(super) fn is_older(&self, key: &str, revision: i64) -> bool {
        let known = self.entries.get(key);
        known.is_some_and(|it| revision < it.seen.revision) && !self.missing.contains(key)
    }
}
