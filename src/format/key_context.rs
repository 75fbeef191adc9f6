//! [`KeyContext`]: what a key can be made of.

use crate::address::Address;
use crate::instance::Instance;
use std::borrow::Cow;

/// What a key can be made of: the instance, where it is dialled, and its lease.
///
/// All of it is text, because a key is made twice: once it is known, and before that to see
/// whether two registrations might get the same key. Then `?` stands for what is not known yet.
/// A format that puts every part into the key as it is (and no other slash) needs to know no more.
#[derive(Debug, Clone, Copy)]
pub struct KeyContext<'a> {
    instance: &'a Instance,
    address: Option<&'a Address>,
    lease: Option<i64>,
}

const UNKNOWN: &str = "?";

// === impl KeyContext ===

impl<'a> KeyContext<'a> {
    /// An instance that is dialled at `address` and lives as long as `lease` does.
    #[must_use]
    pub fn new(instance: &'a Instance, address: &'a Address, lease: i64) -> Self {
        Self {
            instance,
            address: Some(address),
            lease: Some(lease),
        }
    }

    /// An instance that has no lease yet, and perhaps no address.
    pub(crate) fn outline(instance: &'a Instance, address: Option<&'a Address>) -> Self {
        Self {
            instance,
            address,
            lease: None,
        }
    }

    /// The instance.
    #[must_use]
    pub fn instance(&self) -> &'a Instance {
        self.instance
    }

    /// The host: an IPv4 address, an IPv6 address in brackets, or a DNS name.
    #[must_use]
    pub fn ip(&self) -> Cow<'a, str> {
        match self.address {
            Some(address) => address.bracketed().into(),
            None => UNKNOWN.into(),
        }
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> Cow<'a, str> {
        match self.address {
            Some(address) => address.port().to_string().into(),
            None => self.distinct(),
        }
    }

    /// Host and port, as they are dialled.
    #[must_use]
    pub fn addr(&self) -> Cow<'a, str> {
        match self.address {
            Some(address) => address.to_string().into(),
            None => self.distinct(),
        }
    }

    /// The id of the lease, in decimal. All keys of one registrar share it.
    #[must_use]
    pub fn lease(&self) -> Cow<'a, str> {
        match self.lease {
            Some(lease) => lease.to_string().into(),
            None => UNKNOWN.into(),
        }
    }

    /// A port (and so an address with its port) that is not known differs from any other,
    /// because no two listeners share one.
    fn distinct(&self) -> Cow<'a, str> {
        format!("{UNKNOWN}{:p}", self.instance).into()
    }
}

/// Whether two keys could still turn out the same, once all that is unknown in them is known.
pub(crate) fn could_be_same(a: &str, b: &str) -> bool {
    let (a, b): (Vec<_>, Vec<_>) = (a.split('/').collect(), b.split('/').collect());
    a.len() == b.len()
        && a.iter()
            .zip(&b)
            .all(|(a, b)| a == b || *a == UNKNOWN || *b == UNKNOWN)
}
