//! The next event of a run, drawn at random.

use super::world::{Beside, Entry, Link, Pending, Place, Request, Stage, World};
use crate::etcd::{RpcError, RpcErrorKind, WatchResponse};
use crate::registrar::ids::{EntryId, Key};
use crate::registrar::reconciler::Event;
use std::time::Duration;
use tokio::time::Instant;

/// The names that entries draw theirs from.
const NAMES: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

// === impl World ===

impl World {
    /// One thing happens.
    pub(super) fn step(&mut self) {
        match self.rng.u32(0..1000) {
            0..480 => drop(self.progress(true)),
            480..760 => self.advance(),
            760..840 => self.use_handles(),
            840..880 => self.break_something(),
            880..930 => self.mend_something(),
            930..960 => self.apply_abandoned(),
            960..990 if !self.check.is_alone => self.act_as_other_client(),
            990..995 => self.freeze(),
            995..997 => self.panic(),
            997 => self.renewal_late(),
            _ => self.advance(),
        }
    }

    /// The worker panics, and the next one starts.
    fn panic(&mut self) {
        self.note(|| "the worker panics".to_owned());
        self.drop_link();
        self.beside = Beside::None;
        self.reconciler.handle_panic(self.now, "a bug");
        self.perform_all();
        self.handle_timeouts();
    }

    fn slot(&mut self, place: Place) -> Option<&mut Option<Pending>> {
        match (place, &mut self.link) {
            (Place::Request, Link::Open(session)) => Some(&mut session.request),
            (Place::Renewal, Link::Open(session)) => Some(&mut session.renewal),
            (Place::WatchRequest, Link::Open(session)) => Some(&mut session.watch_request),
            (Place::Authentication, Link::Open(session)) => Some(&mut session.authentication),
            _ => None,
        }
    }

    fn take_pending(&mut self, place: Place) -> Option<Pending> {
        match place {
            Place::Connect => match std::mem::replace(&mut self.link, Link::Closed) {
                Link::Connecting(pending) => Some(pending),
                other => {
                    self.link = other;
                    None
                }
            },
            Place::ConnectBeside => match std::mem::replace(&mut self.beside, Beside::None) {
                Beside::Connecting(pending) => Some(pending),
                other => {
                    self.beside = other;
                    None
                }
            },
            place => self.slot(place)?.take(),
        }
    }

    fn put_pending(&mut self, place: Place, pending: Pending) {
        match place {
            Place::Connect => self.link = Link::Connecting(pending),
            Place::ConnectBeside => self.beside = Beside::Connecting(pending),
            place => {
                if let Some(slot) = self.slot(place) {
                    *slot = Some(pending);
                }
            }
        }
    }

    /// Where a wanted request is under way, or a wanted answer waits; `None`: one of the watch stream.
    fn places(&self, is_wanted: impl Fn(Option<&Pending>) -> bool) -> Vec<Place> {
        let wanted = self
            .pending_places()
            .filter(|(_, pending)| is_wanted(Some(pending)));
        let mut places: Vec<Place> = wanted.map(|(place, _)| place).collect();
        if is_wanted(None) && self.has_news() {
            places.push(Place::Response);
        }
        places
    }

    /// Whether the watch stream has something to deliver.
    pub(super) fn has_news(&self) -> bool {
        let Link::Open(session) = &self.link else {
            return false;
        };
        let news = |(key, from): &(Key, i64)| !self.etcd.events(key, *from).is_empty();
        !session.responses.is_empty() || !session.is_mute && session.watches.values().any(news)
    }

