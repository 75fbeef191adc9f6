//! A registered greeter in this process, on a real etcd.

use crate::greeter::MyGreeter;
use crate::greeter::pb::greeter_client::GreeterClient;
use crate::greeter::pb::greeter_server::GreeterServer;
use crate::support::etcd::{Etcd as EtcdProcess, users};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Server};
use tonic_etcd::{
    Closed, Etcd, Instance, Registrar, RegistrarBuilder, Registration, ServeError, ServeRegistered,
};

pub const SEC: Duration = Duration::from_secs(1);
/// Long enough for whatever should happen at all, also on a busy machine.
pub const LONG: Duration = Duration::from_secs(20);

/// The library's etcd, as the user of servers where there are users.
pub fn etcd(endpoints: impl IntoIterator<Item: AsRef<str>>) -> Etcd {
    let etcd = Etcd::new(endpoints);
    match users::of_servers() {
        Some((name, password)) => etcd.user(name, password),
        None => etcd,
    }
}

pub struct Greeter {
    pub registration: Registration,
    pub shutdown: CancellationToken,
    pub shutdown_now: CancellationToken,
    pub addr: SocketAddr,
    pub served: JoinHandle<Result<Closed, ServeError>>,
}

impl Greeter {
    /// Serves, and waits until it is registered.
    pub async fn start(
        etcd: &EtcdProcess,
        configure: impl FnOnce(RegistrarBuilder) -> RegistrarBuilder,
    ) -> Self {
        let (shutdown, shutdown_now) = (CancellationToken::new(), CancellationToken::new());
        let builder = Registrar::builder(self::etcd([etcd.endpoint()]))
            .shutdown_token(shutdown.clone())
            .shutdown_now_token(shutdown_now.clone());
        let registrar = configure(builder).build().unwrap();
        let registration = registrar.register(Instance::new("greeter")).unwrap();
        let incoming = registration
            .bind(crate::support::ports::free_addr())
            .unwrap();
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

    pub async fn client(&self) -> GreeterClient<Channel> {
        GreeterClient::connect(format!("http://{}", self.addr))
            .await
            .unwrap()
    }

    pub fn key(&self) -> String {
        let status = self.registration.status();
        status.registered().expect("registered").keys[0].to_string()
    }

    /// Waits until serving has ended.
    pub async fn ended(self) -> Closed {
        tokio::time::timeout(LONG, self.served)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
    }
}
