//! [`HealthRecorder`]: records the health of the server from streams that stay open.

use crate::server::connect;
use crate::timeline::Fail;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use test_support::poll;
use test_support::server::health_request;
use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;
use tonic_health::ServingStatus;
use tonic_health::pb::health_check_response::ServingStatus as Wire;
use tonic_health::pb::health_client::HealthClient;

/// Watches the health of the registration (`etcd.registration`) and the overall one (`""`).
#[derive(Debug)]
pub(crate) struct HealthRecorder {
    channel: Channel,
    reports: Arc<Mutex<Vec<Report>>>,
    watches: Vec<AbortHandle>,
}

/// One message of a stream.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pub(crate) at: Instant,
    pub(crate) name: &'static str,
    /// `None`: the stream ended.
    pub(crate) says: Option<ServingStatus>,
}

pub(crate) const NAMES: [&str; 2] = [tonic_etcd::HEALTH_NAME, ""];

// === impl HealthRecorder ===

impl HealthRecorder {
    /// Opens both streams, and waits for the first message on each.
    pub(crate) async fn open(addr: SocketAddr) -> Result<Self, Fail> {
        let channel = connect(addr).await;
        let channel = channel.map_err(|error| Fail::new("a connection for health", error))?;
        let mut recorder = Self {
            channel,
            reports: Arc::default(),
            watches: vec![],
        };
        for name in NAMES {
            recorder.watch(name).await.map_err(|status| {
                Fail::new(format!("a health Watch of {name:?}"), status.to_string())
            })?;
        }
        let limit = Duration::from_secs(5);
        for name in NAMES {
            let anything = recorder.says(name, |said| said.is_some(), "something", limit);
            anything.await?;
        }
        Ok(recorder)
    }

    /// Reads the status of one name.
    pub(crate) async fn check(&self, name: &str) -> Result<ServingStatus, Fail> {
        let mut client = HealthClient::new(self.channel.clone());
        let checked = client.check(health_request(name)).await;
        let expected = || format!("an answer about the health of {name:?}");
        let response = checked.map_err(|error| Fail::new(expected(), error.to_string()))?;
        Ok(status(response.get_ref().status()))
    }

    /// The number of reports so far.
    pub(crate) fn mark(&self) -> usize {
        self.reports
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .len()
    }

    /// The reports since a [`mark`](Self::mark).
    pub(crate) fn since(&self, mark: usize) -> Vec<Report> {
        let reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.iter().skip(mark).cloned().collect()
    }

    /// Waits until the registration is `SERVING`.
    pub(crate) async fn serving(&self, limit: Duration) -> Result<(), Fail> {
        let serving = |said: &Option<&Report>| {
            said.is_some_and(|report| report.says == Some(ServingStatus::Serving))
        };
        self.says(NAMES[0], serving, "SERVING", limit).await
    }

    /// For how long in all the registration was not `SERVING` since a [`mark`](Self::mark).
    pub(crate) fn gap(&self, mark: usize) -> Duration {
        let (mut gap, mut since) = (Duration::ZERO, None);
        for report in self
            .since(mark)
            .iter()
            .filter(|report| report.name == NAMES[0])
        {
            match report.says {
                Some(ServingStatus::Serving) => {
                    gap += since
                        .take()
                        .map_or(Duration::ZERO, |since| report.at - since);
                }
                _ => since = since.or(Some(report.at)),
            }
        }
        gap + since.map_or(Duration::ZERO, |since: Instant| since.elapsed())
    }

    async fn watch(&mut self, name: &'static str) -> Result<(), Status> {
        let mut client = HealthClient::new(self.channel.clone());
        let watch = client.watch(health_request(name)).await?;
        let (mut watch, reports) = (watch.into_inner(), self.reports.clone());
        let task = tokio::spawn(async move {
            loop {
                let said = watch.message().await.ok().flatten();
                let says = said.map(|said| status(said.status()));
                let report = Report {
                    at: Instant::now(),
                    name,
                    says,
                };
                reports
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(report);
                if says.is_none() {
                    break;
                }
            }
        });
        self.watches.push(task.abort_handle());
        Ok(())
    }

    async fn says(
        &self,
        name: &str,
        look: impl Fn(&Option<&Report>) -> bool,
        expected: &str,
        limit: Duration,
    ) -> Result<(), Fail> {
        let said = poll(Duration::from_millis(2), limit, async || {
            let reports = self.since(0);
            let last = reports.iter().rfind(|report| report.name == name);
            match look(&last) {
                true => Ok(()),
                false => Err(last.map_or("nothing".to_owned(), |last| format!("{:?}", last.says))),
            }
        });
        let expected = format!("health of {name:?} to say {expected} within {limit:?}");
        said.await.map_err(|seen| Fail::new(expected, seen))
    }
}

impl Drop for HealthRecorder {
    fn drop(&mut self) {
        self.watches.iter().for_each(AbortHandle::abort);
    }
}

fn status(wire: Wire) -> ServingStatus {
    match wire {
        Wire::Serving => ServingStatus::Serving,
        Wire::NotServing => ServingStatus::NotServing,
        Wire::Unknown | Wire::ServiceUnknown => ServingStatus::Unknown,
    }
}
