//! The task behind an [`Observer`](super::Observer): list once, then watch forever.
//!
//! Each round of [`Watcher::run`] ends with a reason, and the next round starts from the recorded state:
//!
//! ```text
//! nothing seen yet                      -> list; what is there is the baseline; watch from there on
//! seen up to revision R                 -> read the prefix *at R*. Still what we know? -> watch from R + 1
//!   "future revision", or it differs    -> another etcd answers: Reset, watch its history from the beginning
//! "compacted"                           -> Reset, and one PUT for each key of a fresh list
//! ```
//!
//! Why read at R instead of comparing revisions: a wiped etcd can already have a *higher* revision than the
//! old one, and cluster and member ids stay the same for the same configuration. Its history at R is different.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use etcd_client::{
    Client, Error, EventType, GetOptions, KeyValue, WatchOptions, WatchResponse, WatchStream,
};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tonic::Code;

use super::record::{Held, Record};

/// The timeout of one list or of opening a watch: a hung etcd must not hang the observer.
const ATTEMPT: Duration = Duration::from_millis(500);
/// The pause after a failed round.
const PAUSE: Duration = Duration::from_millis(10);
/// Ten thousand keys can come in one message.
const MESSAGE_LIMIT: usize = 256 * 1024 * 1024;

/// Watches, and records events.
pub(super) struct Watcher {
    client: Client,
    prefix: String,
    record: Arc<Mutex<Record>>,
    /// Notified of every addition, and once when the first watch is open.
    grow: watch::Sender<()>,
    /// Everything up to this revision is recorded.
    seen: Option<i64>,
}

/// Why a round ended.
enum End {
    /// No answer, or the stream broke: the next round resumes.
    Interrupted,
    /// The history we wanted is not there any more.
    Compacted,
}

impl Watcher {
    pub(super) fn new(
        client: Client,
        prefix: &str,
        record: Arc<Mutex<Record>>,
        grow: watch::Sender<()>,
    ) -> Self {
        Self {
            client,
            prefix: prefix.to_owned(),
            record,
            grow,
            seen: None,
        }
    }

    /// For ever; the observer aborts it.
    pub(super) async fn run(mut self) {
        loop {
            match self.round().await {
                End::Interrupted => sleep(PAUSE).await,
                End::Compacted => self.relist().await,
            }
        }
    }

    async fn round(&mut self) -> End {
        let resumed = match self.seen {
            None => self.begin().await,
            Some(revision) => self.resume(revision).await,
        };
        let from = match resumed {
            Ok(from) => from,
            Err(end) => return end,
        };
        match self.open(from).await {
            Ok(stream) => self.follow(stream).await,
            Err(end) => end,
        }
    }

    /// The first list.
    async fn begin(&mut self) -> Result<i64, End> {
        let (revision, keys) = self.list(0).await?;
        for (key, held) in keys {
            self.record().baseline(key, held);
        }
        self.seen = Some(revision);
        Ok(revision + 1)
    }

    /// Checks whether etcd still has the recorded history.
    async fn resume(&mut self, revision: i64) -> Result<i64, End> {
        let same = match self.list(revision).await {
            Ok((_, keys)) => keys == self.record().keys,
            Err(ListError::Future) => false,
            Err(other) => return Err(other.into()),
        };
        if same {
            return Ok(revision + 1);
        }
        self.record().reset();
        self.grow.send_replace(());
        self.seen = Some(0);
        Ok(1)
    }

    /// After a compaction: what is there now, as if it had just been put.
    async fn relist(&mut self) {
        let Ok((revision, keys)) = self.list(0).await else {
            return sleep(PAUSE).await;
        };
        self.record().reset();
        for (key, held) in keys {
            self.record().put(key, held);
        }
        self.grow.send_replace(());
        self.seen = Some(revision);
    }

    /// The keys at a revision (0 = now), and the revision of the store.
    async fn list(&self, at: i64) -> Result<(i64, BTreeMap<String, Held>), ListError> {
        let options = GetOptions::new().with_prefix().with_revision(at);
        let mut kv = self.client.kv_client();
        kv = kv.max_decoding_message_size(MESSAGE_LIMIT);
        let listed = timeout(ATTEMPT, kv.get(self.prefix.as_str(), Some(options))).await;
        let listed = listed.map_err(|_| ListError::NoAnswer)??;
        let revision = listed.header().map_or(0, |header| header.revision());
        Ok((revision, listed.kvs().iter().map(entry).collect()))
    }

    /// A watch that etcd has acknowledged: from now on nothing is missed.
    async fn open(&self, from: i64) -> Result<WatchStream, End> {
        let mut watch = self.client.watch_client();
        watch = watch.max_decoding_message_size(MESSAGE_LIMIT);
        let options = WatchOptions::new().with_prefix().with_start_revision(from);
        let opening = async {
            let mut stream = watch.watch(self.prefix.as_str(), Some(options)).await?;
            let created = stream.message().await?;
            Ok::<_, Error>(created.map(|_| stream))
        };
        match timeout(ATTEMPT, opening).await {
            Ok(Ok(Some(stream))) => Ok(stream),
            _ => Err(End::Interrupted),
        }
    }

    async fn follow(&mut self, mut stream: WatchStream) -> End {
        self.grow.send_replace(());
        while let Ok(Some(response)) = stream.message().await {
            if response.compact_revision() != 0 {
                return End::Compacted;
            }
            if response.canceled() {
                return End::Interrupted;
            }
            self.note(&response);
        }
        End::Interrupted
    }

    fn note(&mut self, response: &WatchResponse) {
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let (key, held) = entry(kv);
            self.seen = Some(held.revision);
            match event.event_type() {
                EventType::Put => self.record().put(key, held),
                EventType::Delete => self.record().delete(key, held.revision),
            }
        }
        self.grow.send_replace(());
    }

    fn record(&self) -> MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why there is no list.
enum ListError {
    NoAnswer,
    /// The revision is beyond what this etcd has reached.
    Future,
    Compacted,
}

impl From<Error> for ListError {
    fn from(error: Error) -> Self {
        match error {
            Error::GRpcStatus(status) if status.code() == Code::OutOfRange => {
                if status.message().contains("compacted") {
                    Self::Compacted
                } else {
                    Self::Future
                }
            }
            _ => Self::NoAnswer,
        }
    }
}

impl From<ListError> for End {
    fn from(error: ListError) -> Self {
        match error {
            ListError::NoAnswer | ListError::Future => Self::Interrupted,
            ListError::Compacted => Self::Compacted,
        }
    }
}

fn entry(kv: &KeyValue) -> (String, Held) {
    let held = Held {
        value: kv.value().to_vec(),
        lease: kv.lease(),
        revision: kv.mod_revision(),
    };
    (String::from_utf8_lossy(kv.key()).into_owned(), held)
}
