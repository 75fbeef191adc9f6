//! Addresses that others can dial: parsed, refused, or derived from what was bound.
//!
//! Nothing here asks the network. What needs it (which local address lies on the route to etcd)
//! is asked by [`etcd`](crate::etcd) and passed in, so that every choice is a table of cases.

use crate::Error;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// A host and a port that a client could dial.
///
/// Nothing else becomes one: neither port 0 nor `0.0.0.0`, nor multicast nor link-local IPv6. It is
/// parsed from, and shown as, `ip:port`, `[ipv6]:port` or `dns.name:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Address {
    host: Host,
    port: u16,
}

/// The host of an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Host {
    Ip(IpAddr),
    Name(String),
}

/// What a bound listener says about the address to advertise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bound {
    /// It can be dialled as it is.
    Exact(Address),
    /// `0.0.0.0` or `[::]`: any address of this machine, to be found out.
    Any { v4_only: bool, port: u16 },
}

// === impl Address ===

impl Address {
    /// Parses `ip:port`, `[ipv6]:port` or `dns.name:port`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let refuse = |reason| Error::Address {
            address: text.to_owned(),
            reason,
        };
        if text.contains('%') {
            return Err(refuse(LINK_LOCAL));
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return match Bound::check(addr)? {
                Bound::Exact(address) => Ok(address),
                Bound::Any { .. } => Err(refuse(
                    "is not an address others can dial: \
                     name one of this machine, or leave it out and it is found",
                )),
            };
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| refuse("has no port: write host:port"))?;
        if host.contains(':') {
            return Err(refuse("an IPv6 address with a port is written [::1]:9000"));
        }
        let port = port
            .parse::<u16>()
            .map_err(|_| refuse("the port must be a number from 1 to 65535"))?;
        if port == 0 {
            return Err(refuse(PORT_ZERO));
        }
        if !is_dns_name(host) {
            return Err(refuse("the host is neither an IP address nor a DNS name"));
        }
        Ok(Self {
            host: Host::Name(host.to_owned()),
            port,
        })
    }

    /// The longest there is, for whoever needs to know how long things become.
    pub(crate) fn longest() -> Self {
        Self {
            host: Host::Name("x".repeat(253)),
            port: u16::MAX,
        }
    }

    /// The host: an IP address without brackets, or a DNS name.
    #[must_use]
    pub fn host(&self) -> String {
        match &self.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// The port, never 0.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The host as it stands before a port.
    pub(crate) fn bracketed(&self) -> String {
        self.host.to_string()
    }

    /// Whether only this machine can dial it.
    pub(crate) fn is_loopback(&self) -> bool {
        match &self.host {
            Host::Ip(ip) => ip.is_loopback(),
            Host::Name(name) => is_localhost(name),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl FromStr for Address {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text)
    }
}

// === impl Host ===

/// IPv6 stands in brackets, so that `{ip}:{port}` is always a dialable address.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(IpAddr::V4(ip)) => write!(f, "{ip}"),
            Self::Ip(IpAddr::V6(ip)) => write!(f, "[{ip}]"),
            Self::Name(name) => f.write_str(name),
        }
    }
}

// === impl Bound ===

const PORT_ZERO: &str = "port 0 is not a port others can dial";
const LINK_LOCAL: &str =
    "a link-local IPv6 address means nothing beyond its own link: use a global one";

impl Bound {
    /// Sorts the local address of a listener, or an address somebody wrote down.
    pub(crate) fn check(addr: SocketAddr) -> Result<Self, Error> {
        let refuse = |reason| {
            Err(Error::Address {
                address: addr.to_string(),
                reason,
            })
        };
        let ip = addr.ip().to_canonical();
        let port = addr.port();
        if port == 0 {
            return refuse(PORT_ZERO);
        }
        if ip.is_unspecified() {
            return Ok(Self::Any {
                v4_only: addr.is_ipv4(),
                port,
            });
        }
        if ip.is_multicast() || ip == IpAddr::V4(Ipv4Addr::BROADCAST) {
            return refuse("a multicast or broadcast address cannot be dialled");
        }
        if has_zone(&addr) || matches!(ip, IpAddr::V6(ip) if ip.is_unicast_link_local()) {
            return refuse(LINK_LOCAL);
        }
        Ok(Self::Exact(Address {
            host: Host::Ip(ip),
            port,
        }))
    }

    /// The address to advertise, given our address on the `route` to etcd and our `interfaces`.
    ///
    /// The route to etcd is the best guess at where our clients are. When it is loopback, etcd
    /// runs on this very machine and says nothing about them: then the first interface others
    /// could reach. A machine with none has only itself to talk to.
    pub(crate) fn resolve(&self, route: Option<IpAddr>, interfaces: &[IpAddr]) -> Address {
        let (v4_only, port) = match self {
            Self::Exact(address) => return address.clone(),
            Self::Any { v4_only, port } => (*v4_only, *port),
        };
        let dialable = |ip: &IpAddr| {
            !ip.is_loopback()
                && (ip.is_ipv4() || !v4_only)
                && SocketAddr::new(*ip, port).ip() == ip.to_canonical()
                && matches!(Self::check(SocketAddr::new(*ip, port)), Ok(Self::Exact(_)))
        };
        let ip = route
            .map(|ip| ip.to_canonical())
            .filter(dialable)
            .or_else(|| {
                interfaces
                    .iter()
                    .copied()
                    .find(|ip| ip.is_ipv4() && dialable(ip))
            })
            .or_else(|| interfaces.iter().copied().find(dialable))
            .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
        Address {
            host: Host::Ip(ip),
            port,
        }
    }
}

