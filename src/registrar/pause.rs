//! [`Pause`]: a guard that withholds the keys of a registration until it is dropped.

use super::entry::Entry;
use super::registry::Registry;
use crate::error::Stopped;
use std::fmt;
use std::sync::Arc;

/// Withholds the keys of a [`Registration`](crate::Registration) until it is dropped.
///
/// [`Registration::pause`](crate::Registration::pause) returns it. There may be any number of pauses: the keys are put
/// back when the last one is dropped. A pause does not keep the registration alive, and has no effect once deregistration
/// has begun. A pause that is leaked with [`std::mem::forget`] never ends.
#[must_use = "the keys are put back as soon as this is dropped"]
pub struct Pause {
    registry: Arc<Registry>,
    entry: Arc<Entry>,
    /// The entry holds the same allocation; its address identifies this pause.
    reason: Arc<str>,
}

/// Why a registration cannot be paused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PauseError {
    /// The reason cannot be shown in logs and statuses.
    #[error("the reason of a pause {reason}")]
    #[non_exhaustive]
    Reason {
        /// What is wrong with it, and what to do.
        reason: String,
    },

    /// The registrar or the registration is stopping, or has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// Reasons are shown in logs and statuses.
const MAX_REASON_BYTES: usize = 256;

// === impl Pause ===

impl Pause {
    pub(crate) fn new(
        registry: &Arc<Registry>,
        entry: &Arc<Entry>,
        reason: &str,
    ) -> Result<Self, PauseError> {
        check_reason(reason)?;
        let reason: Arc<str> = reason.into();
        registry.pause(entry, &reason)?;
        Ok(Self {
            registry: registry.clone(),
            entry: entry.clone(),
            reason,
        })
    }

    /// Whether deregistration has begun, so that the pause has no effect any more.
    #[cfg(feature = "introspection")]
    pub(crate) fn is_over(&self) -> bool {
        self.entry.is_leaving() || self.entry.lifecycle.is_leaving()
    }

    /// Why the keys are withheld.
    #[must_use]
    pub fn reason(&self) -> &str {
        &self.reason
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.registry.resume(&self.entry, &self.reason);
    }
}

impl fmt::Debug for Pause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Pause").field(&self.reason).finish()
    }
}

/// Checks that a reason can be shown in one short line.
pub(crate) fn check_reason(reason: &str) -> Result<(), PauseError> {
    let problem = if reason.trim().is_empty() {
        "is empty: say why the keys are withheld".to_owned()
    } else if reason.len() > MAX_REASON_BYTES {
        format!(
            "has {} bytes, and may have {MAX_REASON_BYTES}",
            reason.len()
        )
    } else if reason.chars().any(char::is_control) {
        "has a control character: it must be one line of text".to_owned()
    } else {
        return Ok(());
    };
    Err(PauseError::Reason { reason: problem })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_that_cannot_be_shown_is_refused() {
        let longest = "x".repeat(MAX_REASON_BYTES);
        for good in ["warming cache", "x", "ü", &longest] {
            check_reason(good).unwrap();
        }
        let too_long = "x".repeat(MAX_REASON_BYTES + 1);
        for (bad, why) in [
            ("", "empty"),
            (" \t\n", "empty"),
            (&too_long, "257 bytes"),
            ("a\nb", "control"),
            ("\x1b[2J", "control"),
        ] {
            let error = check_reason(bad).unwrap_err();
            assert!(matches!(error, PauseError::Reason { .. }));
            assert!(error.to_string().contains(why), "{error}");
        }
    }
}
