//! Tests of the checker, with histories in which one rule is broken.

mod correct_run;

use super::checker::{self, violations};
use super::record::Record;
use crate::support::fake::{Call, Rpc};
use correct_run::{FOREIGN, KEY, LEASE, at, call, change, correct_run, look};
use tokio::time::Instant;
use tonic_etcd::{Ended, RegistrationStatus};

/// The rules that the checker reports for a changed history.
async fn broken(tamper: impl FnOnce(&mut Record)) -> Vec<&'static str> {
    let mut record = correct_run().await;
    tamper(&mut record);
    record.calls.sort_by_key(|call| call.at);
    let mut rules: Vec<_> = violations(&record)
        .iter()
        .map(|violation| violation.rule)
        .collect();
    rules.dedup();
    rules
}

/// It leaves at 17 s, and ends `after` seconds later.
fn leave(record: &mut Record, after: f64) {
    let (left, ended) = (at(record, 17.0), at(record, 17.0 + after));
    record.entries[0].left = Some(left);
    record.entries[0]
        .statuses
        .push((left, RegistrationStatus::Deregistering));
    record.entries[0]
        .statuses
        .push((ended, RegistrationStatus::Ended(Ended::Deregistered)));
    record.changes.push(change(ended, 3, None));
}

#[tokio::test(start_paused = true)]
async fn nothing_is_found_where_all_is_well() {
    assert_eq!(broken(|_| {}).await, [""; 0]);
    assert_eq!(broken(|record| leave(record, 0.5)).await, [""; 0]);
}

#[tokio::test(start_paused = true)]
async fn a_missing_key_a_wrong_value_and_a_foreign_lease_are_found() {
    let found = broken(|record| record.looks[0].keys.clear()).await;
    assert_eq!(found, [checker::I1]);
    let found =
        broken(|record| record.looks[0].keys.get_mut(KEY).unwrap().value = "v0.1".to_owned()).await;
    assert_eq!(found, [checker::I1]);
    let found = broken(|record| record.looks[0].keys.get_mut(KEY).unwrap().lease = FOREIGN).await;
    assert_eq!(found, [checker::I1]);
    let found = broken(|record| record.looks[0].leases.clear()).await;
    assert_eq!(found, [checker::I1]);
}

#[tokio::test(start_paused = true)]
async fn a_key_deleted_in_a_mild_fault_is_found() {
    let found = broken(|record| {
        record
            .mild
            .push(("a cut".to_owned(), at(record, 9.0)..at(record, 12.0)));
        record.changes.push(change(at(record, 10.0), 3, None));
    });
    assert_eq!(found.await, [checker::MILD]);
}

