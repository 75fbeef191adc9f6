//! [`RequiredNames`]: the application's health names that have to be `SERVING`.
//!
//! A task pauses the registration while one of them is not.

use super::service::UNKNOWN_INTERVAL;
use crate::registrar::registration::{Registration, ended};
use crate::registrar::{Pause, PauseError};
use crate::runtime::deadline::FOR_EVER;
use crate::runtime::escaped::Escaped;
use crate::runtime::isolated::in_current_span;
use futures_util::stream::{self, SelectAll, StreamExt as _};
use std::future::Future;
use tokio::time::sleep;
use tonic::Request;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as _;
use tonic_health::server::{HealthReporter, HealthService};

/// See the [module](self).
pub(super) struct RequiredNames {
    health: HealthService,
    names: Vec<String>,
}

/// The longest name in a reason, which may have 256 bytes.
const MAX_NAME_BYTES: usize = 180;

// === impl RequiredNames ===

impl RequiredNames {
    pub(super) fn new(reporter: HealthReporter, names: Vec<String>) -> Self {
        let health = HealthService::from_health_reporter(reporter);
        Self { health, names }
    }

    /// Pauses the registration at once, and then while any name is not `SERVING`. Needs a tokio runtime.
    pub(super) fn start(self, registration: &Registration) {
        let pause = registration.pauser();
        // The registration is leaving.
        let Ok(first) = pause("not ready: no health name was read yet") else {
            return;
        };
        let lifecycle = registration.lifecycle().clone();
        tokio::spawn(in_current_span(async move {
            tokio::select! {
                _ended = ended(&lifecycle) => {}
                _leaving = self.run(pause, first) => {}
            }
        }));
    }

    /// Ends when the registration is leaving.
    async fn run(
        self,
        pause: impl Fn(&str) -> Result<Pause, PauseError>,
        first: Pause,
    ) -> Result<(), PauseError> {
        let mut held = Some(first);
        loop {
            let (reason, changed) = self.read().await;
            if held.as_ref().map(Pause::reason) != reason.as_deref() {
                // The next pause begins before the previous one ends.
                held = reason.map(|reason| pause(&reason)).transpose()?;
            }
            changed.await;
        }
    }

    /// Why the server is not ready, if it is not. The future resolves when that may have changed.
    async fn read(&self) -> (Option<String>, impl Future<Output = ()> + use<>) {
        let mut reason = None;
        let mut limit = FOR_EVER;
        let mut changes = SelectAll::new();
        for name in &self.names {
            let mut status = ServingStatus::ServiceUnknown;
            let service = name.clone();
            let request = Request::new(HealthCheckRequest { service });
            match self.health.watch(request).await {
                Ok(watch) => {
                    // The first item is the current state.
                    let mut watch = watch.into_inner();
                    if let Some(Ok(now)) = watch.next().await {
                        status = now.status();
                    }
                    // The stream ends when the name is cleared.
                    changes.push(watch.map(drop).chain(stream::iter([()])));
                }
                Err(_unknown) => limit = UNKNOWN_INTERVAL,
            }
            if status != ServingStatus::Serving && reason.is_none() {
                let (name, status) = (Escaped::at_most(name, MAX_NAME_BYTES), status.as_str_name());
                reason = Some(format!("not ready: health of \"{name}\" is {status}"));
            }
        }
        let changed = async move {
            tokio::select! {
                Some(()) = changes.next() => {}
                () = sleep(limit) => {}
            }
        };
        (reason, changed)
    }
}