fn has_zone(addr: &SocketAddr) -> bool {
    matches!(addr, SocketAddr::V6(v6) if SocketAddrV6::scope_id(v6) != 0)
}

pub(crate) fn is_localhost(host: &str) -> bool {
    host.eq_ignore_ascii_case("localhost") || host.to_ascii_lowercase().ends_with(".localhost")
}

/// A DNS name as RFC 1123 has it, underscores allowed because container platforms use them.
pub(crate) fn is_dns_name(host: &str) -> bool {
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let host = host.strip_suffix('.').unwrap_or(host);
    let numeric_end = host
        .rsplit('.')
        .next()
        .is_some_and(|last| last.bytes().all(|b| b.is_ascii_digit()));
    host.len() <= 253 && host.split('.').all(label) && !numeric_end
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ips(list: &[&str]) -> Vec<IpAddr> {
        list.iter().map(|ip| ip.parse().unwrap()).collect()
    }

    #[test]
    fn dialable_addresses_are_kept_and_written_with_brackets() {
        for (given, shown) in [
            ("10.1.2.3:9000", "10.1.2.3:9000"),
            ("[2001:db8::1]:9000", "[2001:db8::1]:9000"),
            ("[::ffff:10.1.2.3]:9000", "10.1.2.3:9000"),
            ("greeter.default.svc:9000", "greeter.default.svc:9000"),
            ("localhost:1", "localhost:1"),
        ] {
            assert_eq!(Address::parse(given).unwrap().to_string(), shown, "{given}");
        }
    }

    #[test]
    fn addresses_others_cannot_dial_are_refused_with_the_reason() {
        for (given, reason) in [
            ("0.0.0.0:9000", "not an address others can dial"),
            ("[::]:9000", "not an address others can dial"),
            ("[::ffff:0.0.0.0]:9000", "not an address others can dial"),
            ("10.1.2.3:0", "port 0"),
            ("example.org:0", "port 0"),
            ("10.1.2.3", "no port"),
            ("::1:9000:x", "written [::1]:9000"),
            ("fe80::1", "written [::1]:9000"),
            ("10.1.2.3:70000", "1 to 65535"),
            ("[fe80::1%eth0]:9000", "link-local"),
            ("[fe80::1]:9000", "link-local"),
            ("224.0.0.1:9000", "multicast"),
            ("255.255.255.255:9000", "broadcast"),
            ("10.1.2:9000", "neither an IP address nor a DNS name"),
            ("a b:9000", "neither an IP address nor a DNS name"),
            (":9000", "neither an IP address nor a DNS name"),
            ("http://x:9000", "written [::1]:9000"),
            ("", "no port"),
        ] {
            let error = Address::parse(given).unwrap_err().to_string();
            assert!(error.contains(reason), "{given}: {error}");
            assert!(error.contains(given), "the culprit is named: {error}");
        }
    }

    #[test]
    fn an_unspecified_address_becomes_ours_on_the_route_to_etcd() {
        let any = Bound::check("0.0.0.0:9000".parse().unwrap()).unwrap();
        let interfaces = ips(&["127.0.0.1", "192.168.1.5", "10.0.0.7"]);
        let route = |ip: &str| Some(ip.parse().unwrap());
        for (route, expected) in [
            (route("10.0.0.7"), "10.0.0.7:9000"),
            (route("127.0.0.1"), "192.168.1.5:9000"),
            (route("2001:db8::1"), "192.168.1.5:9000"),
            (None, "192.168.1.5:9000"),
        ] {
            assert_eq!(any.resolve(route, &interfaces).to_string(), expected);
        }
        assert_eq!(
            any.resolve(None, &ips(&["127.0.0.1"])).to_string(),
            "127.0.0.1:9000"
        );
    }

    #[test]
    fn a_dual_stack_listener_may_advertise_ipv6_but_never_a_link_local_one() {
        let any = Bound::check("[::]:9000".parse().unwrap()).unwrap();
        let interfaces = ips(&["::1", "fe80::1", "2001:db8::7"]);
        assert_eq!(
            any.resolve(None, &interfaces).to_string(),
            "[2001:db8::7]:9000"
        );
        let route = Some("2001:db8::1".parse().unwrap());
        assert_eq!(
            any.resolve(route, &interfaces).to_string(),
            "[2001:db8::1]:9000"
        );
    }

    #[test]
    fn what_only_this_machine_can_dial_is_known() {
        for (address, loopback) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("localhost:1", true),
            ("10.0.0.1:1", false),
            ("localhost.example.org:1", false),
        ] {
            assert_eq!(
                Address::parse(address).unwrap().is_loopback(),
                loopback,
                "{address}"
            );
        }
    }
}
