use super::*;
use crate::etcd::{Event, EventKind, KeyMeta, Op, RpcErrorKind};
use std::time::Duration;
use tokio::time::Instant;

const OURS: i64 = 7;
const THEIRS: i64 = 8;

fn table(policy: OnConflict, keys: &[&str]) -> KeyTable {
    let mut table = KeyTable::new(OURS, policy);
    for (entry, key) in (1..).zip(keys) {
        assert_eq!(
            table.set_desired(entry, vec![((*key).into(), "v".into())]),
            None
        );
    }
    table
}

/// Answers every write, at `revision`. Returns their operations.
fn write(table: &mut KeyTable, revision: i64) -> Vec<Op> {
    let now = Instant::now();
    let ops = table.next_txn(now);
    table.on_txn(&ops, revision, &vec![None; ops.len()], now);
    ops
}

fn put(key: &str, revision: i64, lease: i64, value: &str) -> Event {
    let kind = EventKind::Put {
        lease,
        value: value.into(),
    };
    Event {
        key: key.into(),
        revision,
        kind,
    }
}

fn delete(key: &str, revision: i64) -> Event {
    Event {
        key: key.into(),
        revision,
        kind: EventKind::Delete,
    }
}

fn op(key: &str) -> Vec<Op> {
    vec![Op::Put {
        key: key.into(),
        value: "v".into(),
    }]
}

#[test]
fn desired_keys_are_written_once_and_watched_from_the_next_revision() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    assert!(!table.view(1).held);
    assert_eq!(write(&mut table, 5), op("a"));
    assert!(table.view(1).held);
    assert_eq!(write(&mut table, 6), []);
    assert_eq!(table.next_watch(), Some(("a".into(), 1, 6)));
}

#[test]
fn a_transaction_takes_128_puts_and_no_more() {
    let keys: Vec<String> = (0..300).map(|n| format!("{n:03}")).collect();
    let mut table = table(
        OnConflict::TakeOver,
        &keys.iter().map(|k| &**k).collect::<Vec<_>>(),
    );
    let sizes: Vec<_> = (1..5)
        .map(|revision| write(&mut table, revision).len())
        .collect();
    assert_eq!(sizes, [128, 128, 44, 0]);
}

#[test]
fn a_transaction_stays_below_the_size_etcd_takes() {
    let mut table = KeyTable::new(OURS, OnConflict::TakeOver);
    let large: Arc<str> = "x".repeat(400 * 1024).into();
    for entry in 1..=5 {
        assert_eq!(
            table.set_desired(entry, vec![(format!("{entry}").into(), large.clone())]),
            None
        );
    }
    let sizes: Vec<_> = (1..5)
        .map(|revision| write(&mut table, revision).len())
        .collect();
    assert_eq!(sizes, [2, 2, 1, 0]);
}

#[test]
fn a_key_that_others_delete_is_put_again() {
    let mut table = table(OnConflict::TakeOver, &["a", "b"]);
    write(&mut table, 5);
    table.on_watch_event(delete("a", 6), Instant::now());
    assert!(!table.view(1).held && table.view(2).held);
    assert_eq!(write(&mut table, 7), op("a"));
}

#[test]
fn the_echo_of_our_own_write_changes_nothing_whenever_it_comes() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    let ops = table.next_txn(Instant::now());
    table.on_watch_event(put("a", 5, OURS, "v"), Instant::now());
    table.on_txn(&ops, 5, &[None], Instant::now());
    table.on_watch_event(put("a", 5, OURS, "v"), Instant::now());
    assert!(table.view(1).held);
    assert_eq!(write(&mut table, 6), []);
}

#[test]
fn what_others_did_during_our_write_is_ordered_by_its_revision() {
    for (theirs, rewritten) in [(4, false), (6, true)] {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        let ops = table.next_txn(Instant::now());
        table.on_watch_event(put("a", theirs, THEIRS, "x"), Instant::now());
        table.on_txn(&ops, 5, &[None], Instant::now());
        assert_eq!(
            write(&mut table, 7) == op("a"),
            rewritten,
            "theirs at {theirs}"
        );
    }
}

