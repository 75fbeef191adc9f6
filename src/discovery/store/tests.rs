use super::preservation::AFTER_SILENCE;
use super::*;

const SEC: Duration = Duration::from_secs(1);
const LIMITS: Limits = Limits {
    keys: 100,
    bytes: 1 << 20,
    retention: Duration::from_secs(30),
};

/// A store and its clock.
struct World {
    store: Store,
    now: Instant,
}

fn reading(key: &str, revision: i64) -> Reading {
    Reading {
        key: key.to_owned(),
        seen: KeyMeta { lease: 7, revision },
        digest: 0,
        instance: Ok(at(key, key)),
    }
}

fn at(id: &str, host: &str) -> Instance {
    Instance::new("greeter")
        .with_id(id)
        .with_address(format!("{host}.example:9000"))
}

fn listed(keys: &[&str]) -> World {
    limited(LIMITS, keys)
}

fn limited(limits: Limits, keys: &[&str]) -> World {
    let mut world = World {
        store: Store::new(limits),
        now: Instant::now(),
    };
    world.list(keys, 5);
    world
}

impl World {
    fn list(&mut self, keys: &[&str], revision: i64) -> Vec<String> {
        let readings = keys.iter().map(|key| reading(key, revision)).collect();
        self.store.on_answer(self.now);
        self.store.list(readings, 0, revision, self.now);
        self.updates()
    }

    fn put(&mut self, reading: Reading) -> Vec<String> {
        self.store.on_answer(self.now);
        self.store.put(reading, self.now);
        self.updates()
    }

    fn delete(&mut self, key: &str) -> Vec<String> {
        let revision = self.store.revision() + 1;
        self.store.on_answer(self.now);
        self.store.delete(key, revision, self.now);
        self.updates()
    }

    fn updates(&mut self) -> Vec<String> {
        let sign = |update: Update| match update.instance {
            Some(_) => format!("+{}", update.key),
            None => format!("-{}", update.key),
        };
        self.store.take_updates().into_iter().map(sign).collect()
    }

    /// Time passes, and etcd answers all the time.
    fn passes(&mut self, time: Duration) -> Vec<String> {
        let until = self.now + time;
        while self.now < until {
            self.now = until.min(self.now + SEC);
            self.store.on_answer(self.now);
            self.store.expire(self.now);
        }
        self.updates()
    }

    /// Time passes, and etcd answers at its end only.
    fn is_silent(&mut self, time: Duration) {
        self.now += time;
        self.store.on_answer(self.now);
    }
}

#[test]
fn a_list_is_a_difference_and_never_a_flush() {
    let mut world = listed(&["a", "b", "c"]);
    assert_eq!(world.list(&["a", "b", "c"], 9), [""; 0]);
    assert_eq!(world.list(&["a", "c", "d"], 12), ["+d", "-b"]);
    assert_eq!((world.store.revision(), world.store.readable), (12, 3));
}

#[test]
fn an_instance_that_is_written_again_as_it_was_is_no_change() {
    let mut world = listed(&["a"]);
    assert_eq!(world.put(reading("a", 9)), [""; 0]);
    assert_eq!(world.store.revision(), 9);
}

#[test]
fn a_list_with_less_than_half_removes_nothing_before_the_retention() {
    let mut world = listed(&["a", "b", "c", "d"]);
    assert_eq!(world.list(&[], 2), [""; 0], "an etcd that was wiped");
    let store = &world.store;
    assert_eq!(
        (store.missing(), store.readable, store.revision()),
        (4, 4, 2)
    );
    assert_eq!(world.put(reading("a", 3)), [""; 0]);
    assert_eq!(world.passes(SEC * 29), [""; 0]);
    assert_eq!(world.passes(SEC), ["-b", "-c", "-d"]);
    assert_eq!((world.store.missing(), world.store.readable), (0, 1));
}

#[test]
fn once_half_are_back_the_others_have_a_second_from_the_last_one() {
    let mut world = listed(&["a", "b", "c", "d"]);
    assert_eq!(world.list(&[], 2), [""; 0]);
    world.put(reading("a", 3));
    world.passes(SEC * 9);
    world.put(reading("b", 4));
    world.passes(SEC * 9 / 10);
    world.put(reading("c", 5));
    assert_eq!(world.passes(SEC * 9 / 10), [""; 0]);
    assert_eq!(world.passes(SEC / 10), ["-d"]);
}

#[test]
fn after_a_silence_the_leases_of_a_fleet_may_end_at_once() {
    for (silent, believed) in [(SHORTEST_TTL - SEC / 1000, true), (SHORTEST_TTL, false)] {
        let mut world = listed(&["a", "b", "c", "d"]);
        world.is_silent(silent);
        assert_eq!(world.delete("a"), ["-a"], "one may always leave");
        assert_eq!(world.delete("b"), ["-b"]);
        assert_eq!(world.delete("c").is_empty(), !believed);
        assert_eq!(world.delete("d").is_empty(), !believed);
        let given_up = world.passes(SEC * 30);
        assert_eq!(given_up.is_empty(), believed);
    }
}

