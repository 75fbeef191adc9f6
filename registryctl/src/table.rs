//! Rows and columns. Pure: aligns and cuts texts that are escaped already.

use crate::entry::{Entry, Shown, cut};
use crate::scope::Scope;
use crate::source::{Ttl, Ttls};

/// A table; the last column has the remaining width.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

/// The width of a value if the terminal width is not known.
const WITHOUT_WIDTH: usize = 60;
/// The greatest width of the other columns, because names may be long.
const WIDEST: usize = 48;
const GAP: &str = "  ";

// === impl Table ===

impl<const N: usize> Table<N> {
    fn new(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.map(str::to_owned)],
        }
    }

    fn push(&mut self, row: [String; N]) {
        self.rows.push(row);
    }

    /// The lines, each of them `width` characters at most.
    pub(crate) fn lines(&self, width: Option<usize>) -> Vec<String> {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let longest = self
                .rows
                .iter()
                .map(|row| row[column].chars().count())
                .max();
            longest.unwrap_or_default().min(WIDEST)
        });
        let fixed: usize = widths
            .iter()
            .take(N - 1)
            .map(|width| width + GAP.len())
            .sum();
        let last = width.map_or(WITHOUT_WIDTH, |width| width.saturating_sub(fixed));
        let line = |row: &[String; N]| {
            let mut line = String::new();
            for (text, &width) in row.iter().zip(&widths).take(N - 1) {
                line += &format!("{:<width$}{GAP}", cut(text, width));
            }
            line += &cut(&row[N - 1], last);
            cut(line.trim_end(), width.unwrap_or(usize::MAX))
        };
        self.rows.iter().map(line).collect()
    }
}

/// A table of entries. `what` is the head of the column before the values; each entry brings its cell.
pub(crate) fn table<'a>(
    what: &str,
    entries: impl Iterator<Item = (&'a Entry, String)>,
    scope: &Scope,
    ttls: &Ttls,
) -> Table<6> {
    let mut table = Table::new(["NAME", "ADDRESS", "LEASE", "TTL LEFT", what, "VALUE"]);
    for (entry, what) in entries {
        let Shown {
            name,
            address,
            rest,
        } = entry.shown(scope);
        let lease = match entry.lease {
            0 => "-".to_owned(),
            lease => format!("{lease:016x}"),
        };
        let left = match ttls.get(&entry.lease) {
            _ if entry.lease == 0 => "none".to_owned(),
            None => "?".to_owned(),
            Some(Ttl::Gone) => "gone".to_owned(),
            Some(Ttl::Left { seconds, .. }) => format!("{seconds}s"),
        };
        table.push([name, address, lease, left, what, rest]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table<3> {
        let mut table = Table::new(["NAME", "B", "VALUE"]);
        table.push(["a".to_owned(), "12345".to_owned(), "x".repeat(100)]);
        table
    }

    #[test]
    fn the_last_column_takes_what_is_left() {
        let lines = table().lines(Some(20));
        assert_eq!(lines, ["NAME  B      VALUE", "a     12345  xxxxxx…"]);
        assert_eq!(table().lines(None)[1].chars().count(), 13 + WITHOUT_WIDTH);
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in 0..30 {
            let lines = table().lines(Some(width));
            assert!(
                lines.iter().all(|line| line.chars().count() <= width),
                "{width}: {lines:?}"
            );
        }
    }

    #[test]
    fn a_lease_is_shown_as_etcdctl_shows_it() {
        let scope = crate::scope::tests::scope(&[crate::formats::FormatName::Plain], &[]).unwrap();
        let entry = crate::entry::tests::entry("", "", 0x7a5);
        for ttl in [
            None,
            Some(Ttl::Gone),
            Some(Ttl::Left {
                seconds: 3,
                granted: 5,
            }),
        ] {
            let ttls = ttl.map(|ttl| (entry.lease, ttl)).into_iter().collect();
            let rows = [(&entry, String::new())].into_iter();
            let table = super::table("AGE", rows, &scope, &ttls);
            assert_eq!(table.rows[1][2], "00000000000007a5", "{ttl:?}");
        }
    }

    #[test]
    fn a_cut_is_marked_and_never_splits_a_character() {
        assert_eq!(cut("äöü", 3), "äöü");
        assert_eq!(cut("äöüß", 3), "äö…");
        assert_eq!(cut("äöü", 0), "");
    }
}
