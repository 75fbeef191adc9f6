//! [`RegistrarBuilder`]: the settings, checked in one place.

use super::Registrar;
use super::on_conflict::OnConflict;
use super::readiness::Readiness;
use super::registry::{Config, Registry};
use crate::address::AdvertisedInterface;
use crate::drain::DrainTimeouts;
use crate::error::BuildError;
use crate::etcd::Etcd;
use crate::etcd::local_addr::Interfaces;
use crate::format::{Format, Formats, Plain};
use crate::observe::observer::{Observer, Observers};
use crate::registrar::lease;
#[cfg(feature = "signals")]
use crate::registrar::signals::cancel_on_signals;
use std::any::Any;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Configures a [`Registrar`]. [`build`](Self::build) checks the settings, and sends no request.
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct RegistrarBuilder {
    etcd: Etcd,
    formats: Vec<Arc<dyn Format>>,
    /// The plain format with `prefix` and `key_template`.
    plain: Plain,
    /// The index of the default `Plain` in `formats`, which `plain` replaces.
    plain_at: Option<usize>,
    ttl: Duration,
    on_conflict: OnConflict,
    allow_loopback: bool,
    interfaces: Interfaces,
    advertise_interface: Option<String>,
    dedicated_thread: bool,
    readiness: Option<Readiness>,
    revoke_timeout: Duration,
    drain: DrainTimeouts,
    shutdown: CancellationToken,
    shutdown_now: CancellationToken,
    #[cfg(feature = "signals")]
    on_signals: bool,
    observers: Observers,
}

/// etcd's own limits on a TTL, in seconds (`lease/lessor.go`). The minimum follows from its
/// default election timeout; etcd silently raises a shorter TTL to it.
const TTL_SECONDS: std::ops::RangeInclusive<u64> = 2..=9_000_000_000;

// === impl Registrar ===

impl Registrar {
    /// Starts to configure a registrar for `etcd`.
    pub fn builder(etcd: Etcd) -> RegistrarBuilder {
        RegistrarBuilder::new(etcd)
    }
}

// === impl RegistrarBuilder ===

impl RegistrarBuilder {
    fn new(etcd: Etcd) -> Self {
        Self {
            etcd,
            formats: vec![],
            plain: Plain::new(),
            plain_at: None,
            ttl: Duration::from_secs(5),
            on_conflict: OnConflict::default(),
            allow_loopback: false,
            interfaces: Interfaces::default(),
            advertise_interface: None,
            dedicated_thread: false,
            readiness: None,
            revoke_timeout: Duration::from_secs(1),
            drain: DrainTimeouts {
                deregistration_delay: Duration::from_secs(1),
                drain: Duration::from_secs(30),
            },
            shutdown: CancellationToken::new(),
            shutdown_now: CancellationToken::new(),
            #[cfg(feature = "signals")]
            on_signals: false,
            observers: Observers::default(),
        }
    }

    /// The prefix of all keys of the [plain](Plain) format. Default: `/services`. Slashes at the end are dropped.
    pub fn prefix(mut self, prefix: impl Into<String>) -> Self {
        self.plain = self.plain.prefix(prefix);
        self
    }

    /// The template of the keys of the [plain](Plain) format. Default: `{prefix}/{name}/{ip}/{pid}`.
    ///
    /// Placeholders: `{prefix} {name} {ip} {port} {addr} {pid} {host} {id} {lease}`. An IPv6 `{ip}`
    /// is in brackets, so that `{addr}` and `{ip}:{port}` are the same. `{name}` must be a
    /// whole segment and not the last one. The rest must be unique for each server of a fleet.
    pub fn key_template(mut self, template: impl Into<String>) -> Self {
        self.plain = self.plain.key_template(template);
        self
    }

