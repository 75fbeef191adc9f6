//! [`Draft`]: the instances of one registration, their address, and the keys and values that follow. Pure.
//!
//! It does not change: a change makes another one, and the registry swaps it in. So the application's code in a change
//! (the closure of `update`, formats) runs without any lock, in the thread that wanted the change. The worker
//! only reads the result, so that slow code of the application does not delay a renewal.

use super::ids::Key;
use crate::address::{Address, Bound};
use crate::error::RegisterError;
use crate::format::{Formats, under_lease};
use crate::instance::Instance;
use std::net::IpAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

/// See the [module](self).
#[derive(Debug, Clone)]
pub(crate) struct Draft {
    pub(super) instances: Arc<[Addressed]>,
    /// Tells ports that are not known yet from those of other registrations.
    number: u64,
    bound: Option<Bound>,
    /// Our address that was found for a listener bound to no particular one.
    found: Option<Found>,
    is_announced: bool,
    records: Records,
}

#[derive(Debug, Clone)]
struct Found {
    address: Address,
    /// It is on no interface any more.
    is_gone: bool,
}

/// An address of this machine that was replaced by another one.
#[derive(Debug)]
pub(super) struct Moved {
    pub(super) from: Address,
    pub(super) to: Address,
}

#[derive(Debug)]
pub(super) struct Addressed {
    pub(super) instance: Instance,
    /// The explicit address, if it has one.
    pub(super) address: Option<Address>,
    /// Its keys, as far as they can be known before it is announced.
    pub(super) outlines: Box<[String]>,
}

/// Keys and values. The lease is filled in later.
#[derive(Debug, Clone)]
enum Records {
    /// Not announced, or an address is not known yet, or they are being made.
    None,
    Made(Arc<[(Key, Arc<str>)]>),
    /// A format panicked.
    Failed,
}

// === impl Draft ===

impl Draft {
    /// Refuses instances that cannot be written.
    pub(super) fn new(
        instances: Vec<Instance>,
        number: u64,
        formats: &Formats,
    ) -> Result<Self, RegisterError> {
        let (bound, found) = (None, None);
        let (is_announced, records) = (false, Records::None);
        let checked = instances.into_iter().map(|instance| {
            let address = formats.check(&instance)?;
            let outlines = formats.outlines(&instance, address.as_ref(), number);
            Ok(Addressed {
                instance,
                address,
                outlines: outlines.into(),
            })
        });
        Ok(Self {
            instances: checked.collect::<Result<_, RegisterError>>()?,
            number,
            bound,
            found,
            is_announced,
            records,
        })
    }

    /// Other values for the same instances.
    pub(super) fn updated(
        &self,
        change: &mut dyn FnMut(Instance) -> Instance,
        formats: &Formats,
    ) -> Result<Self, RegisterError> {
        let changed = self.instances.iter().map(|it| {
            let next = change(it.instance.clone());
            it.instance.check_update(&next)?;
            Ok(next)
        });
        let changed = changed.collect::<Result<_, RegisterError>>()?;
        let Self { instances, .. } = Self::new(changed, self.number, formats)?;
        Ok(Self {
            instances,
            ..self.clone()
        })
    }

    /// The server accepts connections, at `bound` if that is known.
    pub(super) fn announced(&self, bound: Option<&Bound>) -> Self {
        let is_same = bound.is_none() || bound == self.bound.as_ref();
        Self {
            bound: bound.or(self.bound.as_ref()).cloned(),
            found: self.found.clone().filter(|_| is_same),
            is_announced: true,
            ..self.clone()
        }
    }

    /// Its address is the best of ours, `ips`; and what that replaces. Keys and values are to be made for another address.
    pub(super) fn resolved(&self, ips: &[IpAddr]) -> (Self, Option<Moved>) {
        let mut next = self.clone();
        let Some(bound) = &self.bound else {
            return (next, None);
        };
        if let Some(last) = &mut next.found {
            last.is_gone = false;
            // Without an address that others can dial, the machine is being set up: the next connection checks again.
            if !ips.iter().any(|ip| bound.serves(ip)) || last.is_usable(bound, ips) {
                return (next, None);
            }
        }
        let (to, is_gone) = (bound.resolve(ips), false);
        let address = to.clone();
        let last = next.found.replace(Found { address, is_gone });
        next.records = Records::None;
        let from = last.map(|last| last.address);
        (next, from.map(|from| Moved { from, to }))
    }

