//! The addresses of this machine, and the source address of a route. Reads the system's tables and sends
//! nothing.

use super::cluster::Cluster;
use crate::address::{AdvertisedInterface, LocalIp, candidates};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use tokio::time::timeout;

/// Destinations beyond the default route: addresses for documentation (RFC 5737 and 3849), which
/// real networks do not use.
const ANYWHERE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(203, 0, 113, 1)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
];
/// Any port: no packet is sent.
const PORT: u16 = 9;

/// The interfaces of this machine, or those of a test.
#[derive(Debug, Clone, Default)]
pub(crate) enum Interfaces {
    #[default]
    System,
    #[cfg(all(test, feature = "test-util"))]
    Listed(std::sync::Arc<crate::runtime::lock::Lock<Vec<LocalIp>>>),
}

/// Our addresses, the best one to advertise first; with a `chosen` interface only its own.
///
/// Names of members are looked up each time, for one attempt at most, because the addresses of members may
/// change.
pub(crate) async fn local_ips(
    cluster: &Cluster,
    chosen: Option<&AdvertisedInterface>,
    interfaces: &Interfaces,
) -> Vec<IpAddr> {
    if let Some(chosen) = chosen {
        return chosen.ips(&interfaces.list());
    }
    #[cfg(all(test, feature = "test-util"))]
    if let Interfaces::Listed(_) = interfaces {
        return candidates(&[], &interfaces.list());
    }
    let to_etcd = timeout(cluster.attempt_timeout, source_ip(cluster)).await;
    let default = ANYWHERE.map(|ip| source_address(SocketAddr::new(ip, PORT)));
    let sources = to_etcd.unwrap_or_default().into_iter();
    let sources: Vec<_> = sources.chain(default.into_iter().flatten()).collect();
    candidates(&sources, &interfaces.list())
}

// === impl Interfaces ===

impl Interfaces {
    /// The addresses of our interfaces, in the order in which the system lists them. Some 50 µs; none if the system
    /// returns an error.
    pub(crate) fn list(&self) -> Vec<LocalIp> {
        #[cfg(all(test, feature = "test-util"))]
        if let Self::Listed(list) = self {
            return list.lock().clone();
        }
        let list = if_addrs::get_if_addrs().unwrap_or_default();
        let ips = list.into_iter().map(|interface| LocalIp {
            ip: interface.ip(),
            interface: interface.name,
        });
        ips.collect()
    }
}

/// Our address on the route to the first member that can be resolved.
async fn source_ip(cluster: &Cluster) -> Option<IpAddr> {
    for member in cluster.members.all() {
        let (host, port) = (member.host(), member.port());
        let Ok(addrs) = cluster
            .resolver
            .resolve(host, port, cluster.attempt_timeout)
            .await
        else {
            continue;
        };
        if let Some(ip) = addrs.into_iter().find_map(source_address) {
            return Some(ip);
        }
    }
    None
}

/// Connecting a UDP socket sends no packet: the kernel only picks the source address.
fn source_address(to: SocketAddr) -> Option<IpAddr> {
    let any = match to {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(to).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::Etcd;

    #[tokio::test]
    async fn the_route_to_a_local_etcd_is_loopback() {
        let cluster = Etcd::new(["http://127.0.0.1:2379"]).check().unwrap();
        assert_eq!(
            source_ip(&cluster).await,
            Some(IpAddr::V4(Ipv4Addr::LOCALHOST))
        );
    }

    #[tokio::test]
    async fn local_addresses_are_found_whether_or_not_the_name_of_etcd_resolves() {
        let etcd = Etcd::new(["http://etcd.example:2379"]).resolver(|_, _| async {
            std::future::pending::<()>().await;
            Ok(vec![])
        });
        let limit = std::time::Duration::from_millis(10);
        let cluster = etcd.attempt_timeout(limit).check().unwrap();
        let ips = local_ips(&cluster, None, &Interfaces::System).await;
        assert!(ips.iter().any(IpAddr::is_loopback), "{ips:?}");
    }
}
