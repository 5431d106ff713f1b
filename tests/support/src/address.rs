//! Addresses that are nobody else's, so that tests run side by side: each mesh has a /24 of 127.0.0.0/8 to itself, and
//! who must share an address of this machine has ports of its own there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, UdpSocket};

use anyhow::{Context, Result, bail};

use crate::random::{Random, fresh_seed};

/// The port on `.254` whose listener says that the network is taken.
const CLAIM_PORT: u16 = 40_404;

/// Where blocks of ports are taken from: below those that Linux gives to connections (`ip_local_port_range`, from 32768),
/// one of which could have a port by the time that its listener is bound. No fixed port of a test lies in here.
const PORTS: std::ops::Range<u16> = 22_000..32_000;

/// Ports on every address of this machine, ours until dropped.
#[derive(Debug)]
pub struct Ports<const COUNT: usize> {
    first: u16,
    _claim: UdpSocket,
}

impl<const COUNT: usize> Ports<COUNT> {
    /// Finds ports on which nobody listens, on whichever address.
    pub fn free() -> Result<Self> {
        let mut random = Random::seeded(fresh_seed());
        let blocks = u64::from(PORTS.end - PORTS.start) / COUNT as u64;
        for _ in 0..100 {
            let first = PORTS.start + (random.within(0..blocks) * COUNT as u64) as u16;
            // The claim is of UDP, so that every TCP port stays free for its owner.
            let Ok(claim) = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, first)) else { continue };
            let claimed = Self { first, _claim: claim };
            if claimed.all().into_iter().all(|port| TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).is_ok()) {
                return Ok(claimed);
            }
        }
        bail!("no {COUNT} free ports in {PORTS:?}")
    }

    /// Returns the ports.
    pub fn all(&self) -> [u16; COUNT] {
        std::array::from_fn(|number| self.first + number as u16)
    }
}

/// A /24 of the loopback network, ours until it is dropped.
#[derive(Debug)]
pub struct Loopback {
    prefix: [u8; 3],
    _claim: TcpListener,
}

impl Loopback {
    /// Takes the network of the demo, 127.0.1.0/24: fixed, so that its addresses can be written in the docs.
    pub fn of_the_demo() -> Result<Self> {
        Self::claim([127, 0, 1]).context("another demo is running (127.0.1.254 is taken)")
    }

    /// Finds a free network, not that of the demo.
    pub fn free() -> Result<Self> {
        let mut random = Random::seeded(fresh_seed());
        for _ in 0..100 {
            let (second, third) = (random.within(1..255) as u8, random.within(0..255) as u8);
            if let Ok(claimed) = Self::claim([127, second, third]) {
                return Ok(claimed);
            }
        }
        bail!("no free /24 in 127.0.0.0/8")
    }

    fn claim(prefix: [u8; 3]) -> Result<Self> {
        let listener = TcpListener::bind(SocketAddr::new(address(prefix, 254), CLAIM_PORT))?;
        Ok(Self { prefix, _claim: listener })
    }

    /// Returns address number `host` of this network.
    pub fn address(&self, host: u8) -> IpAddr {
        address(self.prefix, host)
    }

    /// Returns a socket on address number `host`.
    pub fn socket(&self, host: u8, port: u16) -> SocketAddr {
        SocketAddr::new(self.address(host), port)
    }

    /// Returns what addresses of this network start with, dot included: `127.0.1.`
    pub fn dotted_prefix(&self) -> String {
        let [first, second, third] = self.prefix;
        format!("{first}.{second}.{third}.")
    }
}

/// Returns an IPv4 address of this machine that is no loopback one, which Kubernetes accepts for an endpoint; `None`:
/// it has none, so that it is on no network at all.
pub fn of_this_machine() -> Option<IpAddr> {
    let all = nix::ifaddrs::getifaddrs().ok()?;
    let addresses = all.filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()));
    addresses.map(IpAddr::V4).find(|address| match address {
        IpAddr::V4(v4) => !v4.is_loopback() && !v4.is_link_local() && !v4.is_unspecified(),
        IpAddr::V6(_) => false,
    })
}

fn address([first, second, third]: [u8; 3], host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(first, second, third, host))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_have_one_owner() {
        let (one, other) = (Ports::<4>::free().unwrap(), Ports::<4>::free().unwrap());
        assert!(one.all().iter().all(|port| !other.all().contains(port)));
        assert!(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, one.all()[0])).is_err());
        let first = one.all()[0];
        drop(one);
        assert!(UdpSocket::bind((Ipv4Addr::UNSPECIFIED, first)).is_ok());
    }

    #[test]
    fn a_network_has_one_owner() {
        let first = Loopback::free().unwrap();
        assert!(Loopback::claim(first.prefix).is_err());
        assert!(first.address(7).to_string().starts_with(&first.dotted_prefix()));
        let prefix = first.prefix;
        drop(first);
        assert!(Loopback::claim(prefix).is_ok());
    }
}