#[test]
fn an_update_is_written_in_place_and_the_key_counts_as_held_meanwhile() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    write(&mut table, 5);
    assert_eq!(table.set_desired(1, vec![("a".into(), "new".into())]), None);
    assert!(table.view(1).held);
    let ops = write(&mut table, 6);
    assert_eq!(
        ops,
        [Op::Put {
            key: "a".into(),
            value: "new".into()
        }]
    );
    assert_eq!(table.view(1).revision, 6);
}

#[test]
fn after_a_cut_intact_keys_are_not_written_again() {
    let mut table = table(OnConflict::TakeOver, &["gone", "intact", "other", "taken"]);
    write(&mut table, 5);
    table.on_disconnect();
    let looks = table.next_read();
    assert_eq!(looks.len(), 4);
    assert_eq!(write(&mut table, 6), [], "nothing before it was on_read at");
    let seen = |lease, revision| Some(KeyMeta { lease, revision });
    let there = [None, seen(OURS, 5), seen(OURS, 6), seen(THEIRS, 5)];
    table.on_read(&looks, 9, &there);
    let on_txn: Vec<_> = write(&mut table, 10)
        .iter()
        .map(|op| op.key().to_string())
        .collect();
    assert_eq!(on_txn, ["gone", "other", "taken"]);
}

#[test]
fn a_write_whose_answer_was_lost_is_looked_up_first() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    table.next_txn(Instant::now());
    table.on_disconnect();
    assert_eq!(table.next_read(), ["a".into()]);
    let seen = |lease| {
        let revision = 5;
        [Some(KeyMeta { lease, revision })]
    };
    table.on_read(&["a".into()], 6, &seen(OURS));
    assert!(table.view(1).held, "it is there, whatever its value");
    assert_eq!(write(&mut table, 7), op("a"));
}

#[test]
fn one_of_several_leaves_by_a_guarded_delete_and_is_never_put_again() {
    let mut table = table(OnConflict::TakeOver, &["a", "b"]);
    write(&mut table, 5);
    table.withdraw(1);
    assert!(!table.is_gone(1));
    assert_eq!(write(&mut table, 6), [Op::Delete { key: "a".into() }]);
    assert!(table.is_gone(1) && table.view(2).held);
    table.on_watch_event(delete("a", 6), Instant::now());
    table.on_disconnect();
    // A restored etcd may have the first one again.
    assert_eq!(table.next_read(), ["a".into(), "b".into()]);
}

#[test]
fn a_write_under_way_when_its_entry_leaves_is_deleted_again() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    let ops = table.next_txn(Instant::now());
    table.withdraw(1);
    assert!(!table.is_gone(1), "it may still be on_txn");
    table.on_txn(&ops, 5, &[None], Instant::now());
    assert_eq!(write(&mut table, 6), [Op::Delete { key: "a".into() }]);
    assert!(table.is_gone(1));
}

#[test]
fn an_entry_that_was_never_written_is_gone_at_once() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    table.withdraw(1);
    assert!(table.is_gone(1));
    assert_eq!(write(&mut table, 5), []);
}

#[test]
fn yielding_leaves_a_foreign_key_until_it_is_free() {
    let mut table = table(OnConflict::Yield, &["a"]);
    let ops = table.next_txn(Instant::now());
    assert_eq!(
        ops,
        [Op::PutIfFree {
            key: "a".into(),
            value: "v".into()
        }]
    );
    table.on_txn(&ops, 5, &[Some(THEIRS)], Instant::now());
    assert_eq!(table.view(1).conflicting_lease, Some(THEIRS));
    assert_eq!(write(&mut table, 6), []);
    table.on_watch_event(delete("a", 7), Instant::now());
    assert_eq!(write(&mut table, 8).len(), 1);
    assert!(table.view(1).held);
    table.on_watch_event(put("a", 9, THEIRS, "x"), Instant::now());
    assert_eq!(
        (table.view(1).conflicting_lease, table.view(1).held),
        (Some(THEIRS), false)
    );
    assert_eq!(write(&mut table, 10), []);
}

