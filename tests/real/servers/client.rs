//! The same client for every kind of server.

use super::kind::{Protocol, Target};
use greeter::hellos;
use greeter::pb::greeter_client::GreeterClient;
use greeter::pb::{HelloReply, HelloRequest};
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};
use tower::service_fn;

/// How a call ended.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    /// As it should, after so many messages.
    Complete(usize),
    /// `UNAVAILABLE` of gRPC.
    Unavailable,
    /// Status 503 of HTTP.
    ServiceUnavailable,
    /// An error in the middle of the body.
    Cut,
}

pub enum Client {
    Grpc(GreeterClient<Channel>),
    Http1(SendRequest<Empty<Bytes>>),
}

/// A call whose answer has begun.
pub enum Hellos {
    Grpc(Streaming<HelloReply>),
    Http1(Incoming),
}

pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Target {
    pub async fn connect(&self) -> io::Result<Box<dyn Io>> {
        Ok(match self {
            Self::Tcp(addr) => Box::new(TcpStream::connect(addr).await?),
            Self::Unix(path) => Box::new(UnixStream::connect(path).await?),
        })
    }

    pub async fn client(&self, protocol: Protocol) -> Client {
        match protocol {
            Protocol::Grpc => {
                let target = self.clone();
                let connect = service_fn(move |_| {
                    let target = target.clone();
                    async move { target.connect().await.map(TokioIo::new) }
                });
                let endpoint = Endpoint::from_static("http://greeter");
                let channel = endpoint.connect_with_connector(connect).await.unwrap();
                Client::Grpc(GreeterClient::new(channel))
            }
            Protocol::Http1 => {
                let io = TokioIo::new(self.connect().await.unwrap());
                let (send, connection) = handshake(io).await.unwrap();
                tokio::spawn(connection);
                Client::Http1(send)
            }
        }
    }
}

impl Client {
    /// A call that is answered at once.
    pub async fn hello(&mut self) {
        match self {
            Self::Grpc(client) => drop(client.say_hello(HelloRequest::default()).await.unwrap()),
            Self::Http1(send) => {
                let answer = send.send_request(get("/hello")).await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                answer.into_body().collect().await.unwrap();
            }
        }
    }

    /// A call that is never answered.
    pub async fn never(&mut self) -> End {
        match self {
            Self::Grpc(client) => {
                let name = "never".to_owned();
                let answer = client.say_hello(HelloRequest { name }).await;
                end_of_grpc(answer.unwrap_err().code())
            }
            Self::Http1(send) => {
                let answer = send.send_request(get("/never")).await.unwrap();
                assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
                End::ServiceUnavailable
            }
        }
    }

    /// A call with `count` answers (0: without end), one each `interval_ms`.
    pub async fn hellos(&mut self, count: u32, interval_ms: u32) -> Hellos {
        match self {
            Self::Grpc(client) => {
                let answer = client
                    .stream_hellos(hellos(count, interval_ms))
                    .await
                    .unwrap();
                Hellos::Grpc(answer.into_inner())
            }
            Self::Http1(send) => {
                let request = get(&format!("/hellos/{count}/{interval_ms}"));
                let answer = send.send_request(request).await.unwrap();
                assert_eq!(answer.status(), StatusCode::OK);
                Hellos::Http1(answer.into_body())
            }
        }
    }
}

impl Hellos {
    pub async fn next(&mut self) {
        match self {
            Self::Grpc(hellos) => drop(hellos.message().await.unwrap().unwrap()),
            Self::Http1(body) => drop(body.frame().await.unwrap().unwrap()),
        }
    }

    /// Reads it to its end.
    pub async fn end(mut self) -> End {
        let mut count = 0;
        loop {
            let next = match &mut self {
                Self::Grpc(hellos) => match hellos.message().await {
                    Ok(next) => next.map(drop),
                    Err(status) => return end_of_grpc(status.code()),
                },
                Self::Http1(body) => match body.frame().await {
                    Some(Err(_)) => return End::Cut,
                    next => next.map(drop),
                },
            };
            match next {
                Some(()) => count += 1,
                None => return End::Complete(count),
            }
        }
    }
}

fn end_of_grpc(code: Code) -> End {
    assert_eq!(code, Code::Unavailable);
    End::Unavailable
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    let request = Request::get(path).header("host", "greeter");
    request.body(Empty::new()).unwrap()
}
