//! What users observe of registrations, discoveries and channels.
//!
//! | file | |
//! |---|---|
//! | `status.rs`, `lease_expiry.rs` | [`RegistrationStatus`](status::RegistrationStatus): the state of a registration, and when its lease expires |
//! | `stats.rs`, `member_stats.rs` | counts and last errors, of registrations and of members of etcd |
//! | `timestamp.rs` | [`Timestamp`](timestamp::Timestamp): a moment, with the time of a suspend |
//! | `connectivity.rs` | the state of an endpoint of a channel |
//! | `observer.rs` | [`Observer`](observer::Observer): callbacks for each event |
//! | `metrics.rs` | the same as metrics |

#[cfg(feature = "discovery")]
pub(crate) mod connectivity;
pub(crate) mod lease_expiry;
pub(crate) mod member_stats;
#[cfg(feature = "metrics")]
#[cfg_attr(docsrs, doc(cfg(feature = "metrics")))]
pub mod metrics;
pub mod observer;
pub(crate) mod stats;
pub(crate) mod status;
pub(crate) mod timestamp;
