//! The reconciler's decisions, event by event, and the table of all transitions in DESIGN.md.

use super::*;
use crate::etcd::{self, Applied, EventKind, KeyMeta, Op, RpcError, RpcErrorKind, WatchResponse};
use crate::observe::status::Ended;
use crate::registrar::lease;
use RpcErrorKind::{
    Broken, Busy, Denied, LeaseExists, LeaseGone, ResourceExhausted, Timeout, Unauthenticated,
    Unreachable,
};

const LEASE_TTL: Duration = Duration::from_secs(5);
const REVISION: i64 = 5;
const THEIRS: i64 = 8;
/// The member that answers renewals, and has the watch.
const MEMBER: u64 = 1;

/// A reconciler and its last actions.
struct Fixture {
    reconciler: Reconciler,
    now: Instant,
    actions: Vec<Action>,
    /// The requests under way, by the names of their actions.
    pending: BTreeSet<&'static str>,
    /// The last transaction.
    ops: Vec<Op>,
}

fn error(kind: RpcErrorKind) -> RpcError {
    RpcError::new(kind, &"http://etcd:2379".into(), format!("{kind:?}"))
}

fn failed<T>(kind: RpcErrorKind) -> Result<T, RpcError> {
    Err(error(kind))
}

fn desired(id: EntryId, desired: Desired) -> Event {
    Event::Desired(vec![(id, desired)])
}

fn keys(value: &str) -> Desired {
    Desired::Keys(vec![("k".into(), value.into())])
}

fn paused() -> Desired {
    Desired::Paused {
        reasons: ["warming cache".into()].into(),
        needs_local_ip: false,
    }
}

fn watch_created() -> Event {
    Event::Watched(Ok(WatchResponse {
        events: vec![],
        created: true,
        id: 1,
        revision: REVISION,
        member: 0,
        ended: None,
    }))
}

const WAITING: Desired = Desired::Waiting {
    needs_local_ip: false,
};

// === the states ===

impl Fixture {
    fn none() -> Self {
        let settings = Settings {
            ttl: LEASE_TTL,
            attempt_timeout: lease::default_attempt(LEASE_TTL),
            revoke_timeout: Duration::from_secs(1),
            on_conflict: OnConflict::TakeOver,
            endpoints: crate::Etcd::new(["http://etcd:2379"]).check().unwrap(),
            random_id: |rng| rng.u64(..),
        };
        Self {
            reconciler: Reconciler::new(settings, fastrand::Rng::with_seed(1)),
            now: Instant::now(),
            actions: vec![],
            pending: BTreeSet::new(),
            ops: vec![],
        }
    }

    fn opening() -> Self {
        let mut this = Self::none();
        this.handle(desired(1, WAITING));
        this
    }

    fn granting() -> Self {
        let mut this = Self::opening();
        this.handle(Event::Connected(Ok(())));
        this
    }

    fn writing() -> Self {
        let mut this = Self::granting();
        this.handle(this.granted(Ok(LEASE_TTL)));
        this.handle(desired(1, keys("v")));
        this
    }

    fn held() -> Self {
        let mut this = Self::writing();
        this.handle(this.written(Ok(())));
        this.handle(Event::WatchRequested(Ok(())));
        this.handle(watch_created());
        this
    }

    /// The renewal has no answer in time.
    fn late() -> Self {
        let mut this = Self::renewal_due();
        this.pass_to_timeout();
        this
    }

    /// Another connection is being opened beside the silent one.
    fn beside() -> Self {
        let mut this = Self::late();
        this.pass_to_timeout();
        this
    }

    fn renewal_due() -> Self {
        let mut this = Self::held();
        this.pass_to_timeout();
        this
    }

    fn reconnecting() -> Self {
        let mut this = Self::renewal_due();
        this.handle(this.renewed(failed(Timeout)));
        this
    }

    fn renewing() -> Self {
        let mut this = Self::reconnecting();
        this.handle(Event::Connected(Ok(())));
        this
    }

    fn verifying() -> Self {
        let mut this = Self::renewing();
        this.handle(this.renewed(Ok(None)));
        this
    }

