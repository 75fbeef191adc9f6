//! Formats: how an instance is written to etcd, and read from it: keys and values, without I/O.
//!
//! Every ecosystem around etcd has its own format. A registrar can write an instance in several
//! formats ([`RegistrarBuilder::format`](crate::RegistrarBuilder::format)), under one
//! lease, so that clients of each find the same server. Keys, values and the behaviour of readers
//! come from the sources of those projects.
//!
//! | format | key | value |
//! |---|---|---|
//! | [`Plain`], the default | `/services/greeter/10.1.2.3/4711` | [`InstanceJson`](crate::InstanceJson), or any text |
//! | [`EtcdNaming`] | `greeter/10.1.2.3:9000` | `{"Op":0,"Addr":"10.1.2.3:9000","Metadata":null}` |
//! | [`Kratos`] | `/microservices/greeter/ID` | `{"id":"ID","name":"greeter","version":"v1","metadata":{"weight":"10"},"endpoints":["grpc://10.1.2.3:9000"]}` |
//! | [`Kitex`] | `kitex/registry-etcd/greeter/10.1.2.3:9000` | `{"network":"tcp","address":"10.1.2.3:9000","weight":10,"tags":null}` |
//! | [`GoZero`] | `greeter/ID` | `10.1.2.3:9000` |
//! | [`GoMicro`] | `/micro/registry/greeter/ID` | `{"name":"greeter","version":"v1","metadata":null,"endpoints":[],"nodes":[{"metadata":{"protocol":"grpc",..},"id":"ID","address":"10.1.2.3:9000"}]}` |
//! | [`CoreDns`] | `/skydns/local/skydns/greeter/ID` | `{"host":"10.1.2.3","port":9000,"priority":10,"weight":100,"ttl":5}` |
//!
//! | format | readers | how they read it | `deregistration_delay` |
//! |---|---|---|---|
//! | `Plain` | etcdctl, scripts, this crate | this crate watches | 1 s; for a script that polls, its interval and 1 s |
//! | `EtcdNaming` | grpc-go with etcd's resolver: `etcd:///greeter` | watches; removes one leading slash from the target; skips bad JSON; ignores `Op` | 1 s |
//! | `Kratos` | kratos: `discovery:///greeter` | watches; one bad value fails the whole list; `name` must be that of the target | 1 s |
//! | `Kitex` | kitex with `registry-etcd` | polls every 5 s; reads a weight that is not positive as 10 | 6 s |
//! | `GoZero` | go-zero's zrpc | watches; the values are a set, of which each client dials 32; dials every value | 1 s |
//! | `GoMicro` | go-micro | watches; one node for each key; looks up `a-b` to find `a/b`, so register it as `a-b` | 1 s |
//! | `CoreDns` | DNS clients: A, AAAA, SRV | caches an answer for its TTL, 5 s; lower case; IP addresses only; one bad value fails the query; reads a weight of 0 as 100 | 6 s |
//!
//! `deregistration_delay` is the shortest [`RegistrarBuilder::deregistration_delay`](crate::RegistrarBuilder::deregistration_delay)
//! for these readers: the server keeps serving for so long after its keys are gone. The default is
//! 1 s, for readers that watch. With several formats, use the longest one.
//!
//! A property that a format has no place for (a version in kitex, everything but the address
//! in go-zero) is left out. `register` refuses a value that readers would *misread*. IPv6
//! is in brackets, except for CoreDNS.
//!
//! # Reading
//!
//! [`Format::decode`] reads values that any client may have written. It ignores unknown fields. Optional fields may be
//! missing or `null`. All other values are a [`DecodeError`]: the caller skips and counts them. Readers call it by
//! [`decode`], with the limits that `register` has too: keys of [`MAX_KEY`] and values of [`MAX_VALUE`].
//! Every decoded instance has an [`Address`] that can be dialled.
//!
//! # A format of your own
//!
//! Implement [`Format`]. Its keys must differ between any two instances: put the
//! address or the id into the key. They must begin with a prefix that no other service's keys
//! begin with: put a slash after the name.
//!
//! ```
//! use tonic_etcd::format::{Address, Format, KeyContext, DecodeError};
//! use tonic_etcd::{Etcd, Instance, Registrar};
//!
//! /// The format of our shell scripts: a line of host, space, port.
//! #[derive(Debug)]
//! struct Lines;
//!
//! impl Format for Lines {
//!     fn name(&self) -> &str {
//!         "lines"
//!     }
//!     fn key_prefix(&self, service: &str) -> String {
//!         format!("/lines/{service}/")
//!     }
//!     fn key(&self, context: &KeyContext<'_>) -> String {
//!         self.key_prefix(context.instance().name()) + context.instance().id()
//!     }
//!     fn encode(&self, _: &Instance, address: &Address) -> String {
//!         format!("{} {}", address.host(), address.port())
//!     }
//!     fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
//!         let text = str::from_utf8(value).map_err(|_| DecodeError::new("is not UTF-8"))?;
//!         let address: Address = text
//!             .replace(' ', ":")
//!             .parse()
//!             .map_err(|_| DecodeError::showing("has no address", text))?;
//!         let id = key.rsplit('/').next().unwrap_or(key);
//!         Ok(Instance::new(service).with_id(id).with_address(address))
//!     }
//! }
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let etcd = Etcd::new(["http://127.0.0.1:2379"]);
//! let registrar = Registrar::builder(etcd).format(Lines).build()?;
//!
//! let (instance, address) = (Instance::new("greeter").with_id("7"), "10.1.2.3:9000".parse()?);
//! assert_eq!(Lines.key(&KeyContext::new(&instance, &address, 1)), "/lines/greeter/7");
//! assert_eq!(Lines.encode(&instance, &address), "10.1.2.3 9000");
//! # Ok(())
//! # }
//! ```

