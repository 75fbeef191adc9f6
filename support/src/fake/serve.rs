//! How the fake handles one request: recorded, delayed, applied or not, answered or not.
//!
//! ```text
//! arrives -> recorded -> its rule is taken -> its turn in the queue -> (hung: waits) -> applied -> answered
//!                             |                    |              |
//!                     Never, Error, Reset     connection cut   DropReply, Delay, ...
//! ```
//!
//! A unary request that arrived is **applied even when its caller has given up**: each request has a task of its own. A real
//! etcd often does that too.

use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

use super::answer::Answer;
use super::capacity::{Full, Ticket};
use super::members::Mode;
use super::notifier::{Listener, Notifier};
use super::record::Call;
use super::script::{Reply, Rpc};
use super::state::State;
use super::wire::{Link, Pipe};

/// State that all parts of one fake share.
pub(super) struct Shared {
    state: Mutex<State>,
    /// Notifies tasks that wait for a change of the state.
    notifier: Notifier,
    /// Notifies watches, which are many: only of what they can notice.
    pub(super) watchable: Notifier,
    /// Notifies requests that wait their turn.
    pub(super) capacities: Notifier,
    /// New connections, for the server.
    pub(super) inbox: mpsc::UnboundedSender<Pipe>,
    /// Ends every task.
    pub(super) stop: CancellationToken,
}

/// The client of a request, and its connection.
#[derive(Clone)]
pub(super) struct Caller {
    pub(super) link: Arc<Link>,
    token: Option<String>,
    require_leader: bool,
}

