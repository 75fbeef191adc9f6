//! Which of our addresses lies on the way to etcd. Asks the routing table, sends nothing.

use super::Endpoints;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

/// Our address on the route to the first member that can be resolved.
///
/// Connecting a UDP socket sends no packet: the kernel only picks the source address. Names are
/// resolved each time, so that this follows members that move.
pub(crate) async fn source_ip(members: &Endpoints, first: usize) -> Option<IpAddr> {
    for index in 0..members.len() {
        let member = members.at(first + index);
        let addrs = members.resolver.resolve(member.host(), member.port());
        let Ok(addrs) = addrs.await else { continue };
        if let Some(ip) = addrs.into_iter().find_map(source_address) {
            return Some(ip);
        }
    }
    None
}

/// The addresses of our interfaces, in the order the system lists them.
pub(crate) fn interfaces() -> Vec<IpAddr> {
    let list = if_addrs::get_if_addrs().unwrap_or_default();
    list.iter().map(if_addrs::Interface::ip).collect()
}

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
    use crate::Etcd;

    #[tokio::test]
    async fn the_route_to_a_local_etcd_is_loopback() {
        let members = Etcd::new(["http://127.0.0.1:2379"]).check().unwrap();
        assert_eq!(
            source_ip(&members, 0).await,
            Some(IpAddr::V4(Ipv4Addr::LOCALHOST))
        );
    }

    #[test]
    fn this_machine_has_an_interface() {
        assert!(interfaces().iter().any(IpAddr::is_loopback));
    }
}
