//! [`Address`]: an address that others can dial: parsed, refused, or derived from a bound listener.
//!
//! No code here uses the network. [`etcd`](crate::etcd) finds the local address of the route to etcd and passes it in, so
//! that a table of cases can test every choice.

use crate::error::{AddressError, BuildError};
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

/// A host and a port that a client could dial.
///
/// Its port is not 0, and its host is not `0.0.0.0`, `[::]`, multicast or link-local. Its text is `ip:port`, `[ipv6]:port`
/// or `dns.name:port`.
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

/// An address of one of our interfaces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LocalIp {
    pub(crate) interface: String,
    pub(crate) ip: IpAddr,
}

/// The interface to advertise, with the addresses that it had when it was chosen.
#[derive(Debug, Clone)]
pub(crate) struct AdvertisedInterface {
    name: String,
    ips: Vec<IpAddr>,
}

/// The address to advertise, as far as a bound listener determines it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Bound {
    /// It can be dialled as it is.
    Exact(Address),
    /// `0.0.0.0` or `[::]`: an address of this machine, to be found later.
    Any { v4_only: bool, port: u16 },
}

// === impl Address ===

impl Address {
    /// Parses `ip:port`, `[ipv6]:port` or `dns.name:port`.
    pub(crate) fn parse(text: &str) -> Result<Self, AddressError> {
        let refuse = |reason| AddressError {
            address: text.to_owned(),
            reason,
        };
        if text.contains('%') {
            return Err(refuse(LINK_LOCAL));
        }
        if let Ok(addr) = text.parse::<SocketAddr>() {
            return addr.try_into();
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

    /// The longest possible address, to compute the largest size of a value.
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

    /// The IP address; `None` for a name.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match &self.host {
            Host::Ip(ip) => Some(*ip),
            Host::Name(_) => None,
        }
    }

    /// Whether it is one of these IP addresses.
    pub(crate) fn is_one_of(&self, ips: &[IpAddr]) -> bool {
        self.ip().is_some_and(|ip| ips.contains(&ip))
    }

    /// The host as it is written before a port.
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
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// Port 0, `0.0.0.0` and the like are no addresses that others could dial.
impl TryFrom<SocketAddr> for Address {
    type Error = AddressError;

