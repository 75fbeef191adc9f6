//! Errors of the application's input. Each names the input and the remedy.
//!
//! | | |
//! |---|---|
//! | [`BuildError`] | a configuration cannot work: what `build` returns |
//! | [`RegisterError`] | an instance or its listener cannot be registered |
//! | [`AddressError`] | others could not dial the address of a text or a listener |
//! | [`Stopped`] | the registrar or the registration has stopped |
//!
//! All of them are found before a request is sent. An outage of etcd is not an error: the registrar retries, and
//! [`RegistrationStatus`](crate::RegistrationStatus) reports it.

use std::io;
use std::net::SocketAddr;

/// A mistake in the configuration.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BuildError {
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
    #[error("TLS to etcd: {reason}")]
    #[non_exhaustive]
    Tls {
        /// What is wrong with them, and what to do.
        reason: String,
    },

    /// The TTL, or a timeout that has to fit in it, cannot work.
    #[error("{reason}")]
    #[non_exhaustive]
    Timing {
        /// What is wrong with it, and what to do.
        reason: String,
    },

    /// A name or a segment of a prefix would make keys that readers misread.
    #[error("{what} {value:?} {reason}")]
    #[non_exhaustive]
    Name {
        /// Which input it was: `service name`, `prefix` or another setting of a format.
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

    /// A [`Format`](crate::format::Format) cannot be used.
    #[error("format {format:?}: {reason}")]
    #[non_exhaustive]
    Format {
        /// The short name of the format.
        format: String,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// A setting that cannot work.
    #[error("{name}: {reason}")]
    #[non_exhaustive]
    Setting {
        /// The setter.
        name: &'static str,
        /// What is wrong with the value, and what to do.
        reason: String,
    },

    /// A registration would require a health name that reports the registration.
    #[error(
        "the registration cannot require the health name {name:?}, which reports the registration: require \
         names that only the application sets"
    )]
    #[non_exhaustive]
    HealthCycle {
        /// The name.
        name: String,
    },

    /// A variable of the environment cannot be used. Secrets in it are never shown.
    #[error("{name}: {reason}")]
    #[non_exhaustive]
    Environment {
        /// The variable.
        name: &'static str,
        /// What is wrong with its value, and what to do.
        reason: String,
    },

    /// `build` was called outside of a tokio runtime, and starts a task.
    #[error("no tokio runtime: call this within one, because it starts a task")]
    NoRuntime,

    /// The handlers for SIGTERM and SIGINT cannot be installed.
    #[error("cannot listen to SIGTERM and SIGINT: {source}")]
    #[non_exhaustive]
    Signals {
        /// What the operating system said.
        source: io::Error,
    },
}

/// Why an instance or its listener cannot be registered, or an update cannot be made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegisterError {
    /// A name or an id would make a key that readers misread.
    #[error("{what} {value:?} {reason}")]
    #[non_exhaustive]
    Name {
        /// Which input it was: `name` or `id`.
        what: &'static str,
        /// The input, shortened when it is very long.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },

    /// An address that others could not dial.
    #[error(transparent)]
    Address(#[from] AddressError),

    /// A value that readers skip because of its size: more than [`MAX_VALUE`](crate::format::MAX_VALUE).
    #[error(
        "the value of {name:?} has {len} bytes, and readers take at most {max}: put less into it"
    )]
    #[non_exhaustive]
    ValueTooLarge {
        /// The name of the instance.
        name: String,
        /// The size in bytes.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },

    /// A key that readers skip because of its length: more than [`MAX_KEY`](crate::format::MAX_KEY).
    #[error(
        "the key of {name:?} has {len} bytes, and readers take at most {max}: give it a shorter prefix"
    )]
    #[non_exhaustive]
    KeyTooLong {
        /// The name of the instance.
        name: String,
        /// The length in bytes, with the longest possible address if that is not known yet.
        len: usize,
        /// The limit in bytes.
        max: usize,
    },

    /// Two registrations of this registrar would write the same key, in one format or another.
    #[error(
        "a registration of {name:?} in this process would write the same key {key:?}: \
         tell them apart with {{port}}, {{addr}} or {{id}} in the key template, or with other ids"
    )]
    #[non_exhaustive]
    SameKey {
        /// The service name that is registered already.
        name: String,
        /// The key, with `?` for parts that are not known before the listener is bound.
        key: String,
    },

    /// A [`Format`](crate::format::Format) cannot write the instance.
    #[error("format {format:?}: {reason}")]
    #[non_exhaustive]
    Format {
        /// The short name of the format.
        format: String,
        /// What is wrong, and what to do.
        reason: String,
    },

    /// An update would change the key.
    #[error("{field} cannot change while registered: deregister and register again")]
    #[non_exhaustive]
    Immutable {
        /// The field that differs.
        field: &'static str,
    },

    /// A registration was updated within its own update: in the closure, or in a format.
    #[error(
        "a registration cannot be updated in the closure of its own update, nor by its format: do it afterwards"
    )]
    Nested,

    /// `register_all` was called without an instance.
    #[error("nothing to register: give at least one instance")]
    NoInstance,

    /// `bind_all` or `incoming_all` was called without an address or listener.
    #[error("nothing to listen on: give at least one address or listener")]
    NoListener,

    /// `register` or `bind` was called outside of a tokio runtime.
    #[error("no tokio runtime: call this within one, because it starts a task")]
    NoRuntime,

    /// The dedicated thread could not be started.
    #[error("cannot start the registrar's thread: {source}")]
    #[non_exhaustive]
    Thread {
        /// What the operating system said.
        source: io::Error,
    },

    /// The listener could not be bound, or cannot be used.
    #[error("cannot listen on {addr}: {source}: {}", remedy(source))]
    #[non_exhaustive]
    Listen {
        /// The requested address.
        addr: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },

    /// The registrar or the registration is stopping, or has stopped.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// An address that others could not dial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("address {address:?}: {reason}")]
