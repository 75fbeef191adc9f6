//! [`DiscoveryBuilder`]: the service, the format and the limits of a discovery.

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
use crate::observe::observer::{Observer, Observers};
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
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(1);
const MAX_INSTANCES: usize = 65_536;
const MAX_BYTES: usize = 64 * 1024 * 1024;

// === impl Discovery ===

impl Discovery {
    /// Starts to configure the discovery of the service `target`: its name, or `etcd:///` and its name.
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

/// Reports the end of the runtime: nobody watches etcd any more, although there are handles.
struct RuntimeGuard(Arc<Shared>, CancellationToken);

// === impl DiscoveryBuilder ===

impl DiscoveryBuilder {
    /// The format of the instances. Default: [`Plain`], as for [`Registrar`](crate::Registrar).
    pub fn format(mut self, format: impl Format) -> Self {
        self.format = Arc::new(format);
        self
    }

    /// How long missing instances are kept, when more than half are missing, and
    /// etcd has lost its data or was silent for 2 s or more. Default: 30 s. Zero: they are removed at
    /// once; [`Duration::MAX`]: never. Once half of them are back, the others stay for one second
    /// after the last one came back.
    ///
    /// The reason: an etcd that lost its data is empty until the servers have registered again. Instances that have
    /// really stopped get no calls meanwhile, because there is no connection to them.
    pub fn retention(mut self, retention: Duration) -> Self {
        self.limits.retention = retention;
        self
    }

    /// The most keys to keep, whether their values can be decoded or not. Default: 65,536. More are skipped, counted and
    /// reported, so that a client that can write below the prefix cannot exhaust our memory. When there is room
    /// again, they are read within 10 s.
    pub fn max_instances(mut self, max: usize) -> Self {
        self.limits.keys = max;
        self
    }

    /// The most memory for keys and instances, in bytes, an estimate. Default: 64 MiB, which is
    /// enough for 65,536 instances of 600 bytes. More keys are skipped, as beyond
    /// [`max_instances`](Self::max_instances).
    pub fn max_bytes(mut self, max: usize) -> Self {
        self.limits.bytes = max;
        self
    }

    /// Adds an observer of this discovery and of its [channels](Discovery::channel). May be called several times.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.add(observer);
        self
    }

    /// Checks everything, and starts the task that watches. It runs in the runtime that this is
    /// called in.
    ///
    /// # Errors
    ///
    /// A mistake in the target, the endpoints or the format; or
    /// [`BuildError::NoRuntime`]. A failure of etcd is no error.
    pub fn build(self) -> Result<Discovery, BuildError> {
        let service = self.target.strip_prefix("etcd:///").unwrap_or(&self.target);
        check_segment(service)
            .map_err(|reason| BuildError::name("service name", service, reason))?;
        let prefix = self.prefix(service)?;
        let cluster = self.etcd.or_attempt_timeout(ATTEMPT_TIMEOUT).check()?;
        let limit = cluster.attempt_timeout;
        if limit.is_zero() {
            let reason = "attempt_timeout is zero: no attempt could succeed";
            return Err(BuildError::Timing {
                reason: reason.to_owned(),
            });
        }
        let runtime = Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        let stop = CancellationToken::new();
        let (service, limits): (Arc<str>, _) = (service.into(), self.limits);
        let shared = Shared::new(service.clone(), prefix.clone(), limits, self.observers);
        let shared = Arc::new(shared);
        shared.announce();
        let decoder = Decoder::new(service.clone(), self.format);
        let lister = Lister::new(prefix.clone(), limit, limits);
        let report = Report::new(service.clone(), prefix.clone(), limits);
        let reflector = Reflector::new(shared.clone(), decoder, prefix.clone(), lister, report);
        let watcher = Watcher::new(reflector, cluster, prefix);
        // Made here and not in the task, because a runtime may end before it has polled the task once.
        let ended = RuntimeGuard(shared.clone(), stop.clone());
        let watching = async move {
            let _ended = ended;
            watcher.run().await
        };
        runtime.spawn(stop.clone().run_until_cancelled_owned(watching));
        let guard = Arc::new(stop.drop_guard());
        Ok(Discovery {
            service,
            shared,
            guard,
        })
    }

    /// The prefix of the service's keys. Without a slash at its end, a list would also return the
    /// keys of other services.
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

// === impl RuntimeGuard ===

impl Drop for RuntimeGuard {
    fn drop(&mut self) {
        if !self.1.is_cancelled() {
            let reason = "the runtime that the discovery was built in has ended";
            self.0.set_watch_error(Some(reason.into()));
        }
    }
}
