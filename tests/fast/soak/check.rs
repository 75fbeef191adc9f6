//! The invariants, seen from outside: the requests to etcd, its keys, and the published statuses. It calls no code
//! of the library.
//!
//! The ids are those of the list in DESIGN.md. What decides is the reconciler, and the simulation checks its decisions
//! after each event (`src/registrar/simulation/check.rs`). Here is what the worker, the streams and the connections can do wrong.

use super::plan::Act;
use super::timeline;
use super::world::{Entry, FOREIGN, REVOKE_TIMEOUT, World, member};
use crate::support::fake::{Call, Rpc, Stored};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::time::Duration;
use tokio::time::Instant;
use tonic_etcd::RegistrationStatus;

/// A violation of an invariant.
#[derive(Debug)]
pub struct Violation {
    pub rule: &'static str,
    pub at: Instant,
    pub what: String,
}

pub const I1: &str =
    "I1: every wanted key is there, with its value, under our live lease, and the status says so";
pub const MILD: &str = "I1: a mild fault costs no key, and no status";
pub const I2: &str = "I2: what has left, or is paused, is absent after its bound";
pub const I3: &str = "I3: every PUT carries a lease";
pub const I5: &str = "I5: a key under a foreign lease is left alone";
pub const I6: &str = "I6: a status says that keys are held only until the last acknowledged renewal was sent plus the TTL";
pub const I7: &str = "I7: a registrar has at most one live lease, and none once it is gone";
pub const I8: &str = "I8: attempts are bounded";
pub const QUIET: &str = "I8: in a quiet period nothing is written";
pub const I10: &str = "I10: a stop returns within the revoke timeout";
pub const I12: &str = "I12: tasks and connections return to their base";
pub const I14: &str = "I14: no task of ours panics";
pub const I16: &str = "I16: what a peer says is shown in one short line";

const SEC: Duration = Duration::from_secs(1);
/// Timers are a millisecond coarse; a status is published in the same one.
const SLACK: Duration = Duration::from_millis(3);
/// A health acknowledgement may take 50 ms.
const SLACK_OF_AN_END: Duration = Duration::from_millis(60);
/// A reason of each of eight members, in bytes.
const LONGEST: usize = 8000;
/// Refused connections are retried after 125 ms to 250 ms; the first few follow more closely.
const CONNECTS_A_SECOND: usize = 12;
const CONNECTS_IN_TEN: usize = 86;
/// Within 10 s. Each connect may bring a renewal; a grant; a read; a write. A rejected write is repeated at half the
/// attempt limit at the soonest.
const MOST_IN_TEN: [(Rpc, usize); 4] = [
    (Rpc::Connect, CONNECTS_IN_TEN),
    (Rpc::LeaseKeepAlive, CONNECTS_IN_TEN + 40),
    (Rpc::LeaseGrant, CONNECTS_IN_TEN + 30),
    (Rpc::Txn, 2 * CONNECTS_IN_TEN + 90),
];

/// What was there when a mild fault began.
pub struct Held {
    changes: usize,
    /// Entries with keys: under which lease, and the number of its statuses.
    entries: Vec<(usize, i64, usize)>,
}

// === impl World ===

impl World {
    pub fn found(&mut self, rule: &'static str, at: Instant, what: impl Into<String>) {
        let what = what.into();
        self.violations.push(Violation { rule, at, what });
    }

    /// Compares etcd with what is desired. Once it `is_aged`, every abandoned lease should have expired.
    pub fn look(&mut self, is_aged: bool) {
        let (now, keys, mut leases) = (Instant::now(), self.fake.keys(), self.fake.leases());
        leases.retain(|lease, _| *lease > FOREIGN);
        let mut found = vec![];
        let entries = self.entries.iter().enumerate();
        let wanted: Vec<_> = entries.filter(|(_, entry)| entry.is_wanted()).collect();
        for (number, entry) in &wanted {
            if let Err(what) = self.present(entry, &entry.value(*number), &keys, &leases) {
                found.push((I1, format!("entry {number}: {what}")));
            }
        }
        for (key, stored) in keys.iter().filter(|_| is_aged) {
            let mut keys = wanted
                .iter()
                .flat_map(|(_, e)| e.keys(&self.plan, stored.lease));
            let is_wanted = keys.any(|wanted| wanted == *key);
            if stored.lease > FOREIGN && !(is_wanted && self.is_ours(stored.lease)) {
                found.push((I2, format!("nobody wants {key}, but there is {stored:?}")));
            }
        }
        // An entry that was never announced has its lease granted early.
        let needed = usize::from(!self.standing().is_empty());
        if is_aged && leases.len() > needed && self.used(&mut leases) > needed {
            found.push((I7, format!("there are the leases {leases:?}")));
        }
        for (rule, what) in found {
            self.found(rule, now, what);
        }
    }

