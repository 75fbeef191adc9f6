//! Connects to an address or to a name.
//!
//! | file | |
//! |---|---|
//! | `connector.rs` | opens a TCP connection within a time |
//! | `resolver/` | looks up names, one lookup of a name at a time |

pub(crate) mod connector;
pub(crate) mod resolver;
