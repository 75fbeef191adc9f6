//! Faults: for all members at once, on [`FakeEtcd`] itself, or for one of them ([`FakeEtcd::member`]).

use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;

use super::FakeEtcd;
use super::members::Mode;
use super::model::keyspace::Keyspace;
use super::script::{Reply, Rpc};
use super::serve::Shared;
use super::state::State;
use super::wire::Pace;

/// The whole state of an etcd at some time.
#[derive(Debug)]
pub struct Snapshot(Keyspace);

/// One member of the cluster. The host in the address that clients dial identifies it.
#[derive(Debug)]
pub struct Member<'a> {
    shared: &'a Shared,
    name: String,
}

impl FakeEtcd {
    /// Answers as etcd 3.4 to 3.6 do where 3.7 and later differ: ranges with `keys_only` carry leases.
    pub fn like_3_6(&self) {
        let mut state = self.shared.state();
        state.keyspace.store.keys_only_with_lease = true;
    }

    /// Gives watches other ids than the requested ones, as `etcd grpc-proxy` does: 0, 1, 2 and so on.
    pub fn own_watch_ids(&self) {
        self.shared.state().own_watch_ids = true;
    }

    /// Started with this `--max-txn-ops`.
    pub fn max_txn_ops(&self, limit: usize) {
        self.shared.state().keyspace.max_txn_ops = limit;
    }

    /// Started with this `--max-request-bytes`.
    pub fn max_request_bytes(&self, limit: usize) {
        self.shared.state().max_request_bytes = limit;
    }

    /// The role of every user may write and not read. Transactions that compare are denied too.
    pub fn deny_reads(&self) {
        self.shared.state().denies_reads = true;
    }

    /// The member behind `http://{name}:...`. Its faults do not affect the cluster and its leases.
    pub fn member(&self, name: &str) -> Member<'_> {
        Member {
            shared: &self.shared,
            name: name.to_owned(),
        }
    }

    /// The process is killed: every connection is cut, new ones are refused, leases stand still.
    pub fn down(&self) {
        self.shared.set(None, Mode::Down);
    }

    /// It is started again with its data: every lease gets its full TTL (and a second for the election) from now.
    pub fn up(&self) {
        let was_down = self.shared.state().members.is_down();
        self.shared.set(None, Mode::Up);
        if was_down {
            self.elect();
        }
    }

    /// [`down`](Self::down) and [`up`](Self::up) at once.
    pub fn restart(&self) {
        self.down();
        self.up();
    }

    /// Deletes all data, leases and tokens too; connections are cut. It serves at once, unless it was down.
    pub fn wipe(&self) {
        let was_down = self.shared.state().members.is_down();
        self.down();
        self.shared.change(State::wipe);
        if !was_down {
            self.up();
        }
    }

    /// Everything there is, for [`restore`](Self::restore).
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.shared.state().keyspace.clone())
    }

    /// Restarts it from a snapshot. That counts as no change.
    pub fn restore(&self, snapshot: &Snapshot) {
        self.down();
        self.shared
            .change(|state| state.keyspace = snapshot.0.clone());
        self.up();
    }

    /// The process is frozen (SIGSTOP): connects succeed and requests arrive, but nothing is answered, on streams neither.
    pub fn hang(&self) {
        self.shared.set(None, Mode::Hung);
    }

    /// The process, or the network, goes on. What arrived meanwhile is applied now, also for callers that have given up;
    /// leases that expired in a frozen process are revoked first.
    pub fn resume(&self) {
        self.shared.set(None, Mode::Up);
        self.shared.sweep();
    }

    /// The network drops everything, both ways; connects are not answered. etcd itself continues. Ends with
    /// [`heal`](Self::heal).
    pub fn black_hole(&self) {
        self.shared.set(None, Mode::BlackHole);
    }

    /// The network drops the answers: requests on open connections are applied, and no reply arrives. Ends with
    /// [`heal`](Self::heal); what has not arrived by then arrives, as with TCP.
    pub fn partition(&self) {
        self.shared.set(None, Mode::NoReplies);
    }

    /// The network works again.
    pub fn heal(&self) {
        self.shared.set(None, Mode::Up);
    }

    /// Existing connections go silent for good, without being closed; new ones work.
    pub fn strand_connections(&self) {
        self.shared
            .state()
            .members
            .links(None)
            .for_each(|link| link.strand());
    }

    /// Existing connections are reset, once; new ones work.
    pub fn cut_connections(&self) {
        self.shared
            .state()
            .members
            .links(None)
            .for_each(|link| link.cut());
    }

    /// A new leader: a new term, and every lease gets its full TTL.
    pub fn elect(&self) {
        self.shared.change(|state| {
            state.term += 1;
            state.keyspace.leases.extend(Instant::now());
        });
    }

    /// Cancels every open watch with this reason; `etcdserver: no leader` is what a member that lost its leader says.
    pub fn cancel_watches(&self, reason: &str) {
        self.shared.change(|state| {
            let number = state.watch_cancel.0 + 1;
            state.watch_cancel = (number, reason.to_owned());
        });
    }

    /// Every open stream of watches goes silent for good, while its connection and other calls work.
    pub fn mute_watches(&self) {
        self.shared.state().watch_mutes += 1;
    }

    /// A proxy sends each stream to another member: watches are answered by a member of their own.
    pub fn watches_elsewhere(&self) {
        self.shared.state().watches_elsewhere = true;
    }

    /// Sets a rule for the next request of that kind that has no rule yet.
    pub fn script(&self, rpc: Rpc, reply: Reply) {
        self.shared.state().scripts.once(rpc, None, reply);
    }

    /// Sets a rule for every request of that kind without a rule of its own.
    pub fn always(&self, rpc: Rpc, reply: Reply) {
        self.shared.state().scripts.always(rpc, None, reply);
    }

    /// Removes all rules.
    pub fn clear(&self) {
        self.shared.state().scripts.clear();
    }

    /// From now on each request takes a time out of this range before it is applied, drawn from the seeded generator.
    pub fn latency(&self, range: Range<Duration>) {
        self.shared.state().latency = range;
    }

    /// A slow link: from now on so many bytes arrive at once, and then none for `pause`; each way, on each connection.
    pub fn trickle(&self, bytes: usize, pause: Duration) {
        self.shared.state().members.slow_down(Pace(bytes, pause));
    }
}