    /// Writes every instance in this [format](crate::format). May be called several times: an instance is then written in each
    /// format, under the same lease and in the same transaction (unless that has more operations than etcd accepts), and
    /// the keys are deleted together.
    ///
    /// Default: [`Plain`] alone. After a call of `format`, `Plain` is written only if it is given too.
    /// [`prefix`](Self::prefix) and [`key_template`](Self::key_template) apply to [`Plain::new`], not to a `Plain` with
    /// settings of its own.
    ///
    /// ```
    /// use tonic_etcd::format::{EtcdNaming, Kratos, Plain};
    /// use tonic_etcd::{Etcd, Registrar};
    ///
    /// # fn build() -> Result<Registrar, tonic_etcd::BuildError> {
    /// Registrar::builder(Etcd::new(["http://127.0.0.1:2379"]))
    ///     .format(Plain::new())
    ///     .format(Kratos::new())
    ///     .format(EtcdNaming::new().prefix("services"))
    ///     .build()
    /// # }
    /// # build().unwrap();
    /// ```
    pub fn format(mut self, format: impl Format) -> Self {
        let plain = (&format as &dyn Any).downcast_ref::<Plain>();
        if plain.is_some_and(Plain::is_default) {
            self.plain_at = Some(self.formats.len());
        }
        self.formats.push(Arc::new(format));
        self
    }

    /// How long the keys outlive a crash. Default: 5 s. Whole seconds, at least 2.
    pub fn ttl(mut self, ttl: Duration) -> Self {
        self.ttl = ttl;
        self
    }

    /// What to do with a key that another lease holds. Default: [`OnConflict::TakeOver`].
    pub fn on_conflict(mut self, policy: OnConflict) -> Self {
        self.on_conflict = policy;
        self
    }

    /// Allows a loopback address to be advertised although etcd is on another machine, where no client can dial it. By default
    /// `register` refuses such an address if every endpoint is an IP address of another machine. If an endpoint is a name,
    /// `register` only logs a warning.
    pub fn allow_loopback(mut self, allow: bool) -> Self {
        self.allow_loopback = allow;
        self
    }

    /// The interface whose address is advertised for a listener on `0.0.0.0` or `[::]`: its first IPv4 address, or else its
    /// first global IPv6 address. `build` refuses an interface that does not exist, or has no address that others can dial.
    ///
    /// Default: the local address of the route to etcd. If etcd is on this machine, the local address of the default route;
    /// without such a route, the first address. Networks of containers on this machine, such as `docker0`, come last. An
    /// instance with an [address](crate::Instance::with_address) of its own is not changed.
    pub fn advertise_interface(mut self, name: impl Into<String>) -> Self {
        self.advertise_interface = Some(name.into());
        self
    }

    /// Keeps the lease alive on a thread with a small runtime of its own. By default a task of the runtime that calls
    /// [`register`](Registrar::register) does it.
    ///
    /// For servers whose handlers block their runtime: while every thread of it is blocked, a task cannot renew the lease,
    /// which expires after a TTL. A thread of its own can. It also outlives the runtime of `register`: the server may run in
    /// another one, and is drained there. The drawback: a server that hangs forever stays registered. So combine this with
    /// a health check that the handlers answer.
    pub fn dedicated_thread(mut self, dedicated: bool) -> Self {
        self.dedicated_thread = dedicated;
        self
    }

    /// Writes keys only while a probe succeeds. Default: always.
    ///
    /// Registrations are [paused](crate::RegistrationStatus::Paused) until the first success, and while the probe fails. The
    /// server keeps serving: the probe neither ends nor delays it, nor a stop.
    pub fn ready_when(mut self, readiness: Readiness) -> Self {
        self.readiness = Some(readiness);
        self
    }

    /// How long to keep serving after the keys are deleted. Default: 1 s, for clients that watch.
    ///
    /// Clients that poll need their interval and 1 s more: 6 s for kitex, which polls every 5 s, and for CoreDNS with its TTL
    /// of 5 s. The page of each [format](crate::format) has the value for its readers.
    pub fn deregistration_delay(mut self, delay: Duration) -> Self {
        self.drain.deregistration_delay = delay;
        self
    }

    /// How long to try to revoke the lease at a shutdown. Default: 1 s. After that the keys are deleted when it expires.
    pub fn revoke_timeout(mut self, limit: Duration) -> Self {
        self.revoke_timeout = limit;
        self
    }

    /// How long requests in flight may take once the server has stopped accepting. Default: 30 s. The remaining requests then
    /// end with `UNAVAILABLE`.
    pub fn drain_timeout(mut self, limit: Duration) -> Self {
        self.drain.drain = limit;
        self
    }

    /// The application's shutdown token. When it is cancelled, all registrations are deregistered.
    ///
    /// Give it to the registrar and not to tonic: tonic closes its listener at its signal, while clients still find the
    /// server in etcd.
    pub fn shutdown_token(mut self, token: CancellationToken) -> Self {
        self.shutdown = token;
        self
    }

