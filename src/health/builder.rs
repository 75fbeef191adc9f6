//! [`RegistrationHealthBuilder`]: the health names that report the registration, and the names that it requires. A task
//! reports each status.

use super::required::RequiredNames;
use super::service::RegistrationHealth;
use crate::error::BuildError;
use crate::observe::status::RegistrationStatus;
use crate::registrar::lifecycle::Lifecycle;
use crate::registrar::registration::Registration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tonic::server::NamedService;
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::HealthServer;
use tonic_health::server::HealthReporter;

/// The health name that is `SERVING` while the server is registered in etcd.
pub const HEALTH_NAME: &str = "etcd.registration";

/// Builds a [`RegistrationHealth`]: which names it reports, and which names the registration requires.
///
/// | name | `SERVING` | set by |
/// |---|---|---|
/// | `etcd.registration`, or another [`name`](Self::name) | while the server is registered | this crate |
/// | [`serving_while_registered`](Self::serving_while_registered) | the same | this crate |
/// | [`always_serving`](Self::always_serving); `""` by default | until shutdown, whatever etcd does | this crate |
/// | [`require_serving`](Self::require_serving) | while the application is ready: the server is registered only then | the application |
///
/// ```no_run
/// # fn f(registration: &tonic_etcd::Registration) -> Result<(), tonic_etcd::BuildError> {
/// use tonic_etcd::RegistrationHealth;
///
/// // A readiness probe on `greeter.v1.Greeter` fails while nobody can find this server.
/// let health = RegistrationHealth::builder()
///     .serving_while_registered("greeter.v1.Greeter")
///     .build(registration)?;
/// # let _ = health;
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct RegistrationHealthBuilder {
    own: String,
    while_registered: Vec<String>,
    always: Vec<String>,
    required: Vec<String>,
    reporter: Option<HealthReporter>,
}

// === impl RegistrationHealthBuilder ===

impl Default for RegistrationHealthBuilder {
    fn default() -> Self {
        Self {
            own: HEALTH_NAME.to_owned(),
            while_registered: vec![],
            always: vec![],
            required: vec![],
            reporter: None,
        }
    }
}

