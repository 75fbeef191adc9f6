//! [`DialPolicy`]: which address is dialled next, and when; pure.
//!
//! | | addresses | when | budget |
//! |---|---|---|---|
//! | 1 | those whose connection has ended after it was of use | at once | no |
//! | 2 | those that were not tried yet | at once, in rounds | no |
//! | 3 | those that were connected before, and failed since | after 50 ms, doubled up to 5 s | yes |
//! | 4 | those that were never connected | the same, up to 30 s while another one is connected | yes |
//!
//! A number goes before the next one, but every fourth dial of the budget is of an address that was never connected.
//!
//! *Rounds*: at most 256 dials run at a time. While others wait, a first dial gives its place up after 5 ms without an answer,
//! and is repeated behind all those that were dialled less often, with five times the time. So 20,000 addresses that drop packets
//! delay an address that answers by half a second, and each loses the work of at most four short dials.
//!
//! *Budget*: dials that fail, and connections that are of no use, are 32 a second for the whole channel. A dial that succeeds
//! costs nothing, so that a fleet that comes back is connected to as fast as it answers.

use crate::runtime::backoff::{Bucket, Rate};
use std::collections::{BTreeSet, HashMap};
use std::time::Duration;
use tokio::time::Instant;

/// The number of an address.
pub(super) type Id = u64;

/// See the [module](self).
#[derive(Debug)]
pub(super) struct DialPolicy {
    addresses: HashMap<Id, Address>,
    /// The addresses to dial as soon as there is a place, in this order.
    waiting: BTreeSet<(Class, u64, Id)>,
    backing_off: BTreeSet<(Instant, Id)>,
    dialling: HashMap<Id, Dialling>,
    connected: usize,
    budget: Bucket,
    /// The dials of the budget.
    budgeted: u64,
    /// When the first address in `waiting` may be dialled, if it waits for a time and not for an event.
    blocked_until: Option<Instant>,
    sequence: u64,
    rng: fastrand::Rng,
}

/// What is to be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum DialDecision {
    Dial(Id),
    /// This dial is to give its place up.
    GiveWay(Id),
}

/// How a connection ended.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    /// It answered or accepted a call.
    pub(super) was_useful: bool,
    pub(super) lasted: Duration,
}

#[derive(Debug, Default)]
struct Address {
    phase: Phase,
    was_connected: bool,
    /// Failures since its connection was of use.
    failures: u32,
    /// How often its first dial gave its place up.
    gave_way: u8,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Phase {
    #[default]
    Idle,
    Waiting(Class, u64),
    BackingOff(Instant),
    Dialling,
    Connected,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    Replacement,
    First { gave_way: u8 },
    WasConnected,
    NeverConnected,
}

#[derive(Debug)]
struct Dialling {
    class: Class,
    since: Instant,
    gives_way: bool,
}

/// Ten thousand dials at once would exceed the process's limit of file descriptors, and the last ones would time out.
const PLACES: usize = 256;
const BUDGET: Rate = Rate {
    burst: 64,
    refill: Duration::from_nanos(1_000_000_000 / 32),
};
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// For an address that was never connected, while another one is.
const MAX_BACKOFF_NEVER: Duration = Duration::from_secs(30);
/// For one that accepts connections which are of no use: less than the 2 s that a call waits.
const MAX_BACKOFF_USELESS: Duration = Duration::from_secs(1);
/// A connection that lasted so long is replaced without a wait, although there were no calls. A dial that lasts so long gives
/// its place up to any other.
const LONG: Duration = Duration::from_secs(1);
const FIRST_ROUND: Duration = Duration::from_millis(5);
/// After so many rounds a first dial counts as failed.
const ROUNDS: u8 = 4;

// === impl DialPolicy ===

impl DialPolicy {
    pub(super) fn new(rng: fastrand::Rng) -> Self {
        Self {
            addresses: HashMap::new(),
            waiting: BTreeSet::new(),
            backing_off: BTreeSet::new(),
            dialling: HashMap::new(),
            connected: 0,
            budget: Bucket::default(),
            budgeted: 0,
            blocked_until: None,
            sequence: 0,
            rng,
        }
    }

    /// A new address.
    pub(super) fn on_added(&mut self, id: Id) {
        self.addresses.insert(id, Address::default());
        self.wait(id, Class::First { gave_way: 0 });
    }

    /// The address is gone, with its dial or connection. Later events of it are ignored.
    pub(super) fn on_removed(&mut self, id: Id) {
        match self.addresses.remove(&id).map(|it| it.phase) {
            Some(Phase::Waiting(class, sequence)) => {
                self.waiting.remove(&(class, sequence, id));
            }
            Some(Phase::BackingOff(until)) => {
                self.backing_off.remove(&(until, id));
            }
            Some(Phase::Connected) => self.connected -= 1,
            Some(Phase::Dialling) => drop(self.dialling.remove(&id)),
            Some(Phase::Idle) | None => {}
        }
    }

    pub(super) fn on_connected(&mut self, id: Id) {
        let Some((address, dialling)) = self.dialled(id) else {
            return;
        };
        address.was_connected = true;
        address.phase = Phase::Connected;
        self.connected += 1;
        if dialling.class.has_budget() {
            self.budget.give_back();
        }
    }

    pub(super) fn on_failed(&mut self, id: Id, now: Instant) {
        if self.dialled(id).is_some() {
            self.back_off(id, now, Duration::ZERO);
        }
    }

