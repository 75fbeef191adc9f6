//! `etcdserverpb.Watch`: many watches on one stream, each with its own place in the history.
//! [`model::watch`](crate::model::watch) has the watches; here are their stream and its faults.

use super::{Answer, Services};
use crate::model::watch::{Wanted, WatchRequest, Watches};
use crate::record::{Call, Rpc, text};
use crate::shared::{Caller, Replies, Shared, once_it_answers};
use crate::state::State;
use etcd_client::proto as pb;
use std::sync::Arc;
use tokio::sync::mpsc;
use tonic::{Request, Status, Streaming};

/// One stream, with its watches.
struct WatchStream {
    shared: Arc<Shared>,
    caller: Caller,
    replies: mpsc::Sender<Result<pb::PbWatchResponse, Status>>,
    watches: Watches,
    /// See [`State::watch_cancel`](crate::state::State::watch_cancel).
    cancels_seen: u64,
    /// See [`State::watch_mutes`](crate::state::State::watch_mutes).
    mutes_seen: u64,
}

/// The stream is over.
struct Over;

#[tonic::async_trait]
impl pb::PbWatchService for Services {
    type WatchStream = Replies<pb::PbWatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::PbWatchRequest>>,
    ) -> Answer<Self::WatchStream> {
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

// === impl WatchStream ===

impl WatchStream {
    async fn run(mut self, mut requests: Streaming<pb::PbWatchRequest>) -> Result<(), Over> {
        let mut changes = self.shared.watchable.listener();
        loop {
            let request = tokio::select! {
                biased;
                request = requests.message() => match request {
                    Ok(Some(request)) => request.request_union,
                    _ => return Err(Over),
                },
                () = changes.changed() => None,
            };
            match request.map(WatchRequest::of) {
                Some(WatchRequest::Create(wanted)) => self.create(wanted).await?,
                Some(WatchRequest::Cancel(id)) => {
                    let ended = self.watches.cancel(id);
                    self.send(ended).await?;
                }
                Some(WatchRequest::Progress) => {
                    let progress = self.watches.progress(&self.shared.state().keyspace.store);
                    self.send(progress).await?;
                }
                None => {}
            }
            self.cancel_all_if_told().await?;
            self.deliver().await?;
        }
    }

    async fn create(&mut self, mut wanted: Wanted) -> Result<(), Over> {
        self.shared.travel().await;
        if self.shared.state().settings().own_watch_ids {
            wanted.id = 0;
        }
        let call = Call {
            reads: vec![text(&wanted.key)],
            revision: wanted.start_revision,
            ..self.caller.call(Rpc::Watch)
        };
        let watches = &mut self.watches;
        let create = |state: &mut State| Ok(watches.create(wanted, &state.keyspace.store));
        match self.shared.perform(&self.caller, call, create).await {
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
        self.send(replies).await
    }

    async fn cancel_all_if_told(&mut self) -> Result<(), Over> {
        let (number, reason) = self.shared.state().watch_cancel.clone();
        if number == self.cancels_seen {
            return Ok(());
        }
        self.cancels_seen = number;
        let ended = self.watches.cancel_all(&reason);
        self.send(ended).await
    }

    /// Sends answers with the header of now.
    async fn send(
        &self,
        replies: impl IntoIterator<Item = pb::PbWatchResponse>,
    ) -> Result<(), Over> {
        for mut reply in replies {
            reply.header = self.shared.state().header(&self.caller.link.member);
            if let Some(header) = &mut reply.header
                && reply.compact_revision != 0
            {
                // So does etcd: this answer does not say at which revision it was given.
                header.revision = 0;
            }
            self.say(reply).await?;
        }
        Ok(())
    }

    async fn say(&self, mut reply: pb::PbWatchResponse) -> Result<(), Over> {
        if self.shared.state().settings().watches_elsewhere
            && let Some(header) = &mut reply.header
        {
            header.member_id = !header.member_id;
        }
        self.replies.send(Ok(reply)).await.map_err(|_| Over)
    }
}
