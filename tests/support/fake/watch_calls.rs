//! `etcdserverpb.Watch` on the wire: many watches on one stream, each with its own place in the history.
//!
//! A watch remembers the next revision it wants. Whatever wakes the stream, each watch gets what is there from that revision
//! on: history and news are the same thing, except that history comes in one message, and news one revision at a time. So a
//! watch from the past needs no special care, and one from the future is simply silent until the store gets there, also after
//! a wipe; that is what etcd does.

use std::collections::BTreeMap;
use std::sync::Arc;

use etcd_client::proto::{
    PbResponseHeader, PbWatchRequest, PbWatchRequestUnion, PbWatchResponse, PbWatchService,
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::answer::Answer;
use super::record::{Call, text};
use super::script::Rpc;
use super::serve::{Caller, Replies, Shared, once_it_answers};
use super::state::State;
use super::store::Span;
use super::watch::{Watch, canceled};

/// Watches.
#[derive(Debug)]
pub(super) struct WatchCalls(pub(super) Arc<Shared>);

/// All watches of one stream.
struct Watches {
    shared: Arc<Shared>,
    caller: Caller,
    replies: Replier,
    watches: BTreeMap<i64, Watch>,
    /// The next id for those who leave the choice to etcd.
    next_id: i64,
    /// See [`State::watch_cancel`].
    cancels_seen: u64,
    /// See [`State::watch_mutes`].
    mutes_seen: u64,
}

/// What a client asks for when it creates a watch; the generated type has no public name.
struct Wanted {
    id: i64,
    start_revision: i64,
    watch: Watch,
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
        let watches = Watches {
            cancels_seen,
            mutes_seen,
            shared: self.0.clone(),
            caller,
            replies,
            watches: BTreeMap::new(),
            next_id: 0,
        };
        let requests = request.into_inner();
        self.0.spawn(async move {
            tokio::select! {
                biased;
                () = gone.closed() => {}
                _over = watches.run(requests) => {}
            }
        });
        once_it_answers(receiver).await
    }
}

impl Watches {
    async fn run(mut self, mut requests: Streaming<PbWatchRequest>) -> Result<(), Over> {
        let mut changes = self.shared.changes();
        loop {
            tokio::select! {
                biased;
                request = requests.message() => match request {
                    Ok(Some(PbWatchRequest { request_union })) => self.asked(request_union).await?,
                    _ => return Err(Over),
                },
                () = changes.changed() => {}
            }
            self.cancel_all_if_told().await?;
            self.deliver().await?;
        }
    }

    async fn asked(&mut self, request: Option<PbWatchRequestUnion>) -> Result<(), Over> {
        match request {
            Some(PbWatchRequestUnion::CreateRequest(create)) => {
                // FilterType: 0 is NOPUT, 1 is NODELETE.
                let key = if create.key.is_empty() {
                    vec![0]
                } else {
                    create.key
                };
                let wanted = Wanted {
                    id: create.watch_id,
                    start_revision: create.start_revision,
                    watch: Watch {
                        span: Span::new(&key, &create.range_end),
                        next: create.start_revision,
                        start: create.start_revision,
                        is_behind: true,
                        without_puts: create.filters.contains(&0),
                        without_deletes: create.filters.contains(&1),
                    },
                };
                self.create(wanted, text(&key)).await
            }
            Some(PbWatchRequestUnion::CancelRequest(cancel)) => {
                match self.watches.remove(&cancel.watch_id) {
                    Some(_) => self.send(canceled(cancel.watch_id)).await,
                    None => Ok(()),
                }
            }
            Some(PbWatchRequestUnion::ProgressRequest(_)) => {
                // As etcd 3.5 and later (`progressIfSync`); 3.4 always answers, `grpc-proxy` never.
                let revision = self.shared.state().keyspace.store.revision();
                if self.watches.values().any(|watch| watch.start > revision) {
                    return Ok(());
                }
                // -1 means: all watches of this stream are at least here.
                let progress = PbWatchResponse {
                    watch_id: -1,
                    ..PbWatchResponse::default()
                };
                self.send(progress).await
            }
            None => Ok(()),
        }
    }

    async fn create(&mut self, wanted: Wanted, key: String) -> Result<(), Over> {
        let call = Call {
            reads: vec![key],
            revision: wanted.start_revision,
            ..self.caller.call(Rpc::Watch)
        };
        let (shared, caller) = (self.shared.clone(), self.caller.clone());
        let answer = shared
            .perform(&caller, call, |state| Ok(self.register(wanted, state)))
            .await;
        match answer {
            None => Ok(()),
            Some(Err(status)) => {
                let _delivered = self.replies.send(Err(status)).await;
                Err(Over)
            }
            Some(Ok(created)) => {
                if created.canceled {
                    self.watches.remove(&created.watch_id);
                }
                self.say(created).await
            }
        }
    }

    fn register(&mut self, wanted: Wanted, state: &State) -> PbWatchResponse {
        let refused = |reason: &str| PbWatchResponse {
            watch_id: -1,
            created: true,
            canceled: true,
            cancel_reason: reason.to_owned(),
            ..PbWatchResponse::default()
        };
        if wanted.watch.span.is_empty() {
            return refused("mvcc: watcher range is empty");
        }
        if wanted.id != 0 && self.watches.contains_key(&wanted.id) {
            return refused("mvcc: duplicate watch ID provided on the WatchStream");
        }
        let id = match wanted.id {
            0 => self.free_id(),
            chosen => chosen,
        };
        let mut watch = wanted.watch;
        if watch.next == 0 {
            watch.next = state.keyspace.store.revision() + 1;
        }
        self.watches.insert(id, watch);
        PbWatchResponse {
            watch_id: id,
            created: true,
            ..PbWatchResponse::default()
        }
    }

    fn free_id(&mut self) -> i64 {
        while self.watches.contains_key(&self.next_id) {
            self.next_id += 1;
        }
        self.next_id += 1;
        self.next_id - 1
    }

    async fn deliver(&mut self) -> Result<(), Over> {
        let replies: Vec<_> = {
            let state = self.shared.state();
            if state.watch_mutes != self.mutes_seen {
                return Ok(());
            }
            let watches = self.watches.iter_mut();
            watches
                .flat_map(|(id, watch)| watch.news(*id, &state))
                .collect()
        };
        for reply in replies {
            if reply.canceled {
                self.watches.remove(&reply.watch_id);
            }
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
        for id in std::mem::take(&mut self.watches).into_keys() {
            let cancel_reason = reason.clone();
            self.send(PbWatchResponse {
                cancel_reason,
                ..canceled(id)
            })
            .await?;
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

    async fn say(&self, reply: PbWatchResponse) -> Result<(), Over> {
        self.replies.send(Ok(reply)).await.map_err(|_| Over)
    }
}
