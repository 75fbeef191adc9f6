//! Health: the status of a registration on the standard gRPC health service.
//!
//! Its own name is `etcd.registration`: `SERVING` while the keys are known to be held. The
//! overall name `""` stays `SERVING` by default, because orchestrators restart servers because of it and
//! kratos clients eject them: an etcd outage must not take a healthy fleet down.
//!
//! One task per health service reports statuses, and acknowledges each: the keys are
//! not deleted before `NOT_SERVING` was reported.
//!
//! After the process was frozen, a check may run before that task does. So answers also
//! depend on the expiry of the lease. Only [`RegistrationHealth`] checks that: a service
//! of your own on the same [`HealthReporter`] may still answer `SERVING` until the task
//! has run.
//!
//! In the other direction, a registration can follow names that the application sets (`followed.rs`).
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | [`RegistrationHealthBuilder`]: the names, and the task that reports them |
//! | `service.rs` | [`RegistrationHealth`]: the answers |
//! | `followed.rs` | the names that the registration follows |

mod builder;
mod followed;
mod service;

pub use builder::{HEALTH_NAME, RegistrationHealthBuilder};
pub use service::{HealthWatch, RegistrationHealth};
