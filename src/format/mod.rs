//! What is written into etcd about an instance: keys and values, without I/O.
//!
//! | file | |
//! |---|---|
//! | `template.rs` | [`KeyTemplate`]: how a key is made |
//!
//! A further ecosystem is one more file here, with its golden values beside it.

mod template;

pub(crate) use template::{KeyTemplate, Place};
