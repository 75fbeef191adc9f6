//! Health: the status of a registration on the standard gRPC health service.
//!
//! Its own name is `etcd.registration`: `SERVING` while the keys are known to be in etcd. The overall name `""` stays
//! `SERVING` by default, because orchestrators restart, and clients of kratos eject, a server whose overall health is bad: an
//! outage of etcd must not take a healthy fleet down.
//!
//! One task for each health service reports statuses, and acknowledges each: the keys are deleted only after `NOT_SERVING`
//! was reported.
//!
//! After a freeze of the process, a check may run before that task does. So answers also depend on the expiry of the lease.
//! Only [`RegistrationHealth`] checks it: a service of your own on the same `HealthReporter` may answer `SERVING` until the
//! task has run.
//!
//! In the other direction, a registration can require names that the application sets (`required.rs`).
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | [`RegistrationHealthBuilder`]: the names, and the task that reports them |
//! | `service.rs` | [`RegistrationHealth`]: the answers |
//! | `required.rs` | the names that the registration requires |

mod builder;
mod required;
mod service;

pub use builder::{HEALTH_NAME, RegistrationHealthBuilder};
pub use service::{HealthWatch, RegistrationHealth};