impl Member<'_> {
    /// From now on it treats its clients so.
    pub fn set(&self, mode: Mode) {
        self.shared.set(Some(&self.name), mode);
    }

    /// Its connections are cut and new ones refused.
    pub fn down(&self) {
        self.set(Mode::Down);
    }

    /// It serves, whatever its fault was. Requests that arrived while it hung are applied now.
    pub fn up(&self) {
        self.set(Mode::Up);
    }

    /// It accepts connections and requests, and answers nothing.
    pub fn hang(&self) {
        self.set(Mode::Hung);
    }

    /// Nothing comes through to it or back.
    pub fn black_hole(&self) {
        self.set(Mode::BlackHole);
    }

    /// Requests come through, answers do not.
    pub fn partition(&self) {
        self.set(Mode::NoReplies);
    }

    /// Like [`FakeEtcd::script`], for requests to this member; comes before the rules for all.
    pub fn script(&self, rpc: Rpc, reply: Reply) {
        let member = Some(self.name.clone());
        self.shared.state().scripts.once(rpc, member, reply);
    }

    /// Like [`FakeEtcd::always`], for requests to this member.
    pub fn always(&self, rpc: Rpc, reply: Reply) {
        let member = Some(self.name.clone());
        self.shared.state().scripts.always(rpc, member, reply);
    }

    /// The open connections to it.
    pub fn connections_open(&self) -> usize {
        let state = self.shared.state();
        state.members.links(Some(&self.name)).count()
    }
}

impl Shared {
    fn set(&self, member: Option<&str>, mode: Mode) {
        self.change(|state| {
            state.members.set(member, mode);
            if mode == Mode::Down {
                state.queues.lose(member);
            }
        });
    }

    /// Revokes the leases that have expired, if the cluster runs.
    pub(super) fn sweep(&self) {
        let due = {
            let state = self.state();
            let expired = state.keyspace.leases.expired(Instant::now(), 1);
            state.members.cluster_runs() && !expired.is_empty()
        };
        if due {
            self.change(|state| state.keyspace.sweep(Instant::now()));
        }
    }
}