    fn authenticating() -> Self {
        let mut this = Self::held();
        this.handle(Event::Watched(failed(Unauthenticated)));
        this
    }

    fn expired() -> Self {
        let mut this = Self::reconnecting();
        this.pass_to_timeout();
        this
    }

    fn pausing() -> Self {
        let mut this = Self::held();
        this.handle(desired(1, paused()));
        this
    }

    fn paused() -> Self {
        let mut this = Self::pausing();
        this.handle(this.written(Ok(())));
        this.handle(Event::WatchRequested(Ok(())));
        this
    }

    fn pausing_a_write() -> Self {
        let mut this = Self::writing();
        this.handle(desired(1, paused()));
        this
    }

    /// So many leases were lost that the burst of fresh leases is used up.
    fn limited() -> Self {
        let mut this = Self::granting();
        while !matches!(this.reconciler.lease, LeaseState::None) {
            this.handle(this.granted(Ok(LEASE_TTL)));
            this.handle(desired(1, keys("v")));
            this.handle(this.written(failed(LeaseGone)));
        }
        this
    }

    fn revoking() -> Self {
        let mut this = Self::held();
        this.handle(desired(1, Desired::Gone { now: false }));
        this
    }

    fn revoking_a_grant() -> Self {
        let mut this = Self::granting();
        this.handle(Event::Stop);
        this
    }
}

