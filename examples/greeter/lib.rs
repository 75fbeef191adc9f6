//! The greeter that examples, demo and tests serve.

#![allow(missing_docs)]

pub mod log;

pub mod pb {
    #![allow(
        clippy::all,
        clippy::unwrap_used,
        missing_debug_implementations,
        rust_2018_idioms
    )]
    include!("greeter.v1.rs");
}

use pb::greeter_server::Greeter;
use pb::{HelloReply, HelloRequest, StreamRequest};
use std::pin::Pin;
use std::time::Duration;
use tokio_stream::{Stream, StreamExt as _};
use tonic::{Request, Response, Status};

/// For the reflection service.
pub const DESCRIPTOR: &[u8] = include_bytes!("greeter.v1.bin");

/// A call with `count` greetings (0: without end), one every `interval_ms`.
pub fn hellos(count: u32, interval_ms: u32) -> StreamRequest {
    StreamRequest {
        name: "x".to_owned(),
        count,
        interval_ms,
    }
}

/// Greets, and says who did.
#[derive(Debug, Clone, Default)]
pub struct MyGreeter {
    pub whoami: String,
}

#[tonic::async_trait]
impl Greeter for MyGreeter {
    type StreamHellosStream = Pin<Box<dyn Stream<Item = Result<HelloReply, Status>> + Send>>;

    async fn say_hello(
        &self,
        request: Request<HelloRequest>,
    ) -> Result<Response<HelloReply>, Status> {
        let from = request
            .remote_addr()
            .map(|addr| addr.to_string())
            .unwrap_or_default();
        let name = request.into_inner().name;
        tracing::event!(tracing::Level::DEBUG, name, from, "greeting");
        Ok(Response::new(HelloReply {
            message: format!("Hello {name}! {}", self.whoami),
        }))
    }

    async fn stream_hellos(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Self::StreamHellosStream>, Status> {
        let StreamRequest {
            name,
            count,
            interval_ms,
        } = request.into_inner();
        let most = if count == 0 {
            usize::MAX
        } else {
            count as usize
        };
        let hellos = tokio_stream::iter(1..=most)
            .map(move |n| {
                Ok(HelloReply {
                    message: format!("Hello {name}, {n}"),
                })
            })
            .throttle(Duration::from_millis(interval_ms.max(1).into()));
        Ok(Response::new(Box::pin(hellos)))
    }
}
