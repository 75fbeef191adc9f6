//! What only the program `registryctl` uses of the library. It may change in any version, so `registryctl` depends on exactly
//! the version of its own.

pub use crate::etcd::inspect::{CallError, Connection, Target, Watch};
#[cfg(feature = "_tls")]
pub use crate::etcd::secure;

use crate::runtime::escaped;
use std::error::Error;

/// An error and its causes, without repetition: one line, escaped and cut.
pub fn chain(error: &(dyn Error + 'static)) -> String {
    crate::etcd::chain(error)
}

/// What a peer said: one line of at most 400 bytes. Escaping it again changes nothing.
pub fn foreign(text: &str) -> String {
    escaped::foreign(text)
}

/// Whether a character is shown as it is: it controls no terminal, is visible, and changes no direction.
pub fn is_plain(char: char) -> bool {
    escaped::is_plain(char)
}