/// Each state, with a way to get there.
type State = (&'static str, fn() -> Fixture);
const STATES: [State; 19] = [
    ("None, Closed: nothing is registered", Fixture::none),
    ("None, Open: fresh leases are limited", Fixture::limited),
    ("Granting, Opening", Fixture::opening),
    ("Granting, Open: a grant is under way", Fixture::granting),
    ("Held, Open: a write is under way", Fixture::writing),
    ("Held, Open: registered", Fixture::held),
    (
        "Held, Open: paused while a write is under way",
        Fixture::pausing_a_write,
    ),
    (
        "Held, Open: paused, the deletion is under way",
        Fixture::pausing,
    ),
    ("Held, Open: paused", Fixture::paused),
    ("Held, Open: a renewal is due", Fixture::renewal_due),
    ("Held, Open: the renewal is late", Fixture::late),
    ("Held, Open: another connection is tried", Fixture::beside),
    ("Held, Open: the token was refused", Fixture::authenticating),
    ("Held, Opening: the connection broke", Fixture::reconnecting),
    (
        "Held, Open: the first renewal after that",
        Fixture::renewing,
    ),
    (
        "Held, Open: the keys are read after that",
        Fixture::verifying,
    ),
    (
        "Held, Opening: the lease expired unconfirmed",
        Fixture::expired,
    ),
    ("Revoking, Open: the last entry leaves", Fixture::revoking),
    (
        "Revoking, Open: a stop while a grant is under way",
        Fixture::revoking_a_grant,
    ),
];

// === the events ===

impl Fixture {
    fn handle(&mut self, event: Event) {
        let answered = match &event {
            Event::Connected(_) => "Connect",
            Event::ConnectedBeside(_) => "ConnectBeside",
            Event::Granted(_) => "Grant",
            Event::Renewed(_) => "Renew",
            Event::Revoked { .. } => "Revoke",
            Event::Read { .. } => "Read",
            Event::Written { .. } => "Write",
            _ => "",
        };
        self.pending.remove(answered);
        self.reconciler.handle_event(self.now, event);
        self.drain();
    }

    fn pass_to_timeout(&mut self) {
        self.now = self.reconciler.poll_timeout().unwrap_or(self.now);
        self.reconciler.handle_timeout(self.now);
        self.drain();
    }

    fn drain(&mut self) {
        self.actions = std::iter::from_fn(|| self.reconciler.poll_action()).collect();
        for action in &self.actions {
            if matches!(
                action,
                Action::Disconnect | Action::CloseStreams | Action::UseBeside
            ) {
                self.pending.clear();
            }
            if let Action::Send(Request::Write { ops, .. }) = action {
                self.ops = ops.clone();
            }
            self.pending.extend(request(action));
        }
    }

    fn lease(&self) -> i64 {
        match &self.reconciler.lease {
            LeaseState::None => 0,
            LeaseState::Granting { id, .. } => *id,
            LeaseState::Held(lease) => lease.id(),
            LeaseState::Revoking(revoking) => revoking.leases[0],
        }
    }

    fn granted(&self, result: Result<Duration, RpcError>) -> Event {
        let (lease, sent) = (self.lease(), self.now);
        Event::Granted(Granted {
            lease,
            sent,
            result,
        })
    }

    fn renewed(&self, result: Result<Option<Duration>, RpcError>) -> Event {
        Event::Renewed(Renewed {
            lease: self.lease(),
            sent: self.now,
            member: MEMBER,
            result,
        })
    }

    fn renewal_late(&self) -> Event {
        Event::RenewalLate {
            seen_at: self.now,
            remaining: Some(LEASE_TTL),
        }
    }

    fn revoked(&self, result: Result<(), RpcError>) -> Event {
        let lease = self.lease();
        Event::Revoked { lease, result }
    }

    fn read(&self, result: Result<Option<i64>, RpcError>) -> Event {
        let lease = self.lease();
        let meta = |revision| KeyMeta { lease, revision };
        let result = result.map(|found| (REVISION, vec![found.map(meta)]));
        let keys = vec!["k".into()];
        Event::Read { keys, result }
    }

    fn written(&self, result: Result<(), RpcError>) -> Event {
        let ops = self.ops.clone();
        let applied = || Applied {
            revision: REVISION,
            refused_by: vec![None],
            replaced: vec![],
        };
        let result = result.map(|()| applied());
        Event::Written { ops, result }
    }

    fn watched(&self, kind: EventKind) -> Event {
        let event = etcd::Event {
            key: "k".into(),
            revision: REVISION + 1,
            kind,
        };
        Event::Watched(Ok(WatchResponse {
            events: vec![event],
            created: false,
            member: MEMBER,
            id: 0,
            revision: REVISION + 1,
            ended: None,
        }))
    }
}

/// An event, the action that has to be under way for it, and how it is made.
type Stimulus = (&'static str, &'static str, fn(&Fixture) -> Event);
const EVENTS: [Stimulus; 32] = [
    ("desired: a value", "", |_| desired(1, keys("w"))),
    ("desired: another entry", "", |_| desired(2, WAITING)),
    ("desired: paused", "", |_| desired(1, paused())),
    ("desired: gone", "", |_| {
        desired(1, Desired::Gone { now: false })
    }),
    ("desired: no keys, a format panicked", "", |_| {
        desired(1, Desired::Failed("a bug".into()))
    }),
    ("stop", "", |_| Event::Stop),
    ("registry closed", "", |_| Event::RegistryClosed),
    ("connected", "Connect", |_| Event::Connected(Ok(()))),
    ("connection refused", "Connect", |_| {
        Event::Connected(failed(Unreachable))
    }),
    ("the other connection answers", "ConnectBeside", |f| {
        Event::ConnectedBeside(Ok(Answer::Renewed(Renewed {
            lease: f.lease(),
            sent: f.now,
            member: 0,
            result: Ok(None),
        })))
    }),
    ("the other connection is refused", "ConnectBeside", |_| {
        Event::ConnectedBeside(failed(Unreachable))
    }),
    ("granted", "Grant", |f| f.granted(Ok(LEASE_TTL))),
    ("grant timed out", "Grant", |f| f.granted(failed(Timeout))),
    ("lease exists", "Grant", |f| f.granted(failed(LeaseExists))),
    ("renewed", "Renew", |f| f.renewed(Ok(None))),
    ("renewal timed out", "Renew", |f| f.renewed(failed(Timeout))),
    (
        "renewal late, the lease lives",
        "Renew",
        Fixture::renewal_late,
    ),
    ("lease not found", "Renew", |f| f.renewed(failed(LeaseGone))),
    ("revoked", "Revoke", |f| f.revoked(Ok(()))),
    ("revoke timed out", "Revoke", |f| f.revoked(failed(Timeout))),
    ("read: as it was", "Read", |f| f.read(Ok(Some(REVISION)))),
    ("read: no key", "Read", |f| f.read(Ok(None))),
    ("read denied", "Read", |f| f.read(failed(Denied))),
    ("written", "Write", |f| f.written(Ok(()))),
    ("write denied, with prev_kv", "Write", |f| {
        f.written(failed(Denied))
    }),
    ("write rejected, etcd is full", "Write", |f| {
        f.written(failed(ResourceExhausted))
    }),
    ("write timed out", "Write", |f| f.written(failed(Timeout))),
    ("key deleted", "Watch", |f| f.watched(EventKind::Delete)),
    ("key taken by another lease", "Watch", |f| {
        let (lease, value) = (THEIRS, b"theirs".to_vec());
        f.watched(EventKind::Put { lease, value })
    }),
    ("watch ended", "Watch", |_| Event::Watched(failed(Broken))),
    ("token refused", "Watch", |_| {
        Event::Watched(failed(Unauthenticated))
    }),
    ("authenticated", "Authenticate", |_| {
        Event::Authenticated(Ok(()))
    }),
];

// === the table ===

fn described(fixture: &Fixture) -> Vec<String> {
    fixture.actions.iter().map(describe).collect()
}

/// What an action begins that an event answers.
fn request(action: &Action) -> Option<&'static str> {
    Some(match action {
        Action::Connect { .. } => "Connect",
        Action::ConnectBeside { .. } => "ConnectBeside",
        Action::Send(request) => match request {
            Request::Grant { .. } => "Grant",
            Request::Revoke { .. } => "Revoke",
            Request::Renew { .. } => "Renew",
            Request::Read { .. } => "Read",
            Request::Write { .. } => "Write",
            Request::Watch { .. } => "Watch",
            Request::Authenticate => "Authenticate",
            Request::Unwatch { .. } => return None,
        },
        _ => return None,
    })
}