#[test]
fn repeated_overwrites_end_in_a_few_rewrites_a_minute() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    write(&mut table, 1);
    let start = Instant::now();
    let mut rewrites = 0;
    for step in 0..600 {
        let now = start + Duration::from_millis(100) * step;
        let revision = 10 + 2 * i64::from(step);
        table.on_watch_event(put("a", revision, THEIRS, "x"), now);
        let ops = table.next_txn(now);
        rewrites += ops.len();
        table.on_txn(&ops, revision + 1, &vec![None; ops.len()], now);
    }
    assert!(
        (28..=30).contains(&rewrites),
        "{rewrites} in the first minute"
    );
    assert!(table.view(1).contested);
}

#[test]
fn an_entry_that_moves_to_another_key_leaves_none_behind() {
    let mut table = table(OnConflict::TakeOver, &["old"]);
    write(&mut table, 5);
    assert_eq!(table.set_desired(1, vec![("new".into(), "v".into())]), None);
    assert_eq!(table.view(1).keys, ["new".into()]);
    assert_eq!(write(&mut table, 6).len(), 2);
    assert!(table.view(1).held);
    table.withdraw(1);
    assert_eq!(write(&mut table, 7), [Op::Delete { key: "new".into() }]);
    assert!(table.is_gone(1));
}

fn value(key: &str, value: &str) -> Vec<(Key, Arc<str>)> {
    vec![(key.into(), value.into())]
}

/// The entry that has the key, and the operations that it takes until nothing is left to write.
fn settled(table: &mut KeyTable, revision: i64) -> (Option<EntryId>, Vec<Op>) {
    let ops = [0, 1, 2].map(|more| write(table, revision + more));
    assert!(table.dirty.is_empty());
    (table.owner(&"a".into()), ops.concat())
}

fn put_of(value: &str) -> Op {
    let (key, value) = ("a".into(), value.into());
    Op::Put { key, value }
}

#[test]
fn the_newest_entry_that_desires_a_key_has_it_in_any_order() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [2, 1, 3]] {
        let mut table = KeyTable::new(OURS, OnConflict::TakeOver);
        for entry in order {
            table.set_desired(entry, value("a", &entry.to_string()));
        }
        assert_eq!(settled(&mut table, 5), (Some(3), vec![put_of("3")]));
        let views = [1, 2, 3].map(|entry| table.view(entry));
        let waiting = views.map(|view| (view.held, view.waits_for.is_some()));
        assert_eq!(waiting, [(false, true), (false, true), (true, false)]);
        table.withdraw(2);
        table.withdraw(3);
        assert_eq!((table.is_gone(2), table.is_gone(3)), (true, true));
        assert_eq!(table.take_changed(), BTreeSet::from([1, 2, 3]));
        assert!(!table.view(1).held, "the value is that of another entry");
        assert_eq!(settled(&mut table, 15), (Some(1), vec![put_of("1")]));
        assert!(table.view(1).held);
        table.withdraw(1);
        let delete = Op::Delete { key: "a".into() };
        assert_eq!(settled(&mut table, 25), (None, vec![delete]));
        assert!(table.is_gone(1) && table.waiting.is_empty());
    }
}

#[test]
fn a_key_that_an_entry_leaves_for_another_key_goes_to_the_one_that_waits() {
    let mut table = KeyTable::new(OURS, OnConflict::TakeOver);
    table.set_desired(2, value("a", "2"));
    write(&mut table, 5);
    assert_eq!(table.set_desired(1, value("a", "1")), Some("a".into()));
    assert_eq!(table.set_desired(2, value("b", "2")), None);
    assert_eq!(write(&mut table, 6).len(), 2);
    assert!(table.view(1).held && table.view(2).held);
    table.withdraw(2);
    assert_eq!(write(&mut table, 7), [Op::Delete { key: "b".into() }]);
}

#[test]
fn a_write_under_way_does_not_count_for_the_next_entry_with_the_key() {
    for is_reported_first in [false, true] {
        let mut table = table(OnConflict::TakeOver, &["a"]);
        let now = Instant::now();
        let ops = table.next_txn(now);
        if is_reported_first {
            table.withdraw(1);
        }
        assert_eq!(table.set_desired(2, value("a", "2")), None);
        table.withdraw(1);
        assert!(table.is_gone(1));
        table.on_txn(&ops, 5, &[None], now);
        assert!(!table.view(2).held, "{is_reported_first}");
        assert_eq!(write(&mut table, 6), [put_of("2")]);
        assert!(table.view(2).held);
    }
}

