//! Which TCP connections of a pod go through its sidecar (contract §5.4, §5.5).
//!
//! ```text
//! PREROUTING ─► ISTIO_INBOUND ─► ISTIO_IN_REDIRECT ─► Envoy's inbound port (15006)
//! OUTPUT ─────► ISTIO_OUTPUT ──► ISTIO_REDIRECT ────► Envoy's outbound port (15001)
//!                          └───► ISTIO_IN_REDIRECT    (the proxy calls its own pod: inbound once more, so that policy holds)
//! ```
//!
//! The chains have the names that Istio's users know from debugging.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use ipnet::IpNet;

/// The address from which the proxy calls its own workload: such connections are not captured.
pub(crate) const PROXY_SOURCE_V4: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 6);
/// The same for IPv6. A kernel does not have it on its loopback interface by itself (see [`super::ipv6`]).
pub(crate) const PROXY_SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6);

/// The chains that are ours alone.
pub(crate) const CHAINS: [&str; 4] = [INBOUND, IN_REDIRECT, OUTPUT, REDIRECT];
const INBOUND: &str = "ISTIO_INBOUND";
const IN_REDIRECT: &str = "ISTIO_IN_REDIRECT";
const OUTPUT: &str = "ISTIO_OUTPUT";
const REDIRECT: &str = "ISTIO_REDIRECT";

/// The longest name of an interface, in bytes (`IFNAMSIZ` without the terminating zero).
const LONGEST_INTERFACE: usize = 15;

/// What is captured.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    /// Envoy's port for what the workload sends.
    pub outbound_port: u16,
    /// Envoy's port for what the workload receives.
    pub inbound_port: u16,
    /// The proxy's users, whose traffic is not captured.
    pub users: Vec<u32>,
    /// The proxy's groups, whose traffic is not captured.
    pub groups: Vec<u32>,
    /// Ports of the workload that are captured.
    pub inbound_ports: Include<u16>,
    /// Ports that are not captured, whatever `inbound_ports` says.
    pub inbound_ports_excluded: Vec<u16>,
    /// Destinations that are captured.
    pub outbound_ranges: Include<IpNet>,
    /// Destinations that are not captured, whatever `outbound_ranges` says.
    pub outbound_ranges_excluded: Vec<IpNet>,
    /// Destination ports that are captured besides `outbound_ranges`.
    pub outbound_ports: Vec<u16>,
    /// Destination ports that are not captured, whatever the other fields say.
    pub outbound_ports_excluded: Vec<u16>,
    /// Interfaces whose traffic is not captured in either direction; a final `+` stands for any rest of the name.
    pub interfaces_excluded: Vec<Interface>,
}

/// Everything (`*`), or what is listed (comma-separated; empty: nothing).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Include<T> {
    /// `*`
    All,
    /// A list.
    Only(Vec<T>),
}

/// The name of a network interface, as iptables takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Interface(String);

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// IPv4
    V4,
    /// IPv6
    V6,
}

/// A line `-A …` without the `-A`: chain, matches, target.
pub(crate) type Rule = String;

impl Rules {
    /// Returns the rules of our own chains, and then the jumps to them, in order.
    pub(crate) fn of(&self, family: Family) -> Vec<Rule> {
        let mut rules = vec![
            format!("{REDIRECT} -p tcp -j REDIRECT --to-ports {}", self.outbound_port),
            format!("{IN_REDIRECT} -p tcp -j REDIRECT --to-ports {}", self.inbound_port),
        ];
        rules.extend(self.inbound());
        rules.extend(self.outbound(family));
        rules.extend([format!("PREROUTING -p tcp -j {INBOUND}"), format!("OUTPUT -p tcp -j {OUTPUT}")]);
        rules
    }