impl RegistrationHealthBuilder {
    /// The name to use instead of `etcd.registration`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.own = name.into();
        self
    }

    /// Reports this name as `SERVING` only while the server is registered. Be careful with the overall name `""`: in an
    /// outage of etcd, orchestrators would restart servers that work.
    pub fn serving_while_registered(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.always.retain(|other| *other != name);
        self.while_registered.push(name);
        self
    }

    /// [`serving_while_registered`](Self::serving_while_registered) with the name of a generated service,
    /// such as `GreeterServer<MyGreeter>`.
    pub fn serving_while_registered_for<S: NamedService>(self) -> Self {
        self.serving_while_registered(S::NAME)
    }

    /// Reports this name as `SERVING` whatever etcd does, and as `NOT_SERVING` on shutdown.
    pub fn always_serving(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.while_registered.retain(|other| *other != name);
        self.always.retain(|other| *other != name);
        self.always.push(name);
        self
    }

    /// [`always_serving`](Self::always_serving) with the name of a generated service.
    pub fn always_serving_for<S: NamedService>(self) -> Self {
        self.always_serving(S::NAME)
    }

    /// [Pauses](RegistrationStatus::Paused) the registration while this name is not `SERVING`. The application sets it on
    /// its [`reporter`](Self::reporter). May be called several times: all names have to be `SERVING`.
    ///
    /// A name that was never set, or that was cleared, is not `SERVING`; such a name is read once a second. Any other
    /// change takes effect at once. The registration is paused from [`build`](Self::build) on, so build it before you bind
    /// the server. A shutdown does not wait for any name.
    ///
    /// ```no_run
    /// # async fn f(registration: tonic_etcd::Registration) -> Result<(), tonic_etcd::BuildError> {
    /// use tonic_etcd::RegistrationHealth;
    /// use tonic_health::ServingStatus::Serving;
    /// use tonic_health::server::HealthReporter;
    ///
    /// let reporter = HealthReporter::new();
    /// let health = RegistrationHealth::builder()
    ///     .reporter(reporter.clone())
    ///     .require_serving("greeter.v1.Greeter")
    ///     .build(&registration)?;
    /// // The server appears after this, and when it is bound.
    /// reporter.set_service_status("greeter.v1.Greeter", Serving).await;
    /// # let _ = health;
    /// # Ok(())
    /// # }
    /// ```
    pub fn require_serving(mut self, name: impl Into<String>) -> Self {
        self.required.push(name.into());
        self
    }

    /// [`require_serving`](Self::require_serving) with the name of a generated service.
    pub fn require_serving_for<S: NamedService>(self) -> Self {
        self.require_serving(S::NAME)
    }

    /// Reports to a reporter of the application. Only the names that are given here are set on it. The application sets all
    /// others, also `""`, and also on shutdown.
    ///
    /// Add the service of [`build`](Self::build) to the server, not the reporter's own service, which does not check
    /// whether the lease expired while the process was frozen.
    pub fn reporter(mut self, reporter: HealthReporter) -> Self {
        self.reporter = Some(reporter);
        self
    }

    /// The service to add to the server.
    ///
    /// # Errors
    ///
    /// [`BuildError::HealthCycle`] if a required name is one that is reported here, [`BuildError::Setting`] if there are
    /// required names and no [`reporter`](Self::reporter) to set them on, [`BuildError::NoRuntime`] outside of a tokio
    /// runtime: it starts a task. After an error nothing is reported.
    pub fn build(
        self,
        registration: &Registration,
    ) -> Result<HealthServer<RegistrationHealth>, BuildError> {
        self.check()?;
        Handle::try_current().map_err(|_| BuildError::NoRuntime)?;
        Ok(self.serve(registration))
    }

    fn check(&self) -> Result<(), BuildError> {
        let mut reported = self
            .while_registered
            .iter()
            .chain(&self.always)
            .chain([&self.own]);
        if let Some(name) = reported.find(|name| self.required.contains(name)) {
            let name = name.clone();
            return Err(BuildError::HealthCycle { name });
        }
        if self.reporter.is_none() && !self.required.is_empty() {
            let name = "require_serving";
            let reason =
                "nobody can set the name: give the application's HealthReporter as reporter(..)";
            let reason = reason.to_owned();
            return Err(BuildError::Setting { name, reason });
        }
        Ok(())
    }

    fn serve(mut self, registration: &Registration) -> HealthServer<RegistrationHealth> {
        if self.reporter.is_none() && !self.while_registered.iter().any(String::is_empty) {
            self = self.always_serving("");
        }
        let reporter = self.reporter.clone().unwrap_or_default();
        let required = std::mem::take(&mut self.required);
        if !required.is_empty() {
            RequiredNames::new(reporter.clone(), required).start(registration);
        }
        let names = self
            .while_registered
            .iter()
            .chain([&self.own])
            .cloned()
            .collect();
        let service = RegistrationHealth::new(reporter.clone(), names, registration);
        self.start(reporter, registration.lifecycle());
        HealthServer::new(service)
    }

    /// Starts the task that reports each status. It does not keep the registration alive.
    fn start(self, reporter: HealthReporter, lifecycle: &Lifecycle) {
        let mut statuses = lifecycle.status.watch();
        let (acknowledge, acks) = watch::channel(0);
        lifecycle.add_health(acks);
        tokio::spawn(async move {
            let (mut number, mut status) = statuses.seen();
            let mut last = None;
            loop {
                let now = Reported::of(&status);
                if last != Some(now) {
                    self.report(&reporter, now).await;
                    last = Some(now);
                }
                acknowledge.send_replace(number);
                match statuses.next().await {
                    Some(next) => (number, status) = next,
                    None => break,
                }
            }
        });
    }

    async fn report(&self, reporter: &HealthReporter, now: Reported) {
        let status = |serving| match serving {
            true => ServingStatus::Serving,
            false => ServingStatus::NotServing,
        };
        for name in self.while_registered.iter().chain([&self.own]) {
            reporter
                .set_service_status(name, status(now == Reported::Registered))
                .await;
        }
        for name in &self.always {
            reporter
                .set_service_status(name, status(now != Reported::Leaving))
                .await;
        }
    }
}

/// The two properties of a status that health reports.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reported {
    Registered,
    Missing,
    Leaving,
}

impl Reported {
    fn of(status: &RegistrationStatus) -> Self {
        match status {
            RegistrationStatus::Deregistering => Self::Leaving,
            status if status.is_final() => Self::Leaving,
            status if status.is_registered() => Self::Registered,
            _ => Self::Missing,
        }
    }
}

// === impl RegistrationHealth ===

impl RegistrationHealth {
    /// Starts with two names: `etcd.registration`, which is `SERVING` while the server is registered, and `""`, which is
    /// `SERVING` until shutdown.
    pub fn builder() -> RegistrationHealthBuilder {
        RegistrationHealthBuilder::default()
    }
}

// === impl Registration ===

impl Registration {
    /// The gRPC health service of this server, with the defaults of [`RegistrationHealth::builder`].
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn health_service(&self) -> HealthServer<RegistrationHealth> {
        RegistrationHealth::builder().serve(self)
    }
}