mod core_dns;
mod decode_error;
mod etcd_naming;
mod go_micro;
mod go_zero;
mod json;
mod key_context;
mod kitex;
mod kratos;
mod limits;
mod plain;
mod set;
mod template;

pub use crate::address::Address;
pub use core_dns::CoreDns;
pub use decode_error::DecodeError;
pub use etcd_naming::EtcdNaming;
pub use go_micro::GoMicro;
pub use go_zero::GoZero;
pub use key_context::KeyContext;
pub use kitex::Kitex;
pub use kratos::Kratos;
pub use limits::{MAX_KEY, MAX_VALUE, decode};
pub use plain::Plain;

pub(crate) use key_context::{could_be_same, under_lease};
pub(crate) use set::Formats;

use crate::error::{BuildError, RegisterError};
use crate::instance::Instance;
use crate::instance::check_segment;
use std::fmt;
use std::sync::Arc;

/// How one ecosystem writes an instance to etcd, and reads it back. Pure.
///
/// To use a format without a [`Registrar`](crate::Registrar), call
/// [`check_settings`](Self::check_settings) first: with settings that it refuses the keys are not usable.
pub trait Format: fmt::Debug + Send + Sync + 'static {
    /// Its short name, in logs and on command lines: `plain`, `etcd-naming`, `kratos`, `kitex`,
    /// `go-zero`, `go-micro`, `coredns`.
    fn name(&self) -> &str;

    /// Refuses settings that cannot work. Called once, before any other method.
    ///
    /// # Errors
    ///
    /// The mistake in the settings; make it with [`BuildError::format`].
    fn check_settings(&self) -> Result<(), BuildError> {
        Ok(())
    }

    /// The prefix of every key of `service`, which readers list and watch. Ends with `/`.
    fn key_prefix(&self, service: &str) -> String;

    /// Refuses an instance that the readers of this ecosystem cannot read.
    ///
    /// # Errors
    ///
    /// The mistake in the instance; make it with [`RegisterError::format`].
    fn check(&self, instance: &Instance) -> Result<(), RegisterError> {
        let _ = instance;
        Ok(())
    }

    /// The key. It must begin with [`key_prefix`](Self::key_prefix) of the instance's name.
    fn key(&self, context: &KeyContext<'_>) -> String;

    /// The value.
    fn encode(&self, instance: &Instance, address: &Address) -> String;

    /// Decodes the value of `key`, which any client may have written.
    ///
    /// It always has an address that can be dialled, and `service` as its name. The same key and
    /// value give the same instance, its id included.
    ///
    /// # Errors
    ///
    /// Why the value cannot be decoded. It must not panic, whatever the value.
    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError>;
}

// === impl Format ===

/// A shared format is a format.
impl<F: Format + ?Sized> Format for Arc<F> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn check_settings(&self) -> Result<(), BuildError> {
        (**self).check_settings()
    }

    fn key_prefix(&self, service: &str) -> String {
        (**self).key_prefix(service)
    }

    fn check(&self, instance: &Instance) -> Result<(), RegisterError> {
        (**self).check(instance)
    }

    fn key(&self, context: &KeyContext<'_>) -> String {
        (**self).key(context)
    }

    fn encode(&self, instance: &Instance, address: &Address) -> String {
        (**self).encode(instance, address)
    }

    fn decode(&self, service: &str, key: &str, value: &[u8]) -> Result<Instance, DecodeError> {
        (**self).decode(service, key, value)
    }
}

/// An instance of `service` that is dialled at `address`, as read from etcd.
fn instance_at(service: &str, id: &str, address: &str) -> Result<Instance, DecodeError> {
    let address = Address::parse(address).map_err(|error| {
        let reason = format!("has no usable address: {}", error.reason);
        DecodeError::showing(reason, &error.address)
    })?;
    Ok(Instance::new(service).with_id(id).with_address(address))
}

/// The id of an instance whose value has none: the rest of its key.
fn id_in<'a>(key: &'a str, prefix: &str) -> &'a str {
    key.strip_prefix(prefix).unwrap_or(key)
}

/// The id in its value, or, if that is empty, the rest of its key.
fn id_or_rest<'a>(id: &'a Option<String>, key: &'a str, prefix: &str) -> &'a str {
    match id.as_deref() {
        None | Some("") => id_in(key, prefix),
        Some(id) => id,
    }
}

/// An empty text counts as missing.
fn given(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

/// A weight; one that is not positive counts as missing.
fn positive(weight: Option<i64>) -> Option<u32> {
    let weight = weight.filter(|weight| *weight > 0)?;
    Some(u32::try_from(weight).unwrap_or(u32::MAX))
}

/// The prefix of the keys of `service`, below a prefix that may be empty.
fn below(prefix: &str, service: &str) -> String {
    match prefix.trim_end_matches('/') {
        "" => format!("{service}/"),
        prefix => format!("{prefix}/{service}/"),
    }
}

/// Refuses a prefix with an unreadable segment. Returns it without slashes at the end.
fn check_prefix(what: &'static str, prefix: &str) -> Result<String, BuildError> {
    let trimmed = prefix.trim_end_matches('/');
    let segments = trimmed.strip_prefix('/').unwrap_or(trimmed);
    for segment in segments.split('/') {
        check_segment(segment).map_err(|reason| BuildError::name(what, segment, reason))?;
    }
    Ok(trimmed.to_owned())
}

/// The same for a prefix that may be empty.
fn check_optional_prefix(prefix: &str) -> Result<(), BuildError> {
    match prefix {
        "" => Ok(()),
        prefix => check_prefix("prefix", prefix).map(drop),
    }
}

#[cfg(test)]
mod tests;
