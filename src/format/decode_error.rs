//! [`DecodeError`]: why a value in etcd cannot be decoded.

use crate::runtime::escaped::Escaped;
use std::fmt;

/// Why the value of a key cannot be decoded to an instance. Only that key is skipped.
///
/// Other clients write the values, so the part of a value that it shows is short and escaped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct DecodeError {
    reason: String,
}

/// In bytes: enough to recognise a value, too little to flood a log.
const MAX_PIECE: usize = 40;
const MAX_REASON: usize = 240;

// === impl DecodeError ===

impl DecodeError {
    /// An error with a `reason` that follows the words "the value", such as "has no address".
    ///
    /// Control characters and invisible characters in it are escaped, and a long text is cut.
    #[must_use]
    pub fn new(reason: impl AsRef<str>) -> Self {
        let reason = Escaped::at_most(reason.as_ref(), MAX_REASON).to_string();
        Self { reason }
    }

    /// The same, with the beginning of the wrong text.
    #[must_use]
    pub fn showing(reason: impl AsRef<str>, culprit: &str) -> Self {
        let culprit = Escaped::at_most(culprit, MAX_PIECE);
        Self::new(format!("{}: `{culprit}`", reason.as_ref()))
    }

    /// The reason.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the value {}", self.reason)
    }
}

impl std::error::Error for DecodeError {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_short_escaped_piece_of_a_value_is_shown() {
        let value = format!("\x1b[2J\u{202e}\n{}", "x".repeat(1 << 20));
        for unreadable in [
            DecodeError::showing("is no address", &value),
            DecodeError::new(&value),
        ] {
            let text = unreadable.to_string();
            assert!(text.chars().count() < 300, "{text}");
            assert!(!text.contains(['\x1b', '\n', '\u{202e}']), "{text}");
        }
    }
}