    fn present(
        &self,
        entry: &Entry,
        value: &str,
        keys: &BTreeMap<String, Stored>,
        leases: &BTreeMap<i64, Instant>,
    ) -> Result<(), String> {
        let status = entry.status();
        // No other client holds a key with our lease in it, unless it overwrote that key on purpose.
        let lease = leases.keys().find(|lease| self.is_ours(**lease));
        let mut names = entry.keys(&self.plan, lease.copied().unwrap_or(0));
        let is_foreign = |key| keys.get(&key).is_some_and(|it| !self.is_ours(it.lease));
        if self.plan.yields && names.any(is_foreign) {
            return match status {
                RegistrationStatus::Yielding { .. } => Ok(()),
                other => Err(format!("another client's, but the status is {other:?}")),
            };
        }
        let RegistrationStatus::Registered(registered) = status else {
            return Err(format!("the status is {status:?}, there are {keys:?}"));
        };
        let lease = registered.lease;
        if !leases.contains_key(&lease) || !self.is_ours(lease) {
            return Err(format!("lease {lease} does not live: {leases:?}"));
        }
        let is_right = |stored: &&Stored| stored.lease == lease && stored.value == value;
        let mut names = entry.keys(&self.plan, lease);
        match names.find(|key| !keys.get(key).is_some_and(|stored| is_right(&stored))) {
            None => Ok(()),
            Some(key) => Err(format!("{key}, not {value}: {:?}", keys.get(&key))),
        }
    }

    /// Whether the current registrar has the lease.
    fn is_ours(&self, lease: i64) -> bool {
        lease > FOREIGN && !self.former.contains(&lease)
    }

    /// The number of live leases, without one that was not used: a grant that timed out, and that a slow etcd
    /// applied after the revoke, cannot be revoked.
    fn used(&self, leases: &mut BTreeMap<i64, Instant>) -> usize {
        let calls = self.fake.history();
        let is_unused = |(lease, expiry): (&i64, &Instant)| {
            let granted = expiry.checked_sub(self.plan.granted_ttl());
            let mut ours = calls.iter().filter(|call| call.lease == *lease);
            let is_use = |c: &Call| !matches!(c.rpc, Rpc::LeaseGrant | Rpc::LeaseRevoke);
            let is_revoke = |c: &Call| c.rpc == Rpc::LeaseRevoke && Some(c.at) < granted;
            !ours.clone().any(is_use) || ours.any(is_revoke)
        };
        let late = leases.iter().find(|it| is_unused(*it)).map(|it| *it.0);
        late.map(|late| leases.remove(&late));
        leases.len()
    }

    /// Between the first and the last look of a quiet period nothing is put.
    pub fn check_no_put(&mut self, since: usize) {
        for change in self.fake.changes().split_off(since) {
            if change.put.is_some() {
                self.found(QUIET, change.at, format!("{change:?}"));
            }
        }
    }

    pub fn held(&self) -> Held {
        let entries = self.entries.iter().enumerate();
        let held = entries.filter_map(|(number, entry)| {
            let lease = entry.status().registered()?.lease;
            Some((number, lease, entry.statuses.lock().unwrap().len()))
        });
        Held {
            changes: self.fake.changes().len(),
            entries: held.collect(),
        }
    }

