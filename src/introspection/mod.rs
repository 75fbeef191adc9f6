//! [`Introspection`]: a gRPC service that reports what this process has registered and discovered.
//!
//! ```no_run
//! # async fn f() -> Result<(), Box<dyn std::error::Error>> {
//! # use tonic::transport::Server;
//! # use tonic_etcd::{Etcd, Instance, Registrar, ServeRegistered};
//! use tonic_etcd::introspection::Introspection;
//!
//! let registrar = Registrar::builder(Etcd::new(["http://127.0.0.1:2379"])).build()?;
//! let registration = registrar.register(Instance::new("greeter"))?;
//! Server::builder()
//!     .layer(registration.layer())
//!     .add_service(Introspection::builder().registrar(&registrar).build())
//!     .serve_registered("0.0.0.0:9000".parse()?, &registration)
//!     .await?;
//! # Ok(())
//! # }
//! ```
//!
//! The [manual](crate::manual::introspection) says what it reports, and to whom. There is no global list: it
//! reports on the registrars, discoveries and channels that its builder was given.
//!
//! # Files
//!
//! | file | |
//! |---|---|
//! | `builder.rs` | [`IntrospectionBuilder`] |
//! | `sources.rs` | the registrars, discoveries and channels; entries, page by page |
//! | `snapshot.rs` | the message of an entry, bounded |
//! | `process.rs` | the message of registrars, discoveries and channels, bounded |
//! | `batch.rs` | the registrations of one message |
//! | `service.rs` | [`Introspection`]: the requests, checked |
//! | `watch.rs` | a stream of changes; the latest state wins |
//! | `places.rs` | the streams that are open at once, a limited number |
//! | `remote.rs` | pauses that clients have made |
//! | `pb.rs`, `generated/` | generated from `proto/` by `make generate` |

mod batch;
mod builder;
pub mod pb;
mod places;
mod process;
mod remote;
mod service;
mod snapshot;
mod sources;
mod watch;

pub use builder::IntrospectionBuilder;
pub use service::Introspection;

/// Describes the service, for a reflection service.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("generated/tonic_etcd.registration.v1.bin");