    /// The dial gave its place up. Returns whether that counts as a failure.
    pub(super) fn on_gave_way(&mut self, id: Id, now: Instant) -> bool {
        let Some((address, dialling)) = self.dialled(id) else {
            return false;
        };
        address.gave_way = address.gave_way.saturating_add(1);
        let gave_way = address.gave_way;
        let is_first = matches!(dialling.class, Class::First { .. });
        if is_first && gave_way < ROUNDS {
            self.wait(id, Class::First { gave_way });
            return false;
        }
        self.back_off(id, now, Duration::ZERO);
        true
    }

    pub(super) fn on_ended(&mut self, id: Id, ended: Ended, now: Instant) {
        let Some(address) = self.addresses.get_mut(&id) else {
            return;
        };
        self.connected -= 1;
        if ended.was_useful || ended.lasted >= LONG {
            address.failures = 0;
            self.wait(id, Class::Replacement);
        } else {
            // It cost as much as a dial that failed.
            self.budget.take_anyway(BUDGET, now);
            self.back_off(id, now, ended.lasted);
        }
    }

    /// What is to be done now; `None`: nothing until [`next_at`](Self::next_at), or the next event.
    pub(super) fn poll(&mut self, now: Instant) -> Option<DialDecision> {
        self.blocked_until = None;
        while let Some((_, id)) = self.backing_off.first().copied().filter(|it| it.0 <= now) {
            let was_connected = self.addresses.get(&id).is_some_and(|it| it.was_connected);
            self.backing_off.pop_first();
            self.wait(
                id,
                match was_connected {
                    true => Class::WasConnected,
                    false => Class::NeverConnected,
                },
            );
        }
        let (class, sequence, id) = self.next_waiting()?;
        if self.dialling.len() >= PLACES {
            return self.make_room(class, now);
        }
        if class.has_budget() {
            if let Err(until) = self.budget.take(BUDGET, now) {
                self.blocked_until = Some(until);
                return None;
            }
            self.budgeted += 1;
        }
        self.waiting.remove(&(class, sequence, id));
        self.set_phase(id, Phase::Dialling);
        let since = now;
        let gives_way = false;
        self.dialling.insert(
            id,
            Dialling {
                class,
                since,
                gives_way,
            },
        );
        Some(DialDecision::Dial(id))
    }

    /// When to poll again, if there is no event before.
    pub(super) fn next_at(&self) -> Option<Instant> {
        let backing_off = self.backing_off.first().map(|(until, _)| *until);
        backing_off.into_iter().chain(self.blocked_until).min()
    }

    fn next_waiting(&self) -> Option<(Class, u64, Id)> {
        let first = self.waiting.first().copied()?;
        if first.0 == Class::WasConnected && self.budgeted % 4 == 3 {
            let mut never = self.waiting.range((Class::NeverConnected, 0, 0)..);
            return never.next().copied().or(Some(first));
        }
        Some(first)
    }

    /// Picks the dial that is to give its place up for one of `class`.
    fn make_room(&mut self, class: Class, now: Instant) -> Option<DialDecision> {
        let giving_way = self.dialling.values().filter(|it| it.gives_way).count();
        if giving_way >= self.waiting.len() {
            return None;
        }
        let round = |it: &Dialling| match it.class >= class {
            true => it.class.round(),
            false => LONG,
        };
        let may = self.dialling.iter().filter(|(_, it)| !it.gives_way);
        // Of those whose time is over the least urgent, else the first whose time will be.
        let (until, _, id) = may
            .map(|(id, it)| {
                let until = (it.since + round(it)).max(now);
                (until, std::cmp::Reverse(it.class), *id)
            })
            .min()?;
        if until > now {
            self.blocked_until = Some(until);
            return None;
        }
        self.dialling.get_mut(&id)?.gives_way = true;
        Some(DialDecision::GiveWay(id))
    }

    fn dialled(&mut self, id: Id) -> Option<(&mut Address, Dialling)> {
        let dialling = self.dialling.remove(&id)?;
        Some((self.addresses.get_mut(&id)?, dialling))
    }

    fn wait(&mut self, id: Id, class: Class) {
        self.sequence += 1;
        self.waiting.insert((class, self.sequence, id));
        self.set_phase(id, Phase::Waiting(class, self.sequence));
    }

    /// After a failure of something that had worked for `lasted`, which is part of the wait.
    fn back_off(&mut self, id: Id, now: Instant, lasted: Duration) {
        let Some(address) = self.addresses.get_mut(&id) else {
            return;
        };
        address.failures = address.failures.saturating_add(1);
        let cap = match address {
            _ if address.phase == Phase::Connected => MAX_BACKOFF_USELESS,
            Address { was_connected, .. } if *was_connected || self.connected == 0 => MAX_BACKOFF,
            _ => MAX_BACKOFF_NEVER,
        };
        let doubled = FIRST_BACKOFF.saturating_mul(1 << (address.failures - 1).min(16));
        let wait = doubled.min(cap).mul_f64(0.5 + self.rng.f64() / 2.0);
        let until = now + wait.saturating_sub(lasted);
        self.backing_off.insert((until, id));
        self.set_phase(id, Phase::BackingOff(until));
    }

    fn set_phase(&mut self, id: Id, phase: Phase) {
        if let Some(address) = self.addresses.get_mut(&id) {
            address.phase = phase;
        }
    }
}

// === impl Class ===

impl Class {
    fn has_budget(self) -> bool {
        matches!(self, Self::WasConnected | Self::NeverConnected)
    }

    /// How long a dial keeps its place for certain, if one that is as urgent waits.
    fn round(self) -> Duration {
        match self {
            Self::First { gave_way } => FIRST_ROUND * 5_u32.pow(u32::from(gave_way)),
            _ => LONG,
        }
    }
}

#[cfg(test)]
mod tests;
