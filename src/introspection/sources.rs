//! [`Sources`]: what the service reports on, and a position among the registrations.

#[cfg(feature = "discovery")]
use crate::channel::BalancedChannel;
#[cfg(feature = "discovery")]
use crate::discovery::Discovery;
use crate::registrar::{Entry, EntryId, Registry};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// See the [module](self).
#[derive(Debug, Clone, Default)]
pub(super) struct Sources {
    pub(super) registries: Vec<Arc<Registry>>,
    #[cfg(feature = "discovery")]
    pub(super) discoveries: Vec<Discovery>,
    #[cfg(feature = "discovery")]
    pub(super) channels: Vec<(String, BalancedChannel)>,
}

/// The position of a registration: the index of its registrar, and its number in that registrar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Position {
    pub(super) registrar: usize,
    pub(super) entry: EntryId,
}

// === impl Sources ===

impl Sources {
    /// The registrations after a position, in the order in which they were made, including those that have ended
    /// and whose servers still drain.
    pub(super) fn after(
        &self,
        position: Position,
        service: &str,
    ) -> impl Iterator<Item = (Position, &Arc<Registry>, Arc<Entry>)> {
        let registries = self.registries.iter().enumerate();
        let from_here = registries.skip(position.registrar);
        from_here.flat_map(move |(registrar, registry)| {
            let after = match registrar == position.registrar {
                true => position.entry,
                false => 0,
            };
            let mut entries = registry.entries();
            entries.extend(registry.draining());
            // Some may have ended between the two.
            entries.sort_by_key(|entry| entry.id);
            entries.dedup_by_key(|entry| entry.id);
            let first = entries.partition_point(|entry| entry.id <= after);
            let wanted = entries
                .into_iter()
                .skip(first)
                .filter(move |entry| is_of(entry, service));
            wanted.map(move |entry| {
                let entry_position = Position {
                    registrar,
                    entry: entry.id,
                };
                (entry_position, registry, entry)
            })
        })
    }
}

fn is_of(entry: &Entry, service: &str) -> bool {
    service.is_empty() || entry.names().iter().any(|name| name == service)
}

// === impl Position ===

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.registrar, self.entry)
    }
}

impl FromStr for Position {
    type Err = ();

    /// Parses exactly what `Display` writes.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (registrar, entry) = text.split_once('-').ok_or(())?;
        let position = Self {
            registrar: registrar.parse().map_err(|_| ())?,
            entry: entry.parse().map_err(|_| ())?,
        };
        match position.to_string() == text {
            true => Ok(position),
            false => Err(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_position_that_was_given_is_one() {
        let position = Position {
            registrar: 1,
            entry: 70_000,
        };
        assert_eq!("1-70000".parse(), Ok(position));
        let long = "9".repeat(100_000);
        for bad in [
            "",
            "-",
            "1",
            "1-",
            "-1",
            "1-2-3",
            "+1-2",
            "01-2",
            "1-02",
            " 1-2",
            "1-2\n",
            "a-b",
            "1--2",
            "99999999999999999999999-1",
            &long,
        ] {
            assert_eq!(bad.parse::<Position>(), Err(()), "{bad:?}");
        }
    }
}