#[non_exhaustive]
pub struct AddressError {
    /// The address as given or as bound.
    pub address: String,
    /// What is wrong with it, and what to do.
    pub reason: &'static str,
}

/// The registrar or the registration is stopping, or has stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("already stopped: a registration never comes back once its shutdown has begun")]
#[non_exhaustive]
pub struct Stopped;

// === impl BuildError ===

impl BuildError {
    /// A [`BuildError::Format`], with which a format refuses its settings.
    #[must_use]
    pub fn format(format: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Format {
            format: format.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn name(what: &'static str, value: &str, reason: &'static str) -> Self {
        let value = shortened(value);
        Self::Name {
            what,
            value,
            reason,
        }
    }
}

// === impl RegisterError ===

impl RegisterError {
    /// A [`RegisterError::Format`], with which a format refuses an instance.
    #[must_use]
    pub fn format(format: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Format {
            format: format.into(),
            reason: reason.into(),
        }
    }

    pub(crate) fn name(what: &'static str, value: &str, reason: &'static str) -> Self {
        let value = shortened(value);
        Self::Name {
            what,
            value,
            reason,
        }
    }
}

/// The beginning of a name that is very long.
fn shortened(name: &str) -> String {
    match name.len() > 64 {
        true => name.chars().take(61).chain("...".chars()).collect(),
        false => name.to_owned(),
    }
}

fn remedy(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another process has this port: stop it, choose another, or let port 0 find a free one"
        }
        io::ErrorKind::AddrNotAvailable => "this machine has no such address",
        io::ErrorKind::PermissionDenied => "ports below 1024 need a privilege",
        _ => "choose another address",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn what_the_operating_system_said_is_the_source() {
        let source = || io::Error::from(io::ErrorKind::AddrInUse);
        let addr = SocketAddr::from(([127, 0, 0, 1], 9000));
        for error in [
            RegisterError::Listen {
                addr,
                source: source(),
            },
            RegisterError::Thread { source: source() },
        ] {
            let kept = error.source().and_then(|it| it.downcast_ref::<io::Error>());
            let kind = kept.map(io::Error::kind);
            assert_eq!(kind, Some(io::ErrorKind::AddrInUse), "{error}");
        }
    }

    #[test]
    fn stopped_and_an_address_read_the_same_on_their_own_and_as_a_reason() {
        let address = AddressError {
            address: "10.0.0.1:0".to_owned(),
            reason: "port 0 is not a port others can dial",
        };
        let (alone, inside) = (address.to_string(), RegisterError::from(address));
        assert_eq!(inside.to_string(), alone);
        assert_eq!(
            RegisterError::from(Stopped).to_string(),
            Stopped.to_string()
        );
    }
}
