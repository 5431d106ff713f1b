//! `networking.istio.io Gateway`

use smol_str::SmolStr;

use super::Port;
use crate::api::Labels;

/// `spec` of a Gateway.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gateway {
    /// `selector`: labels of the gateway's pods.
    pub selector: Labels,
    /// `servers`
    pub servers: Vec<Server>,
}

/// `servers[]`
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    /// `port`
    pub port: Port,
    /// `bind`; empty for all addresses.
    pub bind: SmolStr,
    /// `hosts`, each of which may have a namespace before a slash.
    pub hosts: Vec<SmolStr>,
    /// `tls`
    pub tls: Option<ServerTls>,
    /// `name`
    pub name: SmolStr,
    /// `defaultEndpoint`, which has no effect in Istio either.
    pub default_endpoint: SmolStr,
}

/// `servers[].tls`, and `ingress[].tls` of a Sidecar.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServerTls {
    /// `httpsRedirect`
    pub https_redirect: bool,
    /// `mode`
    pub mode: ServerTlsMode,
    /// `serverCertificate`: path of a file.
    pub server_certificate: SmolStr,
    /// `privateKey`: path of a file.
    pub private_key: SmolStr,
    /// `tlsCertificates`
    pub tls_certificates: Vec<TlsCertificate>,
    /// `caCertificates`: path of a file.
    pub ca_certificates: SmolStr,
    /// `caCrl`: path of a file.
    pub ca_crl: SmolStr,
    /// `credentialName`
    pub credential_name: SmolStr,
    /// `credentialNames`
    pub credential_names: Vec<SmolStr>,
    /// `caCertCredentialName`
    pub ca_cert_credential_name: SmolStr,
    /// `subjectAltNames`
    pub subject_alt_names: Vec<SmolStr>,
    /// `verifyCertificateSpki`
    pub verify_certificate_spki: Vec<SmolStr>,
    /// `verifyCertificateHash`
    pub verify_certificate_hash: Vec<SmolStr>,
    /// `minProtocolVersion`
    pub min_protocol_version: TlsProtocol,
    /// `maxProtocolVersion`
    pub max_protocol_version: TlsProtocol,
    /// `cipherSuites`
    pub cipher_suites: Vec<SmolStr>,
}

/// `tls.tlsCertificates[]`
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsCertificate {
    /// `serverCertificate`: path of a file.
    pub server_certificate: SmolStr,
    /// `privateKey`: path of a file.
    pub private_key: SmolStr,
}

/// `tls.mode` of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum ServerTlsMode {
    /// `PASSTHROUGH`: not terminated, routed by SNI.
    #[default]
    Passthrough,
    /// `SIMPLE`
    Simple,
    /// `MUTUAL`
    Mutual,
    /// `AUTO_PASSTHROUGH`
    AutoPassthrough,
    /// `ISTIO_MUTUAL`: with the mesh's own certificates.
    IstioMutual,
    /// `OPTIONAL_MUTUAL`: a client certificate is verified if there is one.
    OptionalMutual,
}

/// `minProtocolVersion` and `maxProtocolVersion`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum TlsProtocol {
    /// `TLS_AUTO`
    #[default]
    Auto,
    /// `TLSV1_0`
    V1_0,
    /// `TLSV1_1`
    V1_1,
    /// `TLSV1_2`
    V1_2,
    /// `TLSV1_3`
    V1_3,
}

/// Returns whether Envoy takes this as an entry of `cipherSuites`: the name of a suite, or an expression of BoringSSL such as
/// `[A|B]` or `!C`. One that it does not know makes it refuse the whole listener.
pub fn is_cipher_suite(text: &str) -> bool {
    const SUITES: [&str; 15] = [
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "ECDHE-RSA-AES128-GCM-SHA256",
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "ECDHE-RSA-AES256-GCM-SHA384",
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "ECDHE-RSA-CHACHA20-POLY1305",
        "ECDHE-ECDSA-AES128-SHA",
        "ECDHE-RSA-AES128-SHA",
        "ECDHE-ECDSA-AES256-SHA",
        "ECDHE-RSA-AES256-SHA",
        "AES128-GCM-SHA256",
        "AES256-GCM-SHA384",
        "AES128-SHA",
        "AES256-SHA",
        "DES-CBC3-SHA",
    ];
    let is_expression = text.starts_with(|first: char| !first.is_ascii_alphanumeric());
    text == "ALL" || is_expression || SUITES.contains(&text)
}
