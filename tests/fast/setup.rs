//! A registrar on a fake etcd, as most tests want it.

use crate::support::eventually;
use crate::support::fake::{FakeEtcd, Rpc};
use std::time::Duration;
use tokio_util::sync::CancellationToken;
use tonic_etcd::{Etcd, Instance, Registrar, RegistrarBuilder, Registration, Status};

pub const MS: Duration = Duration::from_millis(1);
pub const SEC: Duration = Duration::from_secs(1);
/// Long enough for whatever should happen at all.
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
            .key("{prefix}/{name}/{addr}")
            .shutdown_token(self.shutdown.clone())
            .shutdown_now_token(self.shutdown_now.clone())
    }

    /// One registration that is in etcd, under [`KEY`].
    pub async fn registered(&self) -> Registration {
        self.registered_with(self.builder()).await
    }

    /// The same, by a registrar that is built in another way.
    pub async fn registered_with(&self, builder: RegistrarBuilder) -> Registration {
        let registration = register(builder);
        announce(&registration);
        tokio::time::timeout(LONG, registration.registered())
            .await
            .unwrap()
            .unwrap();
        registration
    }

    /// Waits until the key is there, and gives its lease.
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

    /// The deletions of [`KEY`] that were ever seen.
    pub fn deletes(&self) -> usize {
        self.fake
            .changes()
            .iter()
            .filter(|c| c.key == KEY && c.put.is_none())
            .count()
    }

    /// The writes of [`KEY`] that were ever seen.
    pub fn puts(&self) -> usize {
        self.fake
            .changes()
            .iter()
            .filter(|c| c.key == KEY && c.put.is_some())
            .count()
    }

    pub fn count(&self, rpc: Rpc) -> usize {
        self.fake.count(rpc)
    }
}

pub const KEY: &str = "/services/greeter/10.0.0.1:9000";

pub fn greeter() -> Instance {
    Instance::new("greeter").value("v")
}

/// A registration that is not announced yet.
pub fn register(builder: RegistrarBuilder) -> Registration {
    builder.build().unwrap().register(greeter()).unwrap()
}

pub fn announce(registration: &Registration) {
    registration
        .announce("10.0.0.1:9000".parse().unwrap())
        .unwrap();
}

/// Registered, and confirmed.
pub fn is_registered(status: &Status) -> bool {
    matches!(status, Status::Registered(_))
}

/// Waits until the status is as `wanted` says.
pub async fn status(registration: &Registration, wanted: impl Fn(&Status) -> bool) -> Status {
    let mut watch = registration.watch();
    let wait = async {
        let waited = watch.wait_for(wanted).await;
        waited.unwrap_or_else(|| panic!("ended: {}", watch.get()))
    };
    let waited = tokio::time::timeout(LONG * 10, wait).await;
    waited.unwrap_or_else(|_| panic!("last status: {:?}", registration.status()))
}

/// Why it is paused.
pub fn pause_reasons(registration: &Registration) -> String {
    match registration.status() {
        Status::Paused { reasons, .. } => reasons.join("|"),
        other => panic!("{other}"),
    }
}