    /// A request or an answer arrives. With `may_fail`, some are lost.
    pub(super) fn progress(&mut self, may_fail: bool) -> bool {
        let faults = self.faults;
        let can_move = |pending: Option<&Pending>| match pending.map(|pending| &pending.stage) {
            Some(Stage::Sent) => !faults.hangs,
            Some(Stage::Answered(_)) | None => !faults.loses_answers,
            Some(Stage::Lost) => false,
        };
        let places = self.places(can_move);
        if places.is_empty() {
            if may_fail {
                self.advance();
            }
            return false;
        }
        let place = places[self.rng.usize(..places.len())];
        if matches!(place, Place::Response) {
            self.deliver_response();
            return true;
        }
        let Some(mut pending) = self.take_pending(place) else {
            return false;
        };
        let outcome = if may_fail { self.rng.u8(..) } else { u8::MAX };
        let event = match std::mem::replace(&mut pending.stage, Stage::Lost) {
            Stage::Answered(event) => event,
            Stage::Lost => return false,
            Stage::Sent => match self.arrive(&mut pending, outcome) {
                Some(event) => event,
                // It is lost or late, and may time out.
                None => {
                    self.note(|| {
                        format!("   {place:?} was applied, or lost: {:?}", pending.request)
                    });
                    self.put_pending(place, pending);
                    return true;
                }
            },
        };
        self.answer(pending.request, event);
        true
    }

    /// A request that was sent arrives, or not. Returns the event if its answer arrives, too.
    fn arrive(&mut self, pending: &mut Pending, outcome: u8) -> Option<Event> {
        if outcome < 8 {
            return None;
        }
        let event = self.apply(&pending.request, pending.sent);
        if outcome < 16 {
            return None;
        }
        if outcome < 40 || self.faults.loses_answers {
            pending.stage = Stage::Answered(event);
            return None;
        }
        Some(event)
    }

    fn deliver_response(&mut self) {
        let revision = self.etcd.revision;
        let Link::Open(session) = &mut self.link else {
            return;
        };
        if let Some(response) = session.responses.pop_front() {
            return self.handle(Event::Watched(Ok(response)));
        }
        if session.is_mute {
            return;
        }
        let ids: Vec<i64> = session.watches.keys().copied().collect();
        let first = self.rng.usize(..ids.len().max(1));
        for index in 0..ids.len() {
            let Some((key, from)) = session.watches.get_mut(&ids[(first + index) % ids.len()])
            else {
                continue;
            };
            let events = self.etcd.events(key, *from);
            if events.is_empty() {
                continue;
            }
            let events = events[..self.rng.usize(1..=events.len())].to_vec();
            *from = events.last().map_or(*from, |last| last.revision + 1);
            return self.handle(Event::Watched(Ok(WatchResponse {
                events,
                created: false,
                member: 0,
                id: 0,
                revision,
                ended: None,
            })));
        }
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        let deadlines = self
            .pending_places()
            .filter_map(|(_, pending)| pending.deadline);
        deadlines.chain(self.reconciler.poll_timeout()).min()
    }

    /// Time passes, at most until something is due.
    pub(super) fn advance(&mut self) {
        let far = self.now + self.check.ttl;
        let due = self.next_due().unwrap_or(far).min(far).max(self.now);
        let to = match self.rng.u8(..) {
            0..100 => self.now + (due - self.now).mul_f64(self.rng.f64()),
            _ => due,
        };
        self.pass_to(to);
    }

    /// Time passes while the process is stopped, as between SIGSTOP and SIGCONT.
    fn freeze(&mut self) {
        let time = self.check.ttl.mul_f64(self.rng.f64() * 2.0);
        self.note(|| format!("the process is frozen for {time:?}"));
        self.check.pause(time);
        self.pass_to(self.now + time);
    }

    pub(super) fn pass_to(&mut self, to: Instant) {
        self.now = to;
        // etcd looks for expired leases every 500 ms.
        let late = Duration::from_millis(self.rng.u64(0..500));
        self.etcd.expire(to.checked_sub(late).unwrap_or(to));
        self.finish_due();
    }

    /// Performs what is due, in random order. An answer that is there wins over its deadline.
    fn finish_due(&mut self) {
        for _ in 0..100 {
            let now = self.now;
            let is_over = |pending: Option<&Pending>| {
                let deadline = pending.and_then(|pending| pending.deadline);
                deadline.is_some_and(|at| at <= now)
            };
            let mut due = self.places(is_over);
            if self.reconciler.poll_timeout().is_some_and(|at| at <= now) {
                due.push(Place::Timer);
            }
            if due.is_empty() || self.check.violation.is_some() {
                return;
            }
            match due[self.rng.usize(..due.len())] {
                Place::Timer => self.handle_timeouts(),
                place => self.finish(place),
            }
        }
        self.check.violated("I8: something is due again and again");
    }

