//! Registers a tonic gRPC server in etcd and keeps it there truthfully.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
mod backoff;
mod error;
mod etcd;
mod format;
#[cfg(feature = "health")]
mod health;
mod instance;
mod lease;
mod life;
mod registrar;
mod registration;
pub mod server;
mod status;

pub use error::Error;
pub use etcd::Etcd;
#[cfg(feature = "_tls")]
pub use etcd::Tls;
#[cfg(feature = "health")]
pub use health::{HEALTH_NAME, HealthNames, HealthWatch, RegistrationHealth};
pub use instance::{Instance, InstanceJson};
pub use registrar::{OnConflict, Registrar, RegistrarBuilder};
pub use registration::{Closed, Registration};
pub use server::{RegistrationLayer, ServeError, ServeRegistered};
pub use status::{Registered, Status, StatusWatch};
