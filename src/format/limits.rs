//! The limits of keys and values, which writers and readers share: what can be registered can be read.

use super::{DecodeError, Format};
use crate::instance::Instance;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// The longest key that is written and read, in bytes.
pub const MAX_KEY: usize = 4 * 1024;

/// The largest value that is written and read, in bytes. A request of etcd is 1.5 MiB at most, and `OnConflict::Yield`
/// sends a value twice and its key four times: all of that fits.
pub const MAX_VALUE: usize = 64 * 1024;

/// Decodes a key and its value as [`Discovery`] does: a key above [`MAX_KEY`], a value above [`MAX_VALUE`] and a
/// value whose format panics are errors.
///
/// [`Discovery`]: https://docs.rs/tonic-etcd/latest/tonic_etcd/discovery/struct.Discovery.html
///
/// # Errors
///
/// Why a reader skips the key.
pub fn decode(
    format: &dyn Format,
    service: &str,
    key: &str,
    value: &[u8],
) -> Result<Instance, DecodeError> {
    let too_long = |what: &str, len: usize, max: usize| {
        DecodeError::new(format!("{what} {len} bytes long, {max} at most are read"))
    };
    if key.len() > MAX_KEY {
        return Err(too_long("has a key that is", key.len(), MAX_KEY));
    }
    if value.len() > MAX_VALUE {
        return Err(too_long("is", value.len(), MAX_VALUE));
    }
    // A format may be the user's code. A panic skips one value, and does not end the watch.
    let decoded = catch_unwind(AssertUnwindSafe(|| format.decode(service, key, value)));
    decoded.unwrap_or_else(|_| Err(DecodeError::new("made its format panic")))
}