fn describe(action: &Action) -> String {
    let op = |op: &Op| match op {
        Op::Put { .. } | Op::PutIfFree { .. } => "put",
        Op::Delete { .. } => "delete",
    };
    let status = |status: &RegistrationStatus| {
        let text = format!("{status:?}");
        let text = text.strip_prefix("Ended(").unwrap_or(&text);
        let end = text
            .find(|c: char| !c.is_alphanumeric())
            .unwrap_or(text.len());
        text[..end].to_owned()
    };
    match action {
        Action::ReadDesired(_) => "ReadDesired".into(),
        Action::Send(Request::Write { ops, .. }) => format!("Write {}", op(&ops[0])),
        Action::Send(Request::Unwatch { .. }) => "Unwatch".into(),
        Action::Publish(_, next) => status(next),
        Action::End(_, next) => format!("End {}", status(next)),
        Action::AwaitHealth(_) => "AwaitHealth".into(),
        Action::LeaseExpiry(_) => "LeaseExpiry".into(),
        Action::Rival(..) => "Rival".into(),
        Action::Late { .. } => "Late".into(),
        other => request(other).map_or_else(|| format!("{other:?}"), str::to_owned),
    }
}

fn next_state(reconciler: &Reconciler) -> String {
    let lease = match &reconciler.lease {
        LeaseState::None => "None",
        LeaseState::Granting { .. } => "Granting",
        LeaseState::Held(_) => "Held",
        LeaseState::Revoking(_) => "Revoking",
    };
    let connection = match &reconciler.connection {
        Connection::Closed { .. } => "Closed",
        Connection::Opening => "Opening",
        Connection::Open(_) => "Open",
    };
    format!("{lease}, {connection}")
}

