//! What the program `registryctl` uses of the library and its users do not. It may change in any version, and `registryctl`
//! depends on exactly its own, as serde_derive does on serde.

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
