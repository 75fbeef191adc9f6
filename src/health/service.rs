//! [`RegistrationHealth`]: answers health checks. [`HealthWatch`]: a stream of answers that ends with the drain.

use crate::registrar::lifecycle::Lifecycle;
use crate::registrar::registration::Registration;
use futures_util::stream::{self, StreamExt as _};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::sleep;
use tokio_stream::Stream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Code, Request, Response, Status, async_trait};
use tonic_health::pb::health_server::Health;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse, health_check_response as pb};
use tonic_health::server::{HealthReporter, HealthService};

/// The gRPC health service of a registered server. It keeps the registration alive.
///
/// It is tonic-health's service, with three differences:
///
/// * `Watch` streams end when the server drains (tonic alone would wait for them forever);
/// * a `Watch` of an unknown name sends `SERVICE_UNKNOWN` until the name is set;
/// * a name that is `SERVING` while the server is registered is `NOT_SERVING` once the lease may have expired.
pub struct RegistrationHealth {
    inner: Arc<HealthService>,
    while_registered: WhileRegistered,
    drain: CancellationToken,
    _registration: Registration,
}

/// A stream of statuses that ends when the server drains.
pub struct HealthWatch {
    inner: Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>,
    drain: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// The names that are `SERVING` while the server is registered.
#[derive(Clone)]
struct WhileRegistered {
    names: Arc<[String]>,
    lifecycle: Arc<Lifecycle>,
}

/// How often an unknown name is read again.
pub(super) const UNKNOWN_INTERVAL: Duration = Duration::from_secs(1);

// === impl RegistrationHealth ===

impl RegistrationHealth {
    /// Answers with the state of the reporter. `names` are `SERVING` only while the server is registered.
    pub(super) fn new(
        reporter: HealthReporter,
        names: Arc<[String]>,
        registration: &Registration,
    ) -> Self {
        let lifecycle = registration.lifecycle().clone();
        Self {
            inner: Arc::new(HealthService::from_health_reporter(reporter)),
            drain: lifecycle.drain().begun.clone(),
            while_registered: WhileRegistered { names, lifecycle },
            _registration: registration.clone(),
        }
    }
}

#[async_trait]
impl Health for RegistrationHealth {
    type WatchStream = HealthWatch;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        let is_one = self.while_registered.has(&request.get_ref().service);
        let response = self.inner.check(request).await?;
        Ok(response.map(|response| self.while_registered.checked(is_one, response)))
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthWatch>, Status> {
        let request = request.into_inner();
        let names = self.while_registered.clone();
        let is_one = names.has(&request.service);
        let inner: Pin<Box<dyn Stream<Item = _> + Send>> =
            match self.inner.watch(Request::new(request.clone())).await {
                Ok(statuses) => Box::pin(
                    statuses
                        .into_inner()
                        .map(move |next| next.map(|next| names.checked(is_one, next))),
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

/// `SERVICE_UNKNOWN`, then the states of the name from when it is set.
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

// === impl WhileRegistered ===

impl WhileRegistered {
    fn has(&self, name: &str) -> bool {
        self.names.iter().any(|other| other == name)
    }

    /// The answer for a name: `reported`, or `NOT_SERVING` if it is one of these and the lease may have expired.
    fn checked(&self, is_one: bool, mut reported: HealthCheckResponse) -> HealthCheckResponse {
        if is_one
            && reported.status() == pb::ServingStatus::Serving
            && !self.lifecycle.status.get().is_registered()
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
        // States of before the drain are sent first.
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