    /// Keys that were held when a mild fault began stay held, and so do their statuses.
    pub fn check_mild(&mut self, held: &Held, acts: &[(Duration, Act)]) {
        let deleted = self.fake.changes().split_off(held.changes);
        let deleted = Vec::from_iter(deleted.into_iter().filter(|change| change.put.is_none()));
        // If etcd is down for longer than a TTL, the status cannot stay registered.
        let may_be_lost = acts.iter().any(|(_, act)| *act == Act::Down);
        let mut found = vec![];
        for (number, lease, seen) in &held.entries {
            let entry = &self.entries[*number];
            let keys: Vec<_> = entry.keys(&self.plan, *lease).collect();
            let is_its = |key: &String| entry.is_wanted() && keys.contains(key);
            for change in deleted.iter().filter(|change| is_its(&change.key)) {
                found.push((change.at, format!("{acts:?}: {} was deleted", change.key)));
            }
            let statuses = entry.statuses.lock().unwrap();
            let mut new = statuses[*seen..].iter();
            if let Some((at, status)) =
                new.find(|(_, it)| matches!(it, RegistrationStatus::Lost { .. }))
                && !may_be_lost
            {
                found.push((*at, format!("{acts:?}: {status:?}")));
            }
        }
        for (at, what) in found {
            self.found(MILD, at, what);
        }
    }

    /// Checks the whole run, once it has ended.
    pub fn check(&mut self) {
        let mut found = vec![];
        self.check_changes(&mut found);
        self.check_statuses(&mut found);
        self.check_rates(&mut found);
        let [before, after] = self.rest;
        if after.0 > before.0 || after.1 > before.1 {
            found.push((I12, self.end, format!("before and after: {:?}", self.rest)));
        }
        for (rule, at, what) in found {
            self.found(rule, at, what);
        }
        self.violations.sort_by_key(|violation| violation.at);
    }

