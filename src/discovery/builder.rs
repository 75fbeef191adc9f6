//! [`DiscoveryBuilder`]: what to find, where, and written how.

use super::Discovery;
use super::decoder::Decoder;
use super::lister::Lister;
use super::reflector::Reflector;
use super::report::Report;
use super::shared::Shared;
use super::store::Limits;
use super::watcher::Watcher;
use crate::error::BuildError;
use crate::etcd::Etcd;
use crate::format::{Format, Plain};
use crate::instance::check_segment;
use crate::observer::{Observer, Observers};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// Made by [`Discovery::builder`].
#[derive(Debug)]
#[must_use]
pub struct DiscoveryBuilder {
    etcd: Etcd,
    target: String,
    format: Arc<dyn Format>,
    limits: Limits,
    observers: Observers,
}

const RETENTION: Duration = Duration::from_secs(30);
const ATTEMPT: Duration = Duration::from_secs(1);
const MAX_INSTANCES: usize = 65_536;
const MAX_BYTES: usize = 64 * 1024 * 1024;

// === impl Discovery ===

impl Discovery {
    /// To find the service `target`: its name, or `etcd:///` and its name.
    pub fn builder(etcd: Etcd, target: impl Into<String>) -> DiscoveryBuilder {
        DiscoveryBuilder {
            etcd,
            target: target.into(),
            format: Arc::new(Plain::new()),
            limits: Limits {
                keys: MAX_INSTANCES,
                bytes: MAX_BYTES,
                retention: RETENTION,
            },
            observers: Observers::default(),
        }
    }
}

// === impl DiscoveryBuilder ===

impl DiscoveryBuilder {
    /// How the instances are written. By default [`Plain`], as [`Registrar`](crate::Registrar)
    /// writes them by default.
    pub fn format(mut self, format: impl Format) -> Self {
        self.format = Arc::new(format);
        self
    }

    /// How long instances are kept that are missing in etcd, when more than half of them are, and
    /// etcd has lost its data or was silent for 2 s or more. By default 30 s; zero believes etcd at
    /// once, [`Duration::MAX`] never. Once half of them are back, the others stay for a second
    /// after the last one came.
    ///
    /// An etcd that lost its data is empty until the servers have registered again. Those that are
    /// really gone cost little meanwhile: nobody is connected to them.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.limits.retention = retention;
        self
    }

    /// The most keys to keep, readable or not; 65,536 by default. More are passed over, counted and
    /// reported, so that nobody who can write below the prefix can exhaust our memory. They are
    /// found when there is room again, within 10 s.
    pub fn max_instances(mut self, max: usize) -> Self {
        self.limits.keys = max;
        self
    }

    /// The most memory for keys and instances, in bytes, roughly; 64 MiB by default, which is
    /// enough for 65,536 instances of 600 bytes. What is more is passed over as beyond
    /// [`max_instances`](Self::max_instances).
    pub fn max_bytes(mut self, max: usize) -> Self {
        self.limits.bytes = max;
        self
    }

    /// Is told what this discovery does, and every [channel](Discovery::channel) of it. May be repeated.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.add(observer);
        self
    }

    /// Checks everything, and starts the task that watches. It runs in the runtime that this is
    /// called in.
    ///
    /// # Errors
    ///
    /// Names what is wrong with the target, the endpoints or the format; or
    /// [`BuildError::NoRuntime`]. A failure of etcd is none.
    pub fn build(self) -> Result<Discovery, BuildError> {
        let service = self.target.strip_prefix("etcd:///").unwrap_or(&self.target);
        check_segment("service name", service)?;
        let prefix = self.prefix(service)?;
        let limit = self.etcd.attempt_limit().unwrap_or(ATTEMPT);
        if limit.is_zero() {
            let reason = "attempt_timeout is zero: no attempt could succeed";
            return Err(BuildError::Timing {
                reason: reason.to_owned(),
            });
        }
        let endpoints = self.etcd.check()?;
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let stop = CancellationToken::new();
        let (service, limits): (Arc<str>, _) = (service.into(), self.limits);
        let shared = Shared::new(service.clone(), prefix.clone(), limits, self.observers);
        let shared = Arc::new(shared);
        shared.announce();
        let decoder = Decoder::new(service.clone(), self.format);
        let lister = Lister::new(prefix.clone(), limit, limits);
        let report = Report::new(service.clone(), prefix.clone(), limits);
        let reflector = Reflector::new(shared.clone(), decoder, lister, report);
        let watcher = Watcher::new(reflector, endpoints, prefix, limit);
        runtime.spawn(stop.clone().run_until_cancelled_owned(watcher.run()));
        let guard = Arc::new(stop.drop_guard());
        Ok(Discovery {
            service,
            shared,
            guard,
        })
    }

    /// What the keys of the service begin with. Without a slash at its end, a list would find the
    /// keys of others.
    fn prefix(&self, service: &str) -> Result<String, BuildError> {
        self.format.check_settings()?;
        let prefix = self.format.key_prefix(service);
        match prefix.ends_with('/') && prefix.len() > 1 {
            true => Ok(prefix),
            false => Err(BuildError::format(
                self.format.name(),
                format!("its prefix {prefix:?} must end with a slash, and be more than one"),
            )),
        }
    }
}
