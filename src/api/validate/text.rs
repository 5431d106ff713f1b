//! Rules for names, labels, headers, protocols and addresses.

use std::{net::IpAddr, time::Duration};

use smol_str::SmolStr;

use super::{Check, repeated::repeated};
use crate::api::{Labels, findings::Path};

/// How long the name or the value of a header may be that Envoy adds, in bytes.
pub(super) const LONGEST_HEADER: usize = 16384;

/// How long the path of a Unix socket may be, in bytes (Linux's limit).
const LONGEST_SOCKET: usize = 107;

/// Returns whether a text is a label of a DNS name (RFC 1123), in either case.
pub(super) fn is_dns_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let inner = |byte: &u8| byte.is_ascii_alphanumeric();
    bytes.len() <= 63
        && bytes.iter().all(|byte| inner(byte) || *byte == b'-')
        && bytes.first().is_some_and(inner)
        && bytes.last().is_some_and(inner)
}

/// What Istio makes of `protocol:`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum ProtocolClass {
    Http,
    // HTTPS and TLS: the proxy sees bytes and a server name.
    Tls,
    Tcp,
    Udp,
    Unknown,
}

/// Returns the class of a protocol as written, in either case.
pub(super) fn protocol_class(protocol: &str) -> ProtocolClass {
    match protocol.to_ascii_uppercase().as_str() {
        "HTTP" | "HTTP2" | "HTTP_PROXY" | "GRPC" | "GRPC-WEB" => ProtocolClass::Http,
        "HTTPS" | "TLS" => ProtocolClass::Tls,
        "TCP" | "MONGO" | "REDIS" | "MYSQL" | "HBONE" => ProtocolClass::Tcp,
        "UDP" => ProtocolClass::Udp,
        _ => ProtocolClass::Unknown,
    }
}

/// The most bytes of the names that an upstream's certificate may have.
const MOST_OF_SUBJECT_ALT_NAMES: usize = 16 << 10;