    /// I3 and I5.
    fn check_changes(&self, found: &mut Vec<(&'static str, Instant, String)>) {
        let grants = self.calls.iter().filter(|call| call.ttl > 0);
        let owners: HashMap<i64, &str> = grants
            .map(|call| (call.lease, call.member.split('-').next().unwrap()))
            .collect();
        let mut holders = HashMap::new();
        for (index, change) in self.changes.iter().enumerate() {
            if self.wipes.contains(&index) {
                holders.clear();
            }
            let lease = change.put.as_ref().map(|(_, lease)| *lease);
            let before: Option<i64> = holders.insert(&change.key, lease).flatten();
            let is_foreign = |range: &Range<usize>| range.contains(&index);
            if self.foreign_changes.iter().any(is_foreign) {
                continue;
            }
            if lease == Some(0) {
                found.push((I3, change.at, format!("{change:?}")));
            }
            let Some(before) = before else { continue };
            let is_left_alone = match lease {
                None => owners.contains_key(&before),
                Some(lease) => !self.plan.yields || owners.get(&lease) == owners.get(&before),
            };
            if !is_left_alone {
                let what = format!("{change:?} although {before} held it");
                found.push((I5, change.at, what));
            }
        }
    }

    /// I6, I10, I14 and I16.
    fn check_statuses(&self, found: &mut Vec<(&'static str, Instant, String)>) {
        let mut renewals: HashMap<i64, Vec<Instant>> = HashMap::new();
        for call in self.calls.iter().filter(|call| self.is_acknowledged(call)) {
            let confirmed = match call.rpc {
                // The time after which a whole TTL ends when the lease ends by the answer of a read.
                Rpc::LeaseTimeToLive => {
                    let left = Duration::from_secs(call.ttl.try_into().unwrap_or(0));
                    let ttl = self.plan.granted_ttl();
                    call.at.checked_sub(ttl.saturating_sub(left))
                }
                _ => Some(call.at),
            };
            renewals.entry(call.lease).or_default().extend(confirmed);
        }
        for entry in &self.entries {
            let statuses = entry.statuses.lock().unwrap();
            for (index, (since, status)) in statuses.iter().enumerate() {
                let shown = status.to_string();
                if matches!(status, RegistrationStatus::Lost { reason, .. } if reason.contains("internal error"))
                {
                    found.push((I14, *since, shown.clone()));
                }
                if shown.contains(char::is_control) || shown.len() > LONGEST {
                    found.push((I16, *since, format!("{shown:?}")));
                }
                let Some(registered) = status.registered() else {
                    continue;
                };
                let until = statuses.get(index + 1).map_or(self.end, |next| next.0);
                let renewals = renewals.get(&registered.lease).map_or(&[][..], |it| it);
                if let Some(gap) = self.uncovered(renewals, *since, until) {
                    let what = format!("{status:?} for {:?} too long", gap.end - gap.start);
                    found.push((I6, gap.start, what));
                }
            }
            let Some(left) = entry.left else { continue };
            let (last, status) = statuses.last().unwrap();
            let ended = if status.is_final() { *last } else { self.end };
            let took = ended.saturating_duration_since(left);
            if took > REVOKE_TIMEOUT + SLACK_OF_AN_END + self.frozen(left, ended) {
                found.push((I10, ended, format!("after {took:?}: {status:?}")));
            }
        }
    }

    /// The first period that no renewal confirms.
    fn uncovered(
        &self,
        renewals: &[Instant],
        since: Instant,
        until: Instant,
    ) -> Option<Range<Instant>> {
        let mut sure = since;
        let acknowledged = renewals.iter().filter(|sent| **sent < until);
        for sent in acknowledged.chain([&until]) {
            // A frozen process publishes nothing; it may correct its status when it continues.
            if *sent > sure + SLACK + self.frozen(sure, *sent) {
                return Some(sure..*sent);
            }
            sure = sure.max(*sent + self.plan.granted_ttl());
        }
        None
    }

    /// It was applied, and its answer can have arrived.
    ///
    /// The fake records when a request arrived, which is when it was sent, because its pipes have no latency. Only in
    /// a black hole it arrives later, which makes this check less strict.
    fn is_acknowledged(&self, call: &Call) -> bool {
        let arrived = !self.unanswered.iter().any(|(member, during)| {
            let here = member.as_ref().is_none_or(|member| *member == call.member);
            let deadline = call.at + self.plan.attempt();
            here && during.contains(&call.at)
                && during.contains(&deadline)
                && self.frozen(call.at, deadline).is_zero()
        });
        match call.rpc {
            // "Lease exists", the answer to a repeated request, acknowledges it too.
            Rpc::LeaseGrant => call.applied,
            Rpc::LeaseKeepAlive | Rpc::LeaseTimeToLive => call.applied && arrived,
            _ => false,
        }
    }

    /// I8: bounded rates of connects and requests.
    fn check_rates(&self, found: &mut Vec<(&'static str, Instant, String)>) {
        for registrar in 0..=self.number {
            let host = member(registrar, 0);
            let host = host.trim_end_matches('0');
            let times = |rpc: Rpc| -> Vec<Instant> {
                let calls = self.calls.iter();
                let its = calls.filter(|call| call.rpc == rpc && call.member.starts_with(host));
                its.map(|call| call.at).collect()
            };
            let connects = times(Rpc::Connect);
            let a_second = (connects.clone(), Rpc::Connect, SEC, CONNECTS_A_SECOND);
            let in_ten = MOST_IN_TEN.map(|(rpc, most)| (times(rpc), rpc, SEC * 10, most));
            for (times, rpc, window, most) in in_ten.into_iter().chain([a_second]) {
                let is_storm = |burst: &&[Instant]| burst[most] - burst[0] < window;
                if let Some(burst) = times.windows(most + 1).find(is_storm) {
                    let what = format!("more than {most} of {rpc:?} within {window:?}");
                    found.push((I8, burst[most], what));
                }
            }
            // A silent etcd gets one attempt for each attempt limit.
            for (_, during) in self.unanswered.iter().filter(|(who, _)| who.is_none()) {
                let from = during.start + SEC;
                let until = during.end.min(self.end);
                let tries = connects
                    .iter()
                    .filter(|at| (from..until).contains(at))
                    .count();
                let length = until.saturating_duration_since(from);
                let most = length.as_secs_f64() / self.plan.attempt().as_secs_f64() + 3.0;
                if tries as f64 > most {
                    let what = format!("{tries} connects in {length:?} of silence");
                    found.push((I8, during.start, what));
                }
            }
        }
    }

    /// The violations with the details to find their causes: the first of each rule, as later ones often have the same.
    pub fn report(&self) -> String {
        let (seed, count) = (self.plan.seed, self.violations.len());
        let mut text = format!("{count} violations, the first of each kind:\n");
        let mut rules = vec![];
        for Violation { rule, at, what } in &self.violations {
            if rules.contains(rule) {
                continue;
            }
            rules.push(rule);
            let seconds = at.saturating_duration_since(self.start).as_secs_f64();
            let around = timeline::around(self, *at);
            text += &format!("seed {seed}, after {seconds:.3} s: {rule}\n  {what}\n{around}");
        }
        let plan = format!("{:?}", self.plan);
        let plan = plan.split(", initial").next().unwrap();
        text + &format!("{plan}\nagain: make soak HOURS=0 SEED={seed}")
    }
}
