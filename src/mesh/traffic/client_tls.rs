//! TLS of a client towards a service.

use smol_str::SmolStr;

use crate::mesh::{credential::SecretName, model::ProxyKind};

/// How a client secures its connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientTls {
    /// Plaintext.
    Disable,
    /// mTLS with the mesh's own certificates.
    IstioMutual {
        /// The name to ask for; empty: that of the cluster.
        sni: SmolStr,
        /// Names of which the server's certificate must have one; empty: the service's identities.
        subject_alt_names: Vec<SmolStr>,
        /// Path of the list of revoked certificates; empty: there is none.
        crl: SmolStr,
        /// Whether the server's certificate may lack the request's host, where that is what is connected to.
        insecure_skip_verify: bool,
    },
    /// TLS that the user has set up.
    Originate(TlsOrigination),
    /// What is asked for cannot be had: rather than with less, nothing is connected.
    Unavailable,
}

/// TLS towards a server whose certificate is not the mesh's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsOrigination {
    /// The name to ask for; empty: the request's host.
    pub sni: SmolStr,
    /// Names of which the server's certificate must have one; empty: those of the service.
    pub subject_alt_names: Vec<SmolStr>,
    /// Whether the client presents a certificate, too.
    pub mutual: bool,
    /// Whether any certificate of the server is accepted.
    pub insecure_skip_verify: bool,
    /// Where keys and certificates come from.
    pub credentials: ClientCredentials,
}

/// Where a client's keys and certificates come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientCredentials {
    /// Files beside the proxy.
    Files(ClientFiles),
    /// A Secret or ConfigMap, which the proxy asks for by name.
    Secret {
        /// The name of its certificate; of a ConfigMap, which has none, that of what it holds.
        certificate: SecretName,
        /// The name of what servers' certificates are verified with.
        trusted: SecretName,
        /// Path of the list of revoked certificates; empty: the Secret's, if it has one.
        crl: SmolStr,
        /// Whether the rule selects its clients, or it is a ConfigMap. Sidecars have Secrets by no others: all that see the rule would
        /// ask for it.
        for_sidecars: bool,
    },
}

/// The files beside a client with its certificate and what it trusts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientFiles {
    /// Path of the certificate.
    pub certificate: SmolStr,
    /// Path of its key.
    pub private_key: SmolStr,
    /// Path of the certificates that are trusted; empty: the system's.
    pub ca_certificates: SmolStr,
    /// Path of the list of revoked certificates; empty: there is none.
    pub crl: SmolStr,
}

impl ClientTls {
    /// Returns the TLS that the user has set up, where that is what is used.
    pub fn origination(&self) -> Option<&TlsOrigination> {
        match self {
            Self::Originate(origination) => Some(origination),
            Self::Disable | Self::IstioMutual { .. } | Self::Unavailable => None,
        }
    }

    /// Returns whether proxies of a kind can connect by it.
    pub fn connects(&self, kind: ProxyKind) -> bool {
        match self {
            Self::Unavailable => false,
            Self::Originate(TlsOrigination { credentials: ClientCredentials::Secret { for_sidecars, .. }, .. }) => {
                *for_sidecars || kind == ProxyKind::Gateway
            }
            Self::Disable | Self::IstioMutual { .. } | Self::Originate(_) => true,
        }
    }

    /// Returns the secrets that proxies of a kind ask for.
    pub fn secrets(&self, kind: ProxyKind) -> Vec<&SecretName> {
        match self.origination().filter(|_| self.connects(kind)) {
            Some(TlsOrigination {
                credentials: ClientCredentials::Secret { certificate, trusted, .. },
                mutual,
                insecure_skip_verify,
                ..
            }) => mutual.then_some(certificate).into_iter().chain((!insecure_skip_verify).then_some(trusted)).collect(),
            _ => Vec::new(),
        }
    }
}
