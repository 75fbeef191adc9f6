//! Faults: of all members at once, by methods of [`FakeEtcd`] itself, or of one [`Member`].

use crate::auth::Denied;
use crate::fake::FakeEtcd;
use crate::model::keyspace::Keyspace;
use crate::pipe::{Mode, Pace};
use crate::queue::Capacity;
use crate::record::Rpc;
use crate::script::Reply;
use crate::shared::Shared;
use crate::state::State;
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;

/// The data of an etcd at some time: keys, their history, leases.
#[derive(Debug)]
pub struct Snapshot(Keyspace);

/// One member of the cluster: the host of the address that clients dial. Its faults do not affect the cluster and
/// its leases.
#[derive(Debug)]
pub struct Member<'a> {
    shared: &'a Shared,
    name: String,
}

// === impl FakeEtcd ===

/// The process, or all processes of the cluster.
impl FakeEtcd {
    /// Kills it: connections are cut, new ones are refused, and leases do not expire. Its data stays.
    pub fn down(&self) {
        self.shared.set(None, Mode::Down);
    }

    /// Ends every fault of processes and of the network. If it was [`down`](Self::down), it starts with its data, and
    /// every lease gets its full TTL, and a second for the election.
    pub fn up(&self) {
        self.shared.change(State::up);
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

    /// A copy of all data, for [`restore`](Self::restore).
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.shared.state().keyspace.clone())
    }

    /// Starts it with an older copy of its data; connections are cut. No watch sees that as a change.
    pub fn restore(&self, snapshot: &Snapshot) {
        self.down();
        self.shared.change(|state| {
            state.keyspace = snapshot.0.clone();
            state.up();
        });
    }

    /// Freezes it (SIGSTOP): connects succeed and requests arrive, but nothing is answered, on streams neither.
    pub fn hang(&self) {
        self.shared.set(None, Mode::Hung);
    }

    /// Ends [`hang`](Self::hang). Leases that expired meanwhile are revoked first. Then the requests that arrived meanwhile
    /// are applied, also for callers that have given up.
    pub fn resume(&self) {
        self.shared.set(None, Mode::Up);
        self.shared.sweep();
    }

    /// A new leader: a new term, and every lease gets its full TTL, and a second for the election.
    pub fn elect(&self) {
        self.shared.change(State::elect);
    }

    /// Each member can do so much work from now on. `None`: any work at once.
    pub fn capacity(&self, capacity: Option<Capacity>) {
        self.shared.state().queues.set(capacity, Instant::now());
        self.shared.capacities.notify();
    }

    /// Each request takes a time out of this range from now on, before it is applied, also when its caller has given up.
    pub fn latency(&self, range: Range<Duration>) {
        self.shared.state().latency = range;
    }
}

/// The network.
impl FakeEtcd {
    /// It drops everything, both ways; connects are not answered. Ends with [`heal`](Self::heal).
    pub fn black_hole(&self) {
        self.shared.set(None, Mode::BlackHole);
    }

    /// It drops the answers: requests on open connections are applied. Ends with [`heal`](Self::heal); the answers
    /// arrive then, as with TCP.
    pub fn partition(&self) {
        self.shared.set(None, Mode::NoReplies);
    }

    /// It works again.
    pub fn heal(&self) {
        self.shared.set(None, Mode::Up);
    }

    /// The open connections go silent for good, without being closed; new ones work.
    pub fn strand_connections(&self) {
        let state = self.shared.state();
        state.members.links(None).for_each(|link| link.strand());
    }

    /// The open connections are reset; new ones work.
    pub fn cut_connections(&self) {
        let state = self.shared.state();
        state.members.links(None).for_each(|link| link.cut());
    }

    /// Each request arrives after this time from now on, unless its caller has given up by then. Zero ends it.
    pub fn delay(&self, time: Duration) {
        self.shared.state().delay = time;
    }

    /// A slow link: from now on so many bytes arrive at once, and then none for `pause`; each way, on each connection.
    pub fn trickle(&self, bytes: usize, pause: Duration) {
        self.shared.state().members.slow_down(Pace(bytes, pause));
    }
}

/// Single requests, watches and permissions.
impl FakeEtcd {
    /// The next request of that kind that has no rule yet is handled so.
    pub fn script(&self, rpc: Rpc, reply: Reply) {
        self.shared.state().scripts.once(rpc, None, reply);
    }

    /// Every request of that kind that has no rule of its own is handled so.
    pub fn always(&self, rpc: Rpc, reply: Reply) {
        self.shared.state().scripts.always(rpc, None, reply);
    }

    /// Removes all rules for requests.
    pub fn clear(&self) {
        self.shared.state().scripts.clear();
    }

    /// Cancels every open watch with this reason. A member that has lost its leader says `etcdserver: no leader`.
    pub fn cancel_watches(&self, reason: &str) {
        self.shared.change(|state| {
            let number = state.watch_cancel.0 + 1;
            state.watch_cancel = (number, reason.to_owned());
        });
    }

    /// Every open stream of watches sends nothing any more, while its connection and other calls work.
    pub fn mute_watches(&self) {
        self.shared.state().watch_mutes += 1;
    }

    /// Denies reads, writes and watches of keys below `prefix`, as for a user without the permission; `""` is every key.
    /// It replaces the previous denial.
    pub fn deny(&self, prefix: &str) {
        self.set_denied(Some((prefix, true)));
    }

    /// Denies only reads and watches of keys below `prefix`. A transaction that compares a key reads it.
    pub fn deny_reads(&self, prefix: &str) {
        self.set_denied(Some((prefix, false)));
    }

    /// Ends [`deny`](Self::deny) and [`deny_reads`](Self::deny_reads).
    pub fn allow(&self) {
        self.set_denied(None);
    }

    fn set_denied(&self, denied: Option<(&str, bool)>) {
        self.shared.state().auth.denied = denied.map(|(prefix, writes_too)| Denied {
            prefix: prefix.to_owned(),
            writes_too,
        });
    }

    /// The member behind `http://{name}:...`.
    pub fn member(&self, name: &str) -> Member<'_> {
        Member {
            shared: &self.shared,
            name: name.to_owned(),
        }
    }
}

// === impl Member ===

impl Member<'_> {
    /// It treats its clients so from now on.
    pub fn set(&self, mode: Mode) {
        self.shared.set(Some(&self.name), mode);
    }

    /// [`Mode::Down`].
    pub fn down(&self) {
        self.set(Mode::Down);
    }

    /// [`Mode::Up`]. Requests that arrived while it hung are applied now.
    pub fn up(&self) {
        self.set(Mode::Up);
    }

    /// [`Mode::Hung`].
    pub fn hang(&self) {
        self.set(Mode::Hung);
    }

    /// [`Mode::BlackHole`].
    pub fn black_hole(&self) {
        self.set(Mode::BlackHole);
    }

    /// [`Mode::NoReplies`].
    pub fn partition(&self) {
        self.set(Mode::NoReplies);
    }

    /// Like [`FakeEtcd::script`], for requests to this member; it comes before the rules for all.
    pub fn script(&self, rpc: Rpc, reply: Reply) {
        let member = Some(self.name.clone());
        self.shared.state().scripts.once(rpc, member, reply);
    }

    /// Like [`FakeEtcd::always`], for requests to this member.
    pub fn always(&self, rpc: Rpc, reply: Reply) {
        let member = Some(self.name.clone());
        self.shared.state().scripts.always(rpc, member, reply);
    }

    /// The number of open connections to it.
    pub fn connections_open(&self) -> usize {
        let state = self.shared.state();
        state.members.links(Some(&self.name)).count()
    }
}