/// The second of two equal registrations stayed `Registering` forever: the first one's put, which was under way, had
/// its value, so that nothing was written again.
#[test]
fn a_write_under_way_is_repeated_for_the_next_entry_with_the_key() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    let now = Instant::now();
    let ops = table.next_txn(now);
    assert_eq!(table.set_desired(2, value("a", "v")), None);
    table.withdraw(1);
    table.on_txn(&ops, 5, &[None], now);
    assert!(!table.view(2).held);
    assert_eq!(write(&mut table, 6), op("a"));
    assert!(table.view(2).held);
}

#[test]
fn one_denied_key_does_not_delay_the_others() {
    let mut table = table(OnConflict::TakeOver, &["a", "b", "c"]);
    let (now, later) = (Instant::now(), Instant::now() + Duration::from_secs(30));
    let ops = table.next_txn(now);
    table.on_txn_denied(&ops, now, later);
    for (key, denied) in [("a", false), ("b", true), ("c", false)] {
        let ops = table.next_txn(now);
        assert_eq!(ops, op(key), "one by one");
        match denied {
            true => table.on_txn_denied(&ops, now, later),
            false => table.on_txn(&ops, 5, &[None], now),
        }
    }
    assert_eq!(table.next_txn(now), []);
    assert!(table.view(1).held && !table.view(2).held && table.view(3).held);
    assert_eq!(table.next_retry(), Some(later));
    assert_eq!(table.next_txn(later), op("b"));
}

#[test]
fn a_refused_write_is_repeated() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    let ops = table.next_txn(Instant::now());
    table.on_txn_rejected(&ops, Instant::now());
    assert_eq!(write(&mut table, 5), op("a"));
}

#[test]
fn a_key_that_may_not_be_read_is_yielded_only_after_a_refused_write() {
    let mut table = table(OnConflict::Yield, &["a"]);
    let ops = table.next_txn(Instant::now());
    table.on_txn(&ops, 5, &[Some(THEIRS)], Instant::now());
    table.on_disconnect();
    table.on_read_denied(&["a".into()]);
    assert_eq!(write(&mut table, 6).len(), 1);
    assert!(table.view(1).held);
}

#[test]
fn a_key_that_may_not_be_read_is_deleted_when_its_entry_leaves() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    write(&mut table, 5);
    table.on_disconnect();
    table.on_read_denied(&["a".into()]);
    table.withdraw(1);
    assert!(!table.view(1).held && !table.is_gone(1));
    assert_eq!(write(&mut table, 6), [Op::Delete { key: "a".into() }]);
    assert!(table.is_gone(1));
}

#[test]
fn an_entry_with_the_key_of_one_that_leaves_registers_once_written() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    write(&mut table, 5);
    table.withdraw(1);
    let delete = table.next_txn(Instant::now());
    assert_eq!(table.set_desired(2, vec![("a".into(), "v".into())]), None);
    assert!(!table.view(2).held, "the deletion is under way");
    table.on_txn(&delete, 6, &[None], Instant::now());
    assert_eq!(write(&mut table, 7), op("a"));
    assert!(table.view(2).held);
}

#[test]
fn another_value_under_our_own_lease_is_deleted_when_its_entry_leaves() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    write(&mut table, 5);
    table.on_watch_event(put("a", 6, OURS, "x"), Instant::now());
    assert!(!table.view(1).held);
    table.withdraw(1);
    assert_eq!(write(&mut table, 7), [Op::Delete { key: "a".into() }]);
}

#[test]
fn a_key_removed_before_its_watch_is_watched_once_when_it_is_back() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    write(&mut table, 5);
    table.withdraw(1);
    write(&mut table, 6);
    assert_eq!(table.next_unwatch(), None, "it was never watched");
    assert_eq!(table.set_desired(2, vec![("a".into(), "v".into())]), None);
    assert_eq!(table.next_watch(), None, "it is not written yet");
    write(&mut table, 7);
    assert_eq!(table.next_watch(), Some(("a".into(), 2, 8)));
    assert_eq!(table.next_watch(), None);
}

