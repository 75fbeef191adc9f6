//! Health: the status of a registration on the standard gRPC health service.
//!
//! Its own name is `etcd.registration`: `SERVING` while the keys are known to be held. The
//! overall name `""` is left alone by default, because orchestrators restart servers on it and
//! kratos clients eject them: an etcd outage must not take a healthy fleet down.
//!
//! One small task per health service turns statuses into reports, and acknowledges each: the keys do
//! not go before `NOT_SERVING` was reported.
//!
//! After the process was frozen, a check may run before that task does. The answers are therefore
//! compared with the expiry of the lease as well. Only [`RegistrationHealth`] can do that: a service
//! of your own on the same [`HealthReporter`] may still say `SERVING` for the moment until the task
//! has run.

use crate::lifecycle::Lifecycle;
use crate::registration::Registration;
use crate::status::Status as RegistrationStatus;
use futures_util::stream::{self, StreamExt as _};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::server::NamedService;
use tonic::{Code, Request, Response, Status, async_trait};
use tonic_health::ServingStatus;
use tonic_health::pb::health_server::{Health, HealthServer};
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response as pb};
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

/// The gRPC health service of a registered server. It keeps the registration alive.
///
/// It is tonic-health's, with these differences: `Watch` streams end when the server drains (stock
/// tonic waits for them without end), a `Watch` of an unknown name says `SERVICE_UNKNOWN` until the
/// name is known, and a name that follows the registration is never `SERVING` when its lease may have
/// run out.
pub struct RegistrationHealth {
    inner: Arc<HealthService>,
    following: Following,
    drain: CancellationToken,
    _registration: Registration,
}

/// A stream of statuses that ends when the server drains.
pub struct HealthWatch {
    inner: Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// The names that follow the registration, and what they may say.
#[derive(Clone)]
struct Following {
    names: Arc<[String]>,
    lifecycle: Arc<Lifecycle>,
}

/// How often a `Watch` of an unknown name looks whether it is known.
const UNKNOWN_INTERVAL: Duration = Duration::from_secs(1);

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
    ///
    /// Serve what [`build`](Self::build) makes of it and not the reporter's own service, which cannot
    /// know that the lease ran out while the process was frozen.
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
        let lifecycle = registration.lifecycle();
        if self.reporter.is_none() && !self.following.iter().any(String::is_empty) {
            self = self.always_serving("");
        }
        let reporter = self.reporter.clone().unwrap_or_default();
        let names = self.following.iter().chain([&self.own]).cloned().collect();
        let service = RegistrationHealth {
            inner: Arc::new(HealthService::from_health_reporter(reporter.clone())),
            following: Following {
                names,
                lifecycle: lifecycle.clone(),
            },
            drain: lifecycle.drain().begun.clone(),
            _registration: registration.clone(),
        };
        self.start(reporter, lifecycle);
        HealthServer::new(service)
    }

    /// Starts the task that reports each status. It does not keep the registration alive.
    fn start(self, reporter: HealthReporter, lifecycle: &Lifecycle) {
        let mut statuses = lifecycle.watch();
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
        for name in self.following.iter().chain([&self.own]) {
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

/// All that health tells of a status.
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
        let follows = self.following.has(&request.get_ref().service);
        let response = self.inner.check(request).await?;
        Ok(response.map(|response| self.following.checked(follows, response)))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthWatch>, Status> {
        let request = request.into_inner();
        let (following, follows) = (self.following.clone(), self.following.has(&request.service));
        let inner: Pin<Box<dyn Stream<Item = _> + Send>> =
            match self.inner.watch(Request::new(request.clone())).await {
                Ok(statuses) => Box::pin(
                    statuses
                        .into_inner()
                        .map(move |next| next.map(|next| following.checked(follows, next))),
                ),
                Err(error) if error.code() == Code::NotFound => {
                    Box::pin(unknown(self.inner.clone(), request))
                }
                Err(error) => return Err(error),
            };
        let drain = Box::pin(self.drain.clone().cancelled_owned());
        Ok(Response::new(HealthWatch { inner, drain }))
    }
}

/// `SERVICE_UNKNOWN`, and from when on the name is known, what is said of it.
fn unknown(
    inner: Arc<HealthService>,
    request: HealthCheckRequest,
) -> impl Stream<Item = Result<HealthCheckResponse, Status>> {
    let first = HealthCheckResponse {
        status: pb::ServingStatus::ServiceUnknown.into(),
    };
    let known = async move {
        loop {
            sleep(UNKNOWN_INTERVAL).await;
            if let Ok(statuses) = inner.watch(Request::new(request.clone())).await {
                return statuses.into_inner();
            }
        }
    };
    stream::iter([Ok(first)]).chain(stream::once(known).flatten())
}

// === impl Following ===

impl Following {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|other| other == name)
    }

    /// What is answered for a name that `follows` the registration, where `reported` was reported.
    fn checked(&self, follows: bool, mut reported: HealthCheckResponse) -> HealthCheckResponse {
        if follows
            && reported.status() == pb::ServingStatus::Serving
            && !self.lifecycle.status().is_registered()
        {
            reported.set_status(pb::ServingStatus::NotServing);
        }
        reported
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
