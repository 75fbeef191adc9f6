//! What can be wrong with what the caller gave us, each with the culprit and the remedy.
//!
//! Every one of these is found before a request is sent. Trouble with etcd itself is never an
//! [`Error`]: it is survived, and reported by [`Status`](crate::Status).

use std::net::SocketAddr;

/// A mistake in the configuration or in the input.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No etcd endpoint was given.
    #[error("no etcd endpoint given: name at least one, such as http://127.0.0.1:2379")]
    NoEndpoints,

    /// An etcd endpoint cannot be used. Credentials in it are never shown.
    #[error("etcd endpoint {endpoint:?}: {reason}")]
    #[non_exhaustive]
    Endpoint {
        /// The endpoint as given, without any user information.
        endpoint: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },

    /// The TLS settings cannot be used.
    #[error("TLS to etcd: {0}")]
    Tls(String),

    /// The time to live, or a deadline that has to fit in it, cannot be kept.
    #[error("{0}")]
    Timing(String),

    /// A name, an id or a piece of the prefix would make a key that others misread.
    #[error("{what} {value:?} {reason}")]
    #[non_exhaustive]
    Name {
        /// Which input it was: `name`, `id`, `prefix` or another setting of a format.
        what: &'static str,
        /// The input, shortened when it is very long.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// A key template cannot be used.
    #[error("key template {template:?}: {reason}")]
    #[non_exhaustive]
    Template {
        /// The template as given.
        template: String,
        /// What is wrong with it, and what to do.
        reason: String,
    },

    /// An address that others could not dial.
    #[error("address {address:?}: {reason}")]
    #[non_exhaustive]
    Address {
        /// The address as given or as bound.
        address: String,
        /// What is wrong with it, and what to do.
        reason: &'static str,
    },

    /// A value etcd would refuse for its size.
    #[error("the value of {name:?} has {len} bytes and etcd takes {max} at most: put less into it")]
    #[non_exhaustive]
    ValueTooLarge {
        /// The name of the instance.
        name: String,
        /// The size in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },

    /// Two registrations of this registrar would write the same key, in one format or another.
    #[error(
        "a registration of {name:?} here would write the same key {key:?}: \
         tell them apart with {{port}}, {{addr}} or {{id}} in the key template, or by other ids"
    )]
    #[non_exhaustive]
    SameKey {
        /// The service name that is registered already.
        name: String,
        /// The key, with `?` for what is not known before the listener is bound.
        key: String,
    },

    /// A [`Format`](crate::format::Format) cannot be used, or cannot take an instance.
    #[error("format {format:?}: {reason}")]
    #[non_exhaustive]
    Format {
        /// The short name of the format.
        format: String,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// A setting that cannot be kept.
    #[error("{name}: {reason}")]
    #[non_exhaustive]
    Setting {
        /// The setter.
        name: &'static str,
        /// What is wrong with the value, and what to do.
        reason: String,
    },

    /// An update tried to change what makes the key.
    #[error("{field} cannot change while registered: deregister and register again")]
    #[non_exhaustive]
    Immutable {
        /// The field that differs.
        field: &'static str,
    },

    /// `register` was called with no instance at all.
    #[error("nothing to register: give at least one instance")]
    NoInstance,

    /// `register` was called outside of a tokio runtime.
    #[error("no tokio runtime here: call this from within one, it starts a task")]
    NoRuntime,

    /// The dedicated thread could not be started.
    #[error("cannot start the registrar's thread: {0}")]
    Thread(std::io::Error),

    /// The registrar or the registration has been told to stop.
    #[error("already stopped: a registration never comes back after its shutdown began")]
    Stopped,

    /// The listener could not be bound, or cannot be used.
    #[error("cannot listen on {addr}: {source}: {}", remedy(source))]
    #[non_exhaustive]
    Listen {
        /// The address asked for.
        addr: SocketAddr,
        /// What the operating system said.
        source: std::io::Error,
    },
}

impl Error {
    /// An [`Error::Format`], for formats to refuse with.
    #[must_use]
    pub fn format(format: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Format {
            format: format.into(),
            reason: reason.into(),
        }
    }
}

fn remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "another process has this port: stop it, choose another, or let port 0 find a free one"
        }
        std::io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        std::io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege",
        _ => "choose another address",
    }
}