#[tokio::test(start_paused = true)]
async fn a_key_that_stays_is_found() {
    let found = broken(|record| {
        leave(record, 0.5);
        record.changes.pop();
    });
    assert_eq!(found.await, [checker::I2]);
    let found = broken(|record| {
        leave(record, 0.5);
        record.looks.push(look(record, 19.0));
    });
    assert!(found.await.contains(&checker::I2));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_stays_in_a_pause_is_found() {
    // It is paused at 5 s, and its key is deleted then, or stays.
    let pause = |record: &mut Record, stays: bool| {
        let (since, end) = (at(record, 5.0), at(record, 99.0));
        record.entries[0].paused.push(since..end);
        if !stays {
            record.changes.push(change(since, 3, None));
            record.looks.iter_mut().for_each(|look| look.keys.clear());
        }
    };
    assert_eq!(broken(|record| pause(record, false)).await, [""; 0]);
    assert_eq!(broken(|record| pause(record, true)).await, [checker::I2]);
}

#[tokio::test(start_paused = true)]
async fn a_put_without_a_lease_is_found() {
    let found = broken(|record| record.changes[0].put = Some(("v0.0".to_owned(), 0)));
    assert_eq!(found.await, [checker::I3]);
}

#[tokio::test(start_paused = true)]
async fn a_put_after_the_end_is_found() {
    let found = broken(|record| {
        leave(record, 0.5);
        let late = at(record, 18.0);
        record.calls.retain(|call| call.rpc != Rpc::Txn);
        record.calls.push(call(late, Rpc::Txn));
        record.changes.push(change(late, 4, Some(("v0.0", LEASE))));
    });
    assert_eq!(found.await, [checker::I4]);
    let found = broken(|record| {
        leave(record, 0.5);
        let late = at(record, 18.0);
        let on_another = |rpc| Call {
            connection: 2,
            ..call(late, rpc)
        };
        record
            .calls
            .extend([Rpc::Connect, Rpc::Txn].map(on_another));
    });
    assert_eq!(found.await, [checker::I4]);
}

#[tokio::test(start_paused = true)]
async fn a_foreign_key_that_is_overwritten_or_deleted_is_found() {
    let foreign = |record: &mut Record, put: Option<(&str, i64)>| {
        let theirs = change(record.start, 1, Some(("theirs", FOREIGN)));
        record.changes.insert(0, theirs);
        record.foreign_changes.push(0..1);
        record.changes[1] = change(at(record, 1.0), 2, put);
    };
    let ours = Some(("v0.0", LEASE));
    let found = broken(|record| {
        foreign(record, ours);
        record.terms.yields = true;
    });
    assert_eq!(found.await, [checker::I5]);
    let found = broken(|record| foreign(record, ours));
    assert_eq!(found.await, [""; 0], "taken over");
    assert_eq!(broken(|record| foreign(record, None)).await, [checker::I5]);
}

#[tokio::test(start_paused = true)]
async fn a_write_in_a_quiet_period_is_found() {
    let found = broken(|record| {
        let put = change(at(record, 10.0), 3, Some(("v0.0", LEASE)));
        record.changes.push(put);
    });
    assert_eq!(found.await, [checker::QUIET]);
}

#[tokio::test(start_paused = true)]
async fn a_status_that_stays_held_after_its_lease_is_reported() {
    let cut_off = |record: &mut Record| {
        let end = at(record, 14.0);
        record.calls.retain(|call| call.at < end);
    };
    // Renewed at 13 s, and held at 20 s.
    assert_eq!(broken(cut_off).await, [checker::I6]);
    let found = broken(|record| {
        let silence = at(record, 8.0)..at(record, 20.0);
        record.unanswered.push((None, silence));
    });
    assert!(found.await.contains(&checker::I6), "no answer arrived");
    let found = broken(|record| {
        cut_off(record);
        record.freezes.push(at(record, 14.0)..at(record, 20.0));
    });
    assert_eq!(found.await, [""; 0], "a frozen process says nothing");
}

#[tokio::test(start_paused = true)]
async fn a_second_lease_is_found() {
    let with = |record: &mut Record, lease: i64, rpc: Rpc| {
        let call = Call {
            lease,
            ..call(at(record, 2.0), rpc)
        };
        record.calls.push(call);
        record.looks[1].leases.insert(lease, record.end);
    };
    let late = broken(|record| with(record, 78, Rpc::LeaseGrant));
    assert_eq!(late.await, [""; 0], "one that came late may run out");
    let used = broken(|record| {
        with(record, 78, Rpc::LeaseGrant);
        with(record, 78, Rpc::Txn);
    });
    assert_eq!(used.await, [checker::I7]);
    let two = broken(|record| {
        with(record, 78, Rpc::LeaseGrant);
        with(record, 79, Rpc::LeaseGrant);
    });
    assert_eq!(two.await, [checker::I7]);
}

#[tokio::test(start_paused = true)]
async fn a_storm_of_attempts_is_found() {
    let refused = |at: Instant| Call {
        connection: 0,
        ..call(at, Rpc::Connect)
    };
    let storm = |record: &mut Record, every: f64| {
        let storm = (0..100).map(|n| refused(at(record, 5.0 + every * f64::from(n))));
        record.calls.extend(storm.collect::<Vec<_>>());
    };
    assert_eq!(broken(|record| storm(record, 0.05)).await, [checker::I8]);
    assert_eq!(broken(|record| storm(record, 0.15)).await, [""; 0]);
    let found = broken(|record| {
        storm(record, 0.15);
        let silence = at(record, 5.0)..at(record, 15.0);
        record.unanswered.push((None, silence));
    });
    let found = found.await;
    assert!(found.contains(&checker::I8), "a silent etcd gets fewer");
}

#[tokio::test(start_paused = true)]
async fn a_stop_that_takes_too_long_is_reported() {
    assert_eq!(broken(|record| leave(record, 1.1)).await, [checker::I10]);
    let found = broken(|record| record.entries[0].left = Some(at(record, 17.0)));
    assert!(found.await.contains(&checker::I10), "it never ended");
}

#[tokio::test(start_paused = true)]
async fn what_is_left_behind_is_found() {
    let task = broken(|record| record.rest.tasks = (2, 3));
    assert_eq!(task.await, [checker::I12]);
    let connection = broken(|record| record.rest.connections = (0, 1));
    assert_eq!(connection.await, [checker::I12]);
}
