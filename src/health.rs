//! Health: the status of a registration on the standard gRPC health service.
//!
//! Its own name is `etcd.registration`: `SERVING` while the keys are known to be held. The
//! overall name `""` is left alone by default, because orchestrators restart servers on it and
//! kratos clients eject them: an etcd outage must not take a healthy fleet down.
//!
//! One small task per health service turns statuses into reports. It is a witness of the way
//! out: the keys do not go before `NOT_SERVING` was reported.

use crate::Registration;
use crate::life::Life;
use crate::status::Status as RegistrationStatus;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::watch;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::server::NamedService;
use tonic::{Request, Response, Status, async_trait};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_health::server::{HealthReporter, HealthService};

/// The health name that tells whether the outside world can find this server.
pub const HEALTH_NAME: &str = "etcd.registration";

/// Builds a [`RegistrationHealth`]: which health names follow the registration, and which do not.
///
/// ```no_run
/// # fn f(registration: &tonic_etcd::Registration) {
/// use tonic_etcd::RegistrationHealth;
///
/// // A readiness probe on `greeter.v1.Greeter` fails while nobody can find this server.
/// let health = RegistrationHealth::builder()
///     .follow_registration("greeter.v1.Greeter")
///     .build(registration);
/// # let _ = health;
/// # }
/// ```
#[derive(Debug, Clone)]
#[must_use = "a builder does nothing until it is built"]
pub struct RegistrationHealthBuilder {
    own: String,
    following: Vec<String>,
    always: Vec<String>,
    reporter: Option<HealthReporter>,
}

/// The gRPC health service of a registered server. It is tonic-health's, whose `Watch` streams
/// end when the server drains: stock tonic waits for them without end.
pub struct RegistrationHealth {
    inner: HealthService,
    drain: CancellationToken,
}

/// A stream of statuses that ends when the server drains.
pub struct HealthWatch {
    inner: <HealthService as Health>::WatchStream,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
}

// === impl RegistrationHealthBuilder ===

impl Default for RegistrationHealthBuilder {
    fn default() -> Self {
        Self {
            own: HEALTH_NAME.to_owned(),
            following: vec![],
            always: vec![],
            reporter: None,
        }
    }
}

impl RegistrationHealthBuilder {
    /// Another name than `etcd.registration`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.own = name.into();
        self
    }

    /// This name too is `SERVING` only while the server is registered. For the overall name `""`,
    /// think twice: an etcd outage then makes orchestrators restart servers that work.
    pub fn follow_registration(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.always.retain(|other| *other != name);
        self.following.push(name);
        self
    }

    /// [`follow_registration`](Self::follow_registration) with the name of a generated service,
    /// such as `GreeterServer<MyGreeter>`.
    pub fn follow_registration_for<S: NamedService>(self) -> Self {
        self.follow_registration(S::NAME)
    }

    /// This name is `SERVING` whatever etcd does, and `NOT_SERVING` on shutdown.
    pub fn always_serving(mut self, name: impl Into<String>) -> Self {
        let name = name.into();
        self.following.retain(|other| *other != name);
        self.always.retain(|other| *other != name);
        self.always.push(name);
        self
    }

    /// [`always_serving`](Self::always_serving) with the name of a generated service.
    pub fn always_serving_for<S: NamedService>(self) -> Self {
        self.always_serving(S::NAME)
    }

    /// Reports to a reporter that you have already. Names other than those given here stay yours,
    /// `""` among them, and on shutdown you have to set them yourself.
    pub fn reporter(mut self, reporter: HealthReporter) -> Self {
        self.reporter = Some(reporter);
        self
    }

    /// The service to add to the server. Needs a tokio runtime.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime: it starts a task, as the registration did before.
    #[must_use]
    pub fn build(mut self, registration: &Registration) -> HealthServer<RegistrationHealth> {
        let life = registration.life();
        if self.reporter.is_none() && !self.following.iter().any(String::is_empty) {
            self = self.always_serving("");
        }
        let reporter = self.reporter.clone().unwrap_or_default();
        let service = RegistrationHealth {
            inner: HealthService::from_health_reporter(reporter.clone()),
            drain: life.serving().drain.clone(),
        };
        self.follow(reporter, life);
        HealthServer::new(service)
    }

    fn follow(self, reporter: HealthReporter, life: &Arc<Life>) {
        let mut statuses = life.watch();
        let (acted, witness) = watch::channel(0);
        life.add_witness(witness);
        tokio::spawn(async move {
            let (mut number, mut status) = statuses.seen();
            let mut told = None;
            loop {
                let now = Reported::of(&status);
                if told != Some(now) {
                    self.report(&reporter, now).await;
                    told = Some(now);
                }
                acted.send_replace(number);
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
        for name in self.following.iter().chain([&self.own]) {
            reporter
                .set_service_status(name, status(now == Reported::Held))
                .await;
        }
        for name in &self.always {
            reporter
                .set_service_status(name, status(now != Reported::Leaving))
                .await;
        }
    }
}

/// All that health tells of a status.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reported {
    Held,
    Missing,
    Leaving,
}

impl Reported {
    fn of(status: &RegistrationStatus) -> Self {
        match status {
            RegistrationStatus::Deregistering => Self::Leaving,
            status if status.is_final() => Self::Leaving,
            status if status.is_registered() => Self::Held,
            _ => Self::Missing,
        }
    }
}

// === impl Registration ===

impl Registration {
    /// The gRPC health service of this server, as [`RegistrationHealth::builder`] makes it by default.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime.
    #[must_use]
    pub fn health_service(&self) -> HealthServer<RegistrationHealth> {
        RegistrationHealth::builder().build(self)
    }
}

// === impl RegistrationHealth ===

impl RegistrationHealth {
    /// Starts with `etcd.registration`, which follows the registration, and `""`, which says
    /// `SERVING` until shutdown.
    pub fn builder() -> RegistrationHealthBuilder {
        RegistrationHealthBuilder::default()
    }
}

#[async_trait]
impl Health for RegistrationHealth {
    type WatchStream = HealthWatch;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        self.inner.check(request).await
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthWatch>, Status> {
        let inner = self.inner.watch(request).await?;
        let drain = Box::pin(self.drain.clone().cancelled_owned());
        Ok(inner.map(|inner| HealthWatch { inner, drain }))
    }
}

impl fmt::Debug for RegistrationHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RegistrationHealth").finish_non_exhaustive()
    }
}

// === impl HealthWatch ===

impl Stream for HealthWatch {
    type Item = Result<HealthCheckResponse, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // What was reported before the drain is delivered first.
        if let Poll::Ready(next) = Pin::new(&mut self.inner).poll_next(cx) {
            return Poll::Ready(next);
        }
        self.drain.as_mut().poll(cx).map(|()| None)
    }
}

impl fmt::Debug for HealthWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthWatch").finish_non_exhaustive()
    }
}