fn many(policy: OnConflict, count: usize) -> KeyTable {
    let keys: Vec<String> = (0..count).map(|n| format!("{n:03}")).collect();
    table(policy, &keys.iter().map(|k| &**k).collect::<Vec<_>>())
}

/// Answers every write like an etcd that accepts less than `too_many` operations at once. Returns the number of
/// operations of each transaction.
fn write_all(table: &mut KeyTable, too_many: usize) -> Vec<usize> {
    let (now, mut sizes) = (Instant::now(), vec![]);
    loop {
        let ops = table.next_txn(now);
        if ops.is_empty() {
            return sizes;
        }
        sizes.push(ops.len());
        let guard = usize::from(!matches!(ops[0], Op::Put { .. }));
        match ops.len() + 2 * guard >= too_many {
            true => table.on_txn_too_large(&ops, RpcErrorKind::TooManyOps, now),
            false => table.on_txn(&ops, 5, &vec![None; ops.len()], now),
        }
    }
}

#[test]
fn a_transaction_with_too_many_operations_is_halved_until_it_is_taken() {
    for (policy, sizes) in [
        (OnConflict::TakeOver, &[40, 20, 10, 10, 10, 10][..]),
        (OnConflict::Yield, &[40, 20, 10, 10, 10, 10]),
    ] {
        let mut table = many(policy, 40);
        assert_eq!(write_all(&mut table, 17), sizes, "{policy:?}");
        assert!((1..=40).all(|entry| table.view(entry).held));
    }
}

#[test]
fn the_limits_of_etcd_are_kept_for_the_next_lease() {
    let mut table = many(OnConflict::TakeOver, 40);
    write_all(&mut table, 17);
    table.reset(OURS + 1);
    assert!(!table.view(1).held, "no key is left");
    for n in 0..20 {
        let key = format!("{n:03}").into();
        assert_eq!(table.set_desired(n, vec![(key, "v".into())]), None);
    }
    assert_eq!(write_all(&mut table, 17), [10, 10]);
}

#[test]
fn a_read_of_too_many_keys_is_halved_and_denies_nothing() {
    let mut table = many(OnConflict::TakeOver, 40);
    write(&mut table, 5);
    table.on_disconnect();
    let mut sizes = vec![];
    loop {
        let keys = table.next_read();
        if keys.is_empty() {
            break;
        }
        sizes.push(keys.len());
        let (lease, revision) = (OURS, 5);
        match keys.len() > 16 {
            true => table.on_read_too_large(&keys, RpcErrorKind::TooManyOps),
            false => table.on_read(
                &keys,
                9,
                &vec![Some(KeyMeta { lease, revision }); keys.len()],
            ),
        }
    }
    assert_eq!(sizes, [40, 20, 10, 10, 10, 10]);
    assert_eq!(write(&mut table, 10), []);
}

#[test]
fn a_large_value_does_not_shorten_the_transactions_of_others() {
    let mut table = many(OnConflict::TakeOver, 100);
    let large: Arc<str> = "x".repeat(64 * 1024).into();
    assert_eq!(table.set_desired(101, vec![("050x".into(), large)]), None);
    let (now, mut sizes) = (Instant::now(), vec![]);
    loop {
        let ops = table.next_txn(now);
        if ops.is_empty() {
            break;
        }
        sizes.push(ops.len());
        match ops.iter().map(Op::weight).sum::<usize>() > 16 * 1024 {
            true if ops.len() == 1 => table.on_txn_denied(&ops, now, now + Duration::from_secs(30)),
            true => table.on_txn_too_large(&ops, RpcErrorKind::TooLarge, now),
            false => table.on_txn(&ops, 5, &vec![None; ops.len()], now),
        }
    }
    assert_eq!(sizes, [101, 51, 1, 49]);
}

#[test]
fn a_key_that_may_not_be_read_counts_as_held_and_is_written_again() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    write(&mut table, 5);
    table.on_disconnect();
    table.on_read_denied(&["a".into()]);
    assert!(table.view(1).held, "it was acknowledged under the lease");
    assert_eq!(write(&mut table, 6), op("a"), "it may have been changed");
    assert_eq!((table.view(1).held, table.view(1).revision), (true, 6));
}