    fn try_from(addr: SocketAddr) -> Result<Self, AddressError> {
        match Bound::check(addr)? {
            Bound::Exact(address) => Ok(address),
            Bound::Any { .. } => Err(AddressError {
                address: addr.to_string(),
                reason: "is not an address others can dial: \
                         name one of this machine, or leave it out and it is found",
            }),
        }
    }
}

// === impl Host ===

/// IPv6 is in brackets, so that `{ip}:{port}` is always a dialable address.
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
    /// Classifies the address of a listener, or a configured one.
    pub(crate) fn check(addr: SocketAddr) -> Result<Self, AddressError> {
        let refuse = |reason| {
            Err(AddressError {
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

    /// The address to advertise: the first of our addresses `ips` that others can dial and that
    /// the listener is bound to. A machine without one gets its loopback address.
    pub(crate) fn resolve(&self, ips: &[IpAddr]) -> Address {
        let port = match self {
            Self::Exact(address) => return address.clone(),
            Self::Any { port, .. } => *port,
        };
        let ip = ips.iter().find(|ip| self.serves(ip));
        let ip = ip.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |ip| ip.to_canonical());
        Address {
            host: Host::Ip(ip),
            port,
        }
    }

    /// Whether others reach a listener that is bound to any address at `ip`.
    pub(crate) fn serves(&self, ip: &IpAddr) -> bool {
        let v4_only = matches!(self, Self::Any { v4_only: true, .. });
        is_dialable(*ip) && (ip.is_ipv4() || !v4_only)
    }
}

// === impl AdvertisedInterface ===

impl AdvertisedInterface {
    /// The interface of that name, which must have an address that others can dial.
    pub(crate) fn find(name: String, interfaces: &[LocalIp]) -> Result<Self, BuildError> {
        let ips = dialable_of(&name, interfaces);
        if !ips.is_empty() {
            return Ok(Self { name, ips });
        }
        let mut names: Vec<_> = interfaces.iter().map(|i| &*i.interface).collect();
        names.sort_unstable();
        names.dedup();
        let reason = match names.contains(&&*name) {
            true => format!("the interface {name:?} has no address that others can dial"),
            false => format!(
                "this machine has no interface {name:?} with an address; it has {}",
                names.join(", ")
            ),
        };
        Err(BuildError::Setting {
            name: "advertise_interface",
            reason,
        })
    }

    /// Refuses a listener that is bound to none of its addresses: to `0.0.0.0` when it has only IPv6.
    pub(crate) fn check(&self, bound: &Bound, local: SocketAddr) -> Result<(), AddressError> {
        match self.ips.iter().any(|ip| bound.serves(ip)) {
            true => Ok(()),
            false => Err(AddressError {
                address: local.to_string(),
                reason: "does not listen on the addresses of the interface to be advertised, \
                         which are all IPv6: listen on [::]",
            }),
        }
    }

    /// Its addresses now. An interface without addresses now keeps those that it had when it was chosen.
    pub(crate) fn ips(&self, interfaces: &[LocalIp]) -> Vec<IpAddr> {
        let now = dialable_of(&self.name, interfaces);
        match now.is_empty() {
            true => self.ips.clone(),
            false => now,
        }
    }
}

/// Our addresses, the best one to advertise first.
///
/// `sources` are the source addresses of two routes. The first one leads to etcd, because clients are most likely there
/// too. The second one is the default route, for an etcd on this machine. Addresses of networks for the containers and
/// virtual machines of this machine come last, whatever the routes: no other machine can dial them.
pub(crate) fn candidates(sources: &[IpAddr], interfaces: &[LocalIp]) -> Vec<IpAddr> {
    let of = |v4: bool| {
        interfaces
            .iter()
            .map(|i| i.ip)
            .filter(move |ip| ip.is_ipv4() == v4)
    };
    let mut ips: Vec<_> = sources.iter().map(|ip| ip.to_canonical()).collect();
    ips.extend(of(true).chain(of(false)));
    let is_inner = |ip: &IpAddr| {
        let mut interfaces = interfaces.iter();
        interfaces.any(|i| i.ip == *ip && is_inner_network(&i.interface))
    };
    ips.sort_by_key(is_inner);
    ips
}

/// Whether an interface leads to containers or virtual machines of this machine only.
fn is_inner_network(interface: &str) -> bool {
    const NAMES: [&str; 16] = [
        "cali",
        "cbr",
        "cni",
        "docker",
        "flannel",
        "incusbr",
        "kube-",
        "lxcbr",
        "lxdbr",
        "nerdctl",
        "nodelocaldns",
        "podman",
        "vboxnet",
        "veth",
        "virbr",
        "vmnet",
    ];
    // Docker's own networks; a bridge for the machine itself usually has the name `br0`.
    let is_docker = |id: &str| id.len() == 12 && id.bytes().all(|b| b.is_ascii_hexdigit());
    NAMES.iter().any(|name| interface.starts_with(name))
        || interface.strip_prefix("br-").is_some_and(is_docker)
}

fn dialable_of(name: &str, interfaces: &[LocalIp]) -> Vec<IpAddr> {
    let of_that_name = interfaces.iter().filter(|i| i.interface == name);
    let mut ips: Vec<_> = of_that_name.map(|i| i.ip).collect();
    ips.retain(|ip| is_dialable(*ip));
    ips.sort_by_key(IpAddr::is_ipv6);
    ips
}

fn is_dialable(ip: IpAddr) -> bool {
    let checked = Bound::check(SocketAddr::new(ip, 1));
    !ip.to_canonical().is_loopback() && matches!(checked, Ok(Bound::Exact(_)))
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

    #[test]
    fn a_socket_address_becomes_an_address_if_others_can_dial_it() {
        let of = |text: &str| Address::try_from(text.parse::<SocketAddr>().unwrap());
        for text in ["10.0.0.1:9000", "[2001:db8::1]:9000"] {
            assert_eq!(of(text).unwrap().to_string(), text);
        }
        for text in ["0.0.0.0:9000", "[::]:9000", "10.0.0.1:0", "[fe80::1]:9000"] {
            let error = of(text).unwrap_err();
            assert_eq!(error.address, text, "{error}");
            assert_eq!(error, text.parse::<Address>().unwrap_err());
        }
    }

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

    fn interfaces(list: &[&str]) -> Vec<LocalIp> {
        let parse = |entry: &&str| {
            let (interface, ip) = entry.split_once(' ').unwrap();
            LocalIp {
                interface: interface.to_owned(),
                ip: ip.parse().unwrap(),
            }
        };
        list.iter().map(parse).collect()
    }

    #[test]
    fn an_unspecified_address_becomes_the_best_of_ours() {
        let docker_first = [
            "lo 127.0.0.1",
            "docker0 172.17.0.1",
            "br-0123456789ab 172.18.0.1",
            "eth0 192.168.1.5",
            "eth1 10.0.0.7",
        ];
        let v6 = ["lo ::1", "eth0 fe80::1", "eth0 2001:db8::7"];
        let dual = [
            "lo ::1",
            "eth0 fe80::1",
            "eth0 2001:db8::7",
            "eth1 10.0.0.7",
        ];
        check(
            &docker_first,
            &[
                // The route to etcd, if there is one.
                ("0.0.0.0:1", "10.0.0.7 192.168.1.5", "10.0.0.7:1"),
                ("0.0.0.0:1", "::ffff:10.0.0.7", "10.0.0.7:1"),
                // etcd on this machine: the default route, and not the first interface.
                ("0.0.0.0:1", "127.0.0.1 10.0.0.7", "10.0.0.7:1"),
                ("[::]:1", "::1 10.0.0.7", "10.0.0.7:1"),
                // etcd in a container on this machine.
                ("0.0.0.0:1", "172.17.0.1 10.0.0.7", "10.0.0.7:1"),
                ("0.0.0.0:1", "172.18.0.1", "192.168.1.5:1"),
                // No default route.
                ("0.0.0.0:1", "127.0.0.1", "192.168.1.5:1"),
                ("0.0.0.0:1", "", "192.168.1.5:1"),
            ],
        );
        // Only a container network: use it.
        check(&docker_first[..2], &[("0.0.0.0:1", "", "172.17.0.1:1")]);
        let loopback = ("0.0.0.0:1", "127.0.0.1", "127.0.0.1:1");
        check(&docker_first[..1], &[loopback]);
        check(&[], &[("0.0.0.0:1", "", "127.0.0.1:1")]);
        // IPv6 only where the listener has it, and never of the link alone.
        check(
            &dual,
            &[
                ("0.0.0.0:1", "2001:db8::7", "10.0.0.7:1"),
                ("[::]:1", "2001:db8::7", "[2001:db8::7]:1"),
                ("[::]:1", "", "10.0.0.7:1"),
            ],
        );
        check(&v6, &[("[::]:1", "fe80::1", "[2001:db8::7]:1")]);
    }

    /// On a machine with these interfaces: what is bound, the sources, and what is advertised.
    #[track_caller]
    fn check(list: &[&str], cases: &[(&str, &str, &str)]) {
        for (bound, sources, expected) in cases {
            let bound = Bound::check(bound.parse().unwrap()).unwrap();
            let sources: Vec<_> = sources.split_whitespace().collect();
            let ips = candidates(&ips(&sources), &interfaces(list));
            let address = bound.resolve(&ips).to_string();
            assert_eq!(address, *expected, "{bound:?}, {sources:?}, {list:?}");
        }
    }

    #[test]
    fn networks_of_containers_are_known_by_their_names() {
        for (name, inner) in [
            ("docker0", true),
            ("docker_gwbridge", true),
            ("br-0123456789ab", true),
            ("veth12ab", true),
            ("virbr0", true),
            ("cni0", true),
            ("eth0", false),
            ("enp3s0", false),
            ("br0", false),
            ("br-lan", false),
            ("bond0", false),
            ("wg0", false),
            ("tailscale0", false),
        ] {
            assert_eq!(is_inner_network(name), inner, "{name}");
        }
    }

    #[test]
    fn a_chosen_interface_must_have_an_address_that_others_can_dial() {
        let list = interfaces(&[
            "lo 127.0.0.1",
            "eth0 fe80::1",
            "eth0 2001:db8::7",
            "eth0 10.0.0.7",
            "docker0 172.17.0.1",
            "link fe80::2",
        ]);
        let find = |name: &str| AdvertisedInterface::find(name.to_owned(), &list);
        let eth0 = find("eth0").unwrap();
        assert_eq!(eth0.ips(&list), ips(&["10.0.0.7", "2001:db8::7"]));
        let moved = interfaces(&["eth0 10.0.0.8"]);
        assert_eq!(eth0.ips(&moved), ips(&["10.0.0.8"]));
        assert_eq!(eth0.ips(&[]), ips(&["10.0.0.7", "2001:db8::7"]));
        // A chosen interface is used, whatever it is.
        find("docker0").unwrap();
        for (name, reason) in [
            ("lo", "has no address that others can dial"),
            ("link", "has no address that others can dial"),
            (
                "eth1",
                "no interface \"eth1\" with an address; it has docker0, eth0, link, lo",
            ),
            ("", "no interface \"\""),
        ] {
            let error = find(name).unwrap_err().to_string();
            assert!(error.starts_with("advertise_interface: "), "{error}");
            assert!(error.contains(reason), "{name}: {error}");
        }
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