    /// Whether the address that was found is still one of ours, `ips`, if that has changed.
    pub(super) fn checked(&self, ips: &[IpAddr]) -> Option<Self> {
        let (bound, found) = (self.bound.as_ref()?, self.found.as_ref()?);
        let is_gone = !found.is_usable(bound, ips);
        if is_gone == found.is_gone {
            return None;
        }
        let address = found.address.clone();
        Some(Self {
            found: Some(Found { address, is_gone }),
            ..self.clone()
        })
    }

    /// Makes keys and values, once every address is known.
    pub(super) fn rendered(self, formats: &Formats) -> Self {
        let made = || self.render(formats);
        let records = match catch_unwind(AssertUnwindSafe(made)) {
            Ok(Some(records)) => Records::Made(records.into()),
            Ok(None) => Records::None,
            Err(_panicked) => Records::Failed,
        };
        Self { records, ..self }
    }

    fn render(&self, formats: &Formats) -> Option<Vec<(Key, Arc<str>)>> {
        let mut records = vec![];
        for (instance, address) in self.addressed().filter(|_| self.is_announced) {
            records.extend(formats.records(instance, address?));
        }
        Some(records).filter(|records| !records.is_empty())
    }

    /// The keys and values under this lease.
    pub(super) fn records(&self, lease: i64) -> Option<Vec<(Key, Arc<str>)>> {
        match &self.records {
            Records::None | Records::Failed => None,
            Records::Made(records) => {
                let filled = records
                    .iter()
                    .map(|(key, value)| (under_lease(key, lease), value.clone()));
                Some(filled.collect())
            }
        }
    }

    /// Whether a format panicked when they were made.
    pub(super) fn has_failed(&self) -> bool {
        matches!(self.records, Records::Failed)
    }

    /// Whether its keys may be others than those of `before`.
    pub(super) fn has_other_keys(&self, before: &Self) -> bool {
        let (keys, others) = (self.instances.iter(), before.instances.iter());
        !Arc::ptr_eq(&self.instances, &before.instances)
            && !keys
                .map(|it| &it.outlines)
                .eq(others.map(|it| &it.outlines))
    }

    /// Whether every instance has an explicit address.
    pub(crate) fn is_explicit(&self) -> bool {
        self.instances.iter().all(|it| it.address.is_some())
    }

    /// Whether the server accepts connections, so that its keys may have been written.
    pub(crate) fn is_announced(&self) -> bool {
        self.is_announced
    }

    /// Whether the address to advertise has yet to be found, for the first time or again.
    pub(super) fn needs_local_ip(&self) -> bool {
        self.is_announced
            && matches!(self.bound, Some(Bound::Any { .. }))
            && self.found.as_ref().is_none_or(|found| found.is_gone)
            && !self.is_explicit()
    }

    /// Whether it has an address that the machine may lose.
    pub(super) fn depends_on_interfaces(&self) -> bool {
        let may_go = |address: &Address| address.ip().is_some() && !address.is_loopback();
        self.found.is_some() || self.given().any(may_go)
    }

    /// The addresses that the user gave: to instances, or to the listener.
    pub(super) fn given(&self) -> impl Iterator<Item = &Address> {
        let bound = match &self.bound {
            Some(Bound::Exact(address)) if !self.is_explicit() => Some(address),
            _ => None,
        };
        let explicit = self.instances.iter().map(|it| it.address.as_ref());
        explicit.flatten().chain(bound)
    }

    /// Each instance, with its address as far as that is known.
    pub(super) fn addressed(&self) -> impl Iterator<Item = (&Instance, Option<&Address>)> {
        let bound = match &self.bound {
            Some(Bound::Exact(address)) => Some(address),
            _ => self.found.as_ref().map(|found| &found.address),
        };
        let instances = self.instances.iter();
        instances.map(move |it| (&it.instance, it.address.as_ref().or(bound)))
    }
}

// === impl Found ===

impl Found {
    /// Whether it is one of our addresses `ips`. The loopback address serves only until there is another one.
    fn is_usable(&self, bound: &Bound, ips: &[IpAddr]) -> bool {
        let is_last_resort = self.address.is_loopback() && ips.iter().any(|ip| bound.serves(ip));
        self.address.is_one_of(ips) && !is_last_resort
    }
}