#[test]
fn a_key_that_may_not_be_read_after_a_lost_answer_is_not_held() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    table.next_txn(Instant::now());
    table.on_disconnect();
    table.on_read_denied(&["a".into()]);
    assert!(!table.view(1).held);
    assert_eq!(write(&mut table, 6), op("a"));
    assert!(table.view(1).held);
}

#[test]
fn a_key_that_may_neither_be_read_nor_written_does_not_count_as_held() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    write(&mut table, 5);
    table.on_disconnect();
    table.on_read_denied(&["a".into()]);
    let now = Instant::now();
    let ops = table.next_txn(now);
    table.on_txn_denied(&ops, now, now + Duration::from_secs(30));
    assert!(
        !table.view(1).held,
        "nothing tells whether it is still there"
    );
}

#[test]
fn a_key_that_was_deleted_and_is_back_after_a_restore_is_deleted_again() {
    let mut table = table(OnConflict::TakeOver, &["a", "b"]);
    write(&mut table, 5);
    table.withdraw(1);
    let delete = [Op::Delete { key: "a".into() }];
    assert_eq!(write(&mut table, 6), delete);
    for round in 0..3 {
        let revision = 10 + round;
        table.on_disconnect();
        let read: [Key; 2] = ["a".into(), "b".into()];
        assert_eq!(table.next_read(), read);
        let seen = |lease, revision| Some(KeyMeta { lease, revision });
        let back = [seen(OURS, 5), seen(THEIRS, 4), None][round as usize];
        table.on_read(&read, revision, &[back, seen(OURS, 5)]);
        let expected = if round == 0 { &delete[..] } else { &[] };
        assert_eq!(write(&mut table, revision), expected, "{back:?}");
        assert!(table.is_gone(1));
    }
    // Under the next lease it is not ours.
    table.reset(OURS + 1);
    table.on_disconnect();
    assert_eq!(table.next_read(), [] as [Key; 0]);
}

#[test]
fn a_hundred_deleted_keys_at_most_are_read_again() {
    let mut table = table(OnConflict::TakeOver, &[]);
    for entry in 1..=150 {
        let key: Key = format!("{entry:03}").into();
        table.set_desired(entry, vec![(key, "v".into())]);
        write(&mut table, 5);
        table.withdraw(entry);
        write(&mut table, 6);
        table.forget(entry);
    }
    table.on_disconnect();
    let read = table.next_read();
    assert_eq!((read.len(), &*read[0]), (100, "051"));
}

/// The address of a machine went back to the one before, and its registration counted as lost.
#[test]
fn a_deleted_key_that_is_desired_again_before_it_is_read_is_still_new() {
    let mut table = table(OnConflict::TakeOver, &["a"]);
    write(&mut table, 5);
    table.set_desired(1, vec![("b".into(), "v".into())]);
    write(&mut table, 6);
    table.on_disconnect();
    table.set_desired(1, vec![("a".into(), "v".into())]);
    let read = table.next_read();
    let there = [None, Some(6)].map(|revision| {
        revision.map(|revision| KeyMeta {
            lease: OURS,
            revision,
        })
    });
    assert_eq!(read, ["a".into(), "b".into()] as [Key; 2]);
    table.on_read(&read, 7, &there);
    assert_eq!(table.view(1).missing, Some(WriteReason::New));
}

/// One of two instances has an address of its own, and somebody deleted its key while the other one moved.
#[test]
fn a_missing_key_counts_more_than_one_that_moves() {
    for is_first in [false, true] {
        let mut table = table(OnConflict::TakeOver, &[]);
        let records = |moves: &str| {
            let mut records = vec![("stays".into(), "v".into()), (moves.into(), "v".into())];
            records.rotate_left(usize::from(is_first));
            records
        };
        table.set_desired(1, records("a"));
        write(&mut table, 5);
        table.set_desired(1, records("b"));
        table.set_reason(1, WriteReason::Updated);
        assert_eq!(table.view(1).missing, Some(WriteReason::Updated));
        table.on_watch_event(delete("stays", 6), Instant::now());
        assert_eq!(table.view(1).missing, Some(WriteReason::Deleted));
    }
}
