//! [`Act`]: one event of a run, as a value, and how it is drawn.

use super::plan::Plan;
use crate::support::fake::{Reply, Rpc};
use fastrand::Rng;
use std::time::Duration;
use tonic::Code;

/// One event of a run. A number picks one of the current items, modulo their number.
#[derive(Debug, Clone, PartialEq)]
pub enum Act {
    // Faults of etcd, of the network or of the process.
    Down,
    Wipe,
    Hang,
    BlackHole,
    Partition,
    Heal,
    Strand,
    Cut,
    Elect,
    Compact,
    CancelWatches(&'static str),
    Latency(u64, u64),
    Member(usize, MemberFault),
    Script(Rpc, Reply),
    Freeze(Duration),
    // Changes by other clients.
    Delete(usize),
    /// With a lease that lives, or with none.
    Overwrite(usize, bool),
    Revoke,
    RevokeForeign,
    // Calls of the application.
    Register(usize),
    Announce(usize),
    Update(usize),
    Pause(usize),
    /// Ends one pause of a paused registration.
    Resume(usize),
    Deregister(usize),
    DeregisterNow(usize),
    Drop(usize),
    Stop,
    StopNow,
}

impl Act {
    /// Whether it is the application's own.
    pub fn is_ours(&self) -> bool {
        use Act::{
            Announce, Deregister, DeregisterNow, Drop, Pause, Register, Resume, Stop, StopNow,
            Update,
        };
        matches!(
            self,
            Register(_)
                | Announce(_)
                | Update(_)
                | Pause(_)
                | Resume(_)
                | Deregister(_)
                | DeregisterNow(_)
                | Drop(_)
                | Stop
                | StopNow
        )
    }
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum MemberFault {
    Down,
    Up,
    Hang,
    BlackHole,
    Partition,
}

/// Which requests a scripted reply is drawn for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Script {
    Any,
    /// A renewal, without a wrong answer about the lease.
    Renewal,
}

pub fn one<'a, T>(rng: &mut Rng, list: &'a [T]) -> &'a T {
    &list[rng.usize(..list.len())]
}

/// Most have one name.
pub fn names(rng: &mut Rng) -> usize {
    *one(rng, &[1, 1, 1, 2, 3])
}

pub fn member_fault(rng: &mut Rng) -> MemberFault {
    use MemberFault::{BlackHole, Down, Hang, Partition};
    *one(rng, &[Down, Hang, BlackHole, Partition])
}

pub fn any(rng: &mut Rng, plan: &Plan) -> Act {
    let n = rng.usize(..);
    let ttl = plan.ttl.as_millis() as u64;
    match rng.u8(0..40) {
        0..=1 => Act::Down,
        2 => Act::Wipe,
        3..=4 => Act::Hang,
        5..=6 => Act::BlackHole,
        7..=8 => Act::Partition,
        9..=13 => Act::Heal,
        14 => Act::Strand,
        15 => Act::Cut,
        16 => Act::Elect,
        17 => Act::Compact,
        18 => Act::CancelWatches(one::<&'static str>(
            rng,
            &[
                "etcdserver: no leader",
                "",
                "etcdserver: mvcc: watcher is closed",
            ],
        )),
        19 => Act::Latency(rng.u64(0..200), rng.u64(200..1500)),
        20..=22 => match rng.u8(0..5) {
            0 => Act::Member(n, MemberFault::Up),
            _ => Act::Member(n, member_fault(rng)),
        },
        23..=27 => script(rng, Script::Any),
        28 => Act::Freeze(Duration::from_millis(rng.u64(0..=ttl * 2))),
        29 => Act::Delete(n),
        30..=31 => Act::Overwrite(n, rng.bool()),
        32 => Act::Revoke,
        33 => Act::RevokeForeign,
        34 => Act::Register(names(rng)),
        35 => Act::Announce(n),
        36..=37 => Act::Update(n),
        38 => Act::Deregister(n),
        _ => match rng.u8(0..3) {
            0 => Act::Drop(n),
            1 => Act::DeregisterNow(n),
            _ => Act::Deregister(n),
        },
    }
}

const ERRORS: [(Code, &str); 7] = [
    (
        Code::ResourceExhausted,
        "etcdserver: mvcc: database space exceeded",
    ),
    (Code::ResourceExhausted, "etcdserver: too many requests"),
    (Code::Unavailable, "etcdserver: no leader"),
    (Code::Unavailable, "etcdserver: request timed out"),
    (Code::Unauthenticated, "etcdserver: invalid auth token"),
    (Code::Unknown, "h2 protocol error"),
    (Code::PermissionDenied, "etcdserver: permission denied"),
];

/// The next request of a kind is treated in some way that a real etcd or network could bring about.
pub fn script(rng: &mut Rng, which: Script) -> Act {
    use Rpc::{Connect, LeaseGrant, LeaseKeepAlive, LeaseRevoke, Txn, Watch};
    let time = Duration::from_millis(rng.u64(0..=3000));
    let rpc = match which {
        Script::Any => *one(
            rng,
            &[
                Connect,
                LeaseGrant,
                LeaseGrant,
                LeaseKeepAlive,
                LeaseRevoke,
                Txn,
                Txn,
                Watch,
            ],
        ),
        Script::Renewal => LeaseKeepAlive,
    };
    let errors = if which == Script::Any {
        &ERRORS[..]
    } else {
        &ERRORS[..6]
    };
    let (code, text) = *one(rng, errors);
    let reply = match rng.u8(0..10) {
        0 => Reply::Delay(time),
        1 => Reply::Late(time),
        2 | 3 => Reply::DropReply,
        4 => Reply::ApplyThenReset,
        5 => Reply::Reset,
        // A watch request on a stream that stays open is not lost in reality.
        6 if rpc != Watch => Reply::Never,
        7 if which == Script::Any && matches!(rpc, LeaseKeepAlive | LeaseGrant) => Reply::TtlZero,
        8 if which == Script::Any => Reply::WrongId,
        8 | 9 if rpc == Watch => Reply::Cancel("etcdserver: no leader"),
        _ => Reply::Error(code, text),
    };
    Act::Script(rpc, reply)
}