    fn finish(&mut self, place: Place) {
        let Some(pending) = self.take_pending(place) else {
            return;
        };
        let Pending {
            request,
            sent,
            stage,
            ..
        } = pending;
        let event = match stage {
            Stage::Answered(event) => event,
            Stage::Sent | Stage::Lost => {
                if matches!(stage, Stage::Sent) && self.rng.bool() {
                    self.check.abandoned(&request);
                    self.abandoned.push(request.clone());
                }
                self.failed(&request, sent, RpcErrorKind::Timeout)
            }
        };
        self.answer(request, event);
    }

    /// A renewal without an answer, while a read of its lease is answered.
    fn renewal_late(&mut self) {
        let faults = self.faults;
        if faults.hangs || faults.loses_answers || faults.forgot_token {
            return;
        }
        let Link::Open(session) = &self.link else {
            return;
        };
        let Some(Pending {
            request: Request::Renew { lease, .. },
            sent,
            stage: Stage::Sent | Stage::Lost,
            ..
        }) = &session.renewal
        else {
            return;
        };
        // The read was sent some time after the renewal, and the lease may have been renewed since.
        let (lease, waits) = (*lease, self.now - *sent);
        let Some(remaining) = self.etcd.remaining(lease, self.now) else {
            return;
        };
        let seen_at = self.now - waits.min(self.attempt).mul_f64(self.rng.f64());
        let remaining = Some(remaining).filter(|_| self.rng.u8(..) < 200);
        self.handle(Event::RenewalLate { seen_at, remaining });
    }

    /// The requests under way, and where each is.
    pub(super) fn pending_places(&self) -> impl Iterator<Item = (Place, &Pending)> {
        let beside = match &self.beside {
            Beside::Connecting(pending) => Some((Place::ConnectBeside, pending)),
            Beside::None | Beside::Ready => None,
        };
        self.link.pending().into_iter().chain(beside)
    }

    /// Whether a request from before `at` is still waited for.
    pub(super) fn waits_since_before(&self, at: Instant) -> bool {
        let has_lost = matches!(&self.link, Link::Open(session) if session.has_lost_watch);
        let mut waiting = self.pending_places();
        has_lost || waiting.any(|(_, pending)| pending.sent <= at)
    }

    /// A request that was given up is applied late, or never.
    pub(super) fn apply_abandoned(&mut self) {
        if self.abandoned.is_empty() {
            return;
        }
        let request = self
            .abandoned
            .swap_remove(self.rng.usize(..self.abandoned.len()));
        let is_idle = matches!(
            request,
            Request::Connect | Request::ConnectBeside(_) | Request::LocalIp | Request::Authenticate
        );
        // A second grant of a lease that has ended meanwhile would make the lease again. That takes so
        // long that it is left out.
        let makes_anew = matches!(&request, Request::Grant { lease, .. }
            if self.check.granted.contains(lease) && !self.etcd.leases.contains_key(lease));
        let is_idle = is_idle || makes_anew;
        if !is_idle && self.rng.u8(..) < 200 {
            self.note(|| format!("   applied late: {request:?}"));
            let faults = std::mem::take(&mut self.faults);
            self.apply(&request, self.now);
            self.faults = faults;
            // A grant that is applied after we have lost or revoked the lease: the lease is not
            // ours any more, and expires.
            if let Request::Grant { lease, .. } = request
                && !self.reconciler.knows_lease(lease)
            {
                self.check.granted.remove(&lease);
                self.abandoned.retain(
                    |other| !matches!(other, Request::Write { lease: of, .. } if *of == lease),
                );
            }
        }
    }

