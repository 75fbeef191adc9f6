//! Helpers of all other modules. Nothing here depends on etcd or gRPC.
//!
//! | file | |
//! |---|---|
//! | `clock.rs`, `deadline.rs` | the clock that also counts a suspend; deadlines that cannot overflow |
//! | `backoff.rs`, `random.rs` | how long to wait before the next attempt, and jitter |
//! | `lock.rs` | a mutex that stays usable after a panic |
//! | `isolated.rs` | runs the application's code, and catches its panics |
//! | `logging.rs` | log lines with the fields of this crate |
//! | `escaped.rs` | texts that other clients or peers wrote, escaped and cut |
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