    /// A second token: it begins the shutdown, and skips all waits.
    pub fn shutdown_now_token(mut self, token: CancellationToken) -> Self {
        self.shutdown_now = token;
        self
    }

    /// SIGTERM or SIGINT (Ctrl-C) cancels the [shutdown token](Self::shutdown_token), and a second one
    /// the [other one](Self::shutdown_now_token), which skips all waits. With tokens of the application, signals stop the whole
    /// application. Only signals are counted: the first one never skips the waits of a shutdown that the application has
    /// begun.
    ///
    /// A third signal ends the process as if it had no handlers, for an application that does not end after its stop.
    /// Signals within 200 ms count as one, because process managers may signal a process and then its group.
    ///
    /// [`build`](Self::build) installs the handlers, which stay until the process ends. A thread of its own waits for signals:
    /// they need no runtime of the application, and also work while every thread of it is blocked.
    #[cfg(feature = "signals")]
    #[cfg_attr(docsrs, doc(cfg(feature = "signals")))]
    pub fn shutdown_on_signals(mut self) -> Self {
        self.on_signals = true;
        self
    }

    /// Sets the interfaces of this machine.
    #[cfg(all(test, feature = "test-util"))]
    pub(super) fn interfaces(mut self, interfaces: Interfaces) -> Self {
        self.interfaces = interfaces;
        self
    }

    /// Adds an observer. May be called several times. Default: none.
    pub fn observer(mut self, observer: impl Observer) -> Self {
        self.observers.add(observer);
        self
    }

    /// Checks all settings and makes the registrar. It sends no request, and needs no runtime.
    ///
    /// # Errors
    ///
    /// [`BuildError::NoEndpoints`], [`BuildError::Endpoint`] and [`BuildError::Tls`] for settings of [`Etcd`] that cannot
    /// work; [`BuildError::Name`] for a prefix; [`BuildError::Template`] for the key; [`BuildError::Format`] for
    /// settings of a format, and for prefix or key without a `Plain::new()`;
    /// [`BuildError::Setting`] for an interface to advertise and a readiness probe; [`BuildError::Timing`] for a TTL
    /// that is not in whole seconds, out of range, or too short for the attempt timeout. With
    /// `shutdown_on_signals`, [`BuildError::Signals`] if the handlers cannot be installed.
    pub fn build(self) -> Result<Registrar, BuildError> {
        let ttl = check_ttl(self.ttl)?;
        let etcd = self.etcd.or_attempt_timeout(lease::default_attempt(ttl));
        let cluster = etcd.check()?;
        check_attempt(cluster.attempt_timeout, ttl)?;
        let config = Config {
            formats: Formats::new(with_plain(self.formats, self.plain, self.plain_at)?)?,
            cluster,
            advertised: self
                .advertise_interface
                .map(|name| AdvertisedInterface::find(name, &self.interfaces.list()))
                .transpose()?,
            ttl,
            on_conflict: self.on_conflict,
            allow_loopback: self.allow_loopback,
            interfaces: self.interfaces,
            dedicated_thread: self.dedicated_thread,
            observers: self.observers,
            revoke_timeout: self.revoke_timeout,
            drain: self.drain,
        };
        let readiness = self.readiness.map(Readiness::check).transpose()?;
        // The last check, so that no handlers are installed for a configuration that cannot work.
        #[cfg(feature = "signals")]
        if self.on_signals {
            cancel_on_signals([self.shutdown.clone(), self.shutdown_now.clone()])?;
        }
        let registry = Registry::new(config, self.shutdown, self.shutdown_now);
        Ok(Registrar::new(registry, readiness))
    }
}

/// The formats; `plain` replaces the default `Plain`.
fn with_plain(
    mut formats: Vec<Arc<dyn Format>>,
    plain: Plain,
    at: Option<usize>,
) -> Result<Vec<Arc<dyn Format>>, BuildError> {
    match at {
        _ if formats.is_empty() => formats.push(Arc::new(plain)),
        Some(at) => formats[at] = Arc::new(plain),
        None if plain.is_default() => {}
        None => {
            let reason = "prefix and key of the builder are settings of Plain::new(), which is \
                          not among its formats: use Plain::new().prefix(..).key_template(..)";
            return Err(BuildError::format("plain", reason));
        }
    }
    Ok(formats)
}

