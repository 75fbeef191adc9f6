//! Whether other machines can dial an address. Pure.

use std::net::{IpAddr, Ipv4Addr};
use tonic_etcd::format::Address;

const LOOPBACK: &str = "is loopback: clients on another machine would dial that machine";
const LINK_LOCAL: &str = "is link-local: it is reached from the same network segment only";

/// A mistake in an address that is found without dialling it.
///
/// If etcd itself is on loopback, all processes are on one machine, and loopback is right. The formats refuse addresses
/// that nobody can dial, such as 0.0.0.0, port 0 or fe80::1.
pub(crate) fn implausible(address: &Address, etcd_is_local: bool) -> Option<&'static str> {
    match address.host().parse() {
        Ok(IpAddr::V4(ip)) if ip.is_link_local() => Some(LINK_LOCAL),
        _ if is_loopback(&address.host()) && !etcd_is_local => Some(LOOPBACK),
        _ => None,
    }
}

/// Whether a host is loopback.
pub(crate) fn is_loopback(host: &str) -> bool {
    match host.parse::<IpAddr>() {
        Ok(ip) => ip.is_loopback(),
        Err(_) => host == "localhost",
    }
}

/// Docker's default bridge assigns these addresses, and other machines have no route to them.
pub(crate) fn is_docker_bridge(address: &Address) -> bool {
    let ip: Result<Ipv4Addr, _> = address.host().parse();
    ip.is_ok_and(|ip| ip.octets()[..2] == [172, 17])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_of_address_is_checked() {
        for (address, etcd_is_local, expected) in [
            ("10.1.2.3:9000", false, None),
            ("greeter.internal:9000", false, None),
            ("[2001:db8::1]:9000", false, None),
            ("127.0.0.1:9000", true, None),
            ("127.0.0.1:9000", false, Some(LOOPBACK)),
            ("[::1]:9000", false, Some(LOOPBACK)),
            ("localhost:9000", false, Some(LOOPBACK)),
            ("169.254.1.1:9000", false, Some(LINK_LOCAL)),
        ] {
            let address: Address = address.parse().unwrap();
            let found = implausible(&address, etcd_is_local);
            assert_eq!(found, expected, "{address}");
        }
        assert!(is_docker_bridge(&"172.17.0.2:9000".parse().unwrap()));
        assert!(!is_docker_bridge(&"172.18.0.2:9000".parse().unwrap()));
    }
}
