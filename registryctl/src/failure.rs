//! [`Failure`]: why a command failed.

use std::io;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// The command line or the environment is wrong.
    #[error("{0}")]
    Usage(String),
    /// etcd or the server does not answer or refuses the call, or the named server is ambiguous or unknown.
    #[error("{0}")]
    Other(String),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// The command line or the environment is wrong.
pub(crate) fn usage<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Usage(why.into()))
}
