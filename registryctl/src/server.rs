//! Calls the introspection service of a server: its registrations and pauses.

use crate::dial::Dialer;
use crate::entry::foreign;
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

/// The most registrations, members, discoveries and texts of one list to show. A server of this crate sends at most 64 texts.
pub(crate) const MOST: usize = 64;
/// The most pages to read.
const MAX_PAGES: usize = 100;

// === impl Server ===

impl Server {
    pub(crate) async fn connect(address: &Address, dialer: &Dialer) -> Result<Self, Failure> {
        let limit = dialer.limit;
        let dialled = timeout(limit, dialer.dial(address)).await;
        let channel = dialled.unwrap_or_else(|_| Err(format!("no answer within {limit:?}")));
        let failed = |reason: String| Failure::Other(format!("{address}: {reason}"));
        Ok(Self {
            client: IntrospectionClient::new(channel.map_err(failed)?),
            address: address.to_string(),
            limit,
        })
    }

    /// Its registrations with this name (any name if it is empty) for which `is_wanted` is true, and the state of its
    /// process. A server with another implementation may send any text.
    pub(crate) async fn registrations(
        &self,
        service: &str,
        is_wanted: impl Fn(&Registration) -> bool,
    ) -> Result<(Vec<Registration>, Process), Failure> {
        let (mut page_token, mut process) = (String::new(), Process::default());
        let mut found = vec![];
        for _ in 0..MAX_PAGES {
            let request = ListRequest {
                page_size: 1000,
                page_token,
                service: service.to_owned(),
            };
            let mut client = self.client.clone();
            let page = self.bounded(client.list(request)).await?;
            process = page.process.unwrap_or(process);
            found.extend(page.registrations.into_iter().filter(&is_wanted));
            found.truncate(MOST);
            page_token = page.next_page_token;
            if page_token.is_empty() {
                break;
            }
        }
        Ok((found, process))
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
            Err(_) => format!("no answer within {:?}", self.limit),
        };
        Err(Failure::Other(format!("{}: {reason}", self.address)))
    }
}