    fn inbound(&self) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.interfaces_excluded.iter().map(|interface| format!("{INBOUND} -i {interface} -j RETURN")).collect();
        rules.extend(self.inbound_ports_excluded.iter().map(|port| format!("{INBOUND} -p tcp --dport {port} -j RETURN")));
        match &self.inbound_ports {
            Include::All => rules.push(format!("{INBOUND} -p tcp -j {IN_REDIRECT}")),
            Include::Only(ports) => rules.extend(ports.iter().map(|port| format!("{INBOUND} -p tcp --dport {port} -j {IN_REDIRECT}"))),
        }
        rules
    }

    fn outbound(&self, family: Family) -> Vec<Rule> {
        let mut rules: Vec<Rule> = self.interfaces_excluded.iter().map(|interface| format!("{OUTPUT} -o {interface} -j RETURN")).collect();
        rules.extend(self.outbound_ports_excluded.iter().map(|port| format!("{OUTPUT} -p tcp --dport {port} -j RETURN")));
        rules.extend(self.within_the_pod(family));
        let of_family = |range: &&IpNet| family.has(range);
        rules.extend(self.outbound_ranges_excluded.iter().filter(of_family).map(|range| format!("{OUTPUT} -d {range} -j RETURN")));
        rules.extend(self.outbound_ports.iter().map(|port| format!("{OUTPUT} -p tcp --dport {port} -j {REDIRECT}")));
        match &self.outbound_ranges {
            Include::All => rules.push(format!("{OUTPUT} -j {REDIRECT}")),
            Include::Only(ranges) => {
                rules.extend(ranges.iter().filter(of_family).map(|range| format!("{OUTPUT} -d {range} -j {REDIRECT}")));
            }
        }
        rules
    }

    /// Returns the rules for what proxy and workload send to each other and to themselves.
    fn within_the_pod(&self, family: Family) -> Vec<Rule> {
        let owners: Vec<String> = self
            .users
            .iter()
            .map(|user| format!("-m owner --uid-owner {user}"))
            .chain(self.groups.iter().map(|group| format!("-m owner --gid-owner {group}")))
            .collect();
        let mut rules = vec![format!("{OUTPUT} -s {} -o lo -j RETURN", family.proxy_source())];
        // The workload called its own Service, and the proxy chose this same pod: inbound policy must hold there, too.
        rules.extend(owners.iter().map(|owner| format!("{OUTPUT} ! -d {} -o lo {owner} -j {IN_REDIRECT}", family.localhost())));
        rules.extend(owners.iter().map(|owner| format!("{OUTPUT} {owner} -j RETURN")));
        // The workload calls itself at its own address.
        rules.push(format!("{OUTPUT} -o lo -j RETURN"));
        rules.push(format!("{OUTPUT} -d {} -j RETURN", family.localhost()));
        rules
    }
}

// === impl Family ===

impl Family {
    fn has(self, range: &IpNet) -> bool {
        matches!((self, range), (Family::V4, IpNet::V4(_)) | (Family::V6, IpNet::V6(_)))
    }

    fn localhost(self) -> &'static str {
        match self {
            Family::V4 => "127.0.0.1/32",
            Family::V6 => "::1/128",
        }
    }

    fn proxy_source(self) -> String {
        match self {
            Family::V4 => format!("{PROXY_SOURCE_V4}/32"),
            Family::V6 => format!("{PROXY_SOURCE_V6}/128"),
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Family::V4 => "IPv4",
            Family::V6 => "IPv6",
        })
    }
}

// === impl Include ===

impl<T> Include<T> {
    /// Reads `*`, or a list whose entries `entry` reads.
    pub(crate) fn parse<E>(text: &str, entry: impl Fn(&str) -> Result<T, E>) -> Result<Self, E> {
        if text.trim() == "*" {
            return Ok(Include::All);
        }
        list(text, entry).map(Include::Only)
    }
}

/// Reads a comma-separated list; an empty text is an empty list.
pub(crate) fn list<T, E>(text: &str, entry: impl Fn(&str) -> Result<T, E>) -> Result<Vec<T>, E> {
    text.split(',').map(str::trim).filter(|part| !part.is_empty()).map(entry).collect()
}

/// Reads a port other than 0.
pub(crate) fn port(text: &str) -> Result<u16, String> {
    text.parse().ok().filter(|port| *port > 0).ok_or_else(|| format!("{text:?} is no port (1 to 65535)"))
}

