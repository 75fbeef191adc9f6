//! The address of this machine that entries advertise, while the machine's interfaces change.
//!
//! At each new connection to etcd the addresses of all entries are compared with the interfaces. An address that we found
//! and that is gone is replaced by another one. An address that the user gave may be that of a NAT, and stays; it is
//! reported if this machine had it before.

use super::reconciler::Event;
use super::registry::Registry;
use super::report;
use crate::etcd::local_addr;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::time::timeout;

/// Finds the local address of the route to etcd, for the entries that wait for it.
pub(super) async fn find(registry: Arc<Registry>) -> Event {
    let config = &registry.config;
    let chosen = config.advertised.as_ref();
    let ips = local_addr::local_ips(&config.cluster, chosen, &config.interfaces).await;
    resolve(&registry, &ips).await;
    Event::LocalIpFound
}

/// The entries that are bound to no particular address get the best of our addresses `ips`.
async fn resolve(registry: &Arc<Registry>, ips: &[IpAddr]) {
    let mut entries = registry.entries();
    entries.retain(|entry| entry.draft().needs_local_ip());
    let mut has_moved = false;
    for entry in &entries {
        if let Some(moved) = entry.resolve(ips) {
            report::address_changed(entry, &moved);
            has_moved = true;
        }
        registry.touch(entry.id);
    }
    let rendered = registry.render(entries);
    if has_moved {
        // Before this request ends nothing is written, so neither is the former key. A format that is slow delays the
        // other entries so long at most.
        let _ = timeout(registry.config.cluster.attempt_timeout, rendered).await;
    }
}

/// Compares the addresses of all entries with the interfaces of this machine. Entries whose address is gone need
/// another one after it.
pub(super) fn check(registry: &Registry) {
    let mut entries = registry.entries();
    entries.retain(|entry| entry.draft().depends_on_interfaces());
    if entries.is_empty() {
        return;
    }
    let interfaces = registry.config.interfaces.list();
    let ips: Vec<IpAddr> = interfaces.iter().map(|interface| interface.ip).collect();
    // The system returned an error.
    if ips.is_empty() {
        return;
    }
    for entry in entries {
        for address in entry.check_given(&ips) {
            report::address_is_gone(&entry, &address);
        }
        if entry.check_found(&ips) {
            registry.touch(entry.id);
        }
    }
}
