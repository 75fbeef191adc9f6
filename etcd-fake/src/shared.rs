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

use crate::answer::Answer;
use crate::notifier::Notifier;
use crate::pipe::{Link, Mode, Pipe};
use crate::queue::{Full, Ticket};
use crate::record::{Call, Rpc};
use crate::script::Reply;
use crate::state::State;
use std::fmt;
use std::future::{Future, pending};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};

/// State that all parts of one fake share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Notifies tasks that wait for a change of the state.
    notifier: Notifier,
    /// Notifies watches, which are many: only of what they can notice.
    pub(crate) watchable: Notifier,
    /// Notifies requests that wait their turn.
    pub(crate) capacities: Notifier,
    /// New connections, for the server.
    pub(crate) inbox: mpsc::UnboundedSender<Pipe>,
    /// Ends every task.
    pub(crate) stop: CancellationToken,
}

/// The client of a request, and its connection.
#[derive(Clone)]
pub(crate) struct Caller {
    pub(crate) link: Arc<Link>,
    token: Option<String>,
    require_leader: bool,
}

/// A request that has arrived.
pub(crate) struct Arrived {
    /// Its index in the record.
    pub(crate) number: usize,
    pub(crate) reply: Reply,
    latency: Duration,
    ticket: Option<Ticket>,
}

/// The replies on a stream.
pub(crate) type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

// === impl Shared ===

impl Shared {
    pub(crate) fn new(state: State, inbox: mpsc::UnboundedSender<Pipe>) -> Self {
        Self {
            state: Mutex::new(state),
            notifier: Notifier::default(),
            watchable: Notifier::default(),
            capacities: Notifier::default(),
            inbox,
            stop: CancellationToken::new(),
        }
    }

    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the state, records the changes of keys, and notifies all listeners.
    pub(crate) fn change<R>(&self, how: impl FnOnce(&mut State) -> R) -> R {
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

    /// Calls `look` now and after each [`change`](Self::change), until it returns something. Cancel safe.
    pub(crate) async fn until<T>(&self, mut look: impl FnMut() -> Option<T>) -> T {
        let mut changes = self.notifier.listener();
        loop {
            if let Some(found) = look() {
                return found;
            }
            changes.changed().await;
        }
    }

    /// A task that ends with the fake.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Sets how a member, or every member, treats its clients.
    pub(crate) fn set(&self, member: Option<&str>, mode: Mode) {
        self.change(|state| {
            state.members.set(member, mode);
            if mode == Mode::Down {
                state.queues.lose(member);
            }
        });
    }

    /// Revokes the leases that have expired, if the cluster runs.
    pub(crate) fn sweep(&self) {
        let is_due = {
            let state = self.state();
            let expired = state.keyspace.leases.expired(Instant::now(), 1);
            state.members.cluster_runs() && !expired.is_empty()
        };
        if is_due {
            self.change(|state| state.keyspace.sweep(Instant::now()));
        }
    }

    /// Handles a unary request.
    pub(crate) async fn unary<A: Answer>(
        self: &Arc<Self>,
        caller: Caller,
        call: Call,
        apply: impl FnOnce(&mut State) -> Result<A, Status> + Send + 'static,
    ) -> Result<Response<A>, Status> {
        self.travel().await;
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

    /// Waits until the request arrives. A caller that gives up meanwhile takes it back.
    pub(crate) async fn travel(&self) {
        let delay = self.state().delay;
        sleep_unless_zero(delay).await;
    }

    /// Handles any request. `None`: there will be no answer.
    pub(crate) async fn perform<A: Answer>(
        &self,
        caller: &Caller,
        call: Call,
        apply: impl FnOnce(&mut State) -> Result<A, Status>,
    ) -> Option<Result<A, Status>> {
        let rpc = call.rpc;
        let Arrived {
            number,
            reply,
            latency,
            ticket,
        } = self.arrived(call);
        sleep_unless_zero(latency).await;
        self.turn(&caller.link.member, ticket).await;
        self.unfrozen(caller).await?;
        match &reply {
            Reply::Never => return None,
            Reply::Error(code, text) => return Some(Err(Status::new(*code, *text))),
            Reply::Reset => {
                caller.link.cut();
                return None;
            }
            Reply::Late(delay) => {
                sleep(*delay).await;
                self.unfrozen(caller).await?;
            }
            _ => {}
        }
        let token = caller.token.as_deref();
        if self.state().auth.is_waited_for(rpc, token) {
            return None;
        }
        let mut answer = self.apply(number, caller, &reply, apply);
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

    /// Records a request, and takes its rule and its place in the queue.
    pub(crate) fn arrived(&self, call: Call) -> Arrived {
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
        Arrived {
            number,
            reply,
            latency,
            ticket,
        }
    }

    fn apply<A: Answer>(
        &self,
        number: usize,
        caller: &Caller,
        reply: &Reply,
        apply: impl FnOnce(&mut State) -> Result<A, Status>,
    ) -> Result<A, Status> {
        if let Some(unapplied) = A::instead(reply) {
            return Ok(unapplied);
        }
        self.change(|state| {
            let is_lenient = state.settings().lenient_leases;
            let (call, token) = (&state.calls[number], caller.token.as_deref());
            let allowed = state.auth.check(call, token, is_lenient);
            let mut answer = allowed.map_or_else(A::refused, |()| apply(state))?;
            state.calls[number].applied = answer.effective();
            *answer.header() = state.header(&caller.link.member);
            Ok(answer)
        })
    }

    /// Waits until the work before this ticket, and its own, is done.
    async fn turn(&self, member: &str, ticket: Option<Ticket>) {
        let Some(ticket) = ticket else { return };
        let mut changes = self.capacities.listener();
        loop {
            let due = self.state().queues.due(member, ticket);
            let Some(due) = due else { return };
            tokio::select! {
                biased;
                () = sleep_until(due) => return,
                () = changes.changed() => {}
            }
        }
    }

    /// Waits while the member is frozen. `None`: the connection was cut, and the request is lost with it.
    async fn unfrozen(&self, caller: &Caller) -> Option<()> {
        let is_frozen = || self.state().members.mode(&caller.link.member) == Mode::Hung;
        self.until(|| match caller.link.is_cut() {
            true => Some(None),
            false => (!is_frozen()).then_some(Some(())),
        })
        .await
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

// === impl Caller ===

impl Caller {
    #[allow(clippy::expect_used, reason = "`Pipe` gives each request its link")]
    pub(crate) fn of<T>(request: &Request<T>) -> Self {
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
    pub(crate) fn call(&self, rpc: Rpc) -> Call {
        Call {
            require_leader: self.require_leader,
            ..Call::new(rpc, &self.link.member, self.link.id)
        }
    }
}

/// etcd's server sends the headers of a stream together with its first message, so that opening a stream takes as long as its
/// first answer; a client that bounds only the opening finds out here.
pub(crate) async fn once_it_answers<T: Send + 'static>(
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
