//! Checks host names, with and without wildcards.

use std::net::IpAddr;

use super::{Check, text::is_dns_label};
use crate::api::findings::Path;

impl Check<'_> {
    /// Checks a host name whose first label may be `*` or start with it.
    pub(super) fn wildcard_host(self, host: &str, at: &Path<'_>) {
        if !is_wildcard_host(host) {
            self.error(at, format!("must be a host name, perhaps with * as its first label, is {host:?}"));
        }
    }

    /// Checks `namespace/host` or, if that is allowed, `host`. The namespace may be one of `special`.
    pub(super) fn namespaced_host(self, host: &str, special: &[&str], needs_namespace: bool, at: &Path<'_>) {
        let (namespace, name) = match host.split_once('/') {
            Some((namespace, name)) => (Some(namespace), name),
            None => (None, host),
        };
        match namespace {
            Some(namespace) if special.contains(&namespace) || is_dns_label(namespace) => {}
            Some(namespace) => self.error(at, format!("{namespace:?} is no namespace")),
            None if needs_namespace => self.error(at, format!("must be namespace/host, is {host:?}")),
            None => {}
        }
        if name != "*" {
            self.wildcard_host(name, at);
        }
    }
}

/// Returns whether a text is a host name without wildcards.
pub(super) fn is_host(host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    host.len() <= 255 && host.split('.').all(is_dns_label)
}

/// Returns whether a text is a host name whose first label may be `*` or start with it.
pub(super) fn is_wildcard_host(host: &str) -> bool {
    let Some(rest) = host.strip_prefix('*') else { return is_host(host) };
    match rest.strip_prefix('.').or_else(|| rest.strip_prefix('-')).or(Some(rest)) {
        Some("") => rest.is_empty(),
        Some(rest) => is_host(rest),
        None => false,
    }
}

/// Returns whether a text is a wildcard that begins within a label. Envoy knows such ones for HTTP, but not for TLS, where the
/// listener would be refused.
pub(super) fn is_partial_wildcard(host: &str) -> bool {
    host.starts_with('*') && host != "*" && !host.starts_with("*.")
}

/// Returns whether a text is an IP address.
pub(super) fn is_ip(host: &str) -> bool {
    host.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts() {
        for good in ["reviews", "reviews.shop.svc.cluster.local", "a.b.", "*", "*.example.com", "*-x.example.com", "*x.com", "10.0.0.1"] {
            assert!(is_wildcard_host(good), "{good}");
        }
        for bad in ["", ".", "*.", "*-", "a..b", "a*.b", "a.*.b", "a_b", "a/b", "**.a", "http://a", &"a.".repeat(200)] {
            assert!(!is_wildcard_host(bad), "{bad}");
        }
    }

    #[test]
    fn wildcards_may_be_parts_of_labels() {
        assert!(is_partial_wildcard("*-v1.example.com") && is_partial_wildcard("*example.com"));
        assert!(!["*", "*.example.com", "example.com"].into_iter().any(is_partial_wildcard));
    }
}