/// Runs every state with every event that can happen in it, with its timeout and with a panic.
fn table() -> String {
    let mut text = String::new();
    let mut add = |line: &str| {
        text.push_str(line.trim_end());
        text.push('\n');
    };
    for (name, state) in STATES {
        add(name);
        let mut row = |event: &str, fixture: &Fixture| {
            let (actions, next) = (
                described(fixture).join(", "),
                next_state(&fixture.reconciler),
            );
            add(&format!("  {event:<35} {next:<17} {actions}"));
        };
        let (start, mut nothing) = (next_state(&state().reconciler), vec![]);
        for (event, of, make) in EVENTS {
            let mut fixture = state();
            if !of.is_empty() && !fixture.pending.contains(of) {
                continue;
            }
            fixture.handle(make(&fixture));
            match fixture.actions.is_empty() && next_state(&fixture.reconciler) == start {
                true => nothing.push(event),
                false => row(event, &fixture),
            }
        }
        let mut fixture = state();
        if fixture.reconciler.poll_timeout().is_some() {
            fixture.pass_to_timeout();
            row("time passes until something is due", &fixture);
        }
        let mut fixture = state();
        fixture.reconciler.handle_panic(fixture.now, "a bug");
        fixture.drain();
        row("the worker panicked", &fixture);
        if !nothing.is_empty() {
            add(&format!(
                "  nothing happens at                  {}",
                nothing.join("; ")
            ));
        }
    }
    text
}

const BEGIN: &str = "<!-- begin transitions -->\n";
const END: &str = "<!-- end transitions -->";

#[test]
fn the_transition_table_in_design_md_is_what_happens() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/DESIGN.md");
    let design = std::fs::read_to_string(path).unwrap();
    let (before, rest) = design.split_once(BEGIN).unwrap();
    let (written, after) = rest.split_once(END).unwrap();
    let table = format!("```text\n{}```\n", table());
    if std::env::var_os("UPDATE_TRANSITIONS").is_some() {
        std::fs::write(path, format!("{before}{BEGIN}{table}{END}{after}")).unwrap();
        return;
    }
    for (written, now) in written.lines().zip(table.lines()) {
        assert_eq!(written, now, "UPDATE_TRANSITIONS=1 writes it anew");
    }
    assert_eq!(written, table, "UPDATE_TRANSITIONS=1 writes it anew");
}

#[test]
fn no_state_stays_due_at_the_time_that_it_asked_for() {
    for (name, state) in STATES {
        let mut fixture = state();
        for _ in 0..50 {
            let Some(at) = fixture.reconciler.poll_timeout() else {
                break;
            };
            fixture.pass_to_timeout();
            let next = fixture.reconciler.poll_timeout();
            assert!(next.is_none_or(|next| next > at), "{name}");
        }
    }
}

/// Renews until the next check. Returns how long that takes.
fn time_to_next_check(fixture: &mut Fixture) -> Duration {
    let start = fixture.now;
    for _ in 0..100 {
        fixture.pass_to_timeout();
        match &*described(fixture).join(", ") {
            "Renew" => fixture.handle(fixture.renewed(Ok(None))),
            "Read" => return fixture.now - start,
            other => panic!("{other}"),
        }
    }
    panic!("no check");
}

/// The watch is created by `member`.
fn watched_at(member: u64) -> Fixture {
    let mut fixture = Fixture::held();
    fixture.handle(Event::Watched(Ok(WatchResponse {
        events: vec![],
        created: true,
        member,
        id: 1,
        revision: REVISION,
        ended: None,
    })));
    fixture
}

#[test]
fn a_watch_at_another_member_than_renewals_is_checked_once_a_ttl() {
    let mut fixture = watched_at(MEMBER + 1);
    for _ in 0..3 {
        assert_eq!(time_to_next_check(&mut fixture), LEASE_TTL);
        fixture.handle(fixture.read(Ok(Some(REVISION))));
        assert_eq!(described(&fixture), [""; 0]);
    }
}

#[test]
fn a_watch_at_the_member_of_renewals_is_checked_every_12_ttls() {
    let mut fixture = watched_at(MEMBER);
    fixture.pass_to_timeout();
    fixture.handle(fixture.renewed(Ok(None)));
    let renewed = Duration::from_secs(2);
    let took = time_to_next_check(&mut fixture);
    assert!(
        took <= LEASE_TTL * 12 && took + renewed > LEASE_TTL * 12,
        "{took:?}"
    );
}

