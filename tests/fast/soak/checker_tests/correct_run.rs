//! A correct history, and its parts.

use super::super::record::{Entry, Look, Record, Registrar, Rest, Terms};
use crate::support::fake::{Call, Change, FakeEtcd, Rpc, Stored};
use std::time::Duration;
use tokio::time::Instant;
use tonic_etcd::{Etcd, Instance, RegistrationStatus};

pub const KEY: &str = "/services/s/10.0.0.1:9000";
pub const LEASE: i64 = 77;
pub const FOREIGN: i64 = 2;

/// Times in a history under test are seconds after its start.
pub fn at(record: &Record, seconds: f64) -> Instant {
    record.start + Duration::from_secs_f64(seconds)
}

pub fn call(at: Instant, rpc: Rpc) -> Call {
    let renewal = matches!(rpc, Rpc::LeaseGrant | Rpc::LeaseKeepAlive | Rpc::Txn);
    Call {
        at,
        rpc,
        member: "r0-m0".to_owned(),
        connection: 1,
        lease: if renewal { LEASE } else { 0 },
        ttl: if rpc == Rpc::LeaseGrant { 5 } else { 0 },
        puts: Vec::from_iter((rpc == Rpc::Txn).then(|| KEY.to_owned())),
        deletes: vec![],
        reads: vec![],
        revision: 0,
        require_leader: true,
        applied: true,
    }
}

pub fn change(at: Instant, revision: i64, put: Option<(&str, i64)>) -> Change {
    let put = put.map(|(value, lease)| (value.to_owned(), lease));
    Change {
        at,
        revision,
        put,
        key: KEY.to_owned(),
    }
}

pub fn look(record: &Record, seconds: f64) -> Look {
    let stored = Stored {
        value: "v0.0".to_owned(),
        lease: LEASE,
        mod_revision: 2,
        create_revision: 2,
        version: 1,
    };
    Look {
        at: at(record, seconds),
        quiet: record.start,
        aged: true,
        keys: [(KEY.to_owned(), stored)].into(),
        leases: [(LEASE, at(record, 99.0))].into(),
    }
}

/// Registered at 1 s, renewed each 2 s to 20 s: only the library can make a status.
async fn registered() -> RegistrationStatus {
    let fake = FakeEtcd::new();
    let etcd = Etcd::new(["http://etcd:2379"]).connector(fake.connector());
    let registrar = tonic_etcd::Registrar::builder(etcd).key_template("{prefix}/{name}/{addr}");
    let registrar = registrar.build().unwrap();
    let registration = registrar
        .register(Instance::new("s").with_value("v0.0"))
        .unwrap();
    registration
        .announce("10.0.0.1:9000".parse().unwrap())
        .unwrap();
    let mut registered = registration.registered().await.unwrap();
    registered.lease = LEASE;
    RegistrationStatus::Registered(registered)
}

/// A correct history: registered, looked at twice, still registered at the end.
pub async fn correct_run() -> Record {
    let start = Instant::now();
    let terms = Terms {
        ttl: Duration::from_secs(5),
        attempt: Duration::from_millis(600),
        revoke_timeout: Duration::from_secs(1),
        yields: false,
        has_users: false,
        template: "{prefix}/{name}/{addr}".to_owned(),
    };
    let rest = Rest {
        tasks: (2, 2),
        connections: (0, 0),
    };
    let mut record = Record::begun(0, start, terms, rest);
    record.end = start + Duration::from_secs(20);
    record.registrars.push(Registrar {
        host_prefix: "r0-m".to_owned(),
        stopped: None,
    });
    record.entries.push(Entry {
        registrar: 0,
        names: vec!["s".to_owned()],
        addr: "10.0.0.1:9000".to_owned(),
        values: vec![(start, "v0.0".to_owned())],
        announced: Some(start),
        paused: vec![],
        left: None,
        statuses: vec![],
    });
    let first = [Rpc::Connect, Rpc::LeaseGrant, Rpc::Txn].map(|rpc| call(at(&record, 1.0), rpc));
    record.calls.extend(first);
    let renewals =
        (1..10).map(|n| call(at(&record, 1.0 + 2.0 * f64::from(n)), Rpc::LeaseKeepAlive));
    record.calls.extend(renewals.collect::<Vec<_>>());
    record
        .changes
        .push(change(at(&record, 1.0), 2, Some(("v0.0", LEASE))));
    let status = (at(&record, 1.0), registered().await);
    record.entries[0].statuses.push(status);
    record.looks = vec![look(&record, 8.0), look(&record, 16.0)];
    record
}
