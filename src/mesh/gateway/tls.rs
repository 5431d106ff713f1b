//! What a listener does about TLS.

use std::sync::Arc;

use smol_str::SmolStr;

use crate::mesh::credential::SecretName;

/// What a listener does about TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ListenerTls {
    /// It is not opened, but routed by its SNI.
    Passthrough,
    /// The mesh's mTLS is not opened either; its SNI names the service, and no route is needed.
    AutoPassthrough,
    /// It is ended here.
    Terminate(Arc<TlsTermination>),
}

/// How a listener ends TLS.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsTermination {
    /// What the listener presents, and what it trusts.
    pub certificate: ServerCertificate,
    /// Whether clients present certificates.
    pub clients: ClientCertificates,
    /// Names of which a client's certificate must have one; empty: any.
    pub subject_alt_names: Vec<SmolStr>,
    /// SHA-256 of keys (in base64) of which a client's certificate must have one; empty: any.
    pub verify_certificate_spki: Vec<SmolStr>,
    /// SHA-256 of certificates (in hexadecimal digits) of which a client's must be one; empty: any.
    pub verify_certificate_hash: Vec<SmolStr>,
    /// Path of the list of revoked certificates; empty: there is none.
    pub crl: SmolStr,
    /// The lowest version; `None`: Envoy's default.
    pub min_version: Option<TlsVersion>,
    /// The highest version; `None`: Envoy's default.
    pub max_version: Option<TlsVersion>,
    /// In order of preference; empty: Envoy's default.
    pub cipher_suites: Vec<SmolStr>,
}

/// Where a listener's certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ServerCertificate {
    /// It is the gateway's own identity in the mesh.
    Workload,
    /// Secrets, which the proxy asks for by name.
    Secrets {
        /// One for each kind of key.
        certificates: Vec<SecretName>,
        /// What clients' certificates are verified with; `None`: clients present none.
        trusted: Option<SecretName>,
    },
    /// Files beside the proxy.
    Files {
        /// One for each kind of key.
        certificates: Vec<CertificateFiles>,
        /// Path of the certificates that clients' are verified with.
        ca_certificates: SmolStr,
    },
}

/// Where a certificate and its key are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct CertificateFiles {
    /// Path of the certificate.
    pub certificate: SmolStr,
    /// Path of its key.
    pub private_key: SmolStr,
}

/// Whether a listener asks clients for a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientCertificates {
    /// It does not.
    Ignored,
    /// It verifies one that is there.
    Optional,
    /// It refuses clients without a valid one.
    Required,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TlsVersion {
    /// 1.0
    V1_0,
    /// 1.1
    V1_1,
    /// 1.2
    V1_2,
    /// 1.3
    V1_3,
}
