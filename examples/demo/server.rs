//! [`Server`]: the registered server. [`Server::start`] has all the code that a user of the library writes.

use crate::timeline::Fail;
use greeter::MyGreeter;
use greeter::hellos;
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use greeter::pb::greeter_server::GreeterServer;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic_etcd::{Ended, Etcd, Instance, Registrar, ServeError, ServeRegistered};

/// A greeter that serves and is registered.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) addr: SocketAddr,
    /// When its listener was bound.
    pub(crate) bound: Instant,
    serving: JoinHandle<Result<Ended, ServeError>>,
}

/// How keys are made by default.
pub(crate) const KEY: &str = "{prefix}/{name}/{ip}/{pid}";
/// How many greetings a [`stream`](Server::stream) has, and how far apart.
pub(crate) const GREETINGS: usize = 20;
const GREETING_EVERY: Duration = Duration::from_millis(100);

/// The timeout of one call on loopback. Generous: it only detects a hang.
const CALL: Duration = Duration::from_secs(5);

// === impl Server ===

impl Server {
    /// A registrar of its own, the default settings but for these, a port that is free.
    pub(crate) fn start(
        etcd: &str,
        key: &str,
        deregistration_delay: Duration,
        shutdown: CancellationToken,
    ) -> Result<Self, Box<dyn std::error::Error>> {
        let registrar = Registrar::builder(Etcd::new([etcd]))
            .key_template(key)
            .deregistration_delay(deregistration_delay)
            .shutdown_token(shutdown)
            .build()?;
        let registration = registrar.register(Instance::new("greeter"))?;
        let incoming = registration.bind((Ipv4Addr::LOCALHOST, 0).into())?;
        let (addr, bound) = (incoming.local_addr(), Instant::now());

        let greeter = MyGreeter {
            whoami: format!("I am {addr}."),
        };
        let serving = tonic::transport::Server::builder()
            .layer(registration.layer())
            .add_service(registration.health_service())
            .add_service(GreeterServer::new(greeter))
            .serve_registered_with_incoming(incoming);
        // The registration stays as long as its server does: dropping the last handle deregisters.
        let serving = tokio::spawn(async move {
            let _registration = registration;
            serving.await
        });
        Ok(Self {
            addr,
            bound,
            serving,
        })
    }

    /// One greeting, over a connection of its own.
    pub(crate) async fn call(addr: SocketAddr) -> Result<String, Fail> {
        let call = async {
            let mut client = GreeterClient::new(connect(addr).await?);
            let name = "demo".to_owned();
            let reply = client.say_hello(HelloRequest { name }).await;
            reply.map_err(|status| status.to_string())
        };
        let reply = Fail::within(CALL, "an answer to a call", call).await?;
        Ok(reply.into_inner().message)
    }

    /// Begins a request that takes two seconds. Gives how many of its [`GREETINGS`] came.
    pub(crate) async fn stream(addr: SocketAddr) -> Result<JoinHandle<usize>, Fail> {
        let request = hellos(GREETINGS as u32, GREETING_EVERY.as_millis() as u32);
        let expected = "a stream of greetings that begins";
        let channel = connect(addr)
            .await
            .map_err(|error| Fail::new(expected, error))?;
        let begun = GreeterClient::new(channel).stream_hellos(request).await;
        let mut greetings = begun.map_err(|status| Fail::new(expected, status.to_string()))?;
        Ok(tokio::spawn(async move {
            let mut count = 0;
            while let Ok(Some(_)) = greetings.get_mut().message().await {
                count += 1;
            }
            count
        }))
    }

    /// How serving ended.
    pub(crate) async fn ended(&mut self, limit: Duration) -> Result<Ended, Fail> {
        let expected = "serving to end without an error";
        let served = Fail::within(limit, expected, &mut self.serving).await?;
        served.map_err(|error| Fail::new(expected, error.to_string()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

pub(crate) async fn connect(addr: SocketAddr) -> Result<Channel, String> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).map_err(|e| e.to_string())?;
    let connected = endpoint.connect_timeout(CALL).connect().await;
    connected.map_err(|error| match std::error::Error::source(&error) {
        Some(source) => source.to_string(),
        None => error.to_string(),
    })
}
