//! Calls on schedule, whether or not earlier ones have come back; [`Ledger`]: the result of each; [`Bar`]: what must hold.

mod bar;
mod ledger;

use greeter::hellos;
use greeter::pb::HelloRequest;
use greeter::pb::greeter_client::GreeterClient;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::client::GrpcService;
use tonic::codegen::StdError;
use tonic::{Request, Status};

pub use bar::{Bar, Verdict, time};
use ledger::MESSAGES;
pub use ledger::{Failure, Kind, Ledger, Record, Summary, quantile};

/// The schedule of one client.
#[derive(Debug, Clone)]
pub struct Pace {
    /// When the first call is due.
    pub first: Instant,
    /// Between two unary calls.
    pub unary: Duration,
    /// Between two streams; zero: none.
    pub streams: Duration,
    pub deadline: Duration,
    pub stop: CancellationToken,
}

/// A channel for generated clients, with all bounds that their code requires.
pub trait Channel:
    GrpcService<Body, Error: Into<StdError>, Future: Send, ResponseBody = Self::Answer>
    + Clone
    + Send
    + 'static
{
    type Answer: http_body::Body<Data = bytes::Bytes, Error: Into<StdError> + Send> + Send + 'static;
}

impl<T, B> Channel for T
where
    T: GrpcService<Body, Error: Into<StdError>, Future: Send, ResponseBody = B>,
    T: Clone + Send + 'static,
    B: http_body::Body<Data = bytes::Bytes, Error: Into<StdError> + Send> + Send + 'static,
{
    type Answer = B;
}

/// In addition to the deadline of a call.
const SLACK: Duration = Duration::from_secs(1);

/// Begins to call greeters, until it is stopped.
pub fn start<T: Channel>(channel: T, pace: Pace, ledger: Arc<Ledger>) {
    let client = GreeterClient::new(channel);
    tokio::spawn(generate(
        Kind::Unary,
        pace.unary,
        client.clone(),
        pace.clone(),
        ledger.clone(),
    ));
    if !pace.streams.is_zero() {
        tokio::spawn(generate(Kind::Stream, pace.streams, client, pace, ledger));
    }
}

async fn generate<T: Channel>(
    kind: Kind,
    every: Duration,
    client: GreeterClient<T>,
    pace: Pace,
    ledger: Arc<Ledger>,
) {
    let mut next = pace.first;
    loop {
        tokio::select! {
            biased;
            () = pace.stop.cancelled() => return,
            () = sleep_until(next) => {}
        }
        // Not when it was due: timers are as exact as a millisecond, and a call takes less.
        let begun = Instant::now();
        ledger.started();
        let (client, ledger, deadline) = (client.clone(), ledger.clone(), pace.deadline);
        tokio::spawn(async move {
            let calling = call(kind, client, deadline);
            let late = "the client did not keep the deadline";
            let outcome = timeout(deadline + SLACK, calling).await;
            let outcome = outcome.unwrap_or_else(|_| Err(Status::deadline_exceeded(late)));
            ledger.ended(kind, begun, outcome);
        });
        next += every;
    }
}

/// The address that a unary call was answered by.
async fn call<T: Channel>(
    kind: Kind,
    mut client: GreeterClient<T>,
    deadline: Duration,
) -> Result<String, Status> {
    if kind == Kind::Unary {
        let name = "load".to_owned();
        let mut request = Request::new(HelloRequest { name });
        request.set_timeout(deadline);
        let message = client.say_hello(request).await?.into_inner().message;
        // "Hello load! I am 127.0.0.1:41234."
        let from = message.trim_end_matches('.').rsplit(' ').next();
        return Ok(from.unwrap_or_default().to_owned());
    }
    let mut request = Request::new(hellos(MESSAGES, 100));
    request.set_timeout(deadline);
    let mut hellos = client.stream_hellos(request).await?.into_inner();
    let mut received = 0;
    while hellos.message().await?.is_some() {
        received += 1;
    }
    match received {
        MESSAGES => Ok(String::new()),
        received => {
            let received = format!("{received} of {MESSAGES} messages");
            Err(Status::data_loss(received))
        }
    }
}