#[test]
fn a_key_that_is_gone_without_an_event_ends_the_connection() {
    let mut fixture = watched_at(MEMBER + 1);
    time_to_next_check(&mut fixture);
    fixture.handle(fixture.read(Ok(None)));
    assert_eq!(described(&fixture), [""; 0], "its event may be under way");
    assert_eq!(time_to_next_check(&mut fixture), Duration::from_millis(600));
    fixture.handle(fixture.read(Ok(None)));
    assert_eq!(described(&fixture), ["Disconnect", "Connect"]);
}

#[test]
fn a_check_of_a_busy_etcd_is_repeated_then_ends_the_connection() {
    let mut fixture = watched_at(MEMBER + 1);
    for _ in 0..2 {
        time_to_next_check(&mut fixture);
        fixture.handle(fixture.read(failed(Busy)));
        assert_eq!(described(&fixture), [""; 0]);
    }
    time_to_next_check(&mut fixture);
    fixture.handle(fixture.read(failed(Busy)));
    assert_eq!(described(&fixture), ["Disconnect", "Connect"]);
}

#[test]
fn the_end_of_the_lease_is_published_before_an_answer_that_was_there_too() {
    let mut fixture = Fixture::renewal_due();
    let sent = fixture.now;
    fixture.now += LEASE_TTL * 2;
    let result = Ok(None);
    fixture.handle(Event::Renewed(Renewed {
        lease: fixture.lease(),
        sent,
        member: MEMBER,
        result,
    }));
    assert_eq!(described(&fixture)[..2], ["Lost", "AwaitHealth"]);
}

#[test]
fn a_lease_id_in_use_is_left_and_ours_counts_from_its_first_request() {
    let mut fixture = Fixture::granting();
    let first = fixture.lease();
    fixture.handle(fixture.granted(failed(LeaseExists)));
    assert_ne!(
        fixture.lease(),
        first,
        "the first request cannot have made it"
    );
    let (second, sent) = (fixture.lease(), fixture.now);
    fixture.now += Duration::from_millis(600);
    fixture.handle(fixture.granted(failed(Timeout)));
    fixture.handle(Event::Connected(Ok(())));
    fixture.handle(fixture.granted(failed(LeaseExists)));
    let LeaseState::Held(lease) = &fixture.reconciler.lease else {
        panic!("{:?}", fixture.reconciler.lease);
    };
    assert_eq!((lease.id(), lease.expiry()), (second, sent + LEASE_TTL));
}

#[test]
fn after_a_panic_the_lease_is_revoked_before_anybody_has_left() {
    let mut fixture = Fixture::held();
    let lease = fixture.lease();
    fixture.reconciler.handle_panic(fixture.now, "a bug");
    fixture.drain();
    fixture.handle(Event::Stop);
    let is_end = |action: &Action| matches!(action, Action::End(..));
    assert!(!fixture.actions.iter().any(is_end));
    fixture.handle(Event::Connected(Ok(())));
    assert!(
        matches!(fixture.actions[..], [Action::Send(Request::Revoke { lease: revoked })] if revoked == lease)
    );
    fixture.handle(fixture.revoked(Ok(())));
    let is_deregistered = |action: &Action| {
        matches!(
            action,
            Action::End(1, RegistrationStatus::Ended(Ended::Deregistered))
        )
    };
    assert!(fixture.actions.iter().any(is_deregistered));
}

#[test]
fn a_key_counts_as_held_again_once_its_deletion_has_failed() {
    let mut fixture = Fixture::pausing();
    fixture.handle(desired(1, keys("v")));
    assert_eq!(described(&fixture), ["Registering"]);
    let rejected = failed(ResourceExhausted);
    fixture.handle(fixture.written(rejected));
    assert_eq!(described(&fixture).last().unwrap(), "Registered");
}

