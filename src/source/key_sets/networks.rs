//! Where keys may be fetched from. Who may write a RequestAuthentication has the control plane call an address of their choice: it must
//! not be one that only the control plane can reach.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

/// The networks that may be called, beside the public ones, and those that may not.
#[derive(Clone, Debug, Default)]
pub(crate) struct Networks {
    /// Networks that are not public and may be called. An address of this host, of a link, of a cloud's metadata or of the API server is
    /// meant only by a network that is this one address.
    pub allowed: Vec<IpNet>,
    /// Networks that may not be called, whatever else is said.
    pub blocked: Vec<IpNet>,
}

/// What sort of address it is, as far as it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    /// Everybody reaches it.
    Public,
    /// It is of a network that is somebody's own: a cluster's, say.
    Private,
    /// It is of this host or link, or a service that trusts whoever reaches it.
    Trusting,
}

/// Services of clouds for their machines that have addresses like others: Azure's, Alibaba's, Oracle's, Amazon's.
const METADATA: [IpAddr; 4] = [
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

impl Networks {
    /// Checks that an address may be called. `api_server` has the addresses of the API server.
    ///
    /// # Errors
    /// When it may not: why.
    pub(super) fn check(&self, address: IpAddr, api_server: &[IpAddr]) -> Result<(), String> {
        let address = meant(address);
        if self.blocked.iter().any(|network| network.contains(&address)) {
            return Err(format!("{address} is in a blocked network"));
        }
        let reach = if api_server.iter().any(|known| meant(*known) == address) { Reach::Trusting } else { reach(address) };
        let mut allowed = self.allowed.iter().filter(|network| network.contains(&address));
        let (may, least) = match reach {
            Reach::Public => (true, ""),
            Reach::Private => (allowed.next().is_some(), "is not public: allow its network by --jwks-allowed-networks"),
            Reach::Trusting => (
                allowed.any(|network| network.prefix_len() == network.max_prefix_len()),
                "is of this host, this link, a cloud's metadata or the API server: allow this one address by --jwks-allowed-networks",
            ),
        };
        if may { Ok(()) } else { Err(format!("{address} {least}")) }
    }
}

/// Returns the address that is reached: one of IPv4 can be written as one of IPv6 in several ways.
fn meant(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else { return address };
    let embedded = |high: u16, low: u16| IpAddr::V4(Ipv4Addr::from((u32::from(high) << 16) | u32::from(low)));
    match v6.segments() {
        [0, 0, 0, 0, 0, 0xffff, high, low] | [0, 0, 0, 0, 0xffff, 0, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => {
            embedded(high, low)
        }
        [0, 0, 0, 0, 0, 0, high, low] if v6 != Ipv6Addr::LOCALHOST && v6 != Ipv6Addr::UNSPECIFIED => embedded(high, low),
        [0x2002, high, low, ..] => embedded(high, low),
        _ => address,
    }
}

fn reach(address: IpAddr) -> Reach {
    let trusting = address.is_loopback() || address.is_unspecified() || address.is_multicast() || METADATA.contains(&address);
    let (link, private) = match address {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            let shared = a == 100 && b & 0b1100_0000 == 64;
            let of_tests = a == 198 && b & 0b1111_1110 == 18;
            let private = v4.is_private() || shared || of_tests || (a, b, c) == (192, 0, 0) || a >= 240;
            (v4.is_link_local() || a == 0, private)
        }
        // Global unicast alone is public, and of that not what leads through somebody's tunnel (Teredo).
        IpAddr::V6(v6) => {
            let segments = v6.segments();
            let public = segments[0] & 0xe000 == 0x2000 && segments[..2] != [0x2001, 0];
            (v6.is_unicast_link_local(), !public)
        }
    };
    match (trusting || link, private) {
        (true, _) => Reach::Trusting,
        (false, true) => Reach::Private,
        (false, false) => Reach::Public,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn may(networks: &Networks, address: &str) -> bool {
        networks.check(address.parse().unwrap(), &["20.1.2.3".parse().unwrap()]).is_ok()
    }

    fn networks(allowed: &[&str], blocked: &[&str]) -> Networks {
        let of = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
        Networks { allowed: of(allowed), blocked: of(blocked) }
    }

    #[test]
    fn what_only_we_reach_is_not_called_however_it_is_written() {
        let none = Networks::default();
        for public in ["1.1.1.1", "20.1.2.4", "2606:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"] {
            assert!(may(&none, public), "{public}");
        }
        let private = ["10.0.0.1", "172.16.0.1", "192.168.1.1", "100.64.0.1", "198.18.0.1", "192.0.0.8", "240.0.0.1", "255.255.255.255"];
        let trusting = [
            "127.0.0.1",
            "127.8.8.8",
            "0.0.0.0",
            "0.1.2.3",
            "169.254.169.254",
            "168.63.129.16",
            "100.100.100.200",
            "224.0.0.1",
            "20.1.2.3",
        ];
        let v6 = ["::1", "::", "fe80::1", "fd00:ec2::254", "fc00::1", "ff02::1", "2001:0:1::1", "64:ff9b:1::1", "100::1"];
        for address in private.iter().chain(&trusting).chain(&v6) {
            assert!(!may(&none, address), "{address}");
        }
        for v4 in private.iter().chain(&trusting) {
            let [a, b, c, d] = v4.parse::<Ipv4Addr>().unwrap().octets();
            let (high, low) = (u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]));
            let written = [format!("::ffff:{v4}"), format!("::{v4}"), format!("64:ff9b::{v4}"), format!("2002:{high:x}:{low:x}::1")];
            for address in written.iter().filter(|address| !["::0.0.0.0", "::0.0.0.1"].contains(&address.as_str())) {
                assert!(!may(&none, address), "{address}");
            }
        }
    }

    #[test]
    fn a_network_that_is_allowed_opens_what_it_names_and_nothing_that_trusts_us() {
        let cluster = networks(&["10.0.0.0/8", "0.0.0.0/0", "::/0"], &[]);
        assert!(may(&cluster, "10.96.0.10") && may(&cluster, "192.168.0.1") && may(&cluster, "fd12::1"));
        for trusting in ["127.0.0.1", "169.254.169.254", "168.63.129.16", "20.1.2.3", "::1", "fe80::1", "fd00:ec2::254"] {
            assert!(!may(&cluster, trusting), "{trusting}");
        }
        let one = networks(&["127.0.0.1/32"], &[]);
        assert!(may(&one, "127.0.0.1") && may(&one, "::ffff:127.0.0.1") && !may(&one, "127.0.0.2"));
    }

    #[test]
    fn what_is_blocked_stays_so() {
        let blocked = networks(&["10.0.0.0/8"], &["10.1.0.0/16", "1.1.1.0/24"]);
        assert!(may(&blocked, "10.2.0.1") && !may(&blocked, "10.1.0.1") && !may(&blocked, "1.1.1.1") && !may(&blocked, "::ffff:1.1.1.1"));
    }
}
