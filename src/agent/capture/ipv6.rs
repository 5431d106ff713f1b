//! Whether a network namespace has IPv6, and the address on its loopback interface from which the proxy calls the workload.

use std::{fs, io, net::Ipv6Addr, os::fd::AsRawFd};

use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::socket::{AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, socket},
};

use super::rules::PROXY_SOURCE_V6;

/// The addresses of all interfaces; missing if the kernel has no IPv6.
const ADDRESSES: &str = "/proc/net/if_inet6";
const DISABLED: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";
/// The scope in `if_inet6` of an address that is valid beyond its link.
const GLOBAL_SCOPE: &str = "00";

/// The IPv6 of a network namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ipv6 {
    /// There is none; says why.
    Absent(&'static str),
    /// There are addresses.
    Present {
        /// Whether one can be reached from outside the link.
        routable: bool,
    },
}

impl Ipv6 {
    /// Looks at the namespace of this process.
    pub(crate) fn of_this_namespace() -> Self {
        let disabled = fs::read_to_string(DISABLED).is_ok_and(|text| text.trim() == "1");
        classify(fs::read_to_string(ADDRESSES).ok().as_deref(), disabled)
    }
}

fn classify(addresses: Option<&str>, disabled: bool) -> Ipv6 {
    match addresses {
        None => Ipv6::Absent("the kernel has none"),
        Some(_) if disabled => Ipv6::Absent("it is turned off in this pod"),
        Some(addresses) => Ipv6::Present { routable: addresses.lines().any(is_global) },
    }
}

/// Reads a line of `if_inet6`: address, interface's number, prefix length, scope, flags, interface's name.
fn is_global(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().collect();
    matches!(words[..], [_, _, _, GLOBAL_SCOPE, _, interface] if interface != "lo")
}

/// Adds `::6` to the loopback interface, if it is not there; for IPv4 all of 127.0.0.0/8 is there by itself.
pub(crate) fn add_proxy_source() -> io::Result<()> {
    let socket = socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
    send(socket.as_raw_fd(), &request(PROXY_SOURCE_V6, if_nametoindex("lo")?), MsgFlags::empty())?;
    let mut answer = [0; 1024];
    let length = recv(socket.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match error_code(&answer[..length])? {
        Errno::UnknownErrno | Errno::EEXIST => Ok(()),
        errno => Err(errno.into()),
    }
}

/// Returns an `RTM_NEWADDR` (rtnetlink(7)) for one address of scope host.
fn request(address: Ipv6Addr, interface: u32) -> Vec<u8> {
    const NEW_ADDRESS: u16 = 20;
    // Request, acknowledge, create, fail if it exists.
    const FLAGS: u16 = 0x1 | 0x4 | 0x400 | 0x200;
    const INET6: u8 = 10;
    const HOST_SCOPE: u8 = 254;
    const ATTRIBUTES: [u16; 2] = [1, 2];
    let mut body = vec![INET6, 128, 0, HOST_SCOPE];
    body.extend(interface.to_ne_bytes());
    for kind in ATTRIBUTES {
        body.extend(20_u16.to_ne_bytes());
        body.extend(kind.to_ne_bytes());
        body.extend(address.octets());
    }
    let mut message = Vec::new();
    message.extend((16 + body.len() as u32).to_ne_bytes());
    message.extend(NEW_ADDRESS.to_ne_bytes());
    message.extend(FLAGS.to_ne_bytes());
    message.extend([0; 8]);
    message.extend(body);
    message
}

/// Reads the code in an `NLMSG_ERROR`: a negative number after the header of 16 bytes; 0 is success.
fn error_code(answer: &[u8]) -> io::Result<Errno> {
    const ERROR: [u8; 2] = 2_u16.to_ne_bytes();
    let code = answer.get(16..20).and_then(|bytes| bytes.try_into().ok()).filter(|_| answer.get(4..6) == Some(&ERROR));
    let code = code.map(i32::from_ne_bytes).ok_or_else(|| io::Error::other("the kernel's answer is no acknowledgement"))?;
    Ok(Errno::from_raw(-code))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOOPBACK: &str = "00000000000000000000000000000001 01 80 10 80       lo\n";
    const LINK: &str = "fe80000000000000f816a9fffe0e6bf4 02 40 20 80     eth0\n";
    const GLOBAL: &str = "fd000000000000000000000000000005 02 40 00 80     eth0\n";

    #[test]
    fn what_a_namespace_has() {
        assert!(matches!(classify(None, false), Ipv6::Absent(_)));
        assert!(matches!(classify(Some(GLOBAL), true), Ipv6::Absent(_)));
        let ours = "00000000000000000000000000000006 01 80 00 80       lo\n";
        assert_eq!(classify(Some(&[LOOPBACK, LINK, ours].concat()), false), Ipv6::Present { routable: false });
        assert_eq!(classify(Some(&[LOOPBACK, LINK, GLOBAL].concat()), false), Ipv6::Present { routable: true });
    }

    #[test]
    fn the_kernels_answers() {
        let answer = |code: i32| [&[36, 0, 0, 0, 2, 0, 0, 0], &[0; 8][..], &code.to_ne_bytes(), &[0; 16]].concat();
        assert_eq!(error_code(&answer(0)).unwrap(), Errno::UnknownErrno);
        assert_eq!(error_code(&answer(-17)).unwrap(), Errno::EEXIST);
        assert_eq!(error_code(&answer(-1)).unwrap(), Errno::EPERM);
        assert!(error_code(&[0; 16]).is_err());
        assert!(error_code(&[0; 40]).is_err());
    }

    #[test]
    fn a_request_is_as_long_as_it_says() {
        let message = request(PROXY_SOURCE_V6, 1);
        assert_eq!(message.len(), 64);
        assert_eq!(u32::from_ne_bytes(message[..4].try_into().unwrap()), 64);
    }
}