#[test]
fn a_key_whose_deletion_was_given_up_counts_as_held_once_it_was_read() {
    let mut fixture = Fixture::pausing();
    fixture.handle(desired(1, keys("v")));
    fixture.handle(fixture.written(failed(Timeout)));
    assert_eq!(
        described(&fixture),
        ["Disconnect", "Registering", "Connect"]
    );
    fixture.handle(Event::Connected(Ok(())));
    fixture.handle(fixture.renewed(Ok(None)));
    fixture.handle(fixture.read(Ok(Some(REVISION))));
    assert_eq!(described(&fixture), ["Watch", "Registered"]);
}

#[test]
fn a_key_is_written_again_once_its_deletion_is_done() {
    let mut fixture = Fixture::pausing();
    fixture.handle(desired(1, keys("w")));
    fixture.handle(fixture.written(Ok(())));
    assert_eq!(described(&fixture)[..1], ["Write put"]);
    fixture.handle(fixture.written(Ok(())));
    assert!(described(&fixture).contains(&"Registered".to_owned()));
}

#[test]
fn a_write_that_was_given_up_is_deleted_when_it_lands_in_a_pause() {
    let mut fixture = Fixture::pausing_a_write();
    fixture.handle(fixture.written(failed(Timeout)));
    fixture.handle(Event::Connected(Ok(())));
    fixture.handle(fixture.renewed(Ok(None)));
    assert_eq!(described(&fixture)[1..], ["Read"]);
    fixture.handle(fixture.read(Ok(None)));
    assert_eq!(described(&fixture), ["Watch"]);
    fixture.handle(Event::WatchRequested(Ok(())));
    let (lease, value) = (fixture.lease(), b"v".to_vec());
    fixture.handle(fixture.watched(EventKind::Put { lease, value }));
    assert_eq!(described(&fixture), ["Write delete"]);
}

#[test]
fn the_lease_that_is_lost_in_a_pause_is_replaced_without_a_word() {
    let mut fixture = Fixture::paused();
    fixture.pass_to_timeout();
    fixture.handle(fixture.renewed(failed(LeaseGone)));
    assert_eq!(
        described(&fixture),
        ["CloseStreams", "AwaitHealth", "Grant"]
    );
    fixture.handle(fixture.granted(Ok(LEASE_TTL)));
    assert_eq!(described(&fixture), ["LeaseExpiry", "ReadDesired"]);
    fixture.handle(desired(1, paused()));
    assert_eq!(described(&fixture), [""; 0]);
    fixture.handle(desired(1, keys("w")));
    assert_eq!(described(&fixture), ["Registering", "Write put"]);
}

/// The machine has another address. The status became `Lost`, with the reason of the outage.
#[test]
fn a_key_that_moves_is_not_lost_before_the_new_one_is_written() {
    let moved = || desired(1, Desired::Keys(vec![("l".into(), "v".into())]));
    let not_lost = |fixture: &Fixture| {
        let actions = described(fixture);
        assert!(!actions.contains(&"Lost".to_owned()), "{actions:?}");
    };
    for there in [None, Some(THEIRS)] {
        let mut fixture = Fixture::verifying();
        let read = fixture.read(Ok(Some(REVISION)));
        fixture.handle(moved());
        not_lost(&fixture);
        fixture.handle(read);
        not_lost(&fixture);
        assert!(described(&fixture).contains(&"Write delete".to_owned()));
        fixture.handle(fixture.written(failed(Timeout)));
        assert_eq!(described(&fixture), ["Disconnect", "Suspect", "Connect"]);
        fixture.handle(Event::Connected(Ok(())));
        fixture.handle(fixture.renewed(Ok(None)));
        let theirs = |lease| KeyMeta { lease, revision: 1 };
        let result = Ok((REVISION, vec![None, there.map(theirs)]));
        let keys = vec!["k".into(), "l".into()];
        fixture.handle(Event::Read { keys, result });
        not_lost(&fixture);
        assert!(described(&fixture).contains(&"Write put".to_owned()));
        fixture.handle(fixture.written(Ok(())));
        assert!(described(&fixture).contains(&"Registered".to_owned()));
    }
}