/// Reads a range of addresses (`10.0.0.0/8`), or one address.
pub(crate) fn range(text: &str) -> Result<IpNet, String> {
    let range = text.parse::<IpNet>().or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
    range.map(|range| range.trunc()).map_err(|_| format!("{text:?} is neither a range of addresses such as 10.0.0.0/8 nor an address"))
}

// === impl Interface ===

impl FromStr for Interface {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:@-".contains(&byte);
        let name = text.strip_suffix('+').unwrap_or(text);
        if !name.is_empty() && text.len() <= LONGEST_INTERFACE && name.bytes().all(known) && !name.starts_with('-') {
            return Ok(Self(text.to_owned()));
        }
        Err(format!("{text:?} is no name of an interface"))
    }
}

impl fmt::Display for Interface {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Returns the rules of a pod without settings of its own.
    pub(crate) fn usual() -> Rules {
        Rules {
            outbound_port: 15001,
            inbound_port: 15006,
            users: vec![1337],
            groups: vec![1337],
            inbound_ports: Include::All,
            inbound_ports_excluded: vec![15090, 15021, 15020],
            outbound_ranges: Include::All,
            outbound_ranges_excluded: Vec::new(),
            outbound_ports: Vec::new(),
            outbound_ports_excluded: Vec::new(),
            interfaces_excluded: Vec::new(),
        }
    }

    fn everything() -> Rules {
        Rules {
            inbound_ports: Include::Only(vec![80, 8443]),
            inbound_ports_excluded: vec![15020, 8443],
            outbound_ranges: Include::Only(vec![range("10.0.0.0/8").unwrap(), range("fd00::/8").unwrap()]),
            outbound_ranges_excluded: vec![range("10.1.2.3").unwrap(), range("fd00::1").unwrap()],
            outbound_ports: vec![3306],
            outbound_ports_excluded: vec![25],
            interfaces_excluded: vec!["tun0".parse().unwrap(), "cali+".parse().unwrap()],
            ..usual()
        }
    }

    #[test]
    fn of_a_usual_pod() {
        insta::assert_snapshot!(usual().of(Family::V4).join("\n"));
    }

    #[test]
    fn with_everything_said() {
        insta::assert_snapshot!(everything().of(Family::V4).join("\n"));
    }

    #[test]
    fn of_ipv6() {
        insta::assert_snapshot!(everything().of(Family::V6).join("\n"));
    }

    #[test]
    fn nothing_is_captured_where_nothing_is_chosen() {
        let mut rules = usual();
        (rules.inbound_ports, rules.outbound_ranges) = (Include::Only(Vec::new()), Include::Only(Vec::new()));
        let of_chains: Vec<Rule> = rules.of(Family::V4).into_iter().filter(|rule| rule.ends_with(REDIRECT)).collect();
        assert!(of_chains.iter().all(|rule| rule.contains("-o lo -m owner")), "{of_chains:?}");
    }

    #[test]
    fn lists_selections_and_ranges() {
        assert_eq!(Include::parse("*", port), Ok(Include::All));
        assert_eq!(Include::parse("", port), Ok(Include::Only(vec![])));
        assert_eq!(Include::parse("80, 443,", port), Ok(Include::Only(vec![80, 443])));
        assert!(Include::parse("80,http", port).unwrap_err().contains("\"http\""));
        assert!(port("0").is_err() && port("65536").is_err());
        assert_eq!(range("10.1.2.3/8").unwrap().to_string(), "10.0.0.0/8");
        assert_eq!(range("::1").unwrap().to_string(), "::1/128");
        assert!(range("10.0.0.0/33").is_err() && range("example.com").is_err());
    }

    #[test]
    fn an_interface_cannot_smuggle_rules() {
        for name in ["eth0", "cali+", "veth.100"] {
            assert!(name.parse::<Interface>().is_ok(), "{name}");
        }
        for name in ["", "+", "eth0 -j ACCEPT", "eth0\n-F", "-j", "abcdefghijklmnop"] {
            assert!(name.parse::<Interface>().is_err(), "{name:?}");
        }
    }
}