#[test]
fn without_a_silence_the_last_one_leaves_at_once() {
    let mut world = listed(&["a"]);
    world.passes(SEC * 8);
    assert_eq!(world.delete("a"), ["-a"]);
}

#[test]
fn who_was_seen_since_the_silence_leaves_at_once() {
    let mut world = listed(&["a"]);
    world.is_silent(SEC * 9);
    world.put(reading("a", 6));
    assert_eq!(world.delete("a"), ["-a"]);
}

#[test]
fn some_seconds_after_a_silence_deletions_take_effect_again() {
    let mut world = listed(&["a", "b", "c"]);
    world.is_silent(SEC * 2);
    assert_eq!(world.delete("a"), ["-a"]);
    assert_eq!(world.delete("b"), [""; 0]);
    world.passes(AFTER_SILENCE);
    assert_eq!(world.delete("c"), ["-c"]);
    assert_eq!(world.store.missing(), 1);
    assert_eq!(world.passes(SEC * 25), ["-b"]);
}

#[test]
fn a_deadline_is_not_moved_by_lists_but_by_silence() {
    let mut world = listed(&["a", "b"]);
    world.list(&[], 2);
    for _ in 0..14 {
        assert_eq!(world.passes(SEC), [""; 0]);
        // Another cut, after which the history cannot be checked: there is no key to read.
        assert_eq!(world.list(&[], 2), [""; 0]);
    }
    assert_eq!(world.passes(SEC * 15), [""; 0]);
    world.is_silent(SEC * 3600);
    assert_eq!(world.passes(SEC / 2), [""; 0], "nobody could come back");
    assert_eq!(world.passes(SEC / 2), ["-a", "-b"]);
}

#[test]
fn a_retention_of_zero_removes_at_once_and_the_longest_never() {
    let with = |retention| {
        limited(
            Limits {
                retention,
                ..LIMITS
            },
            &["a", "b"],
        )
    };
    let mut never = with(Duration::ZERO);
    never.is_silent(SEC * 9);
    assert_eq!(never.delete("a"), ["-a"]);
    assert_eq!(never.list(&[], 2), ["-b"]);
    let mut for_ever = with(Duration::MAX);
    for_ever.is_silent(SEC * 9);
    assert_eq!(for_ever.list(&[], 2), [""; 0]);
    assert_eq!(for_ever.passes(SEC * 3600), [""; 0]);
    for_ever.is_silent(SEC * 3600);
    assert_eq!(for_ever.store.missing(), 2);
}

#[test]
fn a_missing_server_that_is_back_under_another_key_is_one_and_not_two() {
    let mut world = listed(&["a", "b"]);
    assert_eq!(world.list(&[], 2), [""; 0]);
    let back = Reading {
        instance: Ok(at("a", "a")),
        ..reading("a2", 3)
    };
    assert_eq!(world.put(back), ["+a2", "-a"]);
    assert_eq!((world.store.missing(), world.store.readable), (1, 2));
}

#[test]
fn what_does_not_read_is_counted_and_the_rest_is_shown() {
    let mut world = listed(&["a"]);
    let bad = |key, revision| Reading {
        instance: Err("the value is bad".into()),
        ..reading(key, revision)
    };
    assert_eq!(world.put(bad("b", 6)), [""; 0]);
    assert_eq!(world.store.skipped(), 1);
    assert_eq!(world.put(bad("a", 7)), ["-a"]);
    assert_eq!(world.store.skipped(), 2);
    assert_eq!(world.delete("b"), [""; 0]);
    assert_eq!(world.store.skipped(), 1);
}

#[test]
fn there_is_room_for_so_many_keys_and_the_others_are_counted() {
    let mut world = limited(Limits { keys: 2, ..LIMITS }, &["a"]);
    for key in ["b", "c", "d"] {
        world.put(reading(key, 6));
    }
    let store = &world.store;
    assert_eq!(
        (store.readable, store.skipped(), store.has_room()),
        (2, 2, false)
    );
    world.delete("d");
    assert!(world.store.has_room(), "one that was passed over is gone");
    world.list(&["a", "b"], 9);
    assert_eq!((world.store.skipped(), world.store.has_room()), (0, false));
}

#[test]
fn there_is_room_for_so_many_bytes_and_they_are_given_back() {
    let bytes = 3 * reading("a", 5).weight();
    let mut world = limited(Limits { bytes, ..LIMITS }, &["a"]);
    let large = |key: &str| Reading {
        instance: Ok(at(key, key).with_metadata("x", "x".repeat(bytes))),
        ..reading(key, 6)
    };
    assert_eq!(world.put(large("b")), [""; 0]);
    assert_eq!(
        world.put(large("a")),
        ["-a"],
        "what it was is not true any more"
    );
    assert_eq!((world.store.bytes, world.store.skipped()), (0, 2));
    for round in 0..100 {
        for key in ["c", "d", "e"] {
            assert_eq!(world.put(reading(key, 7 + round)), [format!("+{key}")]);
        }
        assert_eq!(world.store.bytes, bytes);
        assert_eq!(world.put(reading("f", 8)), [""; 0]);
        for key in ["c", "d", "e"] {
            world.delete(key);
        }
        assert_eq!(world.store.bytes, 0);
    }
}

