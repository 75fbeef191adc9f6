//! [`Health`]: what a server says of itself on its health service.

use crate::dial::Dialer;
use crate::entry::foreign;
use std::error::Error as _;
use std::fmt;
use tokio::time::timeout;
use tonic::Code;
use tonic::transport::{Channel, Error};
use tonic_etcd::HEALTH_NAME;
use tonic_etcd::format::Address;
use tonic_etcd::internal::chain;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

/// The health of a server, by its own health service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Health {
    Serving,
    NotServing,
    /// It has no health service, or does not have this name.
    Unknown,
    /// The connection failed.
    Broken(String),
    /// The health service failed.
    Failed(String),
}

/// Of the server, and of its registration.
pub(crate) async fn ask_health(address: &Address, dialer: &Dialer) -> [Health; 2] {
    let asked = async {
        let mut client = HealthClient::new(dialer.dial(address).await?);
        Ok::<_, String>([
            of(&mut client, "").await,
            of(&mut client, HEALTH_NAME).await,
        ])
    };
    let failed = |health| [health, Health::Unknown];
    match timeout(dialer.limit, asked).await {
        Ok(Ok(both)) => both,
        Ok(Err(reason)) => failed(Health::Broken(reason)),
        Err(_) => failed(Health::Failed("no answer in time".to_owned())),
    }
}

async fn of(client: &mut HealthClient<Channel>, service: &str) -> Health {
    let service = service.to_owned();
    match client.check(HealthCheckRequest { service }).await {
        Ok(answer) if answer.get_ref().status() == ServingStatus::Serving => Health::Serving,
        Ok(answer) if answer.get_ref().status() == ServingStatus::NotServing => Health::NotServing,
        Ok(_) => Health::Unknown,
        Err(status) => match status.code() {
            // It requires authentication, so its health is not known.
            Code::Unimplemented
            | Code::NotFound
            | Code::Unauthenticated
            | Code::PermissionDenied => Health::Unknown,
            _ => match status.source() {
                Some(source) if source.is::<Error>() => Health::Broken(chain(source)),
                Some(source) => Health::Failed(chain(source)),
                None => Health::Failed(foreign(status.message())),
            },
        },
    }
}

// === impl Health ===

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serving => f.write_str("SERVING"),
            Self::NotServing => f.write_str("NOT_SERVING"),
            Self::Unknown => f.write_str("not told"),
            Self::Broken(reason) | Self::Failed(reason) => f.write_str(reason),
        }
    }
}
