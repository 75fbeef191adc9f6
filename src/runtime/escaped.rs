//! [`Escaped`]: a text that other clients wrote, such as a key in etcd, for a log line or an error.
//! [`foreign`]: what a peer said, where it enters.
//!
//! etcd, a proxy before it or a server may write anything into an error. Such a text is classified first, and escaped and cut
//! by the code that receives it. So a log, a status and a metric show any reason as it is.

use std::fmt;

/// A text that an attacker may have chosen, in one short line.
///
/// Control characters, line breaks, escape codes and invisible characters are escaped. A text longer
/// than the limit is cut, and ends with `…`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Escaped<'a> {
    text: &'a str,
    max_bytes: usize,
}

/// Enough for real keys, too little to flood a log.
const MAX_BYTES: usize = 200;
/// Enough for the real errors of etcd, DNS and TLS, which name hosts and certificates.
const MAX_FOREIGN_BYTES: usize = 400;

/// What a peer, or the way to it, said: one line of at most 400 bytes. Escaping it again changes nothing.
pub(crate) fn foreign(text: &str) -> String {
    Escaped::at_most(text, MAX_FOREIGN_BYTES).to_string()
}

/// Whether a character is shown as it is: it controls no terminal, is visible, and changes no direction.
pub(crate) fn is_plain(char: char) -> bool {
    matches!(char, '"' | '\'' | '\\') || char.escape_debug().len() == 1
}

// === impl Escaped ===

impl<'a> Escaped<'a> {
    /// At most 200 bytes of it.
    pub(crate) fn new(text: &'a str) -> Self {
        Self::at_most(text, MAX_BYTES)
    }

    /// At most `max_bytes` of it, `…` included.
    pub(crate) fn at_most(text: &'a str, max_bytes: usize) -> Self {
        Self { text, max_bytes }
    }
}

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const CUT: char = '…';
        let mut shown = String::new();
        let mut fits = 0;
        for char in self.text.chars() {
            match is_plain(char) {
                true => shown.push(char),
                false => shown.extend(char.escape_debug()),
            }
            if shown.len() > self.max_bytes {
                shown.truncate(fits);
                shown.push(CUT);
                break;
            }
            // `…` still fits after this character.
            if shown.len() + CUT.len_utf8() <= self.max_bytes {
                fits = shown.len();
            }
        }
        f.write_str(&shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hostile_text_is_one_short_line() {
        let cases = [
            ("/services/greeter/1", "/services/greeter/1"),
            ("{\"a\": 'ü'}\\", "{\"a\": 'ü'}\\"),
            ("a\nINFO forged\r\t\0", "a\\nINFO forged\\r\\t\\0"),
            ("\x1b[2J", "\\u{1b}[2J"),
            ("\u{202e}gro", "\\u{202e}gro"),
            ("", ""),
        ];
        for (text, shown) in cases {
            assert_eq!(Escaped::new(text).to_string(), shown);
        }
    }

    #[test]
    fn escaping_a_text_again_changes_nothing() {
        for text in ["a\n\x1b\u{202e}\\n\\", &"\x07ü".repeat(1000)] {
            let once = foreign(text);
            assert_eq!(foreign(&once), once);
        }
    }

    #[test]
    fn a_long_text_is_cut_at_the_limit_and_between_characters() {
        for text in ["x", "ü", "\x1b", "…", "\u{1f980}"] {
            for repeated in [10, 49, 50, 66, 67, 100, 199, 200, 201, 200_000] {
                let whole = text.repeat(repeated);
                let shown = Escaped::new(&whole).to_string();
                assert!(shown.len() <= 200, "{} bytes", shown.len());
                let escaped: String = text.chars().flat_map(char::escape_debug).collect();
                let is_cut = escaped.len() * repeated > 200;
                assert!(shown.len() > 180 || !is_cut, "{} bytes", shown.len());
                assert_eq!(shown.ends_with('…') && text != "…", is_cut && text != "…");
            }
        }
    }
}
