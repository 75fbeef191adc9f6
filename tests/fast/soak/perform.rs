//! Performs an [`Act`] in a [`World`], and records what the checker needs.

use super::acts::{Act, MemberFault};
use super::world::{FOREVER, World, far};
use crate::support::fake::Reply;
use std::time::Duration;
use tokio::time::{Instant, advance};
use tonic::Code;

// === impl World ===

impl World {
    pub async fn perform(&mut self, act: &Act) {
        self.mark(format!("{act:?}"));
        self.allowance.add(act, &self.record.terms.clone());
        if !act.is_ours() {
            self.disturbed();
        }
        let users = self.plan.conditions.has_users;
        match act {
            Act::Down => self.everywhere(true, false, |w| w.fake.down()),
            Act::Wipe => {
                let at = (self.fake.changes().len(), Instant::now());
                let was_down = self.is_down;
                self.everywhere(was_down, false, |w| w.fake.wipe());
                self.record.wipes.push(at);
            }
            Act::Hang => {
                self.everywhere(false, true, |w| w.fake.hang());
                self.is_hung = true;
            }
            Act::BlackHole => self.everywhere(false, true, |w| w.fake.black_hole()),
            Act::Partition => self.everywhere(false, true, |w| w.fake.partition()),
            Act::Heal => self.heal(),
            Act::Strand => self.fake.strand_connections(),
            Act::Cut => self.fake.cut_connections(),
            Act::Elect => self.fake.elect(),
            Act::Compact => self.fake.compact(),
            Act::CancelWatches(reason) => self.fake.cancel_watches(reason),
            Act::Latency(from, to) => {
                self.fake
                    .latency(Duration::from_millis(*from)..Duration::from_millis(*to));
            }
            Act::Member(member, fault) => self.member(*member, *fault),
            // A client without a token is never answered that its token is void, but denied.
            Act::Script(_, Reply::Error(Code::Unauthenticated, _)) if !users => {}
            Act::Script(rpc, reply) => self.fake.script(*rpc, reply.clone()),
            Act::Freeze(time) => {
                let from = Instant::now();
                advance(*time).await;
                self.record.freezes.push(from..Instant::now());
            }
            Act::Delete(_) | Act::Overwrite(..) | Act::Revoke | Act::RevokeForeign => {
                let before = self.fake.changes().len();
                self.act_as_other(act);
                self.record
                    .foreign_changes
                    .push(before..self.fake.changes().len());
            }
            _ => self.operate(act),
        }
    }

    /// Ends all faults.
    pub fn heal(&mut self) {
        match self.is_down {
            true => self.everywhere(false, false, |w| w.fake.up()),
            false => self.everywhere(false, false, |w| w.fake.resume()),
        }
    }

    fn everywhere(&mut self, is_down: bool, silent: bool, how: impl FnOnce(&Self)) {
        self.hear(None);
        how(self);
        (self.is_down, self.is_hung) = (is_down, false);
        if silent {
            self.record.unanswered.push((None, Instant::now()..far()));
        }
    }

    fn member(&mut self, member: usize, fault: MemberFault) {
        // No member of a cluster that is stopped answers.
        if self.is_down || self.is_hung {
            return;
        }
        let registrar = &self.record.registrars[self.current()];
        let name = registrar.member(member % self.plan.members);
        self.hear(Some(&name));
        let member = self.fake.member(&name);
        match fault {
            MemberFault::Down => member.down(),
            MemberFault::Up => member.up(),
            MemberFault::Hang => member.hang(),
            MemberFault::BlackHole => member.black_hole(),
            MemberFault::Partition => member.partition(),
        }
        if !matches!(fault, MemberFault::Down | MemberFault::Up) {
            self.record
                .unanswered
                .push((Some(name), Instant::now()..far()));
        }
    }

    /// Members that were silent may answer from now on.
    fn hear(&mut self, member: Option<&str>) {
        let now = Instant::now();
        for (who, range) in &mut self.record.unanswered {
            let same = member.is_none() || who.is_none() || who.as_deref() == member;
            if same && range.end > now {
                range.end = now;
            }
        }
    }

    fn act_as_other(&mut self, act: &Act) {
        let keys: Vec<_> = self.fake.keys().into_keys().collect();
        let leases = self.fake.leases();
        let key = |n: usize| keys.get(n.checked_rem(keys.len())?);
        match act {
            Act::Delete(n) => {
                key(*n).map(|key| self.fake.delete(key));
            }
            Act::Overwrite(n, leased) => {
                let Some(key) = key(*n) else { return };
                let lease = if *leased {
                    1 + i64::try_from(n % 3).unwrap()
                } else {
                    0
                };
                if *leased && !leases.contains_key(&lease) {
                    self.fake.grant(lease, FOREVER);
                }
                self.fake.put(key, "theirs", lease);
            }
            Act::Revoke => {
                let ours = leases
                    .keys()
                    .filter(|id| **id > 3)
                    .copied()
                    .collect::<Vec<_>>();
                ours.into_iter()
                    .for_each(|id| assert!(self.fake.revoke(id)));
            }
            _ => {
                for id in 1..=3 {
                    self.fake.revoke(id);
                }
                // Keys without a lease are deleted as well.
                for (key, stored) in self.fake.keys() {
                    if stored.lease == 0 {
                        self.fake.delete(&key);
                    }
                }
            }
        }
    }

    fn operate(&mut self, act: &Act) {
        let standing = self.standing();
        let pick = |n: usize| standing.get(n.checked_rem(standing.len())?).copied();
        match act {
            Act::Register(names) => self.register(*names),
            Act::Announce(n) => {
                if let Some(entry) = pick(*n) {
                    self.announce(entry);
                }
            }
            Act::Update(n) => {
                if let Some(entry) = pick(*n) {
                    self.update(entry);
                }
            }
            Act::Pause(n) => {
                if let Some(entry) = pick(*n) {
                    self.pause(entry);
                }
            }
            Act::Resume(n) => {
                let mut paused = standing.clone();
                paused.retain(|entry| !self.pauses[*entry].is_empty());
                if let Some(entry) = n.checked_rem(paused.len()) {
                    self.resume(paused[entry]);
                }
            }
            Act::Stop => self.stop(false),
            Act::StopNow => self.stop(true),
            Act::Deregister(n) | Act::DeregisterNow(n) | Act::Drop(n) => {
                let Some(entry) = pick(*n) else { return };
                match (act, &self.handles[entry]) {
                    (Act::Deregister(_), Some(handle)) => handle.deregister(),
                    (Act::DeregisterNow(_), Some(handle)) => handle.deregister_now(),
                    _ => self.handles[entry] = None,
                }
                self.left(entry);
            }
            _ => {}
        }
    }
}
