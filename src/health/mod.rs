//! Health: the status of a registration on the standard gRPC health service.
//!
//! Its own name is `etcd.registration`: `SERVING` while the keys are known to be held. The
//! overall name `""` is left alone by default, because orchestrators restart servers on it and
//! kratos clients eject them: an etcd outage must not take a healthy fleet down.
//!
//! One small task per health service turns statuses into reports, and acknowledges each: the keys do
//! not go before `NOT_SERVING` was reported.
//!
//! After the process was frozen, a check may run before that task does. The answers are therefore
//! compared with the expiry of the lease as well. Only [`RegistrationHealth`] can do that: a service
//! of your own on the same [`HealthReporter`] may still say `SERVING` for the moment until the task
//! has run.
//!
//! The other way round, a registration can follow names that the application sets (`followed.rs`).
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | [`RegistrationHealthBuilder`]: which names there are, and the task that reports them |
//! | `service.rs` | [`RegistrationHealth`]: what is answered |
//! | `followed.rs` | the names that the registration follows |

mod builder;
mod followed;
mod service;

pub use builder::{HEALTH_NAME, RegistrationHealthBuilder};
pub use service::{HealthWatch, RegistrationHealth};
