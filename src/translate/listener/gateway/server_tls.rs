//! How a listener of a Gateway ends TLS (contract §3.7 `Server.tls.mode`).

use std::sync::Arc;

use envoy_types::pb::envoy::{
    config::core::v3::{ConfigSource, TransportSocket},
    extensions::transport_sockets::tls::v3::{CertificateValidationContext, CommonTlsContext, TlsParameters},
    r#type::matcher::v3::string_matcher::MatchPattern,
};
use smol_str::SmolStr;

use crate::{
    mesh::{
        credential::SecretName,
        gateway::{CertificateFiles, ClientCertificates, ServerCertificate, TlsTermination},
        model::Flavour,
        settings::{MeshSettings, TlsSettings},
    },
    translate::tls::{
        PEER_EXCHANGE, TrustSource, ads_secret, agent_sds, downstream, named, revoked, secret, validation, version, workload_context,
    },
};

/// How a listener ends TLS, and what is inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct ServerTls {
    pub(super) termination: Arc<TlsTermination>,
    /// Whether bytes, and not HTTP, are inside.
    pub(super) tcp: bool,
}

impl ServerTls {
    /// Returns whether TCP metadata is exchanged inside, as proxies of the mesh do.
    pub(super) fn exchanges_metadata(&self) -> bool {
        self.tcp && self.termination.certificate == ServerCertificate::Workload
    }

    /// Returns the transport socket. `tlsDefaults` hold where the server says nothing, but not for the mesh's own certificates.
    pub(super) fn socket(&self, flavour: Flavour, mesh: &MeshSettings) -> TransportSocket {
        let exchange = (self.exchanges_metadata() && flavour == Flavour::Istio).then_some(PEER_EXCHANGE);
        let alpn = exchange.into_iter().chain(["h2", "http/1.1"]).map(str::to_owned).collect();
        let mut context = match &self.termination.certificate {
            ServerCertificate::Workload => workload_context(self.verified(), TrustSource::of(mesh), alpn),
            ServerCertificate::Secrets { certificates, trusted } => self.secrets(certificates, trusted.as_ref(), alpn),
            ServerCertificate::Files { certificates, ca_certificates } => self.files(certificates, ca_certificates, alpn),
        };
        context.tls_params = match &self.termination.certificate {
            ServerCertificate::Workload => self.parameters(&TlsSettings::default()),
            ServerCertificate::Secrets { .. } | ServerCertificate::Files { .. } => self.parameters(&mesh.tls_defaults),
        };
        downstream(context, self.termination.clients == ClientCertificates::Required)
    }

    fn secrets(&self, certificates: &[SecretName], trusted: Option<&SecretName>, alpn_protocols: Vec<String>) -> CommonTlsContext {
        CommonTlsContext {
            alpn_protocols,
            tls_certificate_sds_secret_configs: certificates.iter().map(ads_secret).collect(),
            validation_context_type: trusted.map(|trusted| validation(self.verified(), ads_secret(trusted))),
            ..Default::default()
        }
    }

    // Files are served by the agent, which notices when they change.
    fn files(&self, certificates: &[CertificateFiles], ca_certificates: &str, alpn_protocols: Vec<String>) -> CommonTlsContext {
        let from_agent = |name: &str| secret(name, ConfigSource { initial_fetch_timeout: None, ..agent_sds() });
        let certificate = |CertificateFiles { certificate, private_key }: &CertificateFiles| {
            from_agent(&format!("file-cert:{certificate}~{private_key}"))
        };
        let verifies = self.termination.clients != ClientCertificates::Ignored;
        CommonTlsContext {
            alpn_protocols,
            tls_certificate_sds_secret_configs: certificates.iter().map(certificate).collect(),
            validation_context_type: verifies.then(|| validation(self.verified(), from_agent(&format!("file-root:{ca_certificates}")))),
            ..Default::default()
        }
    }

    /// Returns what of a client's certificate is verified besides that the trusted certificates vouch for it.
    fn verified(&self) -> CertificateValidationContext {
        let TlsTermination { subject_alt_names, verify_certificate_spki, verify_certificate_hash, crl, .. } = &*self.termination;
        let texts = |pins: &[SmolStr]| pins.iter().map(SmolStr::to_string).collect();
        CertificateValidationContext {
            verify_certificate_spki: texts(verify_certificate_spki),
            verify_certificate_hash: texts(verify_certificate_hash),
            crl: revoked(crl),
            ..named(subject_alt_names.iter().map(|name| MatchPattern::Exact(name.to_string())))
        }
    }

    fn parameters(&self, defaults: &TlsSettings) -> Option<TlsParameters> {
        let TlsTermination { min_version, max_version, cipher_suites, .. } = &*self.termination;
        let suites = if cipher_suites.is_empty() { &defaults.cipher_suites } else { cipher_suites };
        let texts = |names: &[SmolStr]| names.iter().map(SmolStr::to_string).collect();
        let parameters = TlsParameters {
            tls_minimum_protocol_version: version(min_version.or(defaults.min_version)).into(),
            tls_maximum_protocol_version: version(*max_version).into(),
            cipher_suites: texts(suites),
            ecdh_curves: texts(&defaults.ecdh_curves),
            ..Default::default()
        };
        (parameters != TlsParameters::default()).then_some(parameters)
    }
}
