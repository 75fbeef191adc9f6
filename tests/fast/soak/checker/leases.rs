//! I7: leases do not pile up.
//!
//! A grant that timed out, and that a slow etcd applies after the revoke, cannot be revoked:
//! one such lease, which was not used since, may expire.

use super::super::record::Record;
use super::ownership::Ownership;
use super::{I7, Violation, found};
use crate::support::fake::Rpc;

pub fn check(record: &Record, ownership: &Ownership, list: &mut Vec<Violation>) {
    for look in record.looks.iter().filter(|look| look.aged) {
        for number in 0..record.registrars.len() {
            let live = look
                .leases
                .keys()
                .filter(|lease| ownership.owner(**lease) == Some(number));
            let mut live: Vec<_> = live.collect();
            let unused = |lease: &&i64| {
                let granted = look.leases[*lease].checked_sub(record.terms.ttl);
                let ours = || record.ours(number).filter(|call| call.lease == **lease);
                let mut uses =
                    ours().filter(|c| !matches!(c.rpc, Rpc::LeaseGrant | Rpc::LeaseRevoke));
                let mut revokes = ours().filter(|c| c.rpc == Rpc::LeaseRevoke);
                uses.next().is_none() || revokes.any(|revoke| Some(revoke.at) < granted)
            };
            if let Some(late) = live.iter().position(unused) {
                live.remove(late);
            }
            // An entry that was never announced has its lease granted early.
            let mut entries = record
                .entries
                .iter()
                .filter(|entry| entry.registrar == number);
            let needed = entries.any(|entry| entry.left.is_none_or(|left| left > look.at));
            if live.len() > usize::from(needed) {
                let what = format!("registrar {number} has the leases {live:?}");
                list.push(found(I7, look.at, what));
            }
        }
    }
}