fn check_ttl(ttl: Duration) -> Result<Duration, BuildError> {
    let reason = if ttl.subsec_nanos() != 0 {
        format!("a TTL of {ttl:?} is not possible: etcd counts in whole seconds")
    } else if !TTL_SECONDS.contains(&ttl.as_secs()) {
        let (least, most) = (TTL_SECONDS.start(), TTL_SECONDS.end());
        format!("a TTL of {ttl:?} is not possible: etcd takes {least} s to {most} s")
    } else {
        return Ok(ttl);
    };
    Err(BuildError::Timing { reason })
}

fn check_attempt(attempt: Duration, ttl: Duration) -> Result<(), BuildError> {
    if !attempt.is_zero() && lease::fits(ttl, attempt) {
        return Ok(());
    }
    let reason = format!(
        "an attempt timeout of {attempt:?} does not fit a TTL of {ttl:?}: three attempts must fit between \
         two renewals, so use {:?} or less, or a longer TTL",
        lease::default_attempt(ttl)
    );
    Err(BuildError::Timing { reason })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::RegisterError;
    use crate::format::Kratos;

    fn builder() -> RegistrarBuilder {
        Registrar::builder(Etcd::new(["http://127.0.0.1:2379"]))
    }

    #[test]
    fn a_ttl_etcd_would_change_is_refused_with_the_reason() {
        for (ttl, reason) in [
            (Duration::ZERO, "2 s to 9000000000 s"),
            (Duration::from_secs(1), "2 s to 9000000000 s"),
            (Duration::from_millis(2500), "whole seconds"),
            (Duration::from_secs(9_000_000_001), "2 s to 9000000000 s"),
            (Duration::MAX, "whole seconds"),
        ] {
            let error = builder().ttl(ttl).build().unwrap_err().to_string();
            assert!(error.contains(reason), "{ttl:?}: {error}");
        }
        for ttl in [2, 5, 9_000_000_000] {
            builder().ttl(Duration::from_secs(ttl)).build().unwrap();
        }
    }

    #[test]
    fn an_attempt_that_does_not_fit_the_ttl_is_refused_with_one_that_does() {
        let etcd = Etcd::new(["http://127.0.0.1:2379"]).attempt_timeout(Duration::from_secs(1));
        let error = Registrar::builder(etcd).build().unwrap_err().to_string();
        assert!(error.contains("600ms or less"), "{error}");
        let etcd = Etcd::new(["http://127.0.0.1:2379"]).attempt_timeout(Duration::ZERO);
        assert!(Registrar::builder(etcd).build().is_err());
    }

    #[test]
    fn each_mistake_is_found_when_building() {
        assert!(matches!(
            builder().prefix("").build(),
            Err(BuildError::Name { .. })
        ));
        assert!(matches!(
            builder().key_template("{name}").build(),
            Err(BuildError::Template { .. })
        ));
        assert!(matches!(
            builder().format(Kratos::new().namespace("a//b")).build(),
            Err(BuildError::Name {
                what: "namespace",
                ..
            })
        ));
        assert!(matches!(
            builder().advertise_interface("none").build(),
            Err(BuildError::Setting {
                name: "advertise_interface",
                ..
            })
        ));
        assert!(matches!(
            Registrar::builder(Etcd::new([""; 0])).build(),
            Err(BuildError::NoEndpoints)
        ));
    }

    #[test]
    fn registering_outside_of_a_runtime_is_an_error_and_not_a_panic() {
        let registrar = builder().build().unwrap();
        let error = registrar
            .register(crate::Instance::new("greeter"))
            .unwrap_err();
        assert!(matches!(error, RegisterError::NoRuntime));
    }

    #[test]
    fn prefix_and_key_are_those_of_a_plain_format_that_has_none() {
        let mine = || Plain::new().key_template("{name}/{id}");
        for works in [
            builder().format(Kratos::new()),
            builder().format(Plain::new()).prefix("/x"),
            builder().prefix("/x").format(mine()).format(Plain::new()),
        ] {
            works.build().unwrap();
        }
        for misplaced in [
            builder().prefix("/x").format(Kratos::new()),
            builder().format(mine()).key_template("{name}/{addr}"),
        ] {
            let error = misplaced.build().unwrap_err().to_string();
            assert!(
                error.contains("Plain::new().prefix(..).key_template(..)"),
                "{error}"
            );
        }
        let bad = builder()
            .format(Kratos::new())
            .format(Plain::new())
            .key_template("x");
        assert!(matches!(bad.build(), Err(BuildError::Template { .. })));
    }
}
