//! What everything else stands on. Nothing here knows etcd or gRPC.
//!
//! | file | |
//! |---|---|
//! | `clock.rs`, `deadline.rs` | the clock that goes on while the machine is suspended, and points in its time |
//! | `backoff.rs`, `random.rs` | how long to wait before the next attempt, and jitter |
//! | `lock.rs` | a mutex that stays usable after a panic |
//! | `isolated.rs` | runs the code of users, whose panics end nothing of ours |
//! | `logging.rs` | log lines with the fields of this crate |
//! | `escaped.rs` | text of others, escaped and cut |
//! | `exhausted.rs` | recognizes that no file descriptor is left |

pub(crate) mod backoff;
pub(crate) mod clock;
pub(crate) mod deadline;
pub(crate) mod escaped;
pub(crate) mod exhausted;
pub(crate) mod isolated;
pub(crate) mod lock;
pub(crate) mod logging;
pub(crate) mod random;
