//! Values of flags, in the forms that istiod accepts.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use ipnet::IpNet;

use crate::{
    api::go_duration,
    identity::{authenticate::JwtRule, impersonation::Account},
};

/// Reads an address to listen on: `host:port`, or `:port` for all addresses, as Go writes it.
pub(super) fn listen_address(text: &str) -> Result<SocketAddr, String> {
    let full = if text.starts_with(':') { format!("[::]{text}") } else { text.to_owned() };
    full.parse().map_err(|_| format!("{text:?} is no address; write 127.0.0.1:15010, [::1]:15010 or :15010"))
}

/// Reads an address to listen on, or nothing: that switches the port off, as with istiod.
pub(super) fn listen_address_or_none(text: &str) -> Result<ListenAddress, String> {
    if text.is_empty() { Ok(ListenAddress(None)) } else { listen_address(text).map(|address| ListenAddress(Some(address))) }
}

/// An address to listen on; `None`: the port is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ListenAddress(pub(super) Option<SocketAddr>);

/// Another issuer of tokens; nothing stands for none, as with istiod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct OptionalRule(pub(super) Option<JwtRule>);

/// Reads a rule for tokens as JSON.
pub(super) fn jwt_rule(text: &str) -> Result<OptionalRule, String> {
    let rule = Some(text.trim()).filter(|text| !text.is_empty()).map(str::parse).transpose();
    rule.map(OptionalRule).map_err(|error: crate::identity::authenticate::JwtRuleError| error.to_string())
}

/// Service accounts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Accounts(pub(super) Vec<Account>);

/// Reads service accounts: `istio-system/ztunnel,kube-system/ztunnel`.
pub(super) fn accounts(text: &str) -> Result<Accounts, String> {
    let account = |text: &str| match text.trim().split_once('/') {
        Some((namespace, name)) if !namespace.is_empty() && !name.is_empty() && !name.contains('/') => Ok((namespace.into(), name.into())),
        _ => Err(format!("{text:?} is no service account; write istio-system/ztunnel")),
    };
    text.split(',').filter(|text| !text.trim().is_empty()).map(account).collect::<Result<_, _>>().map(Accounts)
}

/// Reads a size in bytes: `1073741824`, `512Mi`, `2Gi`, as Kubernetes writes it.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let digits = text.trim_end_matches(|letter: char| !letter.is_ascii_digit());
    let unit = match &text[digits.len()..] {
        "" => Some(1),
        "Ki" => Some(1 << 10),
        "Mi" => Some(1 << 20),
        "Gi" => Some(1 << 30),
        _ => None,
    };
    let size = unit.and_then(|unit: usize| digits.parse::<usize>().ok()?.checked_mul(unit)).filter(|size| *size > 0);
    size.ok_or_else(|| format!("{text:?} is no size; write 1073741824, 512Mi or 2Gi"))
}

/// Reads a duration: `100ms`, `1.5s`, `2m`, `1h30m`, as Go writes it.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    go_duration::parse(text).ok_or_else(|| format!("{text:?} is no duration; write 100ms, 1.5s, 2m or 1h30m"))
}

/// Reads a network: `10.96.0.0/12`, or one address.
pub(super) fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let one = text.parse::<IpAddr>().map(IpNet::from);
    one.or_else(|_| text.parse()).map_err(|_| format!("{text:?} is no network; write 10.96.0.0/12 or 10.96.0.1"))
}

/// Reads the largest size of a request, in bytes: 64 kB at least, which any proxy's first request takes, and 1 GB at most.
pub(super) fn request_size(text: &str) -> Result<usize, String> {
    let size = text.parse().ok().filter(|size| (64 << 10..=1 << 30).contains(size));
    size.ok_or_else(|| format!("{text:?} is no size; write a number of bytes from 65536 to 1073741824"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_as_go_writes_them() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("1h30m"), Ok(Duration::from_secs(5400)));
        assert_eq!(duration("1.5s"), Ok(Duration::from_millis(1500)));
        for wrong in ["", "5", "ms", "1x", "-1s", "18446744073709549568s18446744073709549568s"] {
            assert!(duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses_with_and_without_host() {
        assert_eq!(listen_address("127.0.1.1:80"), Ok(SocketAddr::from(([127, 0, 1, 1], 80))));
        assert_eq!(listen_address(":15010").map(|address| address.port()), Ok(15010));
        assert!(listen_address("istiod").is_err());
        assert_eq!(listen_address_or_none(""), Ok(ListenAddress(None)));
        assert!(listen_address_or_none("istiod").is_err());
    }

    #[test]
    fn accounts_and_rules_as_istiod_writes_them() {
        let two = accounts("istio-system/ztunnel, kube-system/ztunnel").unwrap().0;
        assert_eq!(two, [("istio-system".into(), "ztunnel".into()), ("kube-system".into(), "ztunnel".into())]);
        assert_eq!((accounts(""), jwt_rule("")), (Ok(Accounts(Vec::new())), Ok(OptionalRule(None))));
        for wrong in ["ztunnel", "/ztunnel", "istio-system/", "a/b/c"] {
            assert!(accounts(wrong).is_err(), "{wrong}");
        }
        assert!(jwt_rule("{").is_err());
    }

    #[test]
    fn sizes_as_kubernetes_writes_them() {
        assert_eq!([bytes("7"), bytes("512Mi"), bytes("2Gi")], [Ok(7), Ok(512 << 20), Ok(2 << 30)]);
        for wrong in ["", "0", "1M", "Gi", "-1", "1.5Gi", "99999999999Gi"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn sizes_of_requests() {
        assert_eq!(request_size("4194304"), Ok(4 << 20));
        for wrong in ["", "0", "4MB", "-1", "1073741825"] {
            assert!(request_size(wrong).is_err(), "{wrong}");
        }
    }
}