/// The replies on a stream.
pub(super) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Shared {
    pub(super) fn new(state: State, inbox: mpsc::UnboundedSender<Pipe>) -> Self {
        Self {
            state: Mutex::new(state),
            notifier: Notifier::default(),
            watchable: Notifier::default(),
            capacities: Notifier::default(),
            inbox,
            stop: CancellationToken::new(),
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, records the changes of keys, and notifies all listeners.
    pub(super) fn change<R>(&self, how: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.state();
        let before = state.watchable();
        let result = how(&mut state);
        state.note_changes(before.0);
        let is_watchable = state.watchable() != before;
        drop(state);
        self.notifier.notify();
        if is_watchable {
            self.watchable.notify();
        }
        result
    }

    /// A listener of each [`change`](Self::change), and of each request.
    pub(super) fn changes(&self) -> Listener {
        self.notifier.listener()
    }

    /// A task that ends with the fake.
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Handles a unary request.
    pub(super) async fn unary<A: Answer>(
        self: &Arc<Self>,
        caller: Caller,
        call: Call,
        apply: impl FnOnce(&mut State) -> Result<A, Status> + Send + 'static,
    ) -> Result<Response<A>, Status> {
        let shared = self.clone();
        let (tell, told) = oneshot::channel();
        self.spawn(async move {
            if let Some(answer) = shared.perform(&caller, call, apply).await {
                // The caller may have given up: the request is applied all the same.
                let _delivered = tell.send(answer);
            }
        });
        match told.await {
            Ok(answer) => answer.map(Response::new),
            Err(_never) => pending().await,
        }
    }

    /// Handles any request. `None`: there will be no answer.
    pub(super) async fn perform<A: Answer>(
        &self,
        caller: &Caller,
        call: Call,
        apply: impl FnOnce(&mut State) -> Result<A, Status>,
    ) -> Option<Result<A, Status>> {
        let rpc = call.rpc;
        let (number, reply, latency, ticket) = self.arrived(call);
        sleep_unless_zero(latency).await;
        self.turn(&caller.link.member, ticket).await;
        self.unfrozen(caller).await?;
        match reply {
            Reply::Never => return None,
            Reply::Error(code, text) => return Some(Err(Status::new(code, text))),
            Reply::Reset => {
                caller.link.cut();
                return None;
            }
            Reply::Late(delay) => {
                sleep(delay).await;
                self.unfrozen(caller).await?;
            }
            _ => {}
        }
        if self
            .state()
            .auth
            .is_waited_for(rpc, caller.token.as_deref())
        {
            return None;
        }
        let mut answer = self.apply(number, rpc, caller, &reply, apply);
        match reply {
            Reply::DropReply => return None,
            Reply::ApplyThenReset => {
                caller.link.cut();
                return None;
            }
            Reply::Delay(delay) => sleep(delay).await,
            _ => {}
        }
        if let Ok(answer) = &mut answer {
            answer.spoil(&reply);
        }
        Some(answer)
    }

    /// Records a request. Returns its rule, its latency and its place in the queue.
    pub(super) fn arrived(&self, call: Call) -> (usize, Reply, Duration, Option<Ticket>) {
        let mut state = self.state();
        let mut reply = state.scripts.next(call.rpc, &call.member);
        let latency = state.next_latency();
        let place = state.queues.join(call.rpc, &call.member, call.at);
        let ticket = place.unwrap_or_else(|Full| {
            reply = Reply::Error(Code::ResourceExhausted, "etcdserver: too many requests");
            None
        });
        let number = state.calls.len();
        state.calls.push(call);
        drop(state);
        self.notifier.notify();
        (number, reply, latency, ticket)
    }

    fn apply<A: Answer>(
        &self,
        number: usize,
        rpc: Rpc,
        caller: &Caller,
        reply: &Reply,
        apply: impl FnOnce(&mut State) -> Result<A, Status>,
    ) -> Result<A, Status> {
        if let Some(unapplied) = A::instead(reply) {
            return Ok(unapplied);
        }
        self.change(|state| {
            let allowed = state.auth.check(rpc, caller.token.as_deref());
            let answer = allowed.map_or_else(A::refused, |()| apply(state));
            state.calls[number].applied = answer.as_ref().is_ok_and(A::effective);
            answer.map(|mut answer| {
                answer.complete_header(state, &caller.link.member);
                answer
            })
        })
    }

    /// Waits while the member is frozen. `None`: the connection was cut, and the request is lost with it.
    pub(super) async fn unfrozen(&self, caller: &Caller) -> Option<()> {
        let mut changes = self.changes();
        loop {
            changes.forget();
            if caller.link.is_cut() {
                return None;
            }
            if self.state().members.mode(&caller.link.member) != Mode::Hung {
                return Some(());
            }
            changes.changed().await;
        }
    }
}

impl Caller {
    pub(super) fn of<T>(request: &Request<T>) -> Self {
        let link = request.extensions().get::<Arc<Link>>();
        let metadata = request.metadata();
        let token = metadata.get("token").and_then(|t| t.to_str().ok());
        Self {
            link: link.expect("every connection has a link").clone(),
            token: token.map(ToOwned::to_owned),
            require_leader: metadata.contains_key("hasleader"),
        }
    }

    /// The record of a request of this caller, to be completed.
    pub(super) fn call(&self, rpc: Rpc) -> Call {
        Call {
            require_leader: self.require_leader,
            ..Call::new(rpc, &self.link.member, self.link.id)
        }
    }
}

/// etcd's server sends the headers of a stream together with its first message, so that opening a stream takes as long as its
/// first answer; a client that bounds only the opening finds out here.
pub(super) async fn once_it_answers<T: Send + 'static>(
    mut replies: mpsc::Receiver<Result<T, Status>>,
) -> Result<Response<Replies<T>>, Status> {
    let stream: Replies<T> = match replies.recv().await {
        None => Box::pin(tokio_stream::empty()),
        Some(Err(status)) => return Err(status),
        Some(first) => Box::pin(tokio_stream::once(first).chain(ReceiverStream::new(replies))),
    };
    Ok(Response::new(stream))
}

async fn sleep_unless_zero(time: Duration) {
    if !time.is_zero() {
        sleep(time).await;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}
