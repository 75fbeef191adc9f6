//! [`shown`]: several values in one field of a log line.

use std::fmt;

/// The first value, and the number of the others.
pub(super) fn shown(first: Option<impl fmt::Display>, all: usize) -> String {
    match first {
        None => "none".to_owned(),
        Some(only) if all == 1 => only.to_string(),
        Some(first) => format!("{first} and {} more", all - 1),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_one_is_shown_and_how_many_more_there_are() {
        assert_eq!(shown(None::<&str>, 0), "none");
        assert_eq!(shown(Some("a"), 1), "a");
        assert_eq!(shown(Some("a"), 3), "a and 2 more");
    }
}
