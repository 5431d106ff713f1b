//! `gatewayTopology`: what stands in front of a gateway.

use serde_json::{Value, json};

/// `gatewayTopology`: what stands in front of a gateway.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct GatewayTopology {
    /// `numTrustedProxies`: how many proxies in front are trusted. Each adds an address to the end of `x-forwarded-for`; the one that
    /// the first of them added is the client's.
    pub trusted_proxies: u16,
    /// `forwardClientCertDetails`; `None`: what clients say of their certificates is replaced.
    pub forwarded_certificate: Option<ForwardedCertificate>,
    /// `proxyProtocol`: whether connections begin with the PROXY protocol.
    pub proxy_protocol: bool,
}

/// `forwardClientCertDetails`: what becomes of the header that says which certificate the client had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ForwardedCertificate {
    /// `SANITIZE`: it is removed.
    Sanitize,
    /// `FORWARD_ONLY`: it is kept if the client used mTLS.
    ForwardOnly,
    /// `APPEND_FORWARD`: the client's certificate is added if it used mTLS.
    AppendForward,
    /// `SANITIZE_SET`: it is replaced if the client used mTLS.
    SanitizeSet,
    /// `ALWAYS_FORWARD_ONLY`: it is kept.
    AlwaysForwardOnly,
}

// === impl GatewayTopology ===

impl GatewayTopology {
    pub(super) fn to_json(self) -> Value {
        let said = [
            ("numTrustedProxies", (self.trusted_proxies > 0).then(|| json!(self.trusted_proxies))),
            ("forwardClientCertDetails", self.forwarded_certificate.map(|forwarded| json!(forwarded.as_str()))),
            ("proxyProtocol", self.proxy_protocol.then(|| json!({}))),
        ];
        Value::Object(said.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
    }
}

// === impl ForwardedCertificate ===

impl ForwardedCertificate {
    /// All, in the order of Istio's numbers from 1.
    pub const ALL: [Self; 5] = [Self::Sanitize, Self::ForwardOnly, Self::AppendForward, Self::SanitizeSet, Self::AlwaysForwardOnly];

    /// Returns the name in ProxyConfig.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sanitize => "SANITIZE",
            Self::ForwardOnly => "FORWARD_ONLY",
            Self::AppendForward => "APPEND_FORWARD",
            Self::SanitizeSet => "SANITIZE_SET",
            Self::AlwaysForwardOnly => "ALWAYS_FORWARD_ONLY",
        }
    }

    /// Returns what has this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|forwarded| forwarded.as_str() == name)
    }
}
