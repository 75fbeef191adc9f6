use super::*;
use DialDecision::{Dial, GiveWay};

const MS: Duration = Duration::from_millis(1);
const SEC: Duration = Duration::from_secs(1);

struct Policy {
    policy: DialPolicy,
    now: Instant,
}

impl Policy {
    fn new() -> Self {
        Self {
            policy: DialPolicy::new(fastrand::Rng::with_seed(1)),
            now: Instant::now(),
        }
    }

    fn add(&mut self, ids: impl IntoIterator<Item = Id>) {
        ids.into_iter().for_each(|id| self.policy.on_added(id));
    }

    fn decisions(&mut self) -> Vec<DialDecision> {
        std::iter::from_fn(|| self.policy.poll(self.now)).collect()
    }

    /// Time passes; returns the decisions and when they were made, each dial answered by `answer`.
    fn run(
        &mut self,
        time: Duration,
        mut answer: impl FnMut(&mut DialPolicy, DialDecision, Instant),
    ) -> Vec<(Duration, DialDecision)> {
        let (start, end) = (self.now, self.now + time);
        let mut all = vec![];
        loop {
            while let Some(decision) = self.policy.poll(self.now) {
                all.push((self.now - start, decision));
                answer(&mut self.policy, decision, self.now);
            }
            match self.policy.next_at() {
                Some(at) if at <= end => self.now = at.max(self.now),
                _ => break,
            }
        }
        self.now = end;
        all
    }
}

fn refuse(policy: &mut DialPolicy, decision: DialDecision, now: Instant) {
    match decision {
        Dial(id) => policy.on_failed(id, now),
        GiveWay(id) => panic!("{id} has failed already"),
    }
}

fn drop_packets(policy: &mut DialPolicy, decision: DialDecision, now: Instant) {
    if let GiveWay(id) = decision {
        policy.on_gave_way(id, now);
    }
}

const USEFUL: Ended = Ended {
    was_useful: true,
    lasted: Duration::ZERO,
};
const USELESS: Ended = Ended {
    was_useful: false,
    lasted: Duration::ZERO,
};

#[test]
fn a_connection_that_was_of_use_is_replaced_at_once_however_short() {
    let mut it = Policy::new();
    it.add([1]);
    assert_eq!(it.decisions(), [Dial(1)]);
    for _ in 0..1000 {
        it.policy.on_connected(1);
        it.policy.on_ended(1, USEFUL, it.now);
        assert_eq!(it.decisions(), [Dial(1)]);
    }
}

#[test]
fn a_connection_of_no_use_is_replaced_about_once_a_second() {
    for lasted in [0, 300, 700] {
        let mut it = Policy::new();
        it.add([1]);
        let lasted = MS * lasted;
        let ended = Ended { lasted, ..USELESS };
        let mut dials = vec![];
        let start = it.now;
        while it.now - start < SEC * 60 {
            for decision in it.decisions() {
                assert_eq!(decision, Dial(1));
                dials.push(it.now - start);
                it.policy.on_connected(1);
                it.now += lasted;
                it.policy.on_ended(1, ended, it.now);
            }
            it.now = it.policy.next_at().unwrap_or(it.now).max(it.now);
        }
        assert!((60..=130).contains(&dials.len()), "{}", dials.len());
        let gaps = dials.windows(2).map(|two| two[1] - two[0]);
        assert!(gaps.max() <= Some(MS * 1001));
    }
}

#[test]
fn dials_that_fail_wait_longer_and_longer() {
    let mut it = Policy::new();
    it.add([1]);
    let dials = it.run(SEC * 120, refuse);
    let waits: Vec<_> = dials.windows(2).map(|two| two[1].0 - two[0].0).collect();
    for (wait, upper) in waits
        .iter()
        .zip([50, 100, 200, 400, 800, 1600, 3200, 5000, 5000])
    {
        assert!((MS * upper / 2..=MS * upper).contains(wait), "{waits:?}");
    }
    // Once another one is connected, this one waits longer.
    it.add([2]);
    it.run(MS * 100, |policy, decision, now| match decision {
        Dial(2) => policy.on_connected(2),
        other => refuse(policy, other, now),
    });
    let dials = it.run(SEC * 600, refuse);
    assert!((19..=42).contains(&dials.len()), "{}", dials.len());
    // One that was connected does not.
    it.policy.on_ended(2, USEFUL, it.now);
    it.add([3]);
    let dials = it.run(SEC * 600, |policy, decision, now| match decision {
        Dial(3) => policy.on_connected(3),
        other => refuse(policy, other, now),
    });
    let of_two = dials.iter().filter(|(_, it)| *it == Dial(2)).count();
    assert!((120..=250).contains(&of_two), "{of_two}");
}