impl Check<'_> {
    pub(super) fn protocol(self, protocol: &str, at: &Path<'_>) {
        if protocol_class(protocol) == ProtocolClass::Unknown {
            let known = "HTTP, HTTP2, GRPC, GRPC-WEB, HTTPS, TLS, TCP, MONGO, REDIS, MYSQL, UDP";
            self.error(at, format!("unknown protocol {protocol:?}; known are {known}"));
        }
    }

    pub(super) fn port_number(self, number: u16, at: &Path<'_>) {
        if number == 0 {
            self.error(at, "must be from 1 to 65535");
        }
    }

    pub(super) fn port_name(self, name: &str, at: &Path<'_>) {
        if !is_dns_label(name) {
            self.error(at, format!("must be letters, digits and - (at most 63), is {name:?}"));
        }
    }

    pub(super) fn ip_address(self, address: &str, at: &Path<'_>) {
        if address.parse::<IpAddr>().is_err() {
            self.error(at, format!("must be an IP address, is {address:?}"));
        }
    }

    /// Checks an address or a network in CIDR form.
    pub(super) fn subnet(self, subnet: &str, at: &Path<'_>) {
        let valid = if subnet.contains('/') { subnet.parse::<ipnet::IpNet>().is_ok() } else { subnet.parse::<IpAddr>().is_ok() };
        if !valid {
            self.error(at, format!("must be an IP address or a network such as 10.0.0.0/8, is {subnet:?}"));
        }
    }

    /// Checks the path of a Unix socket, without `unix://`.
    pub(super) fn socket_path(self, path: &str, at: &Path<'_>) {
        let absolute = path.starts_with('/') && !path.ends_with('/');
        if !absolute && !path.starts_with('@') {
            self.error(at, format!("must be unix:// and an absolute path to a file, is {path:?}"));
        } else if path.len() > LONGEST_SOCKET {
            self.error(at, format!("has {} bytes, more than the {LONGEST_SOCKET} that are possible", path.len()));
        }
        self.one_line(path, at);
    }

    /// Checks that a duration is long enough for Envoy, which counts in milliseconds: less would be no time at all.
    pub(super) fn at_least_a_millisecond(self, duration: Option<Duration>, at: &Path<'_>) {
        if duration.is_some_and(|duration| duration < Duration::from_millis(1)) {
            self.error(at, "must be 1ms or more");
        }
    }

    /// Checks labels that pods may carry.
    pub(super) fn labels(self, labels: &Labels, at: &Path<'_>) {
        for (key, value) in labels {
            let name = key.rsplit_once('/').map_or(key.as_str(), |(_, name)| name);
            if !is_label_text(name) || name.is_empty() {
                self.error(&at.key(key), "is no name of a label");
            }
            if !is_label_text(value) {
                self.error(&at.key(key), format!("must be at most 63 letters, digits, -, _ and ., is {value:?}"));
            }
        }
    }

    /// Checks labels that select. They are like other labels; `*` is not a wildcard there.
    pub(super) fn selector(self, labels: &Labels, at: &Path<'_>) {
        for (key, value) in labels {
            if key.contains('*') || value.contains('*') {
                self.error(&at.key(key), "wildcards are not possible in selectors");
            } else if key.is_empty() {
                self.error(at, "must not have an empty key");
            }
        }
    }

    /// Checks `exportTo`. `~` (nobody) is for ServiceEntries alone.
    pub(super) fn export_to(self, targets: &[SmolStr], nobody_possible: bool, at: &Path<'_>) {
        let resolved = targets.iter().map(|target| if target == "." { &self.object.namespace } else { target });
        for ((index, target), again) in targets.iter().enumerate().zip(repeated(resolved)) {
            let at = at.index(index);
            match target.as_str() {
                "*" if targets.len() > 1 => self.error(&at, "* already includes the others"),
                "~" if !nobody_possible => self.error(&at, "~ is possible for ServiceEntries only"),
                "~" if targets.len() > 1 => self.error(&at, "~ excludes the others"),
                "*" | "~" | "." => {}
                name if !is_dns_label(name) => self.error(&at, format!("must be ., * or a namespace, is {name:?}")),
                _ => {}
            }
            if again {
                self.error(&at, format!("{target} is given twice"));
            }
        }
    }

    /// Checks a text that Envoy puts into a header, such as a path or an authority.
    pub(super) fn one_line(self, text: &str, at: &Path<'_>) {
        if text.contains(['\0', '\n', '\r']) {
            self.error(at, "must be one line");
        }
    }

    /// Checks names that certificates are to have.
    pub(super) fn subject_alt_names(self, names: &[SmolStr], at: &Path<'_>) {
        for (index, name) in names.iter().enumerate() {
            if name.is_empty() {
                self.error(&at.index(index), "must not be empty");
            }
            self.one_line(name, &at.index(index));
        }
    }

    /// Checks how long these are together: each cluster that they are for has them all.
    pub(super) fn few_subject_alt_names(self, names: &[SmolStr], at: &Path<'_>) {
        let bytes: usize = names.iter().map(SmolStr::len).sum();
        if bytes > MOST_OF_SUBJECT_ALT_NAMES {
            self.error(
                at,
                format!("have {bytes} bytes, more than the {MOST_OF_SUBJECT_ALT_NAMES} that are possible: each cluster has them all"),
            );
        }
    }

    /// Checks the name of a header that is set, added or removed. Pseudo-headers cannot be; the authority of a request can.
    pub(super) fn header_name(self, name: &str, authority_possible: bool, at: &Path<'_>) {
        let authority = name.eq_ignore_ascii_case("host") || name.eq_ignore_ascii_case(":authority");
        if name.is_empty() {
            self.error(at, "a header needs a name");
        } else if name.len() > LONGEST_HEADER {
            self.error(at, format!("has {} bytes, more than the {LONGEST_HEADER} that are possible", name.len()));
        } else if authority && !authority_possible {
            self.error(at, "the authority cannot be changed here");
        } else if !authority && !is_header_name(name) {
            self.error(at, format!("{name:?} is no name of a header that can be changed"));
        }
    }
}

/// Returns whether a text is a token of RFC 9110, as names of headers are.
pub(super) fn is_header_name(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

fn is_label_text(text: &str) -> bool {
    let edge = |letter: char| letter.is_ascii_alphanumeric();
    text.len() <= 63
        && text.chars().all(|letter| edge(letter) || matches!(letter, '-' | '_' | '.'))
        && (text.is_empty() || (text.starts_with(edge) && text.ends_with(edge)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_of_names() {
        assert!(["a", "v1", "A-b", &"x".repeat(63)].into_iter().all(is_dns_label));
        assert!(!["", "-a", "a-", "a.b", "a_b", &"x".repeat(64)].into_iter().any(is_dns_label));
    }
}
