//! A registered greeter in this process, on a real etcd.

use crate::support::etcd::Etcd;
use crate::support::ports::free_addr;
use crate::support::{library_etcd, registered_within};
use greeter::MyGreeter;
use greeter::pb::greeter_client::GreeterClient;
use greeter::pb::greeter_server::GreeterServer;
use std::fmt::Debug;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};
use tonic_etcd::{
    Ended, Instance, Registrar, RegistrarBuilder, Registration, RegistrationStatus, ServeError,
    ServeRegistered,
};

pub const SEC: Duration = Duration::from_secs(1);
/// The timeout of all waits, long enough also for a busy machine.
pub const LONG: Duration = Duration::from_secs(20);

/// A registration for a server that the test starts, and what stops it, without a deregistration delay.
pub fn register(etcd: &Etcd, instance: Instance) -> (Registration, CancellationToken) {
    let token = CancellationToken::new();
    let registrar = Registrar::builder(library_etcd([etcd.endpoint()]))
        .deregistration_delay(Duration::ZERO)
        .shutdown_token(token.clone());
    let registration = registrar.build().unwrap().register(instance);
    (registration.unwrap(), token)
}

/// A registration without a server.
pub fn announced(builder: RegistrarBuilder) -> Registration {
    announced_by(&builder.build().unwrap(), "greeter")
}

/// One of several of a registrar.
pub fn announced_by(registrar: &Registrar, name: &str) -> Registration {
    let registration = registrar.register(Instance::new(name)).unwrap();
    registration.announce(free_addr()).unwrap();
    registration
}

pub fn is_registered(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Registered(_))
}

pub fn is_lost(status: &RegistrationStatus) -> bool {
    matches!(status, RegistrationStatus::Lost { .. })
}

/// Waits until serving has ended, as it should.
pub async fn ended<T, E: Debug>(served: JoinHandle<Result<T, E>>) -> T {
    let served = timeout(LONG, served).await.expect("it serves on");
    served.unwrap().unwrap()
}

pub struct Greeter {
    pub registration: Registration,
    pub shutdown: CancellationToken,
    pub shutdown_now: CancellationToken,
    pub addr: SocketAddr,
    pub served: JoinHandle<Result<Ended, ServeError>>,
}

impl Greeter {
    /// Serves, and waits until it is registered.
    pub async fn start(
        etcd: &Etcd,
        configure: impl FnOnce(RegistrarBuilder) -> RegistrarBuilder,
    ) -> Self {
        let (shutdown, shutdown_now) = (CancellationToken::new(), CancellationToken::new());
        let builder = Registrar::builder(library_etcd([etcd.endpoint()]))
            .shutdown_token(shutdown.clone())
            .shutdown_now_token(shutdown_now.clone());
        let registrar = configure(builder).build().unwrap();
        let registration = registrar.register(Instance::new("greeter")).unwrap();
        let incoming = registration.bind(free_addr()).unwrap();
        let addr = incoming.local_addr();
        let server = Server::builder()
            .layer(registration.layer())
            .add_service(registration.health_service())
            .add_service(GreeterServer::new(MyGreeter::default()))
            .serve_registered_with_incoming(incoming);
        let served = tokio::spawn(server);
        registered_within(LONG, &registration).await;
        Self {
            registration,
            shutdown,
            shutdown_now,
            addr,
            served,
        }
    }

    /// Serves without a deregistration delay, and with this drain timeout.
    pub async fn start_draining(etcd: &Etcd, limit: Duration) -> Self {
        let delay = Duration::ZERO;
        Self::start(etcd, |it| {
            it.deregistration_delay(delay).drain_timeout(limit)
        })
        .await
    }

    /// Serves without a deregistration delay.
    pub async fn start_quick(etcd: &Etcd) -> Self {
        Self::start(etcd, |builder| builder.deregistration_delay(Duration::ZERO)).await
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub async fn client(&self) -> GreeterClient<Channel> {
        GreeterClient::connect(self.url()).await.unwrap()
    }

    pub fn key(&self) -> String {
        let status = self.registration.status();
        status.registered().expect("registered").keys[0].to_string()
    }

    /// Waits until serving has ended.
    pub async fn ended(self) -> Ended {
        ended(self.served).await
    }
}
