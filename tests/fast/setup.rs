//! A registrar on a fake etcd, as most tests need it.

use crate::support::fake::{FakeEtcd, Rpc, Stored};
use crate::support::{eventually, registered_within, status_within};
use hyper_util::rt::TokioIo;
use std::io;
use std::time::Duration;
use tokio::io::DuplexStream;
use tokio_stream::Stream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic_etcd::{Etcd, Instance, Registrar, RegistrarBuilder, Registration, RegistrationStatus};

pub const MS: Duration = Duration::from_millis(1);
pub const SEC: Duration = Duration::from_secs(1);
/// The timeout of all waits, in virtual time.
pub const LONG: Duration = Duration::from_secs(60);

pub struct Setup {
    pub fake: FakeEtcd,
    pub shutdown: CancellationToken,
    pub shutdown_now: CancellationToken,
}

impl Setup {
    pub fn new() -> Self {
        Self {
            fake: FakeEtcd::new(),
            shutdown: CancellationToken::new(),
            shutdown_now: CancellationToken::new(),
        }
    }

    pub fn etcd(&self) -> Etcd {
        Etcd::new(["http://etcd:2379"]).connector(self.fake.connector())
    }

    pub fn builder(&self) -> RegistrarBuilder {
        self.builder_on(self.etcd())
    }

    pub fn builder_on(&self, etcd: Etcd) -> RegistrarBuilder {
        Registrar::builder(etcd)
            .key_template("{prefix}/{name}/{addr}")
            .shutdown_token(self.shutdown.clone())
            .shutdown_now_token(self.shutdown_now.clone())
    }

    /// One registration that is in etcd, under [`KEY`].
    pub async fn registered(&self) -> Registration {
        self.registered_with(self.builder()).await
    }

    /// The same, with another builder of the registrar.
    pub async fn registered_with(&self, builder: RegistrarBuilder) -> Registration {
        let registration = announced(builder);
        registered_within(LONG, &registration).await;
        registration
    }

    /// Waits until there are exactly so many keys.
    pub async fn keys_are(&self, count: usize, within: Duration) {
        eventually("all keys are there", within, || {
            match self.fake.keys().len() {
                there if there == count => Ok(()),
                there => Err(format!("{there} of {count}")),
            }
        })
        .await;
    }

    /// Waits until the key has this value, and returns it.
    pub async fn key_holds(&self, value: &str, within: Duration) -> Stored {
        eventually("the key is right", within, || {
            match self.fake.keys().get(KEY) {
                Some(stored) if stored.value == value => Ok(stored.clone()),
                other => Err(format!("{other:?}")),
            }
        })
        .await
    }

    /// Waits until the key is there, and returns its lease.
    pub async fn key_back(&self) -> i64 {
        eventually("the key is back", LONG, || {
            self.fake
                .keys()
                .get(KEY)
                .map(|stored| stored.lease)
                .ok_or("no key".to_owned())
        })
        .await
    }

    pub fn key_names(&self) -> Vec<String> {
        self.fake.keys().into_keys().collect()
    }

    /// The number of all deletions of [`KEY`].
    pub fn deletes(&self) -> usize {
        let mut changes = self.fake.changes();
        changes.retain(|change| change.key == KEY && change.put.is_none());
        changes.len()
    }

    /// The number of all writes of [`KEY`].
    pub fn puts(&self) -> usize {
        let mut changes = self.fake.changes();
        changes.retain(|change| change.key == KEY && change.put.is_some());
        changes.len()
    }

    pub fn count(&self, rpc: Rpc) -> usize {
        self.fake.count(rpc)
    }

    pub fn counts(&self, rpcs: [Rpc; 2]) -> [usize; 2] {
        rpcs.map(|rpc| self.count(rpc))
    }
}

pub const KEY: &str = "/services/greeter/10.0.0.1:9000";

pub fn greeter() -> Instance {
    Instance::new("greeter").with_value("v")
}

/// A registration that is not announced yet.
pub fn register(builder: RegistrarBuilder) -> Registration {
    register_as(builder, greeter())
}

pub fn register_as(builder: RegistrarBuilder, instance: Instance) -> Registration {
    builder.build().unwrap().register(instance).unwrap()
}

/// A registration that is announced, and not waited for.
pub fn announced(builder: RegistrarBuilder) -> Registration {
    announced_by(&builder.build().unwrap(), greeter())
}

/// One of several of a registrar.
pub fn announced_by(registrar: &Registrar, instance: Instance) -> Registration {
    let registration = registrar.register(instance).unwrap();
    announce(&registration);
    registration
}

pub fn announce(registration: &Registration) {
    registration
        .announce("10.0.0.1:9000".parse().unwrap())
        .unwrap();
}

/// A connection inside the runtime: what tonic serves, and a client of that.
pub fn pipe() -> (
    impl Stream<Item = io::Result<DuplexStream>>,
    impl Future<Output = Channel>,
) {
    pipe_with(Endpoint::from_static("http://server"))
}

/// The same, with settings of the client.
pub fn pipe_with(
    endpoint: Endpoint,
) -> (
    impl Stream<Item = io::Result<DuplexStream>>,
    impl Future<Output = Channel>,
) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let mut near = Some(TokioIo::new(near));
    let connect = tower::service_fn(move |_| {
        let near = near.take();
        async move { near.ok_or_else(|| io::Error::other("one connection only")) }
    });
    let client = async move { endpoint.connect_with_connector(connect).await.unwrap() };
    (tokio_stream::once(Ok(far)), client)
}

/// Registered, and confirmed.
pub fn is_registered(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Registered(_))
}

#[track_caller]
pub fn assert_registered(registration: &Registration) {
    let status = registration.status();
    assert!(is_registered(&status), "{status:?}");
}

pub async fn all_registered(registrations: &[Registration]) {
    for registration in registrations {
        registered_within(LONG, registration).await;
    }
}

pub fn is_paused(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Paused { .. })
}

pub fn is_lost(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Lost { .. })
}

/// Waits until the status is as `wanted` says.
pub async fn status(
    registration: &Registration,
    wanted: impl Fn(&RegistrationStatus) -> bool,
) -> RegistrationStatus {
    status_within(LONG * 10, registration, wanted).await
}

/// The reason while it is not registered yet.
#[track_caller]
pub fn registering_reason(registration: &Registration) -> String {
    match registration.status() {
        RegistrationStatus::Registering {
            reason: Some(reason),
            ..
        } => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

/// The reason of `Lost`.
#[track_caller]
pub fn lost_reason(registration: &Registration) -> String {
    match registration.status() {
        RegistrationStatus::Lost { reason, .. } => reason.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Why it is paused.
pub fn pause_reasons(registration: &Registration) -> String {
    match registration.status() {
        RegistrationStatus::Paused { reasons, .. } => reasons.join("|"),
        other => panic!("{other}"),
    }
}
