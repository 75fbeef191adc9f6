//! Performs an [`Act`] in a [`World`], and notes what the checks need.

use super::plan::{Act, Other, Ours};
use super::world::{FOREIGN, FOREVER, World, far, member};
use crate::support::fake::{Mode, Reply};
use std::time::Duration;
use tokio::time::{Instant, advance};
use tonic::Code;

// === impl World ===

impl World {
    pub async fn perform(&mut self, act: &Act) {
        self.mark(format!("{act:?}"));
        self.allowance.add(act, &self.plan);
        match act {
            Act::Down => self.everywhere(true, false, |w| w.fake.down()),
            Act::Wipe => {
                self.wipes.push(self.fake.changes().len());
                self.everywhere(self.is_down, false, |w| w.fake.wipe());
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
                let [from, to] = [*from, *to].map(Duration::from_millis);
                self.fake.latency(from..to);
            }
            Act::Member(member, mode) => self.member(*member, *mode),
            // A client without a token is never answered that its token is void, but denied.
            Act::Script(_, Reply::Error(Code::Unauthenticated, _)) if !self.plan.has_users => {}
            Act::Script(rpc, reply) => self.fake.script(*rpc, reply.clone()),
            Act::Freeze(time) => {
                let from = Instant::now();
                advance(*time).await;
                self.freezes.push(from..Instant::now());
            }
            Act::Other(other) => {
                let before = self.fake.changes().len();
                self.act_as_other(other);
                let after = self.fake.changes().len();
                self.foreign_changes.push(before..after);
            }
            Act::Ours(ours) => self.operate(ours),
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
            self.unanswered.push((None, Instant::now()..far()));
        }
    }

    fn member(&mut self, index: usize, mode: Mode) {
        // No member of a cluster that is stopped answers.
        if self.is_down || self.is_hung {
            return;
        }
        let name = member(self.number, index % self.plan.members);
        self.hear(Some(&name));
        self.fake.member(&name).set(mode);
        if !matches!(mode, Mode::Down | Mode::Up) {
            let silence = (Some(name), Instant::now()..far());
            self.unanswered.push(silence);
        }
    }

    /// Members that were silent may answer from now on.
    fn hear(&mut self, member: Option<&str>) {
        let now = Instant::now();
        for (who, range) in &mut self.unanswered {
            let same = member.is_none() || who.is_none() || who.as_deref() == member;
            if same && range.end > now {
                range.end = now;
            }
        }
    }

    fn act_as_other(&mut self, other: &Other) {
        let keys: Vec<_> = self.fake.keys().into_keys().collect();
        let leases = self.fake.leases();
        let key = |n: usize| keys.get(n.checked_rem(keys.len())?);
        match other {
            Other::Delete(n) => {
                key(*n).map(|key| self.fake.delete(key));
            }
            Other::Overwrite(n, leased) => {
                let Some(key) = key(*n) else { return };
                let lease = match leased {
                    true => 1 + i64::try_from(n % 3).unwrap(),
                    false => 0,
                };
                if *leased && !leases.contains_key(&lease) {
                    self.fake.grant(lease, FOREVER);
                }
                self.fake.put(key, "theirs", lease);
            }
            Other::Revoke => {
                for ours in leases.into_keys().filter(|id| *id > FOREIGN) {
                    assert!(self.fake.revoke(ours));
                }
            }
            Other::RevokeForeign => {
                for id in 1..=FOREIGN {
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

    fn operate(&mut self, ours: &Ours) {
        let standing = self.standing();
        let pick = |n: &usize| standing.get(n.checked_rem(standing.len())?).copied();
        match ours {
            Ours::Register(names) => self.register(*names),
            Ours::Announce(n) => pick(n).into_iter().for_each(|entry| self.announce(entry)),
            Ours::Update(n) => pick(n).into_iter().for_each(|entry| self.update(entry)),
            Ours::Pause(n) => pick(n).into_iter().for_each(|entry| self.pause(entry)),
            Ours::Resume(n) => {
                let mut paused = standing.clone();
                paused.retain(|entry| !self.entries[*entry].pauses.is_empty());
                if let Some(entry) = n.checked_rem(paused.len()) {
                    drop(self.entries[paused[entry]].pauses.pop());
                }
            }
            Ours::Stop => self.stop(false),
            Ours::StopNow => self.stop(true),
            Ours::Deregister(n) | Ours::DeregisterNow(n) | Ours::Drop(n) => {
                let Some(entry) = pick(n) else { return };
                match (ours, &self.entries[entry].handle) {
                    (Ours::Deregister(_), Some(handle)) => handle.deregister(),
                    (Ours::DeregisterNow(_), Some(handle)) => handle.deregister_now(),
                    _ => self.entries[entry].handle = None,
                }
                self.left(entry);
            }
        }
    }
}
