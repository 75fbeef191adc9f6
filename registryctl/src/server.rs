//! Calls the introspection service of a server: its registrations and pauses.

use crate::call_error::no_answer;
use crate::dial::Dialer;
use crate::entry::{cut, escape, foreign};
use crate::failure::Failure;
use std::time::Duration;
use tokio::time::timeout;
use tonic::transport::Channel;
use tonic::{Code, Status};
use tonic_etcd::format::Address;
use tonic_etcd::introspection::pb::introspection_client::IntrospectionClient;
use tonic_etcd::introspection::pb::{
    ListRequest, PauseRequest, Process, Registration, ResumeRequest,
};

/// A connection to one server; every call has a timeout.
pub(crate) struct Server {
    client: IntrospectionClient<Channel>,
    address: String,
    limit: Duration,
}

/// The most pages to read for one registration.
const MAX_PAGES: usize = 100;

// === impl Server ===

impl Server {
    pub(crate) async fn connect(address: &Address, dialer: &Dialer) -> Result<Self, Failure> {
        let limit = dialer.limit;
        let dialled = timeout(limit, dialer.dial(address)).await;
        let channel = dialled.unwrap_or_else(|_| Err(no_answer(limit)));
        let failed = |reason: String| Failure::Other(format!("{address}: {reason}"));
        Ok(Self {
            client: IntrospectionClient::new(channel.map_err(failed)?),
            address: address.to_string(),
            limit,
        })
    }

    /// The first of its registrations with this name (any name if it is empty) for which `wanted` is true, and the state of
    /// its process.
    pub(crate) async fn registration(
        &self,
        service: &str,
        is_wanted: impl Fn(&Registration) -> bool,
    ) -> Result<Option<(Registration, Process)>, Failure> {
        let (mut page_token, mut process) = (String::new(), Process::default());
        for _ in 0..MAX_PAGES {
            let request = ListRequest {
                page_size: 1000,
                page_token,
                service: service.to_owned(),
            };
            let mut client = self.client.clone();
            let page = self.bounded(client.list(request)).await?;
            // Only the first page has it.
            process = page.process.map_or(process, cleaned_process);
            let mut registrations = page.registrations.into_iter().map(cleaned);
            if let Some(found) = registrations.find(&is_wanted) {
                return Ok(Some((found, process)));
            }
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok(None)
    }

    pub(crate) async fn pause(&self, request: PauseRequest) -> Result<u32, Failure> {
        let mut client = self.client.clone();
        let paused = self.bounded(client.pause(request)).await?;
        Ok(paused.registrations)
    }

    pub(crate) async fn resume(&self, name: &str) -> Result<u32, Failure> {
        let name = name.to_owned();
        let mut client = self.client.clone();
        let resumed = self.bounded(client.resume(ResumeRequest { name })).await?;
        Ok(resumed.registrations)
    }

    async fn bounded<T>(
        &self,
        call: impl Future<Output = Result<tonic::Response<T>, Status>>,
    ) -> Result<T, Failure> {
        let reason = match timeout(self.limit, call).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner()),
            Ok(Err(status)) if status.code() == Code::Unimplemented => {
                "it has no introspection service".to_owned()
            }
            Ok(Err(status)) => foreign(status.message()),
            Err(_) => no_answer(self.limit),
        };
        Err(Failure::Other(format!("{}: {reason}", self.address)))
    }
}

/// The most texts of one list that are shown. A server of this crate sends at most 64 of each.
const MOST: usize = 64;
/// The longest key that a server of this crate sends.
const KEY: usize = 1024;

/// The registration as a server described it, which may be another one than it should be.
fn cleaned(mut it: Registration) -> Registration {
    it.instances.truncate(MOST);
    for instance in &mut it.instances {
        for text in [
            &mut instance.service,
            &mut instance.id,
            &mut instance.address,
        ] {
            *text = foreign(&*text);
        }
    }
    it.keys = it.keys.iter().map(|key| cut(&escape(key), KEY)).collect();
    it.reason = foreign(it.reason);
    for texts in [&mut it.pauses, &mut it.formats] {
        texts.truncate(MOST);
        texts.iter_mut().for_each(|text| *text = foreign(&*text));
    }
    it
}

fn cleaned_process(mut it: Process) -> Process {
    it.registrars.truncate(MOST);
    for registrar in &mut it.registrars {
        registrar.endpoints.truncate(MOST);
        for endpoint in &mut registrar.endpoints {
            endpoint.url = foreign(&endpoint.url);
            endpoint.last_error = foreign(&endpoint.last_error);
        }
    }
    it.discoveries.truncate(MOST);
    for discovery in &mut it.discoveries {
        discovery.service = foreign(&discovery.service);
        discovery.watch_error = foreign(&discovery.watch_error);
        discovery.skipped_by_reason.truncate(MOST);
        for skipped in &mut discovery.skipped_by_reason {
            skipped.reason = foreign(&skipped.reason);
            skipped.example = foreign(&skipped.example);
        }
    }
    it
}
