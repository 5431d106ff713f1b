//! The SPIFFE identity of a workload, and what a caller has proven.

use std::fmt;

use smol_str::SmolStr;

/// A SPIFFE identity `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    /// The trust domain.
    pub trust_domain: SmolStr,
    /// The namespace of the service account.
    pub namespace: SmolStr,
    /// The service account.
    pub service_account: SmolStr,
}

/// The caller at the other end of a connection, as far as it is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Caller {
    /// Nothing is proven: the connection is plaintext.
    Anonymous,
    /// A token or a client certificate proved this identity.
    Workload(SpiffeId),
    /// The same, of somebody in a remote cluster: what our own cluster gives to an account of these names is not for it.
    Remote {
        /// What was proven.
        identity: SpiffeId,
        /// The cluster's id.
        cluster: SmolStr,
    },
}

impl SpiffeId {
    /// Reads `spiffe://<trust domain>/ns/<namespace>/sa/<service account>`; `None` for anything else.
    pub fn parse(uri: &str) -> Option<Self> {
        let (trust_domain, path) = uri.strip_prefix("spiffe://")?.split_once('/')?;
        let (namespace, service_account) = path.strip_prefix("ns/")?.split_once("/sa/")?;
        let plain = |part: &str| !part.is_empty() && !part.contains('/');
        (plain(trust_domain) && plain(namespace) && plain(service_account)).then(|| Self {
            trust_domain: trust_domain.into(),
            namespace: namespace.into(),
            service_account: service_account.into(),
        })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/ns/{}/sa/{}", self.trust_domain, self.namespace, self.service_account)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_istio_form_of_a_spiffe_id_is_taken() {
        let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/reviews").unwrap();
        assert_eq!(id.to_string(), "spiffe://cluster.local/ns/shop/sa/reviews");
        for wrong in ["", "spiffe://", "spiffe://td/ns//sa/x", "spiffe://td/ns/a/sa/b/c", "https://td/ns/a/sa/b"] {
            assert_eq!(SpiffeId::parse(wrong), None, "{wrong}");
        }
    }
}