#[test]
fn among_20_000_black_holes_all_are_tried_within_half_a_second() {
    let mut it = Policy::new();
    it.add(0..20_000);
    let decisions = it.run(MS * 500, drop_packets);
    let mut dialled = BTreeSet::new();
    let mut dials = 0;
    for (_, decision) in decisions {
        if let Dial(id) = decision {
            dials += 1;
            dialled.insert(id);
        }
        assert!(it.policy.dialling.len() <= PLACES);
    }
    assert_eq!(dialled.len(), 20_000);
    assert!(dials <= 26_000, "{dials}");
    // Slow ones have a longer time, later.
    let decisions = it.run(SEC * 90, drop_packets);
    let again = decisions
        .iter()
        .filter(|(_, it)| *it == Dial(19_999))
        .count();
    assert!(again >= 2, "{again}");
}

#[test]
fn few_black_holes_keep_the_whole_time_of_a_dial() {
    let mut it = Policy::new();
    it.add(0..256);
    let decisions = it.run(SEC * 60, drop_packets);
    assert_eq!(decisions.len(), 256);
}

#[test]
fn redials_of_20_000_that_refuse_are_bounded() {
    let mut it = Policy::new();
    it.add(0..20_000);
    assert!(it.run(SEC, refuse).len() >= 20_000);
    let dials = it.run(SEC * 100, refuse);
    assert!((3000..=3300).contains(&dials.len()), "{}", dials.len());
}

#[test]
fn addresses_that_were_connected_go_before_others_and_starve_none() {
    let mut it = Policy::new();
    it.add(0..2000);
    it.run(SEC, |policy, decision, now| match decision {
        Dial(id @ 0..1000) => policy.on_connected(id),
        other => refuse(policy, other, now),
    });
    (0..1000).for_each(|id| it.policy.on_ended(id, USELESS, it.now));
    it.run(SEC * 30, refuse);
    let dials = it.run(SEC * 60, refuse);
    let were = dials.iter().filter(|(_, it)| matches!(it, Dial(0..1000)));
    let share = were.count() as f64 / dials.len() as f64;
    assert!((0.7..0.8).contains(&share), "{share}");
}

#[test]
fn a_fleet_that_comes_back_is_connected_at_once() {
    let mut it = Policy::new();
    it.add(0..1000);
    it.run(SEC * 60, refuse);
    let mut connected = 0;
    it.run(SEC * 6, |policy, decision, _| {
        if let Dial(id) = decision {
            policy.on_connected(id);
            connected += 1;
        }
    });
    // Each waits for its own time, and not for the budget.
    assert_eq!(connected, 1000);
}

#[test]
fn peers_that_accept_and_close_at_once_are_bounded_as_failures_are() {
    let mut it = Policy::new();
    it.add(0..1000);
    let mut dials = 0;
    for step in 0..6_500 {
        let mut connected = vec![];
        it.run(MS * 10, |policy, decision, _| {
            if let Dial(id) = decision {
                policy.on_connected(id);
                connected.push(id);
            }
        });
        // Many at a time, while the next are being dialled.
        dials += if step > 500 { connected.len() } else { 0 };
        let now = it.now;
        let end = |id| it.policy.on_ended(id, USELESS, now);
        connected.into_iter().for_each(end);
    }
    assert!((20 * 60..=60 * 50).contains(&dials), "{dials}");
}

#[test]
fn an_address_that_is_removed_leaves_nothing_behind() {
    let mut it = Policy::new();
    it.add(0..300);
    it.decisions();
    (0..4).for_each(|id| it.policy.on_connected(id));
    it.policy.on_ended(0, USEFUL, it.now);
    it.policy.on_ended(1, USELESS, it.now);
    it.policy.on_failed(4, it.now);
    (0..300).for_each(|id| it.policy.on_removed(id));
    it.policy.on_failed(5, it.now);
    it.policy.on_connected(6);
    it.policy.on_ended(2, USEFUL, it.now);
    assert_eq!(it.decisions(), []);
    assert!(it.policy.addresses.is_empty() && it.policy.waiting.is_empty());
    assert!(it.policy.backing_off.is_empty() && it.policy.dialling.is_empty());
    assert_eq!((it.policy.connected, it.policy.next_at()), (0, None));
}
