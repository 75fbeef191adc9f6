//! [`Registry`]: the known entries, and since when. Pure: time is passed in.

use crate::entry::Entry;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// The registered entries, as far as known, in the order of the keys.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    known: BTreeMap<Vec<u8>, Known>,
    listed: bool,
}

/// One entry, and what is known about its age.
#[derive(Debug)]
pub(crate) struct Known {
    pub(crate) entry: Entry,
    since: Instant,
    /// Its last write was seen. Otherwise it was listed, and is older.
    observed: bool,
}

/// A difference.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Change {
    /// It was there at the beginning.
    Was(Entry),
    Appeared(Entry),
    Written(Entry),
    Gone(Vec<u8>),
}

// === impl Registry ===

impl Registry {
    /// All entries, at the beginning or after an interruption. Returns the differences.
    pub(crate) fn listed(&mut self, entries: Vec<Entry>, now: Instant) -> Vec<Change> {
        let mut old = std::mem::take(&mut self.known);
        let mut changes = vec![];
        for entry in entries {
            let known = match old.remove(&entry.key) {
                // After a loss of data revisions are used again, so compare the whole entry.
                Some(known) if known.entry == entry => known,
                before => {
                    changes.push(match (before, self.listed) {
                        (Some(_), _) => Change::Written(entry.clone()),
                        (None, true) => Change::Appeared(entry.clone()),
                        (None, false) => Change::Was(entry.clone()),
                    });
                    Known {
                        entry,
                        since: now,
                        observed: false,
                    }
                }
            };
            self.known.insert(known.entry.key.clone(), known);
        }
        changes.extend(old.into_keys().map(Change::Gone));
        self.listed = true;
        changes
    }

    /// A write that was seen.
    pub(crate) fn put(&mut self, entry: Entry, now: Instant) -> Change {
        let known = Known {
            entry: entry.clone(),
            since: now,
            observed: true,
        };
        match self.known.insert(entry.key.clone(), known) {
            Some(_) => Change::Written(entry),
            None => Change::Appeared(entry),
        }
    }

    /// A deletion that was seen.
    pub(crate) fn delete(&mut self, key: &[u8]) -> Option<Change> {
        self.known
            .remove(key)
            .map(|known| Change::Gone(known.entry.key))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    pub(crate) fn len(&self) -> usize {
        self.known.len()
    }
}

// === impl Known ===

impl Known {
    /// The time since its last write, or `>` and the time since it was found.
    pub(crate) fn age(&self, now: Instant) -> String {
        let age = short(now.saturating_duration_since(self.since));
        if self.observed {
            age
        } else {
            format!(">{age}")
        }
    }
}

/// Two units at most.
pub(crate) fn short(time: Duration) -> String {
    let seconds = time.as_secs();
    match (
        seconds / 86400,
        seconds / 3600 % 24,
        seconds / 60 % 60,
        seconds % 60,
    ) {
        (0, 0, 0, seconds) => format!("{seconds}s"),
        (0, 0, minutes, seconds) => format!("{minutes}m{seconds:02}s"),
        (0, hours, minutes, _) => format!("{hours}h{minutes:02}m"),
        (days, hours, ..) => format!("{days}d{hours:02}h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, lease: i64, written: i64) -> Entry {
        let entry = crate::entry::tests::entry(key, "", lease);
        Entry { written, ..entry }
    }

    #[test]
    fn a_second_list_gives_the_changes_in_between() {
        let (mut registry, now) = (Registry::default(), Instant::now());
        let [a, b, c] = ["a", "b", "c"].map(|key| entry(key, 1, 5));
        let changes = registry.listed(vec![a.clone(), b.clone()], now);
        assert_eq!(changes, [Change::Was(a.clone()), Change::Was(b)]);
        // The same revision under another lease: etcd has lost its data, and b was written again.
        let b = entry("b", 2, 5);
        let changes = registry.listed(vec![b.clone(), c.clone()], now);
        assert_eq!(
            changes,
            [Change::Written(b), Change::Appeared(c), Change::Gone(a.key)]
        );
    }

    #[test]
    fn ages_show_whether_the_last_write_was_seen() {
        let (mut registry, start) = (Registry::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let age = |registry: &Registry, now| registry.iter().next().map(|known| known.age(now));
        registry.listed(vec![entry("a", 1, 5)], start);
        assert_eq!(age(&registry, after(59)).as_deref(), Some(">59s"));
        registry.listed(vec![entry("a", 1, 5)], after(60));
        assert_eq!(age(&registry, after(61)).as_deref(), Some(">1m01s"));
        registry.put(entry("a", 1, 6), after(70));
        assert_eq!(age(&registry, after(73)).as_deref(), Some("3s"));
    }

    #[test]
    fn a_deletion_of_what_is_not_known_is_no_change() {
        assert_eq!(Registry::default().delete(b"a"), None);
    }

    #[test]
    fn times_have_two_units_at_most() {
        for (seconds, shown) in [
            (0, "0s"),
            (60, "1m00s"),
            (3599, "59m59s"),
            (3600, "1h00m"),
            (90000, "1d01h"),
        ] {
            assert_eq!(short(Duration::from_secs(seconds)), shown);
        }
    }
}