    fn use_handles(&mut self) {
        let ids: Vec<EntryId> = self.entries.keys().copied().collect();
        let id = match ids.is_empty() {
            true => 0,
            false => ids[self.rng.usize(..ids.len())],
        };
        match self.rng.u32(0..14) {
            0..4 => self.register(),
            4..6 => {
                let Some(entry) = self.entries.get_mut(&id) else {
                    return;
                };
                entry.is_announced = true;
                self.touch(&[id]);
            }
            6..8 => {
                let Some(entry) = self.entries.get_mut(&id).filter(|e| !e.is_leaving) else {
                    return;
                };
                entry.value += 1;
                self.touch(&[id]);
            }
            8..11 => self.pause_or_resume(id),
            11 => self.hand_over(id),
            _ => {
                let at_once = self.rng.u8(..) < 40;
                let Some(entry) = self.entries.get_mut(&id) else {
                    return;
                };
                entry.is_leaving = true;
                entry.at_once |= at_once;
                self.touch(&[id]);
            }
        }
    }

    /// Another pause begins, or one ends, of an entry or of all of them at once.
    fn pause_or_resume(&mut self, id: EntryId) {
        let (is_pause, are_all) = (self.rng.u8(..) < 100, self.rng.u8(..) < 60);
        let is_meant = |other: &EntryId| are_all || *other == id;
        let mut ids = vec![];
        for (id, entry) in self.entries.iter_mut().filter(|(id, _)| is_meant(id)) {
            entry.pauses = match is_pause {
                true => entry.pauses + 1,
                false => entry.pauses.saturating_sub(1),
            };
            ids.push(*id);
        }
        if !ids.is_empty() {
            self.touch(&ids);
        }
    }

    /// An entry leaves, and another one takes its names. Both are reported at once, in any order.
    fn hand_over(&mut self, id: EntryId) {
        let at_once = self.rng.bool();
        let Some(entry) = self.entries.get_mut(&id).filter(|e| !e.is_leaving) else {
            return;
        };
        entry.is_leaving = true;
        entry.at_once |= at_once;
        let entry = Entry {
            names: entry.names.clone(),
            value: entry.value + 1,
            is_announced: self.rng.u8(..) < 200,
            ..Entry::default()
        };
        let mut ids = [id, self.add(entry)];
        self.rng.shuffle(&mut ids);
        self.touch(&ids);
    }

    /// Another entry, mostly under names that no other one has.
    pub(super) fn register(&mut self) {
        let is_rival = self.rng.u8(..) < 16;
        let is_taken = |name: &&str| {
            let live = self.entries.values().filter(|entry| !entry.is_leaving);
            let mut taken = live.flat_map(|entry| &entry.names);
            !is_rival && taken.any(|taken| taken == name)
        };
        let free: Vec<&str> = NAMES.into_iter().filter(|name| !is_taken(name)).collect();
        if free.is_empty() {
            return;
        }
        let first = self.rng.usize(..free.len());
        let count = self.rng.usize(1..=2).min(free.len() - first);
        let names = free[first..first + count]
            .iter()
            .map(|name| (*name).to_owned());
        let is_anywhere = self.rng.u8(..) < 40;
        let entry = Entry {
            names: names.collect(),
            value: self.rng.u64(..1000),
            is_announced: self.rng.u8(..) < 200,
            needs_local_ip: is_anywhere,
            is_anywhere,
            pauses: u32::from(self.rng.u8(..) < 30),
            failures: u32::from(self.rng.u8(..) < 8),
            ..Entry::default()
        };
        let id = self.add(entry);
        self.touch(&[id]);
    }

    /// Many entries at once: more than one transaction accepts.
    pub(super) fn register_many(&mut self, count: usize) {
        let entry = |number| Entry {
            names: vec![format!("many-{number}")],
            is_announced: true,
            ..Entry::default()
        };
        let ids: Vec<EntryId> = (0..count).map(|number| self.add(entry(number))).collect();
        self.touch(&ids);
    }

    fn add(&mut self, mut entry: Entry) -> EntryId {
        let id = self.next_entry;
        self.next_entry += 1;
        entry.id = id;
        entry.has_common_value = self.check.values_are_equal;
        self.entries.insert(id, entry);
        id
    }

