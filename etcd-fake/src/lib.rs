#![doc = include_str!("../README.md")]
//!
//! # Where to look
//!
//! | to | see |
//! |---|---|
//! | reach it with a client | [`FakeEtcd::channel`], [`FakeEtcd::connector`] |
//! | act as another client | [`FakeEtcd::put`], [`delete`](FakeEtcd::delete), [`revoke`](FakeEtcd::revoke), [`compact`](FakeEtcd::compact) |
//! | break processes and the network | [`FakeEtcd::down`], [`wipe`](FakeEtcd::wipe), [`restore`](FakeEtcd::restore), [`hang`](FakeEtcd::hang), [`partition`](FakeEtcd::partition), [`trickle`](FakeEtcd::trickle) |
//! | break one member only | [`FakeEtcd::member`], [`Mode`] |
//! | break one request | [`FakeEtcd::script`], [`Rpc`], [`Reply`] |
//! | overload it | [`Capacity`], [`FakeEtcd::latency`] |
//! | require tokens, deny keys | [`FakeEtcd::user`], [`FakeEtcd::deny`] |
//! | be another version, or have other limits | [`Settings`] |
//! | see requests and their effects | [`FakeEtcd::history`], [`changes`](FakeEtcd::changes), [`keys`](FakeEtcd::keys), [`until`](FakeEtcd::until) |

mod answer;
mod auth;
mod clients;
mod connect;
mod errors;
mod fake;
mod faults;
mod members;
mod model;
mod notifier;
mod pipe;
mod queue;
mod record;
mod script;
mod services;
mod shared;
mod state;

pub use fake::{Connecting, FakeEtcd};
pub use faults::{Member, Snapshot};
pub use model::settings::Settings;
pub use pipe::Mode;
pub use queue::Capacity;
pub use record::{Call, Change, Rpc, Stored};
pub use script::Reply;
