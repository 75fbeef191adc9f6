//! [`Act`]: one event of a run, as a value, and how it is drawn.

use super::plan::Plan;
use crate::support::fake::{Mode, Reply, Rpc};
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
    Member(usize, Mode),
    Script(Rpc, Reply),
    Freeze(Duration),
    /// A change by another client.
    Other(Other),
    /// A call of the application.
    Ours(Ours),
}

/// A change by another client.
#[derive(Debug, Clone, PartialEq)]
pub enum Other {
    Delete(usize),
    /// With a lease that lives, or with none.
    Overwrite(usize, bool),
    Revoke,
    RevokeForeign,
}

/// A call of the application.
#[derive(Debug, Clone, PartialEq)]
pub enum Ours {
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

pub fn member_fault(rng: &mut Rng) -> Mode {
    use Mode::{BlackHole, Down, Hung, NoReplies};
    *one(rng, &[Down, Hung, BlackHole, NoReplies])
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
        18 => Act::CancelWatches(CANCELLED[rng.usize(..CANCELLED.len())]),
        19 => Act::Latency(rng.u64(0..200), rng.u64(200..1500)),
        20..=22 => match rng.u8(0..5) {
            0 => Act::Member(n, Mode::Up),
            _ => Act::Member(n, member_fault(rng)),
        },
        23..=27 => script(rng, Script::Any),
        28 => Act::Freeze(Duration::from_millis(rng.u64(0..=ttl * 2))),
        29 => Act::Other(Other::Delete(n)),
        30..=31 => Act::Other(Other::Overwrite(n, rng.bool())),
        32 => Act::Other(Other::Revoke),
        33 => Act::Other(Other::RevokeForeign),
        34 => Act::Ours(Ours::Register(names(rng))),
        35 => Act::Ours(Ours::Announce(n)),
        36..=37 => Act::Ours(Ours::Update(n)),
        38 => Act::Ours(Ours::Deregister(n)),
        _ => match rng.u8(0..3) {
            0 => Act::Ours(Ours::Drop(n)),
            1 => Act::Ours(Ours::DeregisterNow(n)),
            _ => Act::Ours(Ours::Deregister(n)),
        },
    }
}

const CANCELLED: [&str; 3] = [
    "etcdserver: no leader",
    "",
    "etcdserver: mvcc: watcher is closed",
];

/// A text of etcd, to which a proxy has added what it likes.
macro_rules! hostile {
    ($text:literal) => {
        concat!($text, "\x1b[2J\r\nINFO forged")
    };
}

const ERRORS: [(Code, &str); 7] = [
    (
        Code::ResourceExhausted,
        hostile!("etcdserver: mvcc: database space exceeded"),
    ),
    (
        Code::ResourceExhausted,
        hostile!("etcdserver: too many requests"),
    ),
    (Code::Unavailable, hostile!("etcdserver: no leader")),
    (Code::Unavailable, hostile!("etcdserver: request timed out")),
    (
        Code::Unauthenticated,
        hostile!("etcdserver: invalid auth token"),
    ),
    (Code::Unknown, hostile!("h2 protocol error")),
    (
        Code::PermissionDenied,
        hostile!("etcdserver: permission denied"),
    ),
];

/// The next request of a kind is treated in some way that a real etcd or network could bring about.
pub fn script(rng: &mut Rng, which: Script) -> Act {
    use Rpc::{Connect, LeaseGrant, LeaseKeepAlive, LeaseRevoke, Txn, Watch};
    let time = Duration::from_millis(rng.u64(0..=3000));
    let all = [
        Connect,
        LeaseGrant,
        LeaseGrant,
        LeaseKeepAlive,
        LeaseRevoke,
        Txn,
        Txn,
        Watch,
    ];
    let (rpc, errors) = match which {
        Script::Any => (*one(rng, &all), &ERRORS[..]),
        Script::Renewal => (LeaseKeepAlive, &ERRORS[..6]),
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
        8 | 9 if rpc == Watch => Reply::Cancel(hostile!("etcdserver: no leader")),
        _ => Reply::Error(code, text),
    };
    Act::Script(rpc, reply)
}
