//! [`Skipped`]: keys that are skipped, and why; [`Reasons`]: a bounded set of texts that many keys share.

use crate::format::DecodeError;
use crate::runtime::escaped::Escaped;
use std::cmp::Reverse;
use std::sync::Arc;

/// Keys that are skipped for one reason.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Skipped {
    /// The reason: one line, escaped, of at most 200 bytes.
    pub reason: String,
    /// The number of keys.
    pub keys: usize,
    /// One of the keys, escaped, cut at 200 bytes. `None`: there was no room for any of them.
    pub example: Option<String>,
}

/// The reasons of all skipped keys. Other clients write the values, and could make each one fail with a text of its
/// own: when [`MOST`] texts are in use, a further one becomes [`OTHERS`].
#[derive(Debug)]
pub(super) struct Reasons {
    in_use: Vec<Arc<str>>,
    others: Arc<str>,
}

const MOST: usize = 8;
const OTHERS: &str = "the value cannot be decoded, for one of many other reasons";

/// Groups the keys whose values cannot be decoded, and adds the number of keys that there was no room for. The most frequent
/// reason is first.
pub(super) fn by_reason<'a>(
    unreadable: impl Iterator<Item = (&'a Arc<str>, &'a Arc<str>)>,
    no_room: usize,
    (max_keys, max_bytes): (usize, usize),
) -> Vec<Skipped> {
    let mut all: Vec<Skipped> = vec![];
    for (key, reason) in unreadable {
        match all.iter_mut().find(|it| *it.reason == **reason) {
            Some(known) => known.keys += 1,
            None => all.push(Skipped {
                reason: reason.to_string(),
                keys: 1,
                example: Some(Escaped::new(key).to_string()),
            }),
        }
    }
    if no_room > 0 {
        all.push(Skipped {
            reason: format!(
                "there are too many: at most {max_keys} keys and {max_bytes} bytes are kept"
            ),
            keys: no_room,
            example: None,
        });
    }
    all.sort_by_key(|it| Reverse(it.keys));
    all
}

// === impl Reasons ===

impl Reasons {
    /// The shared text of an error. It is kept for as long as a key has it.
    pub(super) fn shared(&mut self, error: &DecodeError) -> Arc<str> {
        let text = Escaped::new(&error.to_string()).to_string();
        if let Some(known) = self.in_use.iter().find(|known| ***known == *text) {
            return known.clone();
        }
        self.in_use.retain(|known| Arc::strong_count(known) > 1);
        if self.in_use.len() == MOST {
            return self.others.clone();
        }
        let new: Arc<str> = text.into();
        self.in_use.push(new.clone());
        new
    }
}

impl Default for Reasons {
    fn default() -> Self {
        Self {
            in_use: vec![],
            others: OTHERS.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_shared_and_no_more_than_a_few_are_kept() {
        let mut reasons = Reasons::default();
        let mut shared = |n: usize| {
            let text = format!("is {n} \x1b{}", "x".repeat(1000));
            reasons.shared(&DecodeError::new(text))
        };
        let mut first: Vec<_> = (0..MOST).map(&mut shared).collect();
        assert!(Arc::ptr_eq(&first[3], &shared(3)));
        assert!(first.iter().all(|it| it.len() <= 200), "{first:?}");
        let more: Vec<_> = (MOST..1000).map(&mut shared).collect();
        assert!(more.iter().all(|it| Arc::ptr_eq(it, &more[0])));
        assert_eq!(&*more[0], OTHERS);
        // No key has it any more.
        drop(first.remove(0));
        assert_eq!(&shared(1000)[..19], "the value is 1000 \\");
    }
}
