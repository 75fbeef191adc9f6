//! [`Origin`]: where an instance is dialled, with TLS or without.

use crate::instance::Instance;
use http::Uri;
use http::uri::Scheme;
use std::fmt;
use std::sync::Arc;

/// Where an instance is dialled. The same address with TLS and without are two.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Origin {
    address: Arc<str>,
    is_secure: bool,
}

// === impl Origin ===

impl Origin {
    pub(super) fn of(instance: &Instance) -> Option<Self> {
        Some(Self {
            address: instance.address()?.into(),
            is_secure: instance.is_secure(),
        })
    }

    /// An error if it is no address.
    pub(super) fn uri(&self) -> Result<Uri, http::Error> {
        let scheme = match self.is_secure {
            true => Scheme::HTTPS,
            false => Scheme::HTTP,
        };
        let uri = Uri::builder().scheme(scheme).authority(&*self.address);
        uri.path_and_query("/").build()
    }
}

/// The address, with `https://` before it if that is with TLS.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.is_secure { "https://" } else { "" };
        write!(f, "{scheme}{}", self.address)
    }
}

#[cfg(test)]
impl From<&str> for Origin {
    fn from(address: &str) -> Self {
        Self {
            address: address.into(),
            is_secure: false,
        }
    }
}
