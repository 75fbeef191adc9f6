//! The registrar of a run, and the record of its statuses.

use super::conditions::USER;
use super::plan::Plan;
use super::record::Registrar;
use crate::support::fake::FakeEtcd;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::time::Instant;
use tonic_etcd::{Etcd, OnConflict, Registration, RegistrationStatus};

/// Statuses, and when each began.
pub type Log = Arc<Mutex<Vec<(Instant, RegistrationStatus)>>>;

/// A registrar as planned, and what is noted of it. Its members have names of its own.
pub fn build(fake: &FakeEtcd, plan: &Plan, number: usize) -> (tonic_etcd::Registrar, Registrar) {
    let noted = Registrar {
        host_prefix: format!("r{number}-m"),
        stopped: None,
    };
    let members = (0..plan.members).map(|m| format!("http://{}:2379", noted.member(m)));
    let mut etcd = Etcd::new(members.collect::<Vec<_>>()).connector(fake.connector());
    if plan.conditions.has_users {
        etcd = etcd.user(USER.0, USER.1);
    }
    let policy = if plan.yields {
        OnConflict::Yield
    } else {
        OnConflict::TakeOver
    };
    let builder = tonic_etcd::Registrar::builder(etcd)
        .key_template(plan.template)
        .ttl(plan.ttl)
        .on_conflict(policy)
        .deregistration_delay(Duration::from_millis(100))
        .drain_timeout(Duration::from_millis(100));
    (builder.build().unwrap(), noted)
}

/// Notes each status as it comes. Holds no handle.
pub fn watch(registration: &Registration, log: Log) {
    let mut watch = registration.watch();
    log.lock().unwrap().push((Instant::now(), watch.get()));
    tokio::spawn(async move {
        while let Some(status) = watch.changed().await {
            log.lock().unwrap().push((Instant::now(), status));
        }
    });
}