    fn act_as_other_client(&mut self) {
        let key = match self.etcd.keys.len() {
            0 => NAMES[self.rng.usize(..NAMES.len())].into(),
            count => {
                let nth = self.rng.usize(..count);
                self.etcd.keys.keys().nth(nth).cloned().unwrap_or_default()
            }
        };
        let what = self.rng.u32(0..14);
        self.note(|| format!("another client: {what} on {key}"));
        match what {
            0..4 => self.etcd.set(&key, None),
            4..6 => self.etcd.set(&key, Some(("theirs".into(), 0))),
            6 => {
                // After a restore, revisions are used again: a write under our own lease may have
                // a revision that we have seen before. This is not handled.
                let stored = self.etcd.keys.get(&key).filter(|_| self.snapshot.is_none());
                let lease = stored.map_or(0, |stored| stored.lease);
                self.etcd.set(&key, Some(("theirs".into(), lease)));
            }
            7 => {
                let _ = self.etcd.grant(1, self.check.ttl, self.now);
                self.etcd.set(&key, Some(("theirs".into(), 1)));
            }
            8..11 => {
                if let Some(lease) = self.etcd.leases.keys().next_back().copied() {
                    self.etcd.revoke(lease);
                }
            }
            11 => self.wipe(),
            12 => {
                let snapshot = self.etcd.clone();
                self.snapshot = Some(snapshot);
            }
            _ => self.restore(),
        }
    }

    fn wipe(&mut self) {
        let min_ttl = self.etcd.min_ttl;
        self.etcd = super::etcd::Etcd {
            min_ttl,
            revision: 1,
            ..Default::default()
        };
        self.abandoned.clear();
        self.cut();
    }

    fn restore(&mut self) {
        if let Some(mut snapshot) = self.snapshot.clone() {
            snapshot.extend_leases(self.now);
            // Leases that we lost or revoked since are back, and are not ours any more.
            let held = self.reconciler.held_lease();
            for lease in snapshot.leases.keys().filter(|lease| Some(**lease) != held) {
                self.check.granted.remove(lease);
            }
            // They are deleted again once they are read.
            let is_back = |key: &&Key| !self.etcd.keys.contains_key(*key);
            let back = snapshot.keys.keys().filter(is_back).cloned();
            self.check.brought_back.extend(back);
            self.etcd = snapshot;
            self.abandoned.clear();
            self.cut();
        }
    }

    /// The connection is lost: requests and watches on it fail.
    pub(super) fn cut(&mut self) {
        self.note(|| "the connection is cut".to_owned());
        for place in [
            Place::Connect,
            Place::Renewal,
            Place::Request,
            Place::WatchRequest,
        ] {
            if let Some(pending) = self.take_pending(place) {
                // It needs no etcd.
                if matches!(pending.request, Request::LocalIp) {
                    self.put_pending(place, pending);
                    continue;
                }
                let event = self.failed(&pending.request, pending.sent, RpcErrorKind::Broken);
                return self.answer(pending.request, event);
            }
        }
        if matches!(&self.link, Link::Open(_)) {
            let error = RpcError::broken(&self.endpoint, "cut");
            self.handle(Event::Watched(Err(error)));
        }
    }

    fn break_something(&mut self) {
        let what = self.rng.u32(0..if self.is_spread { 11 } else { 10 });
        self.note(|| format!("fault {what}"));
        match what {
            0 => self.faults.refuses_connections = true,
            1 => self.faults.hangs = true,
            2 => self.faults.loses_answers = true,
            3 => self.faults.denies_writes = true,
            4 => self.faults.denies_reads = !self.check.is_alone,
            5 => self.faults.denies_leases = true,
            6 => self.faults.is_exhausted = true,
            7 => self.faults.forgot_token = true,
            8 => {
                self.etcd.extend_leases(self.now);
                self.cut();
            }
            10 => {
                if let Link::Open(session) = &mut self.link {
                    session.is_mute = true;
                }
            }
            _ => self.cut(),
        }
    }

    fn mend_something(&mut self) {
        self.note(|| "the faults end".to_owned());
        self.faults = Default::default();
    }
}
