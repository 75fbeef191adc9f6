//! `etcdserverpb.Watch` on the wire: many watches on one stream, each with its own place in the history.
//! [`model::watch`](super::model::watch) has the watches; here are their stream and its faults.

use std::sync::Arc;

use etcd_client::proto::{PbResponseHeader, PbWatchRequest, PbWatchResponse, PbWatchService};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::answer::Answer;
use super::model::watch::{Wanted, WatchRequest, Watches};
use super::record::{Call, text};
use super::script::Rpc;
use super::serve::{Caller, Replies, Shared, once_it_answers};

/// Watches.
#[derive(Debug)]
pub(super) struct WatchCalls(pub(super) Arc<Shared>);

/// One stream, with its watches.
struct WatchStream {
    shared: Arc<Shared>,
    caller: Caller,
    replies: Replier,
    watches: Watches,
    /// See [`State::watch_cancel`](super::state::State::watch_cancel).
    cancels_seen: u64,
    /// See [`State::watch_mutes`](super::state::State::watch_mutes).
    mutes_seen: u64,
}

type Replier = mpsc::Sender<Result<PbWatchResponse, Status>>;

/// The stream is over.
struct Over;

#[tonic::async_trait]
impl PbWatchService for WatchCalls {
    type WatchStream = Replies<PbWatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<PbWatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let caller = Caller::of(&request);
        let (replies, receiver) = mpsc::channel(16);
        let gone = replies.clone();
        let (cancels_seen, mutes_seen) = {
            let state = self.0.state();
            (state.watch_cancel.0, state.watch_mutes)
        };
        let stream = WatchStream {
            cancels_seen,
            mutes_seen,
            shared: self.0.clone(),
            caller,
            replies,
            watches: Watches::default(),
        };
        let requests = request.into_inner();
        self.0.spawn(async move {
            tokio::select! {
                biased;
                () = gone.closed() => {}
                _over = stream.run(requests) => {}
            }
        });
        once_it_answers(receiver).await
    }
}

impl WatchStream {
    async fn run(mut self, mut requests: Streaming<PbWatchRequest>) -> Result<(), Over> {
        let mut changes = self.shared.watchable.listener();
        loop {
            tokio::select! {
                biased;
                request = requests.message() => match request {
                    Ok(Some(PbWatchRequest { request_union: Some(request) })) => {
                        self.asked(WatchRequest::of(request)).await?;
                    }
                    Ok(Some(_)) => {}
                    _ => return Err(Over),
                },
                () = changes.changed() => {}
            }
            self.cancel_all_if_told().await?;
            self.deliver().await?;
        }
    }

    async fn asked(&mut self, request: WatchRequest) -> Result<(), Over> {
        let reply = match request {
            WatchRequest::Create(wanted) => return self.create(wanted).await,
            WatchRequest::Cancel(id) => self.watches.cancel(id),
            WatchRequest::Progress => self.watches.progress(&self.shared.state().keyspace.store),
        };
        match reply {
            Some(reply) => self.send(reply).await,
            None => Ok(()),
        }
    }

    async fn create(&mut self, mut wanted: Wanted) -> Result<(), Over> {
        if self.shared.state().own_watch_ids {
            wanted.id = 0;
        }
        let call = Call {
            reads: vec![text(&wanted.key)],
            revision: wanted.start_revision,
            ..self.caller.call(Rpc::Watch)
        };
        let (shared, caller) = (self.shared.clone(), self.caller.clone());
        let answer = shared
            .perform(&caller, call, |state| {
                Ok(self.watches.create(wanted, &state.keyspace.store))
            })
            .await;
        match answer {
            None => Ok(()),
            Some(Err(status)) => {
                let _delivered = self.replies.send(Err(status)).await;
                Err(Over)
            }
            Some(Ok(created)) => {
                if created.canceled {
                    let _ended = self.watches.cancel(created.watch_id);
                }
                self.say(created).await
            }
        }
    }

    async fn deliver(&mut self) -> Result<(), Over> {
        let replies = {
            let state = self.shared.state();
            if state.watch_mutes != self.mutes_seen {
                return Ok(());
            }
            self.watches.news(&state.keyspace.store)
        };
        for reply in replies {
            self.send(reply).await?;
        }
        Ok(())
    }

    async fn cancel_all_if_told(&mut self) -> Result<(), Over> {
        let (number, reason) = self.shared.state().watch_cancel.clone();
        if number == self.cancels_seen {
            return Ok(());
        }
        self.cancels_seen = number;
        for reply in self.watches.cancel_all(&reason) {
            self.send(reply).await?;
        }
        Ok(())
    }

    async fn send(&self, mut reply: PbWatchResponse) -> Result<(), Over> {
        reply.complete_header(&self.shared.state(), &self.caller.link.member);
        if reply.compact_revision != 0 {
            // So does etcd: this answer does not say at which revision it was given.
            reply.header = reply.header.map(|header| PbResponseHeader {
                revision: 0,
                ..header
            });
        }
        self.say(reply).await
    }

    async fn say(&self, mut reply: PbWatchResponse) -> Result<(), Over> {
        if self.shared.state().watches_elsewhere
            && let Some(header) = &mut reply.header
        {
            header.member_id = !header.member_id;
        }
        self.replies.send(Ok(reply)).await.map_err(|_| Over)
    }
}