#[test]
fn up_to_a_hundred_keys_that_etcd_should_have_are_compared_as_a_whole() {
    let mut world = listed(&["a", "b", "c"]);
    assert_eq!(world.list(&["c"], 9), [""; 0]);
    let Check::Whole(known) = world.store.check() else {
        panic!("{:?}", world.store.check());
    };
    let [c] = &known[..] else {
        panic!("{known:?}: a and b are missing");
    };
    assert_eq!((&*c.key, c.seen.revision), ("c", 9));
    world.store.lose_history();
    assert!(matches!(world.store.check(), Check::List));
    let unknown = Store::new(LIMITS);
    assert!(matches!(unknown.check(), Check::List));
    let empty = listed(&[]);
    assert!(matches!(empty.store.check(), Check::Whole(known) if known.is_empty()));
}

#[test]
fn of_more_keys_the_newest_write_and_deletion_and_the_count_are_compared() {
    let keys: Vec<String> = (0..150).map(|n| format!("{n:03}")).collect();
    let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
    let many = Limits {
        keys: 150,
        ..LIMITS
    };
    let mut world = limited(many, &keys);
    world.put(reading("070", 8));
    world.delete("007");
    let sample = |world: &World| match world.store.check() {
        Check::Sample(it) => (it.keys, it.count, it.list_within),
        other => panic!("{other:?}"),
    };
    let newest = |key: &str, revision| (key.into(), Some(KeyMeta { lease: 7, revision }));
    let (found, count, within) = sample(&world);
    assert_eq!(found, [newest("070", 8), ("007".into(), None)]);
    assert_eq!((count, within), (Some(149), SEC * 149 / 20));
    world.put(reading("007", 12));
    assert_eq!(sample(&world).0, [newest("007", 12)], "it is back");
    world.put(reading("one too many", 13));
    assert_eq!(sample(&world).1, None);
}

#[test]
fn a_change_before_the_page_that_has_its_key_is_not_applied() {
    let mut world = listed(&["a", "b"]);
    world.put(reading("b", 20));
    assert_eq!(
        world.put(Reading {
            instance: Ok(at("x", "x")),
            ..reading("b", 19)
        }),
        [""; 0]
    );
    world.store.delete("b", 18, world.now);
    assert_eq!(world.updates(), [""; 0]);
    world.store.delete("b", 21, world.now);
    assert_eq!(world.updates(), ["-b"]);
}

/// The reasons with the number of keys and the example, as a snapshot has them.
fn reasons(world: &World) -> Vec<(String, usize, Option<String>)> {
    let all = world.store.skipped_by_reason().into_iter();
    all.map(|it| (it.reason, it.keys, it.example)).collect()
}

#[test]
fn keys_are_skipped_for_the_reason_of_their_last_value() {
    let mut world = limited(Limits { keys: 5, ..LIMITS }, &["a", "b"]);
    assert_eq!(reasons(&world), []);
    let bad = |key: &str, reason: &str| Reading {
        instance: Err(reason.into()),
        ..reading(key, 6)
    };
    let expected = |all: &[(&str, usize, &str)]| {
        let owned = |it: &(&str, usize, &str)| (it.0.to_owned(), it.1, Some(it.2.to_owned()));
        all.iter().map(owned).collect::<Vec<_>>()
    };
    for (key, reason) in [("c", "is no JSON"), ("d", "has no id"), ("b", "has no id")] {
        world.put(bad(key, reason));
    }
    let both = [("has no id", 2, "b"), ("is no JSON", 1, "c")];
    assert_eq!(reasons(&world), expected(&both));
    assert_eq!(world.store.skipped(), 3);

    // Each of these leaves the number of skipped keys unchanged: a reader must be notified all the same.
    let before = world.store.figures();
    world.put(bad("c", "has no id"));
    assert_ne!(world.store.figures(), before);
    assert_eq!(reasons(&world), expected(&[("has no id", 3, "b")]));
    let before = world.store.figures();
    world.put(bad("c", "has no id"));
    assert_eq!(world.store.figures(), before, "nothing changed");
    world.delete("b");
    world.put(bad("e", "has no id"));
    assert_ne!(world.store.figures(), before);
    assert_eq!(reasons(&world), expected(&[("has no id", 3, "c")]));

    // A good value again, and keys that there is no room for.
    world.put(reading("c", 7));
    for key in ["f", "g", "h", "i"] {
        world.put(reading(key, 8));
    }
    let [no_room, no_id] = &reasons(&world)[..] else {
        panic!("{:?}", reasons(&world));
    };
    assert_eq!((no_room.1, &no_room.2), (3, &None));
    assert!(no_room.0.contains("at most 5 keys"), "{no_room:?}");
    assert_eq!((&*no_id.0, no_id.1), ("has no id", 2));
}
