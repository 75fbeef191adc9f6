//! Registers a [tonic] gRPC server in etcd and keeps the registration up to date: the server appears once it accepts
//! connections, stays registered through outages of etcd, and is deregistered before its port closes.
//!
//! ```no_run
//! # async fn serve() -> Result<(), Box<dyn std::error::Error>> {
//! use tonic::transport::Server;
//! use tonic_etcd::{Etcd, Instance, Registrar, ServeRegistered};
//!
//! # #[cfg(all(feature = "health", feature = "signals"))]
//! # {
//! let registrar = Registrar::builder(Etcd::new(["http://127.0.0.1:2379"]))
//!     .shutdown_on_signals() // or shutdown_token(..), with the application's own
//!     .build()?; // checks everything, sends nothing
//! let registration = registrar.register(Instance::new("greeter"))?;
//!
//! Server::builder()
//!     .layer(registration.layer())
//!     .add_service(registration.health_service())
//!     .serve_registered("0.0.0.0:9000".parse()?, &registration)
//!     .await?; // returns after deregistration and drain
//! # }
//! # Ok(())
//! # }
//! ```
//!
//! # What to read
//!
//! * [`Registrar`] and [`RegistrarBuilder`]: the settings;
//! * [`Registration`]: the ways in which a server appears and leaves;
//! * [`ServeRegistered`]: the steps from bind to return;
//! * [`RegistrationStatus`]: the state of a registration; [`observer`]: callbacks for each event;
//! * [`mod@format`]: the keys and values that kratos, kitex, go-zero, go-micro, grpc-go and CoreDNS read;
//! * [`RegistrationHealth`](https://docs.rs/tonic-etcd/latest/tonic_etcd/struct.RegistrationHealth.html): the gRPC health
//!   service, which reports the registration;
//! * [`manual`]: [programs](manual::programs), [settings](manual::configuration), [access](manual::access),
//!   [pauses](manual::paused), [introspection](manual::introspection), [metrics](manual::metrics), [logs](manual::logs),
//!   [transcripts of outages](manual::transcripts) and [questions](manual::questions);
//! * [`discovery`](https://docs.rs/tonic-etcd/latest/tonic_etcd/discovery/index.html): discovers
//!   servers, and balances calls over them;
//! * [`testing`](https://docs.rs/tonic-etcd/latest/tonic_etcd/testing/index.html): an etcd inside your
//!   own tests;
//! * [`failures`]: for each fault, what you see, what to do, and what is guaranteed.
//!
//! # Guarantees
//!
//! * No key is written before the server accepts connections, nor after deregistration has begun.
//! * A server with the status [`Registered`](RegistrationStatus::Registered) is in etcd: the status is computed from the time
//!   at which the last acknowledged renewal was *sent*.
//! * When etcd restarts with its data, or elects a leader, watchers see neither a PUT nor a DELETE.
//! * A failure of etcd never becomes an error, never ends the server, and never ends the retries.
//! * A shutdown ends within `revoke_timeout` + `deregistration_delay` + `drain_timeout` + 0.5 s,
//!   whatever etcd and clients do.
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `health` (default) | the gRPC health service |
//! | `signals` (default) | [`shutdown_on_signals`](https://docs.rs/tonic-etcd/latest/tonic_etcd/struct.RegistrarBuilder.html#method.shutdown_on_signals) |
//! | `axum` | [listeners](server::Incoming) for `axum::serve` |
//! | `discovery` | discovers servers and balances calls over them |
//! | `introspection` | a gRPC service that reports what a server has registered and discovered |
//! | `metrics` | metrics on the `metrics` facade |
//! | `test-util` | an etcd inside your own tests |
//! | `tls-ring` (= `tls`), `tls-aws-lc` | TLS to etcd, with that crypto provider |
//! | `tls-native-roots` (= `tls-roots`), `tls-webpki-roots` | trust the system's, or Mozilla's, roots; together with one of the above |
//!
//! [tonic]: https://docs.rs/tonic

#![cfg_attr(docsrs, feature(doc_cfg))]

mod address;
#[cfg(feature = "discovery")]
mod change;
#[cfg(feature = "discovery")]
#[cfg_attr(docsrs, doc(cfg(feature = "discovery")))]
pub mod channel;
#[cfg(feature = "discovery")]
#[cfg_attr(docsrs, doc(cfg(feature = "discovery")))]
pub mod discovery;
mod drain;
mod error;
mod etcd;
pub mod format;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
#[cfg(feature = "health")]
mod health;
mod instance;
#[cfg(feature = "discovery")]
#[doc(hidden)]
pub mod internal;
#[cfg(feature = "introspection")]
#[cfg_attr(docsrs, doc(cfg(feature = "introspection")))]
pub mod introspection;
mod observe;
mod registrar;
mod runtime;
pub mod server;
#[cfg(feature = "test-util")]
#[cfg_attr(docsrs, doc(cfg(feature = "test-util")))]
pub mod testing;

pub use error::{AddressError, BuildError, RegisterError, Stopped};
pub use etcd::Etcd;
#[cfg(feature = "_tls")]
pub use etcd::Tls;
#[cfg(feature = "health")]
pub use health::{HEALTH_NAME, HealthWatch, RegistrationHealth, RegistrationHealthBuilder};
pub use instance::{Instance, InstanceJson};
pub use observe::member_stats::{MemberState, MemberStats};
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub use observe::metrics;
pub use observe::observer;
pub use observe::stats::{EtcdStats, RegistrationStats};
pub use observe::status::{Ended, Registered, RegistrationStatus, StatusWatch};
pub use observe::timestamp::Timestamp;
pub use registrar::registration::Registration;
pub use registrar::{OnConflict, Pause, PauseError, Readiness, Registrar, RegistrarBuilder};
pub use server::layer::RegistrationLayer;
pub use server::serve::{ServeError, ServeRegistered};

#[doc = include_str!("failures.md")]
pub mod failures {}

/// The manual: settings, access, operation, and frequent questions.
pub mod manual {
    #[doc = include_str!("manual/configuration.md")]
    pub mod configuration {}

    #[doc = include_str!("manual/programs.md")]
    pub mod programs {}

    #[doc = include_str!("manual/access.md")]
    pub mod access {}

    #[doc = include_str!("manual/paused.md")]
    pub mod paused {}

    #[doc = include_str!("manual/introspection.md")]
    pub mod introspection {}

    #[doc = include_str!("manual/metrics.md")]
    pub mod metrics {}

    #[doc = include_str!("manual/logs.md")]
    pub mod logs {}

    #[doc = include_str!("manual/transcripts.md")]
    pub mod transcripts {}

    #[doc = include_str!("manual/questions.md")]
    pub mod questions {}
}

/// The README's code compiles.
#[cfg(all(
    doctest,
    feature = "health",
    feature = "signals",
    feature = "discovery"
))]
#[doc = include_str!("../README.md")]
struct Readme;
