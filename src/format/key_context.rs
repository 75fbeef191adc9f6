//! [`KeyContext`]: the parts of a key.

use crate::address::Address;
use crate::instance::Instance;
use std::borrow::Cow;
use std::sync::Arc;

/// The parts of a key: the instance, where it is dialled, and its lease.
///
/// All parts are text, because a key is made twice: when its address is known, and before that to check
/// whether two registrations might get the same key. Then `?` stands for a part that is not known yet. The lease is
/// put in later, in place of another text, so that a format is not called for each lease.
/// A format works with this if it puts every part into the key unchanged, and adds no other slash.
#[derive(Debug, Clone, Copy)]
pub struct KeyContext<'a> {
    instance: &'a Instance,
    address: Option<&'a Address>,
    lease: Lease,
    /// Of the registration: tells its unknown port from those of others.
    number: u64,
}

#[derive(Debug, Clone, Copy)]
enum Lease {
    Unknown,
    /// It is put into the key later: keys are made once, and leases come and go.
    Later,
    Known(i64),
}

const UNKNOWN: &str = "?";
/// No name, id or address contains it.
const LATER: &str = "\0lease\0";

// === impl KeyContext ===

impl<'a> KeyContext<'a> {
    /// The parts for an instance that is dialled at `address`, under `lease`.
    #[must_use]
    pub fn new(instance: &'a Instance, address: &'a Address, lease: i64) -> Self {
        Self {
            instance,
            address: Some(address),
            lease: Lease::Known(lease),
            number: 0,
        }
    }

    /// The parts for an instance without a lease, and perhaps without an address.
    pub(crate) fn outline(
        instance: &'a Instance,
        address: Option<&'a Address>,
        number: u64,
    ) -> Self {
        Self {
            instance,
            address,
            lease: Lease::Unknown,
            number,
        }
    }

    /// The parts for a key whose lease is put in by [`under_lease`].
    pub(super) fn before_lease(instance: &'a Instance, address: &'a Address) -> Self {
        Self {
            lease: Lease::Later,
            ..Self::new(instance, address, 0)
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
            Lease::Known(lease) => lease.to_string().into(),
            Lease::Later => LATER.into(),
            Lease::Unknown => UNKNOWN.into(),
        }
    }

    /// An unknown port, and an address with it, differs from those of any other registration,
    /// because two listeners never share one.
    fn distinct(&self) -> Cow<'a, str> {
        format!("{UNKNOWN}{}", self.number).into()
    }
}

/// The key under this lease.
pub(crate) fn under_lease(key: &Arc<str>, lease: i64) -> Arc<str> {
    match key.contains(LATER) {
        true => key.replace(LATER, &lease.to_string()).into(),
        false => key.clone(),
    }
}

/// Whether two keys could be the same, once their unknown parts are known.
pub(crate) fn could_be_same(a: &str, b: &str) -> bool {
    let (a, b): (Vec<_>, Vec<_>) = (a.split('/').collect(), b.split('/').collect());
    a.len() == b.len()
        && a.iter()
            .zip(&b)
            .all(|(a, b)| a == b || *a == UNKNOWN || *b == UNKNOWN)
}
