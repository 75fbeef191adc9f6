//! [`ServeRegistered`]: bind, register, serve, deregister, drain, return.

use super::Incoming;
use super::listener::Listener;
use crate::drain::{Drain, LAST_ANSWERS};
use crate::error::RegisterError;
use crate::observe::status::Ended;
use crate::registrar::registration::{Registration, ended};
use http::{Request, Response};
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use tonic::body::Body;
use tonic::codegen::StdError;
use tonic::service::Routes;
use tonic::transport::server::Router;
use tower_layer::Layer;
use tower_service::Service;

/// Serves a registered server: all steps in the right order.
///
/// 1. The address is bound. If that fails, nothing is announced.
/// 2. tonic accepts connections, and the keys are written.
/// 3. When the registrar's shutdown token is cancelled, health says `NOT_SERVING`, then the keys
///    are deleted. The server keeps serving for the `deregistration_delay`.
/// 4. The backlog is accepted, the port is closed, and clients get GOAWAY. Connections on which no byte was sent are closed.
/// 5. Requests in flight finish. With the [layer](Registration::layer), connections that clients keep open are closed once
///    nothing is in flight, 1.5 s after the last traffic. After `drain_timeout` the layer ends the remaining requests with
///    `UNAVAILABLE`, and the remaining connections are aborted.
/// 6. The future resolves.
///
/// Dropping the future closes the port and deregisters the server, without waits.
///
/// ```no_run
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// # let health = tonic_health::server::health_reporter().1;
/// use tonic::transport::Server;
/// use tonic_etcd::{Etcd, Instance, Registrar, ServeRegistered};
///
/// let registrar = Registrar::builder(Etcd::new(["http://127.0.0.1:2379"])).build()?;
/// let registration = registrar.register(Instance::new("greeter"))?;
/// Server::builder()
///     .layer(registration.layer())
///     .add_service(health)
///     .serve_registered("127.0.0.1:0".parse()?, &registration)
///     .await?;
/// # Ok(())
/// # }
/// ```
///
/// `L` is the layer of the server. The compiler error names the bound that it does not satisfy:
///
/// ```compile_fail,E0277
/// # async fn f(registration: tonic_etcd::Registration) {
/// # use tonic_etcd::ServeRegistered as _;
/// struct NotClone<S>(S);
/// # impl<R, S: tower::Service<R>> tower::Service<R> for NotClone<S> {
/// #     type Response = S::Response;
/// #     type Error = S::Error;
/// #     type Future = S::Future;
/// #     fn poll_ready(
/// #         &mut self,
/// #         cx: &mut std::task::Context<'_>,
/// #     ) -> std::task::Poll<Result<(), S::Error>> {
/// #         self.0.poll_ready(cx)
/// #     }
/// #     fn call(&mut self, request: R) -> S::Future {
/// #         self.0.call(request)
/// #     }
/// # }
/// # let health = tonic_health::server::health_reporter().1;
/// # let addr = "127.0.0.1:0".parse().unwrap();
/// // error[E0277]: the trait bound `NotClone<Routes>: Clone` is not satisfied
/// tonic::transport::Server::builder()
///     .layer(tower::layer::layer_fn(NotClone))
///     .add_service(health)
///     .serve_registered(addr, &registration)
///     .await;
/// # }
/// ```
pub trait ServeRegistered<L>: Sized {
    /// Binds `addr` and serves there. Port 0 gets a free port, which is advertised.
    ///
    /// # Errors
    ///
    /// [`ServeError::Setup`] if `addr` cannot be bound or advertised: nothing was announced. [`ServeError::Transport`] if
    /// tonic fails: it returns once the server is deregistered.
    fn serve_registered<ResBody>(
        self,
        addr: SocketAddr,
        registration: &Registration,
    ) -> impl Future<Output = Result<Ended, ServeError>> + Send
    where
        L: Layer<Routes> + Send,
        L::Service: Service<Request<Body>, Response = Response<ResBody>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<StdError> + Send,
        ResBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        ResBody::Error: Into<StdError>;

    /// Serves on a listener that is bound already, or that has other socket options.
    ///
    /// # Errors
    ///
    /// [`ServeError::Transport`] if tonic fails: it returns once the server is deregistered.
    fn serve_registered_with_incoming<I: Listener, ResBody>(
        self,
        incoming: Incoming<I>,
    ) -> impl Future<Output = Result<Ended, ServeError>> + Send
    where
        L: Layer<Routes> + Send,
        L::Service: Service<Request<Body>, Response = Response<ResBody>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<StdError> + Send,
        ResBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        ResBody::Error: Into<StdError>;
}

/// Why serving failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The server could not be set up. It was never announced.
    #[error(transparent)]
    Setup(#[from] RegisterError),
    /// tonic failed.
    #[error("the server failed: {}", crate::etcd::chain(.0))]
    Transport(#[source] tonic::transport::Error),
}

impl<L> ServeRegistered<L> for Router<L> {
    async fn serve_registered<ResBody>(
        self,
        addr: SocketAddr,
        registration: &Registration,
    ) -> Result<Ended, ServeError>
    where
        L: Layer<Routes> + Send,
        L::Service: Service<Request<Body>, Response = Response<ResBody>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<StdError> + Send,
        ResBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        ResBody::Error: Into<StdError>,
    {
        let incoming = match registration.bind(addr) {
            // A stop before the start is not an error.
            Err(RegisterError::Stopped(_)) => return Ok(registration.ended().await),
            incoming => incoming?,
        };
        self.serve_registered_with_incoming(incoming).await
    }

    async fn serve_registered_with_incoming<I: Listener, ResBody>(
        self,
        incoming: Incoming<I>,
    ) -> Result<Ended, ServeError>
    where
        L: Layer<Routes> + Send,
        L::Service: Service<Request<Body>, Response = Response<ResBody>> + Clone + Send + 'static,
        <L::Service as Service<Request<Body>>>::Future: Send,
        <L::Service as Service<Request<Body>>>::Error: Into<StdError> + Send,
        ResBody: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        ResBody::Error: Into<StdError>,
    {
        let lifecycle = incoming.registration().lifecycle().clone();
        let drain = lifecycle.drain().clone();
        let signal = incoming.registration().drain_signal();
        let exited = Exited(drain.clone());
        let result = tokio::select! {
            done = self.serve_with_incoming_shutdown(incoming, signal) => done,
            // A handler that blocks its thread does not end with its request or connection.
            () = aborted(&drain) => Ok(()),
        };
        drop(exited);
        // If tonic ended by itself, the drop of its stream has begun the deregistration.
        let ended = ended(&lifecycle).await;
        // The process may end with this future, so the end of the drain is logged first.
        let _ = tokio::time::timeout(LAST_ANSWERS, drain.reported.cancelled()).await;
        result.map_err(ServeError::Transport)?;
        Ok(ended)
    }
}

/// Signals that the server has returned, also if the future is dropped.
struct Exited(Arc<Drain>);

impl Drop for Exited {
    fn drop(&mut self) {
        self.0.server_exited.cancel();
    }
}

async fn aborted(drain: &Drain) {
    drain.aborted.cancelled().await;
    tokio::time::sleep(LAST_ANSWERS).await;
}
